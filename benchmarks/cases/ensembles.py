"""REFINE: a query at the size of Banking77, and its filter against one query after another with everything anew."""

import torch
from torch import Tensor

from benchmarks import textbook_ensembles
from benchmarks.case import Case, Goal
from benchmarks.data import size_of, snapshot
from benchmarks.memory import peak_of
from benchmarks.timing import check_picks
from dal_core.ensembles.filtering import progressive_filter, shared_options
from dal_core.ensembles.members import STRATEGIES
from dal_core.ensembles.refine import refine
from dal_core.randomness import generator_for

NUM_POOL, NUM_LABELLED, BATCH_SIZE = 9600, 377, 50
SMALL_POOL, SMALL_BATCH = 2000, BATCH_SIZE
SMALL = {"depth": 2, "num_batches": 18, "alpha": 0.4, "initial_size": 1500}  # two queries of each strategy a round
TEMPERATURE_SEED = 3


def query() -> Case:
    """Both stages, all parameters the paper's."""
    at = snapshot(NUM_POOL, NUM_LABELLED)
    memory = peak_of("refine", NUM_POOL)
    return Case(
        size_of(at, BATCH_SIZE),
        lambda: refine(at, BATCH_SIZE, generator_for(0, "refine")),
        goal=Goal(seconds=30, memory=2e9),
        memory=memory,
    )


def rounds() -> Case:
    """A smaller pool, in float64, so that both keep the same instances."""
    at = snapshot(SMALL_POOL, NUM_LABELLED, dtype=torch.float64)

    def ours() -> Tensor:
        options = shared_options(at, torch.Generator().manual_seed(TEMPERATURE_SEED))
        return progressive_filter(at, SMALL_BATCH, generator_for(0, "filter"), options=options, **SMALL).positions

    def plain() -> Tensor:
        queries = textbook_ensembles.queries(STRATEGIES, TEMPERATURE_SEED)
        return textbook_ensembles.progressive_filter(at, SMALL_BATCH, generator_for(0, "filter"), queries, **SMALL)

    check_picks("refine-filter", ours(), plain())
    note = "one query after another, outputs, kernels and temperature anew; keeps the same instances"
    return Case(f"{size_of(at, SMALL_BATCH)}, {SMALL['depth']} rounds of 18 queries", ours, plain, note=note)


CASES = {"refine-query": query, "refine-filter": rounds}
