"""Two ways to compute the same, timed in alternation in one process."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

from torch import Tensor

SHORTEST_MEASUREMENT = 0.1  # seconds; what is faster is called several times a measurement
LONGEST_CASE = 40.0  # seconds, after which a case is not repeated any more
FEWEST_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds of one call of each; None: there is no yardstick."""

    ours: float
    textbook: float | None

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is."""
        return None if self.textbook is None else self.textbook / self.ours


def compare(ours: Callable[[], object], textbook: Callable[[], object] | None, repeats: int) -> Timing:
    """Warm both up, then measure them in turn, so that a slow spell of the machine meets both."""
    ways = [ours] if textbook is None else [ours, textbook]
    calls = [_calls_a_measurement(way) for way in ways]
    seconds: list[list[float]] = [[] for _ in ways]
    start = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= FEWEST_REPEATS and time.perf_counter() - start > LONGEST_CASE:
            break
        for way, count, measured in zip(ways, calls, seconds, strict=True):
            measured.append(_seconds(way, count))
    medians = [statistics.median(measured) for measured in seconds]
    return Timing(medians[0], None if textbook is None else medians[1])


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


def check_picks(what: str, ours: Tensor, textbook: Tensor) -> None:
    """Raise RuntimeError unless both pick the same in the same order."""
    if ours.tolist() != textbook.tolist():
        raise RuntimeError(f"{what}: picked {ours.tolist()}, but the textbook picks {textbook.tolist()}")


def _calls_a_measurement(way: Callable[[], object]) -> int:
    """Call once to warm up, then once more, if that was quick, to see how many calls a measurement needs."""
    seconds = _seconds(way, 1)
    if seconds < 10 * SHORTEST_MEASUREMENT:
        seconds = _seconds(way, 1)
    return max(1, round(SHORTEST_MEASUREMENT / seconds))


def _seconds(way: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls
