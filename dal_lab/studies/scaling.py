"""What an acquisition costs: time and memory of one query on a pool of a given size (paper 2, scaling).

The data are made up, so that the number of instances, of features and of classes can be chosen at will; a strategy's
cost hardly depends on what the features mean.
"""

import dataclasses
import math
import statistics
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dal_core import strategies
from dal_core.checks import check_choice, check_options, check_whole
from dal_core.devices import DEVICES
from dal_core.loop import now
from dal_core.randomness import fixed_threads, generator_for
from dal_core.snapshot import Snapshot
from dal_lab.runs.study import device_of, run

NOISE = 1.5  # of the features around their class's centre, whose entries have variance 1


@dataclasses.dataclass(frozen=True)
class ScalingStudy:
    """One query of a strategy that does without ground truth, measured on one core or one CUDA device.

    Args:
        strategy, options, device: as in Experiment; MPS is left to the CPU.
        num_unlabelled, num_labelled, num_features, num_classes: of the snapshot, which is drawn from `seed`.
        repeats: the time is the median of so many queries.

    Raises:
        ValueError: on anything unknown or out of range.
    """

    strategy: str = "bait"
    num_unlabelled: int = 5000
    num_labelled: int = 100
    num_features: int = 384
    num_classes: int = 10
    batch_size: int = 100
    repeats: int = 3
    seed: int = 0
    device: str = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    dataset: ClassVar[None] = None
    encoder: ClassVar[None] = None
    columns: ClassVar[tuple[str, ...]] = ("query_s", "peak_bytes")

    def __post_init__(self) -> None:
        check_options("options", self.options)
        check_choice("device", self.device, DEVICES)
        check_choice("strategy", self.strategy, strategies.names(oracle=False))
        strategies.get(self.strategy, self.options)
        lowest = {"num_unlabelled": 1, "num_labelled": 1, "num_features": 1, "num_classes": 2, "batch_size": 1}
        for name, least in {**lowest, "repeats": 1, "seed": 0}.items():
            check_whole(name, getattr(self, name), least)
        if self.batch_size > self.num_unlabelled:
            raise ValueError(
                f"batch_size is {self.batch_size}; at most {self.num_unlabelled}, num_unlabelled, was expected"
            )

    def __hash__(self) -> int:
        return hash((self.strategy, self.num_unlabelled, self.seed))  # options are a dict, and cannot take part


@run.register
def _(study: ScalingStudy, *, data_dir: str | Path | None = None) -> pd.DataFrame:  # noqa: ARG001
    """One row: query_s, the median time (seconds), and peak_bytes, the memory in use beyond the snapshot."""
    device = device_of(study)
    strategy = strategies.get(study.strategy, study.options)
    with fixed_threads():
        snapshot = synthetic_snapshot(study, device)

        def query() -> Tensor:
            return strategies.query(strategy, snapshot, study.batch_size, generator_for(study.seed, "strategy"))

        seconds = []
        for _ in range(study.repeats):
            start = now(device)
            query()
            seconds.append(now(device) - start)
        held = peak_bytes(query, device)
    return pd.DataFrame([{"query_s": statistics.median(seconds), "peak_bytes": held}], columns=study.columns)


def synthetic_snapshot(study: ScalingStudy, device: torch.device) -> Snapshot:
    """Features around a centre a class, of length sqrt(d), and a head that points at the centres; float32."""
    draw, d, k = generator_for(study.seed, "snapshot"), study.num_features, study.num_classes
    centres = torch.randn(k, d, generator=draw)
    labels = torch.randint(k, (study.num_labelled + study.num_unlabelled,), generator=draw)
    features = centres[labels].add_(torch.randn(len(labels), d, generator=draw), alpha=NOISE)
    features = torch.nn.functional.normalize(features, dim=1).mul_(math.sqrt(d)).to(device)
    weight = (torch.nn.functional.normalize(centres, dim=1) * 4 / math.sqrt(d)).to(device)  # unsure, but not clueless
    known, pool = features[: study.num_labelled], features[study.num_labelled :]
    return Snapshot(
        pool, pool @ weight.mT, known, known @ weight.mT, labels[: study.num_labelled].to(device), weight, None
    )


def peak_bytes(query: Callable[[], object], device: torch.device) -> int:
    """Memory that `query` holds at the same time in tensors that it makes, at most, in bytes.

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
        self.peak = 0
        self._now = 0
        self._views: dict[int, int] = {}  # live tensors a storage, by its address

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        known = {self._address(each) for each in tree_leaves((arguments, options)) if isinstance(each, Tensor)}
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor, known)
        self.peak = max(self.peak, self._now)
        return result

    def _follow(self, tensor: Tensor, known: set[int]) -> None:
        address, size = self._address(tensor), tensor.untyped_storage().nbytes()
        if address in self._views:
            self._views[address] += 1
        elif address in known:
            return  # a view of something that was there before the block
        else:
            self._views[address] = 1
            self._now += size
        weakref.finalize(tensor, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._views[address] -= 1
        if self._views[address] == 0:
            del self._views[address]
            self._now -= size

    @staticmethod
    def _address(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()


def slope(sizes: pd.Series, costs: pd.Series) -> float:
    """Exponent a of cost ~ size^a, fitted to the upper half of the sizes, where fixed costs matter least."""
    order = np.argsort(sizes.to_numpy())[len(sizes) // 2 :] if len(sizes) > 3 else np.argsort(sizes.to_numpy())
    x, y = np.log(sizes.to_numpy(dtype=float)[order]), np.log(costs.to_numpy(dtype=float)[order])
    return float(np.polyfit(x, y, 1)[0])
