"""Strategies beside scikit-activeml's, where both have them; no goals, since ours are not the same code made faster.

Where the rule is deterministic both pick the same, which is checked; `tests/test_activeml.py` says what differs
otherwise. Its options are set to ours where it has them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from skactiveml import pool
from skactiveml.base import SingleAnnotatorPoolQueryStrategy

from benchmarks.activeml import query, with_head
from benchmarks.case import Case
from benchmarks.data import Size, forgotten, in_float64, size_of
from benchmarks.timing import check_picks_but_for_ties
from dal_core import strategies
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot

SIZE = Size(2000, 100, 50)
CHECKED = 500  # samples on which both have to pick the same, in float64
RADIUS = 1.25  # of ProbCover: a ball holds much of a class and little of others


def beside(
    name: str,
    strategy: Callable[[], SingleAnnotatorPoolQueryStrategy],
    differs: str = "",
    *,
    head: bool = False,
    normalised: bool = False,
    small: bool,
    **options: Any,
) -> Case:
    """Our strategy `name` with `options` beside theirs; `differs` says why picks are not compared."""
    size = SIZE.fitted(small=small)
    at = size.snapshot()

    def ours(at: Snapshot) -> torch.Tensor:
        return strategies.get(name, options)(forgotten(at), size.b, generator_for(0, "strategy"))

    def theirs(at: Snapshot, **more: Any) -> Any:
        return query(strategy(), at, size.b, normalised=normalised, **(with_head(at) if head else {}), **more)

    if not differs:
        part = in_float64(at, CHECKED)
        answer = map(torch.as_tensor, theirs(part, return_utilities=True))
        differs = check_picks_but_for_ties(name, ours(part), *answer)
    note = f"scikit-activeml, {differs}"
    reads = {what: factor * float(getattr(at, FIELDS[what[-1]]).nbytes) for what, factor in READS[name](size.b).items()}
    return Case(size_of(at, size.b), lambda: ours(at), lambda: theirs(at), note=note, foreign=True, reads=reads)


FIELDS = {"X": "features", "Z": "logits", "L": "labelled_features"}
READS: dict[str, Callable[[int], dict[str, int]]] = {  # how often what is read, by the size of the batch
    "coreset": lambda b: {"b X": b, "L": 1},
    "max_herding": lambda b: {"X": 1, "L": 1},  # noqa: ARG005
    "probcover": lambda b: {"X": 1, "L": 1},  # noqa: ARG005
    "badge": lambda b: {"b X": b, "b Z": b},
    "falcun": lambda b: {"b Z": b},
    "typiclust": lambda b: {"X": 1, "L": 1},  # noqa: ARG005
    "dropquery": lambda b: {"3 X": 3, "Z": 1},  # noqa: ARG005
}
CASES = {
    "activeml-coreset": functools.partial(beside, "coreset", lambda: pool.CoreSet(random_state=0)),
    "activeml-max_herding": functools.partial(
        beside, "max_herding", lambda: pool.MaxHerding(metric_dict={"gamma": 1.0}, random_state=0), form="coverage"
    ),
    "activeml-probcover": functools.partial(
        beside,
        "probcover",
        lambda: pool.ProbCover(deltas=[RADIUS], random_state=0),
        "other ties",
        normalised=True,
        radius=RADIUS,
    ),
    "activeml-badge": functools.partial(
        beside, "badge", lambda: pool.Badge(random_state=0), "other weights and draws", head=True
    ),
    "activeml-falcun": functools.partial(
        beside, "falcun", lambda: pool.Falcun(random_state=0), "other draws", head=True
    ),
    "activeml-typiclust": functools.partial(
        beside, "typiclust", lambda: pool.TypiClust(k=20, random_state=0), "other k-means and neighbours"
    ),
    "activeml-dropquery": functools.partial(
        beside,
        "dropquery",
        lambda: pool.DropQuery(n_dropout_samples=3, random_state=0),
        "other candidates",
        head=True,
    ),
}
