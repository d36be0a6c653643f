"""The posterior, its predictions, updates of a head, and training one or many.

Axes: m labelled, b new samples, k classes, d features, t candidate batches.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Goal
from benchmarks.data import Size, clustered
from benchmarks.timing import check_agreement
from dal_core import textbook
from dal_core.laplace import (
    covariance_matrix,
    first_order_update,
    mean_field_logits,
    monte_carlo_probabilities,
    monte_carlo_weights,
    precision_matrix,
    predictive_variance,
    sample_weights,
    second_order_update,
    second_order_weights,
)
from dal_core.models.heads import Head
from dal_core.models.training import Training, train_head, train_heads
from dal_core.randomness import choose, generator_for

BANKING = Size(n=2000, m=377, b=100)
GAMMA = 10.0
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # relative to the largest entry
HEADS_MEASURED = 5  # of the plain loop over many heads
PART = 10  # one in so many samples is enough to measure a sum over samples


Updated = tuple[Tensor, Tensor]  # weight, covariance


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A pool [n, d], a head trained on its first m samples, and the covariance of their features."""

    features: Tensor
    labels: Tensor
    head: Head
    covariance: Tensor

    def to(self, dtype: torch.dtype) -> "Learned":
        assert self.head.bias is not None
        head = Head(self.head.weight.to(dtype), self.head.bias.to(dtype))
        return Learned(self.features.to(dtype), self.labels, head, self.covariance.to(dtype))


def learned(size: Size, num_samples: int, likelihood: str = "gaussian") -> Learned:
    """The start of an update, in float64, with the covariance of the likelihood that the update is for.

    A categorical update with gamma = 10 that started from the gaussian covariance would amplify rounding: two
    correct ways then differ by up to 1e-10 of the weight in float64.
    """
    features, labels = clustered(num_samples, generator_for(0, "features"), num_classes=size.k, num_features=size.d)
    start = Head.initial("linear", size.d, size.k, generator_for(0, "head"), dtype=features.dtype)
    indices = torch.arange(size.m)
    head = train_head(start, features, labels, indices, Training("sgd"), generator_for(0, "minibatches"))
    known = features[: size.m]
    precision = precision_matrix(known, head.logits(known), likelihood=likelihood)
    return Learned(features, labels, head, covariance_matrix(precision))


def update(likelihood: str, *, small: bool) -> Case:
    """`second_order_update` of one batch, against one sample after another."""
    size = BANKING.fitted(small=small)
    start = learned(size, size.m + size.b, likelihood)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Updated], Callable[[], Updated]]:
        at = start.to(dtype)
        head, new, targets = at.head, at.features[size.m :], at.labels[size.m :]

        given = head.weight, at.covariance, new, targets
        options: dict[str, Any] = {"likelihood": likelihood, "gamma": GAMMA, "bias": head.bias}
        return lambda: second_order_update(*given, **options), lambda: textbook.second_order_update(*given, **options)

    for dtype, tolerance in TOLERANCE.items():
        # Categorical steps depend on p through S as well, and amplify rounding: compared in float64 alone.
        if likelihood == "gaussian" or dtype == torch.float64:
            mine, plains = (way() for way in both(dtype))
            check_agreement(f"{likelihood} update in {dtype}", mine, plains, tolerance)
    ours, textbooks = both(torch.float32)
    return Case(words(size, "b"), ours, textbooks, Goal(ratio=5), reads=read_once(size, "S", "W", "new"))


def words(size: Size, *axes: str) -> str:
    """The size column, of these axes and of features and classes."""
    values = [f"{axis}={getattr(size, axis):,}" for axis in (*axes, "d", "k")]
    return ", ".join([*values, "float32"])


def read_once(size: Size, *names: str) -> dict[str, float]:
    """Bytes in float32 of the covariance or precision S, the weight W, pool X, its logits Z, and the new samples."""
    entries = {
        "S": size.d**2, "W": size.k * size.d, "X": size.n * size.d, "Z": size.n * size.k, "new": size.b * size.d
    }  # fmt: skip
    return {name: 4.0 * entries[name] for name in names}


def one_head(*, small: bool) -> Case:
    """`train_head`, against nn.Linear, torch.optim.SGD and a DataLoader."""
    size = BANKING.fitted(small=small)
    training = dataclasses.replace(Training("sgd"), epochs=2 if small else 200)
    start, features, labels = _untrained(size, size.m)
    indices = torch.arange(size.m)
    _check_training(start, features, labels, indices.unsqueeze(0), training)
    return Case(
        f"{words(size, 'm')}, {training.epochs} epochs",
        lambda: train_head(start, features, labels, indices, training, generator_for(0, "minibatches")),
        lambda: textbook.train_head(start, features, labels, training),
        Goal(seconds=0.3),
        reads={"epochs L": float(training.epochs * features.nbytes)},
    )


