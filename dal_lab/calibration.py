"""Measures what `costs` multiplies operations with: the rates of one core, or of one card."""

import time
from collections.abc import Callable

import torch

from dal_core.devices import resolve_device
from dal_core.parallel import fixed_threads
from dal_lab.costs import Rates

SECONDS = 3.0  # for each rate, of which the fastest repetition counts


def measure(device_name: str, seconds: float = SECONDS) -> Rates:
    """Return the rates of the device; on a CPU by the time of the process, so that others' load matters little."""
    device = resolve_device(device_name)
    side, large = (700, 8 * 2**20) if device.type == "cpu" else (4096, 2**28)

    def fastest(work: Callable[[], object], count: float) -> float:
        best, stop = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < stop:
            start = _clock(device)
            work()
            best = min(best, _clock(device) - start)
        return count / best

    with fixed_threads(), torch.inference_mode():
        matrix, vector = torch.ones(side, side, device=device), torch.ones(large, device=device)
        double, copy, rows = matrix[: side // 2, : side // 2].double(), torch.empty_like(vector), vector.view(-1, 32)
        few, draw = torch.ones(10, device=device), torch.Generator()
        rates = [
            fastest(lambda: matrix @ matrix, side**3),
            fastest(lambda: double @ double, (side // 2) ** 3),
            fastest(lambda: torch.add(vector, 1, out=copy), 8 * large),
            fastest(lambda: rows[: large // 256].softmax(dim=1), large / 8),
            fastest(lambda: torch.rand(10**6, generator=draw), 1e6),  # always drawn on the CPU
            fastest(lambda: [few.add_(1) for _ in range(1000)], 1000),
        ]
    return Rates(*rates)


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
