"""BAIT and its approximations: against the textbook loops, and against no more than reading the features."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import textbook_bait
from benchmarks.case import Case, Goal
from benchmarks.data import in_float64, size_of, snapshot
from benchmarks.memory import peak_of
from benchmarks.timing import check_picks
from dal_core.pool import Snapshot
from dal_core.strategies.bait import bait_select

NUM_LABELLED, BATCH_SIZE = 300, 100  # of the binary approximation
CHECKED, CHECKED_BATCH = 400, 20  # samples on which both ways have to pick the same, in float64
LETTER = {"num_classes": 26, "num_features": 128}  # the hidden layer of Letter's head


def select(at: Snapshot, batch_size: int, **options: Any) -> Tensor:
    return bait_select(at.features, at.logits, at.labelled_features, at.labelled_logits, batch_size, **options)


def begin(at: Snapshot, batch_size: int, factors: Callable[[Tensor, Tensor], Tensor]) -> textbook_bait.Start:
    unlabelled, labelled = factors(at.features, at.logits), factors(at.labelled_features, at.labelled_logits)
    return textbook_bait.start(unlabelled, labelled, batch_size)


def check(what: str, at: Snapshot, batch_size: int, **options: Any) -> None:
    plain = textbook_bait.select(
        at.features, at.logits, at.labelled_features, at.labelled_logits, batch_size, **options
    )
    check_picks(what, select(at, batch_size, **options), plain)


def binary_general() -> Case:
    """`bait_select`, against the loop for any approximation, with two rows a sample."""
    at, steps = snapshot(5000, NUM_LABELLED), 5
    check("bait-binary", in_float64(at, CHECKED), CHECKED_BATCH)
    state = begin(at, BATCH_SIZE, lambda *pair: textbook_bait.factors(*pair, "binary"))
    return _binary(at, lambda: textbook_bait.forward(state, steps), steps, 50, "general loop")


def binary_rank_one() -> Case:
    """`bait_select`, against the loop that knows that one row a sample is enough."""
    at, steps = snapshot(5000, NUM_LABELLED), 10
    small = in_float64(at, CHECKED)
    plain = textbook_bait.rank_one_select(begin(small, CHECKED_BATCH, textbook_bait.one_row), CHECKED_BATCH)
    check_picks("bait-binary", select(small, CHECKED_BATCH), plain)
    state = begin(at, BATCH_SIZE, textbook_bait.one_row)
    loop = textbook_bait.rank_one_scores
    return _binary(at, lambda: textbook_bait.forward(state, steps, loop), steps, 10, "rank-one loop")


def _binary(at: Snapshot, plain: Callable[[], object], steps: int, ratio: float, loop: str) -> Case:
    total = 2 * BATCH_SIZE
    note = f"{loop}, {steps} of {total} forward steps, scaled"
    return Case(size_of(at, BATCH_SIZE), lambda: select(at, BATCH_SIZE), plain, Goal(ratio=ratio), total / steps, note)


def binary_reading() -> Case:
    """`bait_select`, against nothing but one product of the features with two vectors a forward step."""
    at = snapshot(5000, NUM_LABELLED)
    return Case(size_of(at, BATCH_SIZE), lambda: select(at, BATCH_SIZE), reading(at), Goal(ratio=1 / 3), note=READING)


def binary_large() -> Case:
    """The same for a large pool, with the memory of a process that does nothing else."""
    memory = peak_of("bait", 100_000)
    at = snapshot(100_000, NUM_LABELLED)
    goal = Goal(seconds=20, memory=2e9)
    return Case(size_of(at, BATCH_SIZE), lambda: select(at, BATCH_SIZE), reading(at), goal, note=READING, memory=memory)


READING = f"{2 * BATCH_SIZE} products of the features with two vectors and nothing else"


def reading(at: Snapshot) -> Callable[[], None]:
    """A single product in the faster order of its factors; features @ [d, 2] takes 4 to 8 times as long."""
    vectors = torch.ones(2, at.features.shape[1])

    def products() -> None:
        for _ in range(2 * BATCH_SIZE):
            vectors @ at.features.mT

    return products


def exact() -> Case:
    """`bait_select` without approximation, against the loop with factors of side k d written out."""
    batch_size, steps = 10, 1
    at = snapshot(1000, 100, num_classes=10, num_features=64)
    options = {"approximation": "exact"}
    check("bait-exact", in_float64(at, 100), 5, **options)
    state = begin(at, batch_size, lambda *pair: textbook_bait.factors(*pair, "exact"))
    return Case(
        size_of(at, batch_size),
        lambda: select(at, batch_size, **options),
        lambda: textbook_bait.forward(state, steps),
        Goal(ratio=20),
        2 * batch_size / steps,
        f"general loop, {steps} of {2 * batch_size} forward steps, scaled",
    )


def letter(goal: Goal, **options: Any) -> Case:
    """The size of an acquisition on Letter half way through a run; the textbook is only checked, on fewer features."""
    check("bait", snapshot(60, 31, num_classes=26, num_features=16, dtype=torch.float64), 5, **options)
    at = snapshot(1000, 310, **LETTER)
    return Case(size_of(at, 30), lambda: select(at, 30, **options), goal=goal)


CASES = {
    "bait-binary": binary_general,
    "bait-binary-rank-one": binary_rank_one,
    "bait-binary-reading": binary_reading,
    "bait-binary-large": binary_large,
    "bait-exact": exact,
    "bait-letter-top1": lambda: letter(Goal(seconds=1), approximation="top", top_classes=1),
    "bait-letter-top5": lambda: letter(Goal(), approximation="top", top_classes=5),
    "bait-letter-exact": lambda: letter(Goal(seconds=20), approximation="exact"),
}