def many_heads(*, small: bool) -> Case:
    """`train_heads`, against a loop over heads as in `one_head`, of which a part is measured."""
    size = dataclasses.replace(BANKING, m=427).fitted(small=small)
    num_heads, epochs = (6, 2) if small else (100, 50)
    training = dataclasses.replace(Training("sgd"), epochs=epochs)
    start, features, labels = _untrained(size, size.n)
    sets = torch.stack([choose(size.n, size.m, generator_for(0, "set", i)) for i in range(num_heads)])
    _check_training(start, features, labels, sets[:HEADS_MEASURED], training)

    def ours() -> Head:
        return train_heads(start, features, labels, sets, training, _minibatch_generators(num_heads))

    def plain() -> None:
        for indices in sets[:HEADS_MEASURED]:
            textbook.train_head(start, features[indices], labels[indices], training)

    return Case(
        f"{num_heads} heads, {words(size, 'm')}, {epochs} epochs",
        ours,
        plain,
        Goal(seconds=8, ratio=5),
        num_heads / HEADS_MEASURED,
        f"{HEADS_MEASURED} of {num_heads} heads, scaled",
        reads={"t epochs L": 4.0 * num_heads * epochs * size.m * size.d},
    )


def _untrained(size: Size, num_samples: int) -> tuple[Head, Tensor, Tensor]:
    """A new head, and float32 features and labels to train it on."""
    features, labels = clustered(num_samples, generator_for(0, "features"), num_classes=size.k, num_features=size.d)
    return Head.initial("linear", size.d, size.k, generator_for(0, "head")), features.float(), labels


def _minibatch_generators(count: int) -> list[torch.Generator]:
    return [generator_for(0, "minibatches", i) for i in range(count)]


def _check_training(start: Head, features: Tensor, labels: Tensor, sets: Tensor, training: Training) -> None:
    """In float64, over a few epochs of the same minibatches, both ways end at the same heads."""
    assert start.bias is not None
    training = dataclasses.replace(training, epochs=5)
    start, features = Head(start.weight.double(), start.bias.double()), features.double()
    mine = train_heads(start, features, labels, sets, training, _minibatch_generators(len(sets)))
    assert mine.bias is not None
    for i, (indices, generator) in enumerate(zip(sets, _minibatch_generators(len(sets)), strict=True)):
        sampler = textbook.SameShuffle(indices, generator)
        plain = textbook.train_head(start, features[indices], labels[indices], training, sampler)
        check_agreement(f"head {i}", (mine.weight[i], mine.bias[i]), plain, TOLERANCE[torch.float64])


