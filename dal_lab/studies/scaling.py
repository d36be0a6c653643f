"""Time and memory of one query on a pool of a given size (paper 2, scaling).

The data are made up, so that the number of instances, of features and of classes can be chosen at will; a strategy's
cost hardly depends on what the features mean.
"""

import dataclasses
import math
import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dal_core import strategies as registered
from dal_core.checks import check_choice, check_options
from dal_core.contracts import AtLeast, Count, Size, check_fields
from dal_core.devices import now
from dal_core.experiment import Experiment
from dal_core.parallel import fixed_threads, using_workers
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_lab.runs.grid import Grid
from dal_lab.runs.study import device_of

NOISE = 1.5  # Standard deviation of features around their class's centre, whose entries have variance 1.


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """The cost of one query of a strategy that needs no true labels, on one core or one CUDA device.

    Args:
        strategy, options, device: as in Experiment; MPS is left to the CPU.
        num_unlabelled, num_labelled, num_features, num_classes: sizes of the snapshot, which is drawn from `seed`.
        repeats: number of queries whose median time counts.

    Raises:
        ValueError: on anything unknown or out of range.
    """

    strategy: str = "bait"
    num_unlabelled: Count = 5000
    num_labelled: Count = 100
    num_features: Count = 384
    num_classes: Annotated[int, AtLeast(2)] = 10
    batch_size: Count = 100
    repeats: Count = 3
    seed: Size = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("query_s", "peak_bytes")

    def __post_init__(self) -> None:
        check_fields(self)
        check_options("options", self.options)
        check_choice("strategy", self.strategy, registered.names(oracle=False))
        registered.get(self.strategy, self.options)
        if self.batch_size > self.num_unlabelled:
            raise ValueError(
                f"batch_size is {self.batch_size}; at most {self.num_unlabelled}, num_unlabelled, was expected"
            )

    def __hash__(self) -> int:
        return hash((self.strategy, self.num_unlabelled, self.seed))  # The options, a dictionary, cannot take part.

    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Return one row: query_s, the median time (seconds), and peak_bytes, the memory in use beyond the snapshot."""
        device, strategy = device_of(self), registered.get(self.strategy, self.options)
        with using_workers(1), fixed_threads():
            snapshot = synthetic_snapshot(self, device)

            def query() -> Tensor:
                return registered.query(strategy, snapshot, self.batch_size, generator_for(self.seed, "strategy"))

            seconds = []
            for _ in range(self.repeats):
                start = now(device)
                query()
                seconds.append(now(device) - start)
            held = peak_bytes(query, device)
        return pd.DataFrame([{"query_s": statistics.median(seconds), "peak_bytes": held}], columns=self.columns)


AXES = {"N": "num_unlabelled", "D": "num_features", "K": "num_classes", "b": "batch_size"}


def sweep(
    grid: Grid, experiments: Mapping[str, Experiment], base: Mapping[str, int], sizes: Mapping[str, Sequence[int]], *,
    repeats: int,
) -> pd.DataFrame:  # fmt: skip
    """Return the cost of one query of each experiment's strategy where one of the sizes in `base` is another.

    `sizes` are those along each axis, by its letter (`AXES`). Rows have the columns strategy (as the experiments are
    called), varied (the letter) and size.
    """
    parts = []
    for name, experiment in experiments.items():
        strategy = experiment.strategy
        plain: Any = dict(base) | {"strategy": strategy.name, "options": dict(strategy.options), "repeats": repeats}
        for axis, along in sizes.items():
            studies: list[Any] = [
                ScalingStudy(**plain | {AXES[axis]: size, "device": experiment.device}) for size in along
            ]
            rows = grid.rows(studies, f"{name}, {axis}")
            parts.append(rows.assign(strategy=name, varied=axis, size=list(along)))
    return pd.concat(parts)


def growth(rows: pd.DataFrame, value: str, base: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return the exponents of the growth of `value` along each axis of `sweep`, a row a strategy: "exponent of N".

    With the sizes `base` of the sweep also `value` there.
    """
    slopes = rows.groupby(["strategy", "varied"], sort=False)[["size", value]]
    table: Any = slopes.apply(lambda part: slope(part["size"], part[value])).unstack("varied")
    strategies, axes = (list(rows[name].drop_duplicates()) for name in ("strategy", "varied"))
    table = table.loc[strategies, axes].add_prefix("exponent of ")
    if base is not None:
        at_base = rows[(rows["varied"] == axes[0]) & (rows["size"] == base[AXES[axes[0]]])]
        table.insert(0, value, at_base.set_index("strategy")[value])
    return table.reset_index()


def synthetic_snapshot(study: ScalingStudy, device: torch.device) -> Snapshot:
    """Return features around a centre a class, of length sqrt(d), and a head that points at the centres; float32."""
    draw, d, k = generator_for(study.seed, "snapshot"), study.num_features, study.num_classes
    centres = torch.randn(k, d, generator=draw)
    labels = torch.randint(k, (study.num_labelled + study.num_unlabelled,), generator=draw)
    features = centres[labels].add_(torch.randn(len(labels), d, generator=draw), alpha=NOISE)
    features = torch.nn.functional.normalize(features, dim=1).mul_(math.sqrt(d)).to(device)
    # With a weight of that length predictions are unsure, but no guesses.
    weight = (torch.nn.functional.normalize(centres, dim=1) * 4 / math.sqrt(d)).to(device)
    known = torch.arange(study.num_labelled)
    return Snapshot.of(features, labelled=known, labels=labels[known], weight=weight)


def peak_bytes(query: Callable[[], object], device: torch.device) -> int:
    """Return the most memory, in bytes, that `query` holds at the same time in tensors that it makes.

    On CUDA the allocator's count. On a CPU the tensors that live between any two operations: exact and the same in
    every run, but without what a library allocates inside an operation.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        query()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveTensors() as live:
        query()
    return live.peak


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that operations inside the block made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        known = {storage.data_ptr() for storage in _storages((arguments, options))}
        result = function(*arguments, **(options or {}))
        for storage in _storages(result):
            if storage.data_ptr() not in known:  # A view of an argument takes no memory of its own.
                known.add(storage.data_ptr())
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        return result

    def _add(self, size: int) -> None:
        self._now += size
        self.peak = max(self.peak, self._now)


def _storages(tree: Any) -> list[Any]:
    return [each.untyped_storage() for each in tree_leaves(tree) if isinstance(each, Tensor)]


def slope(sizes: pd.Series, costs: pd.Series) -> float:
    """Return the exponent a of cost ~ size^a, fitted to the upper half of the sizes, where fixed costs matter least."""
    order = np.argsort(sizes.to_numpy())[len(sizes) // 2 :] if len(sizes) > 3 else np.argsort(sizes.to_numpy())
    x, y = np.log(sizes.to_numpy(dtype=float)[order]), np.log(costs.to_numpy(dtype=float)[order])
    return float(np.polyfit(x, y, 1)[0])
