"""Two ways to compute the same, timed in alternation in one process."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from torch import Tensor

SHORTEST_MEASUREMENT = 0.1  # seconds; what is faster is called several times a measurement


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds of one call of each."""

    ours: float
    textbook: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.textbook / self.ours


def compare(ours: Callable[[], object], textbook: Callable[[], object], repeats: int) -> Timing:
    """Warm both up, then measure them in turn, so that a slow spell of the machine meets both."""
    calls = {way: _calls_a_measurement(way) for way in (ours, textbook)}
    seconds: dict[Callable[[], object], list[float]] = {ours: [], textbook: []}
    for _ in range(repeats):
        for way, count in calls.items():
            seconds[way].append(_seconds(way, count))
    return Timing(statistics.median(seconds[ours]), statistics.median(seconds[textbook]))


def check_agreement(what: str, ours: Sequence[Tensor], textbook: Sequence[Tensor], tolerance: float) -> None:
    """Raise RuntimeError unless the largest difference is at most `tolerance` times the textbook's largest entry.

    Speed is of no interest where the results differ.
    """
    for i, (found, expected) in enumerate(zip(ours, textbook, strict=True)):
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= tolerance:
            raise RuntimeError(
                f"{what}: result {i} differs from the textbook's by {difference:.1e} of its largest entry; "
                f"at most {tolerance:.0e} was expected"
            )


def _calls_a_measurement(way: Callable[[], object]) -> int:
    """Call once to warm up, then once more to see how many calls a measurement needs."""
    way()
    return max(1, round(SHORTEST_MEASUREMENT / _seconds(way, 1)))


def _seconds(way: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls
