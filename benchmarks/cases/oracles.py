"""Oracles and what they rest on: a query at the size of Banking77, and judging candidates one head after another.

Axes: t candidates, b batch, m labelled, n unlabelled, k classes, d features.
"""

import dataclasses
import functools

import torch
from torch import Tensor

from benchmarks.case import Case, Goal
from benchmarks.data import Size, oracle_snapshot, size_of
from benchmarks.timing import check_agreement, check_picks
from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.laplace import covariance_matrix, precision_matrix
from dal_core.models.learners import Linear
from dal_core.models.training import Training
from dal_core.oracles.boss import STRATEGIES, boss, draw_candidates
from dal_core.oracles.judging import Judgement, Loss, judge
from dal_core.oracles.sas import sas
from dal_core.randomness import generator_for, integer_seed
from dal_core.snapshot import Truth

BANKING = Size(n=9600, m=377, b=50, test=3080)
BRIEF = dataclasses.replace(BANKING, n=2000, b=10)
SINGLE = dataclasses.replace(BRIEF, b=4)  # for oracles that train heads for every single instance
NUM_CANDIDATES, EPOCHS, MEASURED = 100, 50, 5


def training_reads(at: Truth, heads: int, epochs: int) -> dict[str, float]:
    """Each head reads what is labelled in each epoch, and all of them are judged on the test set, read once."""
    assert at.test is not None
    return {"t epochs L": float(heads * epochs * at.labelled_features.nbytes), "T": float(at.test.inputs().nbytes)}


def query(*, small: bool) -> Case:
    """Candidates included."""
    size = BANKING.fitted(small=small)
    at, count, epochs = oracle_snapshot(size), 10 if small else NUM_CANDIDATES, 2 if small else EPOCHS
    return Case(
        f"t={count}, {size_of(at, size.b)}, {epochs} epochs",
        lambda: boss(at, size.b, generator_for(0, "boss"), num_candidates=count, retraining_epochs=epochs),
        goal=Goal(seconds=20),
        reads=training_reads(at, count, epochs),
    )


def judgement(*, small: bool) -> Case:
    """The same candidates, batched, and with nn.Linear, torch.optim and a DataLoader one after another."""
    size = BANKING.fitted(small=small)
    at, count, epochs = oracle_snapshot(size), 10 if small else NUM_CANDIDATES, 2 if small else EPOCHS
    names = [STRATEGIES[i % len(STRATEGIES)] for i in range(count)]
    candidates = draw_candidates(at, size.b, generator_for(0, "candidates"), None, names)[0].batches

    def ours(loss: Loss = "zero_one") -> Tensor:
        how = Judgement(loss=loss, retraining_epochs=epochs)
        return judge(at, candidates, how, generator_for(0, "judgement"))

    def plain(count: int = MEASURED, loss: str = "zero_one") -> Tensor:
        seed = integer_seed(generator_for(0, "judgement"))
        return textbook.judge(at, candidates[:count], epochs, seed, loss)

    few = 2 * MEASURED
    found, expected = ours("cross_entropy")[:few], plain(few, "cross_entropy")
    check_agreement("losses", [found], [expected], 1e-4)
    if int(found.argmin()) != int(expected.argmin()):
        raise RuntimeError("batched judgement buys another batch than one head after another")
    words = f"t={count}, {size_of(at, size.b)}, {epochs} epochs"
    note = f"one after another, {MEASURED} of {count}, scaled; same batch, same losses"
    return Case(words, ours, plain, Goal(ratio=5), count / MEASURED, note, reads=training_reads(at, count, epochs))


def heads_one_by_one(name: str, heads_a_pick: int, *, small: bool) -> Case:
    """CDO: the heads of all candidates of a pick at once, against one head after another."""
    size, epochs = SINGLE.fitted(small=small), 2 if small else EPOCHS
    at = oracle_snapshot(size)
    heads = size.b * heads_a_pick + 1
    training = Training(epochs=epochs)
    initial = Linear().initial(at.labelled_features, size.k, at.draw)

    def plain() -> None:
        for _ in range(MEASURED):
            textbook.train_head(initial, at.labelled_features, at.labels, training)

    return Case(
        f"{size_of(at, size.b)}, {epochs} epochs",
        lambda: strategies.get(name, {"retraining_epochs": epochs})(at, size.b, generator_for(0, name)),
        plain,
        scale=heads / MEASURED,
        note=f"training alone, {MEASURED} of {heads} heads, scaled; the picks are compared in tests/test_{name}.py",
        reads=training_reads(at, heads, epochs),
    )


