"""Updates of a head, and training one or many.

Axes: m labelled, b new samples, k classes, d features, t candidate batches.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import textbook
from benchmarks.case import Case, Goal
from benchmarks.data import NUM_CLASSES, NUM_FEATURES, clustered
from benchmarks.timing import check_agreement
from dal_core.heads import PROTOCOLS, Head, Training, train_head, train_heads
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update, second_order_weights
from dal_core.randomness import choose, generator_for

NUM_LABELLED = 377
GAMMA = 10.0
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # relative to the largest entry
HEADS_MEASURED = 5  # of the plain loop over many heads


Updated = tuple[Tensor, Tensor]  # weight, covariance


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A pool [n, d], a head trained on its first `NUM_LABELLED` samples, and the covariance of their features."""

    features: Tensor
    labels: Tensor
    head: Head
    covariance: Tensor

    def to(self, dtype: torch.dtype) -> "Learned":
        assert self.head.bias is not None
        head = Head(self.head.weight.to(dtype), self.head.bias.to(dtype))
        return Learned(self.features.to(dtype), self.labels, head, self.covariance.to(dtype))


def learned(num_samples: int, likelihood: str = "gaussian") -> Learned:
    """The start of an update, in float64, with the covariance of the likelihood that the update is for.

    A categorical update with gamma = 10 that started from the gaussian covariance would amplify rounding: two
    correct ways then differ by up to 1e-10 of the weight in float64.
    """
    features, labels = clustered(num_samples, generator_for(0, "features"))
    start = Head.initial("linear", NUM_FEATURES, NUM_CLASSES, generator_for(0, "head"), dtype=features.dtype)
    indices = torch.arange(NUM_LABELLED)
    head = train_head(start, features, labels, indices, PROTOCOLS["sgd"], generator_for(0, "minibatches"))
    known = features[:NUM_LABELLED]
    precision = precision_matrix(known, head.logits(known), likelihood=likelihood)
    return Learned(features, labels, head, covariance_matrix(precision))


def update(likelihood: str) -> Case:
    """`second_order_update` of one batch, against one sample after another."""
    num_new = 100
    plain = textbook.update_gaussian if likelihood == "gaussian" else textbook.update_categorical
    start = learned(NUM_LABELLED + num_new, likelihood)

    def both(dtype: torch.dtype) -> tuple[Callable[[], Updated], Callable[[], Updated]]:
        at = start.to(dtype)
        head, new, targets = at.head, at.features[NUM_LABELLED:], at.labels[NUM_LABELLED:]

        def ours() -> Updated:
            return second_order_update(
                head.weight, at.covariance, new, targets, likelihood=likelihood, gamma=GAMMA, bias=head.bias
            )

        return ours, lambda: plain(head.weight, at.covariance, new, targets, GAMMA, head.bias)

    for dtype, tolerance in TOLERANCE.items():
        # Categorical steps depend on p through S as well, and amplify rounding: compared in float64 alone.
        if likelihood == "gaussian" or dtype == torch.float64:
            mine, plains = (way() for way in both(dtype))
            check_agreement(f"{likelihood} update in {dtype}", mine, plains, tolerance)
    size = f"b={num_new}, d={NUM_FEATURES}, k={NUM_CLASSES}, float32"
    ours, textbooks = both(torch.float32)
    return Case(size, ours, textbooks, Goal(ratio=5))


def one_head() -> Case:
    """`train_head`, against nn.Linear, torch.optim.SGD and a DataLoader."""
    training = dataclasses.replace(PROTOCOLS["sgd"], epochs=200)
    start, features, labels = _untrained(NUM_LABELLED)
    indices = torch.arange(NUM_LABELLED)
    _check_training(start, features, labels, indices.unsqueeze(0), training)
    return Case(
        f"m={NUM_LABELLED}, d={NUM_FEATURES}, k={NUM_CLASSES}, {training.epochs} epochs",
        lambda: train_head(start, features, labels, indices, training, generator_for(0, "minibatches")),
        lambda: textbook.train_head(start, features, labels, training),
        Goal(seconds=0.3),
    )


def many_heads() -> Case:
    """`train_heads`, against a loop over heads as in `one_head`, of which a part is measured."""
    num_heads, num_labelled, num_pool = 100, 427, 2000
    training = dataclasses.replace(PROTOCOLS["sgd"], epochs=50)
    start, features, labels = _untrained(num_pool)
    sets = torch.stack([choose(num_pool, num_labelled, generator_for(0, "set", i)) for i in range(num_heads)])
    _check_training(start, features, labels, sets[:HEADS_MEASURED], training)

    def ours() -> Head:
        return train_heads(start, features, labels, sets, training, _minibatch_generators(num_heads))

    def plain() -> None:
        for indices in sets[:HEADS_MEASURED]:
            textbook.train_head(start, features[indices], labels[indices], training)

    size = f"{num_heads} heads, m={num_labelled}, d={NUM_FEATURES}, k={NUM_CLASSES}, {training.epochs} epochs"
    note = f"{HEADS_MEASURED} of {num_heads} heads, scaled"
    return Case(size, ours, plain, Goal(seconds=8, ratio=5), scale=num_heads / HEADS_MEASURED, note=note)


def _untrained(num_samples: int) -> tuple[Head, Tensor, Tensor]:
    """A new head, and float32 features and labels to train it on."""
    features, labels = clustered(num_samples, generator_for(0, "features"))
    return Head.initial("linear", NUM_FEATURES, NUM_CLASSES, generator_for(0, "head")), features.float(), labels


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


def candidate_heads() -> Case:
    """`second_order_weights`, against a loop over `second_order_update`, which forms the covariances as well."""
    num_candidates, num_new = 300, 10
    start = learned(2000)
    draws = [choose(2000, num_new, generator_for(0, "candidate", i)) for i in range(num_candidates)]
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
    size = f"t={num_candidates}, b={num_new}, d={NUM_FEATURES}, k={NUM_CLASSES}, float32"
    ours, plain = both(torch.float32)
    return Case(size, ours, plain)


CASES = {
    "update-gaussian": lambda: update("gaussian"),
    "update-categorical": lambda: update("categorical"),
    "one-head": one_head,
    "many-heads": many_heads,
    "candidate-heads": candidate_heads,
}
