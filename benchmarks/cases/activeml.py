"""Strategies beside scikit-activeml's, where both have them; no goals, since ours are not the same code made faster.

Where the rule is deterministic both pick the same, which is checked; `tests/test_activeml.py` says what differs
otherwise. Its options are set to ours where it has them.
"""

from collections.abc import Callable
from typing import Any

import torch
from skactiveml import pool as theirs
from skactiveml.base import SingleAnnotatorPoolQueryStrategy

from benchmarks.activeml import query, with_head
from benchmarks.case import Case
from benchmarks.data import in_float64, size_of, snapshot
from benchmarks.timing import check_picks
from dal_core import strategies
from dal_core.pool import Snapshot
from dal_core.randomness import generator_for

NUM_POOL, NUM_LABELLED, BATCH_SIZE = 2000, 100, 50
CHECKED = 500  # samples on which both have to pick the same, in float64
RADIUS = 1.25  # of ProbCover: a ball holds much of a class and little of others


def beside(
    name: str,
    strategy: Callable[[], SingleAnnotatorPoolQueryStrategy],
    differs: str = "",
    *,
    head: bool = False,
    normalised: bool = False,
    **options: Any,
) -> Case:
    """Our strategy `name` with `options` beside theirs; `differs` says why picks are not compared."""
    at = snapshot(NUM_POOL, NUM_LABELLED)

    def ours(at: Snapshot) -> torch.Tensor:
        return strategies.get(name, options)(at, BATCH_SIZE, generator_for(0, "strategy"))

    def their_picks(at: Snapshot) -> torch.Tensor:
        picks = query(strategy(), at, BATCH_SIZE, normalised=normalised, **(with_head(at) if head else {}))
        return torch.as_tensor(picks)

    if not differs:
        small = in_float64(at, CHECKED)
        check_picks(name, ours(small), their_picks(small))
    note = f"scikit-activeml, {differs or 'same picks'}"
    return Case(size_of(at, BATCH_SIZE), lambda: ours(at), lambda: their_picks(at), note=note)


CASES = {
    "activeml-coreset": lambda: beside("coreset", lambda: theirs.CoreSet(random_state=0)),
    "activeml-max_herding": lambda: beside(
        "max_herding", lambda: theirs.MaxHerding(metric_dict={"gamma": 1.0}, random_state=0), form="coverage"
    ),
    "activeml-probcover": lambda: beside(
        "probcover",
        lambda: theirs.ProbCover(deltas=[RADIUS], random_state=0),
        "other ties",
        normalised=True,
        radius=RADIUS,
    ),
    "activeml-badge": lambda: beside(
        "badge", lambda: theirs.Badge(random_state=0), "other weights and draws", head=True
    ),
    "activeml-falcun": lambda: beside("falcun", lambda: theirs.Falcun(random_state=0), "other draws", head=True),
    "activeml-typiclust": lambda: beside(
        "typiclust", lambda: theirs.TypiClust(k=20, random_state=0), "other k-means and neighbours"
    ),
    "activeml-dropquery": lambda: beside(
        "dropquery", lambda: theirs.DropQuery(n_dropout_samples=3, random_state=0), "other candidates", head=True
    ),
}