def annealing(*, small: bool) -> Case:
    """SAS with few steps. How many heads it trains depends on what it finds; its floor is that of the first order."""
    size, epochs, steps = SINGLE.fitted(small=small), 2 if small else EPOCHS, 5 if small else 20
    at, acquisitions = oracle_snapshot(size), 2
    options = {"steps": steps, "greedy_steps": steps // 5, "retraining_epochs": epochs}
    every = -(-size.b // acquisitions)
    context = Context(remaining=(every,) * acquisitions)
    return Case(
        f"{size_of(at, size.b)}, {acquisitions} acquisitions, {steps} + {steps // 5} steps, {epochs} epochs",
        lambda: sas(at, every, generator_for(0, "sas"), context=context, **options),
        reads=training_reads(at, acquisitions, epochs),
    )


def look_ahead(*, small: bool) -> Case:
    """`lookahead`: updates and judgement of all candidates at once, against one candidate after another."""
    size, count = BRIEF.fitted(small=small), 6 if small else 300
    at = oracle_snapshot(size)
    how = Judgement(loss="cross_entropy", retraining="laplace_update")
    draw = generator_for(0, "candidates")
    candidates = torch.stack([torch.randperm(size.n, generator=draw)[: size.b] for _ in range(count)])

    def plain(at: Truth = at, count: int = MEASURED) -> Tensor:
        assert at.test is not None
        covariance = covariance_matrix(precision_matrix(at.labelled_features))
        losses = []
        for batch in candidates[:count]:
            new = at.features[batch], at.hidden_labels[batch]
            weight, _ = textbook.second_order_update(at.weight, covariance, *new, gamma=how.gamma, bias=at.bias)
            logits = at.test.inputs() @ weight.mT + (0 if at.bias is None else at.bias)
            losses.append(torch.nn.functional.cross_entropy(logits, at.test.labels))
        return torch.stack(losses)

    found = judge(at, candidates[:MEASURED], how, generator_for(0, "judgement"))
    check_agreement("look-ahead losses", [found], [plain()], 1e-3)
    return Case(
        f"t={count}, {size_of(at, size.b)}",
        lambda: strategies.get("lookahead", {"num_candidates": count})(at, size.b, generator_for(0, "lookahead")),
        plain,
        scale=count / MEASURED,
        note=f"updates and losses one by one, {MEASURED} of {count}, scaled; candidates given",
        reads={
            "X": float(at.features.nbytes),
            "L": float(at.labelled_features.nbytes),
            "T": training_reads(at, 0, 0)["T"],
        },
    )


def class_aware(name: str, *, small: bool) -> Case:
    """A strategy that knows the classes; `typiclass` against all distances within the class anew for each pick."""
    size = BANKING.fitted(small=small)
    at = oracle_snapshot(size)
    reads = {"X": float(at.features.nbytes)}
    if name != "typiclass":
        reads = {"3 X": 3.0 * at.features.nbytes, "Z": float(at.logits.nbytes)}
    plain = None

    def ours(at: Truth) -> Tensor:
        return strategies.get(name)(at, size.b, generator_for(0, name))

    if name == "typiclass":

        def plain_picks() -> Tensor:
            counts = torch.bincount(at.labels, minlength=at.num_classes)
            return textbook.class_balanced_select(at.features, at.hidden_labels, counts, size.b)

        plain = plain_picks
        check_picks(name, ours(at), plain_picks())
    return Case(size_of(at, size.b), lambda: ours(at), plain, note="all distances anew" if plain else "", reads=reads)


CASES = {
    "boss-query": query,
    "boss-judgement": judgement,
    "cdo": functools.partial(heads_one_by_one, "cdo", 21),
    "sas": annealing,
    "lookahead": look_ahead,
    "typiclass": functools.partial(class_aware, "typiclass"),
    "dropqueryclass": functools.partial(class_aware, "dropqueryclass"),
}