def candidate_heads(*, small: bool) -> Case:
    """`second_order_weights`, against a loop over `second_order_update`, which forms the covariances as well."""
    size, num_candidates = dataclasses.replace(BANKING, b=10).fitted(small=small), 6 if small else 300
    start = learned(size, size.n)
    draws = [choose(size.n, size.b, generator_for(0, "candidate", i)) for i in range(num_candidates)]
    candidates = torch.stack(draws)  # [t, b]

    def both(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        at = start.to(dtype)
        weight, bias = at.head.weight, at.head.bias
        features, targets = at.features[candidates], at.labels[candidates]

        def ours() -> Tensor:
            return second_order_weights(weight, at.covariance, features, targets, gamma=GAMMA, bias=bias)

        def plain() -> Tensor:
            updated = [
                second_order_update(weight, at.covariance, *batch, gamma=GAMMA, bias=bias)[0]
                for batch in zip(features, targets, strict=True)
            ]
            return torch.stack(updated)

        return ours, plain

    for dtype, tolerance in TOLERANCE.items():
        mine, plains = (way() for way in both(dtype))
        check_agreement(f"candidate heads in {dtype}", [mine], [plains], tolerance)
    ours, plain = both(torch.float32)
    reads = read_once(size, "S", "W") | {"t new": 4.0 * candidates.numel() * size.d}
    note = "one `second_order_update` after another, covariances included"
    return Case(f"t={num_candidates}, {words(size, 'b')}", ours, plain, note=note, reads=reads)


def first_order(*, small: bool) -> Case:
    """`first_order_update`, against one sample after another."""
    size = BANKING.fitted(small=small)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        at = start.to(dtype)
        given = (at.head.weight, at.features[size.m :], at.labels[size.m :])
        return (
            lambda: first_order_update(*given, gamma=0.01, bias=at.head.bias),
            lambda: textbook.first_order_update(*given, gamma=0.01, bias=at.head.bias),
        )

    start = learned(size, size.m + size.b)
    for dtype, tolerance in TOLERANCE.items():
        mine, plains = (way() for way in both(dtype))
        check_agreement(f"first-order update in {dtype}", [mine], [plains], tolerance)
    return Case(words(size, "b"), *both(torch.float32), reads=read_once(size, "W", "new"))


def monte_carlo(*, small: bool) -> Case:
    """`monte_carlo_weights` and the predictions for a pool, against one hypothesis after another."""
    size, count = dataclasses.replace(BANKING, b=10).fitted(small=small), 5 if small else 100
    start = learned(size, size.m + size.b + size.n)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        at = start.to(dtype)
        hypotheses = sample_weights(at.head.weight, at.covariance, count, generator_for(0, "hypotheses"))
        _, new, pool = at.features.split([size.m, size.b, size.n])
        targets, bias = at.labels[size.m : size.m + size.b], at.head.bias

        def ours() -> Tensor:
            weights = monte_carlo_weights(hypotheses, new, targets, gamma=1.0, bias=bias)
            return monte_carlo_probabilities(hypotheses, weights, pool, bias=bias)

        def plain() -> Tensor:
            weights = textbook.monte_carlo_weights(hypotheses, new, targets, gamma=1.0, bias=bias)
            return textbook.monte_carlo_probabilities(hypotheses, weights, pool, bias=bias)

        return ours, plain

    mine, plain = (way() for way in both(torch.float64))
    check_agreement("Monte-Carlo predictions", [mine], [plain], 1e-10)
    reads = {"e W": 4.0 * count * size.k * size.d} | read_once(size, "X", "new")
    return Case(f"e={count}, {words(size, 'n', 'b')}", *both(torch.float32), reads=reads)


def posterior(likelihood: str, *, small: bool) -> Case:
    """Precision and covariance, against a sum of outer products and an inverse."""
    size = BANKING.fitted(small=small)
    start = learned(size, size.n, likelihood)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        at = start.to(dtype)
        logits = at.head.logits(at.features)
        return (
            lambda: covariance_matrix(precision_matrix(at.features, logits, likelihood=likelihood)),
            lambda: textbook.covariance_matrix(textbook.precision_matrix(at.features, logits, likelihood=likelihood)),
        )

    mine, plain = (way() for way in both(torch.float64))
    check_agreement(f"{likelihood} covariance", [mine], [plain], 1e-10)
    ours, _ = both(torch.float32)
    part = start.to(torch.float32)
    few, logits = part.features[: size.n // PART], part.head.logits(part.features[: size.n // PART])
    reads = read_once(size, "X", "S") | (read_once(size, "Z") if likelihood == "categorical" else {})
    return Case(
        words(size, "n"),
        ours,
        lambda: textbook.precision_matrix(few, logits, likelihood=likelihood),
        scale=PART,
        note=f"one outer product a sample, 1/{PART} of the samples, scaled, without the inverse",
        reads=reads,
    )


def mean_field(*, small: bool) -> Case:
    """Predictive variance and mean-field logits, against the matrix of all covariances between samples."""
    size = BANKING.fitted(small=small)
    start = learned(size, size.n)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        at = start.to(dtype)
        logits = at.head.logits(at.features)
        return (
            lambda: mean_field_logits(logits, predictive_variance(at.features, at.covariance), math.pi / 8),
            lambda: textbook.mean_field_logits(
                logits, textbook.predictive_variance(at.features, at.covariance), math.pi / 8
            ),
        )

    for dtype, tolerance in TOLERANCE.items():
        mine, plain = (way() for way in both(dtype))
        check_agreement(f"mean-field logits in {dtype}", [mine], [plain], tolerance)
    return Case(
        words(size, "n"), *both(torch.float32), note="the whole matrix [n, n]", reads=read_once(size, "X", "Z", "S")
    )


CASES = {
    "posterior-gaussian": functools.partial(posterior, "gaussian"),
    "posterior-categorical": functools.partial(posterior, "categorical"),
    "mean-field": mean_field,
    "update-gaussian": functools.partial(update, "gaussian"),
    "update-categorical": functools.partial(update, "categorical"),
    "update-first-order": first_order,
    "update-monte-carlo": monte_carlo,
    "one-head": one_head,
    "many-heads": many_heads,
    "candidate-heads": candidate_heads,
}
