"""Ensembles: queries at the size of Banking77, and REFINE's filter against one query after another."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import Case, Goal
from benchmarks.data import Size, size_of
from benchmarks.gpu import floors, pools
from benchmarks.memory import peak_of
from benchmarks.timing import check_picks
from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.ensembles.filtering import Filtered, progressive_filter, shared_options
from dal_core.ensembles.members import STRATEGIES
from dal_core.ensembles.refine import refine
from dal_core.models.heads import Head
from dal_core.models.training import Training
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_core.strategies.herding import nearest_pair_gamma
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores
from dal_core.textbook import bait as textbook_bait

BANKING = Size(n=9600, m=377, b=50)
FILTERED = dataclasses.replace(BANKING, n=2000)
SMALL = {"depth": 2, "num_batches": 18, "alpha": 0.4, "initial_size": 1500}  # two queries of each strategy a round
TEMPERATURE_SEED = 3
EPOCHS, MEASURED = 50, 3


def queries_read(at: Snapshot, size: Size, pool_sizes: Sequence[int], options: dict[str, Any]) -> dict[str, float]:
    """What the queries of REFINE read, given the sizes of the pool that its rounds left."""
    phases = floors.refine(_as_pool(size, options), pool_sizes)
    return {"its queries": at.features.element_size() / 4 * sum(phase.size for phase in phases)}


def strategies_read(size: Size) -> dict[str, float]:
    """What one query of each of the nine strategies reads."""
    whole = _as_pool(size, {})
    return {"nine queries": sum(floors.query(name, size.n, whole).size for name in STRATEGIES)}


def _as_pool(size: Size, options: dict[str, Any]) -> pools.Size:
    return pools.Size(size.n, size.m, size.k, size.b, 0, 0, size.d, refine=options)


def query(*, small: bool) -> Case:
    """Both stages, all parameters the paper's."""
    size, options = BANKING.fitted(small=small), SMALL if small else {}
    at, context = size.snapshot(), Context()
    memory, own = (None, None) if small else peak_of("refine", size.n)
    return Case(
        size_of(at, size.b),
        lambda: refine(at, size.b, generator_for(0, "refine"), context=context, **options),
        goal=Goal(seconds=30, memory=2e9),
        memory=memory,
        own=own,
        reads=lambda: queries_read(at, size, context.record["pool_sizes"], options),
    )


def rounds(*, small: bool) -> Case:
    """A smaller pool, in float64, so that both keep the same instances."""
    size = FILTERED.fitted(small=small)
    at = size.snapshot(torch.float64)

    def ours() -> Filtered:
        options = shared_options(at, torch.Generator().manual_seed(TEMPERATURE_SEED))
        return progressive_filter(at, size.b, generator_for(0, "filter"), options=options, **SMALL)

    def plain() -> Tensor:
        queries = {name: _plain_query(name) for name in STRATEGIES}
        return textbook.progressive_filter(at, size.b, generator_for(0, "filter"), queries, **SMALL)[-1]

    found = ours()
    check_picks("refine-filter", found.positions, plain())
    note = "one query after another, outputs, kernels and temperature anew; keeps the same instances"
    words = f"{size_of(at, size.b)}, {SMALL['depth']} rounds of 18 queries"
    return Case(words, ours, plain, note=note, reads=queries_read(at, size, found.sizes, SMALL))


def _plain_query(name: str) -> Callable[[Snapshot, int, torch.Generator], Tensor]:
    """The textbook's way of a strategy where there is one, the package's where it has to draw the same."""

    def bait(at: Snapshot, batch_size: int) -> Tensor:
        pool = (at.features, at.logits, at.labelled_features, at.labelled_logits)
        return textbook_bait.rank_one_select(*pool, batch_size)

    def herding(at: Snapshot, batch_size: int, gamma: float, uncertainty: Tensor) -> Tensor:
        unit = [torch.nn.functional.normalize(each, dim=1) for each in (at.features, at.labelled_features)]
        return textbook.herding_select(*unit, batch_size, gamma=gamma, uncertainty=uncertainty, form="rowwise")

    def query(at: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:
        bias = 0 if at.bias is None else at.bias
        logits, known = (each @ at.weight.mT + bias for each in (at.features, at.labelled_features))
        at = dataclasses.replace(at, logits=logits, labelled_logits=known)  # the head's outputs anew in each query
        if name == "bait":
            return bait(at, batch_size)
        if name == "badge":
            return textbook.badge_select(at.features, at.logits, batch_size, generator)
        if name == "max_herding":
            return herding(at, batch_size, 1.0, torch.ones_like(at.features[:, 0]))
        if name == "unc_herding":
            temperature = held_out_temperature(at, torch.Generator().manual_seed(TEMPERATURE_SEED))
            uncertainty = margin_scores((at.logits / temperature).softmax(dim=1))
            return herding(at, batch_size, nearest_pair_gamma(at.labelled_features), uncertainty)
        return strategies.get(name)(at, batch_size, generator)

    return query


def of_strategies(name: str, *, small: bool, **options: Any) -> Case:
    """An ensemble that asks each of the nine strategies once."""
    size = FILTERED.fitted(small=small)
    at = size.snapshot()
    return Case(
        size_of(at, size.b),
        lambda: strategies.get(name, options)(at, size.b, generator_for(0, name)),
        reads=strategies_read(size),
    )


def two_stages(*, small: bool) -> Case:
    """TCM in its first acquisition, which is TypiClust."""
    size = FILTERED.fitted(small=small)
    at = size.snapshot()
    reads = {"X": float(at.features.nbytes), "L": float(at.labelled_features.nbytes)}
    return Case(size_of(at, size.b), lambda: strategies.get("tcm")(at, size.b, generator_for(0, "tcm")), reads=reads)


def removals(*, small: bool) -> Case:
    """SelectAL: the heads of all removals at once, against one head after another."""
    size, epochs = FILTERED.fitted(small=small), 2 if small else EPOCHS
    at, heads = size.snapshot(), 15
    start = Head.initial("linear", size.d, size.k, generator_for(0, "head"))
    training = dataclasses.replace(Training("sgd"), epochs=epochs)

    def plain() -> None:
        for _ in range(MEASURED):
            textbook.train_head(start, at.labelled_features, at.labels, training)

    return Case(
        f"{size_of(at, size.b)}, {epochs} epochs",
        lambda: strategies.get("selectal", {"retraining_epochs": epochs})(at, size.b, generator_for(0, "selectal")),
        plain,
        scale=heads / MEASURED,
        note=f"training alone, {MEASURED} of {heads} heads, scaled",
        reads={"t epochs L": float(heads * epochs * at.labelled_features.nbytes)},
    )


CASES = {
    "refine-query": query,
    "refine-filter": rounds,
    "tcm": two_stages,
    "selectal": removals,
    "tailor": functools.partial(of_strategies, "tailor"),
    "autoal": functools.partial(of_strategies, "autoal"),
}
