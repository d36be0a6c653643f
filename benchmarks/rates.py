"""Measures how fast a device reads memory and multiplies matrices, and computes what that bounds from below."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import torch

from dal_core.loop import now

FLOAT = 4  # A float32 has four bytes.
BUFFER_BYTES = {"cpu": 256 * 2**20, "cuda": 2 * 2**30}  # far beyond any cache
SIDE = {"cpu": 2048, "cuda": 8192}  # Matrices of this side are multiplied.
REPEATS = 7


@dataclasses.dataclass(frozen=True)
class Rates:
    """A device's bandwidth in bytes a second, and operations a second of a product of float32 matrices.

    `throughput` holds for torch as it is set, and floors rest on it; `with_tf32` is for information.
    """

    bandwidth: float
    throughput: float
    with_tf32: float | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """Bytes to read and operations of matrix products, which may go on at the same time."""

    size: float = 0.0
    operations: float = 0.0

    def seconds(self, rates: Rates) -> float:
        return max(self.size / rates.bandwidth, self.operations / rates.throughput)


def seconds(phases: Sequence[Phase], rates: Rates) -> float:
    """Return the seconds of one phase after the other."""
    return sum(phase.seconds(rates) for phase in phases)


def measure(device: torch.device) -> Rates:
    """Measure bandwidth and throughput."""
    speed, throughput = bandwidth(device), _products(device)
    if device.type != "cuda":
        return Rates(speed, throughput)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32, which torch leaves out unless it is asked for it
    try:
        return Rates(speed, throughput, _products(device))
    finally:
        torch.set_float32_matmul_precision(before)


def bandwidth(device: torch.device) -> float:
    """Return bytes a second: the best of a few repeats each, and of copying and summing the faster one."""
    count = BUFFER_BYTES[device.type] // FLOAT
    source, target = torch.ones(count, device=device), torch.ones(count, device=device)
    copying, summing = fastest(lambda: target.copy_(source), device), fastest(source.sum, device)
    return max(2 * source.nbytes / copying, source.nbytes / summing)


def load_before() -> str:
    """Return the load of other processes in words, to be asked before anything is measured."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    load = os.getloadavg()[0]
    return f"{load:.1f}" + (" (other work ran beside this, and times are longer than they need be)" if load > 1 else "")


def _products(device: torch.device) -> float:
    side = SIDE[device.type]
    one, result = torch.ones(side, side, device=device), torch.empty(side, side, device=device)
    return 2 * side**3 / fastest(lambda: torch.mm(one, one, out=result), device)


def fastest(way: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of a few calls, after one to warm up."""
    way()
    measured = []
    for _ in range(repeats):
        start = now(device)
        way()
        measured.append(now(device) - start)
    return min(measured)
