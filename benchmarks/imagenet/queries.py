"""The queries that are measured: seconds and memory of one, after a small one to warm up."""

import dataclasses
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.case import Goal
from benchmarks.imagenet import floors
from benchmarks.imagenet.data import SIZES, Size, oracle_snapshot
from dal_core.ensembles.refine import refine
from dal_core.loop import now
from dal_core.oracles.boss import boss
from dal_core.randomness import generator_for
from dal_core.snapshot import OracleSnapshot
from dal_core.strategies.bait import bait_select

WARM_UP, WARM_UP_BATCH = 500, 5  # instances of the pool and labelled ones
MEMORY_BATCH = 20  # enough to see what is held; the steps after these hold no more


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one query: `peak` are all bytes that were held at a time, `own` those beyond what was there before it.

    On CUDA what the allocator counts; on a CPU what is resident beyond torch and its libraries.
    """

    seconds: float
    peak: int
    own: int
    told: dict[str, Any]  # by the query about itself


@dataclasses.dataclass(frozen=True)
class Query:
    """`ask(snapshot, batch_size, told)` runs it; `floor(size, told)` are the phases of its floor."""

    ask: Callable[[OracleSnapshot, Size, dict[str, Any]], Tensor]
    floor: Callable[[Size, dict[str, Any]], list[floors.Phase]]
    goal: Goal = dataclasses.field(default_factory=Goal)  # on CUDA at the full size
    words: Callable[[Size], str] = lambda size: ""  # noqa: ARG005


def _bait(at: OracleSnapshot, size: Size, told: dict[str, Any]) -> Tensor:  # noqa: ARG001
    return bait_select(at.features, at.logits, at.labelled_features, at.labelled_logits, size.batch_size)


def _boss(at: OracleSnapshot, size: Size, told: dict[str, Any]) -> Tensor:  # noqa: ARG001
    options = {"num_candidates": size.num_candidates, "retraining_epochs": size.retraining_epochs}
    return boss(at, size.batch_size, generator_for(0, "boss"), **options)


def _refine(at: OracleSnapshot, size: Size, told: dict[str, Any]) -> Tensor:
    return refine(at.without_truth(), size.batch_size, generator_for(0, "refine"), record=told, **size.refine)


QUERIES = {
    "bait": Query(_bait, lambda size, told: floors.bait(size), Goal(seconds=15, memory=8e9)),  # noqa: ARG005
    "boss": Query(
        _boss,
        lambda size, told: floors.boss(size),  # noqa: ARG005
        words=lambda size: f"t={size.num_candidates}, {size.retraining_epochs} epochs, {size.num_test:,} test, ",
    ),
    "refine": Query(_refine, lambda size, told: floors.refine(size, told["pool_sizes"])),
    "bait-memory": Query(_bait, lambda size, told: floors.bait(size)),  # noqa: ARG005
}
DEFAULT = ("bait", "boss", "refine")


def size_of(name: str, size: str) -> Size:
    """The size of a query; that of "bait-memory" is the full pool and a small batch, so that a CPU is done with it."""
    if name == "bait-memory" and size != "tiny":
        return dataclasses.replace(SIZES["full"], batch_size=MEMORY_BATCH)
    return SIZES[size]


def words_of(name: str, size: Size) -> str:
    return QUERIES[name].words(size) + (
        f"n={size.num_pool:,}, m={size.num_labelled:,}, b={size.batch_size:,}, d={size.num_features}, "
        f"k={size.num_classes:,}, float32"
    )


def measure(name: str, size: Size, device: torch.device) -> Measured:
    """To be called in a process of its own, because a CPU's memory is that of the whole process."""
    libraries = _held(device)
    at, query, told = oracle_snapshot(size, device), QUERIES[name], {}
    query.ask(_first(at, WARM_UP), _smaller(size), {})
    held = _held(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = now(device)
    query.ask(at, size, told)
    seconds = now(device) - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()
    return Measured(seconds, peak - libraries, peak - held, told)


def _first(at: OracleSnapshot, count: int) -> OracleSnapshot:
    """The first instances of the pool and the first labelled ones."""
    part = at.at(torch.arange(min(count, len(at.features)), device=at.features.device))
    labelled = {name: getattr(at, name)[:count] for name in ("labelled_features", "labelled_logits", "labels")}
    return dataclasses.replace(part, **labelled)


def _smaller(size: Size) -> Size:
    """Of the query that warms up: as few candidates, epochs and rounds as there can be."""
    batch_size = min(WARM_UP_BATCH, size.batch_size)
    few = size.refine | {"depth": 1, "num_batches": 1}
    return dataclasses.replace(
        size, batch_size=batch_size, num_candidates=min(10, size.num_candidates), retraining_epochs=1, refine=few
    )


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss
