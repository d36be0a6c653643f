"""BAIT and its approximations: against the textbook loops, and against no more than reading the features."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Goal
from benchmarks.data import Size, in_float64, size_of, snapshot
from benchmarks.memory import peak_of
from benchmarks.timing import check_picks
from dal_core.snapshot import Snapshot
from dal_core.strategies.bait import bait_select
from dal_core.textbook import bait as textbook

BINARY, LARGE = Size(5000, 300, 100), Size(100_000, 300, 100)
CHECKED, CHECKED_BATCH = 400, 20  # samples on which both ways have to pick the same, in float64
DIAGONAL = {"approximation": "diagonal"}
LETTER = Size(1000, 310, 30, 26, 128)  # the hidden layer of Letter's head


def select(at: Snapshot, batch_size: int, **options: Any) -> Tensor:
    return bait_select(at.features, at.logits, at.labelled_features, at.labelled_logits, batch_size, **options)


def plain_forward(
    at: Snapshot,
    batch_size: int,
    steps: int,
    factors: Callable[[Tensor, Tensor], Tensor],
    scores: Callable[..., Tensor] = textbook.scores,
) -> Callable[[], object]:
    """So many forward steps of the textbook; the factors and M are made before."""
    unlabelled, labelled = factors(at.features, at.logits), factors(at.labelled_features, at.labelled_logits)
    begin = textbook.start(unlabelled, labelled, batch_size)
    return lambda: textbook.forward(*begin, steps, scores)


def check(what: str, at: Snapshot, batch_size: int, **options: Any) -> None:
    pool = (at.features, at.logits, at.labelled_features, at.labelled_logits)
    check_picks(what, select(at, batch_size, **options), textbook.bait_select(*pool, batch_size, **options))


def reads(at: Snapshot, batch_size: int) -> dict[str, float]:
    """Each forward step needs the features, since it depends on the pick before; the logits are needed once."""
    steps = min(2 * batch_size, len(at.features))
    return {"2 b X": float(steps * at.features.nbytes), "Z": float(at.logits.nbytes)}


def binary_general(*, small: bool) -> Case:
    """`bait_select`, against the loop for any approximation, with two rows a sample."""
    size, steps = BINARY.fitted(small=small), 5
    at = size.snapshot()
    check("bait-binary", in_float64(at, CHECKED), min(CHECKED_BATCH, size.b))
    plain = plain_forward(at, size.b, steps, lambda *pair: textbook.factors(*pair, "binary"))
    return _binary(at, size.b, plain, steps, 50, "general loop")


def binary_rank_one(*, small: bool) -> Case:
    """`bait_select`, against the loop that knows that one row a sample is enough."""
    size, steps = BINARY.fitted(small=small), 10
    at, batch_size = size.snapshot(), min(CHECKED_BATCH, size.b)
    part = in_float64(at, CHECKED)
    pool = (part.features, part.logits, part.labelled_features, part.labelled_logits)
    check_picks("bait-binary", select(part, batch_size), textbook.rank_one_select(*pool, batch_size))
    plain = plain_forward(at, size.b, steps, textbook.one_row, textbook.rank_one_scores)
    return _binary(at, size.b, plain, steps, 10, "rank-one loop")


def _binary(at: Snapshot, batch_size: int, plain: Callable[[], object], steps: int, ratio: float, loop: str) -> Case:
    total = 2 * batch_size
    return Case(
        size_of(at, batch_size),
        lambda: select(at, batch_size),
        plain,
        Goal(ratio=ratio),
        total / steps,
        f"{loop}, {steps} of {total} forward steps, scaled",
        reads=reads(at, batch_size),
    )


def binary_reading(*, small: bool) -> Case:
    """`bait_select`, against nothing but one product of the features with two vectors a forward step."""
    size = BINARY.fitted(small=small)
    return _beside_reading(size.snapshot(), size.b, Goal(ratio=1 / 3))


def binary_large(*, small: bool) -> Case:
    """The same for a large pool, with the memory of a process that does nothing else."""
    size = LARGE.fitted(small=small)
    memory, _ = (None, None) if small else peak_of("bait", size.n)
    return _beside_reading(size.snapshot(), size.b, Goal(seconds=20, memory=2e9), memory)


def _beside_reading(at: Snapshot, batch_size: int, goal: Goal, memory: int | None = None) -> Case:
    """A single product in the faster order of its factors; features @ [d, 2] takes 4 to 8 times as long."""
    vectors, steps = torch.ones(2, at.features.shape[1]), 2 * batch_size

    def products() -> None:
        for _ in range(steps):
            vectors @ at.features.mT

    note = f"{steps} products of the features with two vectors and nothing else"
    return Case(
        size_of(at, batch_size), lambda: select(at, batch_size), products, goal, note=note, memory=memory,
        reads=reads(at, batch_size),
    )  # fmt: skip


def exact(*, small: bool) -> Case:
    """`bait_select` without approximation, against the loop with factors of side k d written out."""
    size, steps = Size(1000, 100, 10, 10, 64).fitted(small=small), 1
    at = size.snapshot()
    options = {"approximation": "exact"}
    check("bait-exact", in_float64(at, 100), 5, **options)
    return Case(
        size_of(at, size.b),
        lambda: select(at, size.b, **options),
        plain_forward(at, size.b, steps, lambda *pair: textbook.factors(*pair, "exact")),
        Goal(ratio=20),
        2 * size.b / steps,
        f"general loop, {steps} of {2 * size.b} forward steps, scaled",
        reads=reads(at, size.b),
    )


def diagonal(*, small: bool) -> Case:
    """`bait_select` with diagonals; the textbook, whose factors have k d rows, is only checked."""
    check("bait-diagonal", snapshot(60, 31, num_classes=4, num_features=6, dtype=torch.float64), 5, **DIAGONAL)
    at, batch_size = (size := BINARY.fitted(small=small)).snapshot(), size.b
    return Case(
        size_of(at, batch_size), lambda: select(at, batch_size, **DIAGONAL), goal=Goal(),
        reads={"X": float(at.features.nbytes), "Z": float(at.logits.nbytes)},
        note="checked against the general loop, on fewer features and classes",
    )  # fmt: skip


def letter(goal: Goal, *, small: bool, **options: Any) -> Case:
    """The size of an acquisition on Letter half way through a run; the textbook is only checked, on fewer features."""
    check("bait", snapshot(60, 31, num_classes=26, num_features=16, dtype=torch.float64), 5, **options)
    size = LETTER.fitted(small=small)
    at = size.snapshot()
    return Case(
        size_of(at, size.b), lambda: select(at, size.b, **options), goal=goal, reads=reads(at, size.b),
        note="checked against the general loop, on fewer features",
    )  # fmt: skip


CASES = {
    "bait-binary": binary_general,
    "bait-binary-rank-one": binary_rank_one,
    "bait-binary-reading": binary_reading,
    "bait-binary-large": binary_large,
    "bait-exact": exact,
    "bait-diagonal": diagonal,
    "bait-letter-top1": functools.partial(letter, Goal(seconds=1), approximation="top", top_classes=1),
    "bait-letter-top5": functools.partial(letter, Goal(), approximation="top", top_classes=5),
    "bait-letter-exact": functools.partial(letter, Goal(seconds=20), approximation="exact"),
}
