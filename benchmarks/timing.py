"""Two ways to compute the same, timed in alternation in one process."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dal_core.parallel import fixed_threads
from dal_lab.studies.scaling import peak_bytes

SHORTEST_MEASUREMENT = 0.1  # seconds; what is faster is called several times a measurement
LONGEST_CASE = 3.0  # seconds, after which a case is not repeated any more
SLOW = 2.0  # seconds of a yardstick's call after which it is measured once
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median seconds of one call of each; None: there is no yardstick.

    `memory` and `textbook_memory` are the bytes of the tensors that a call makes and holds at the same time, at most,
    on one thread; None: not measured. What a library that is not torch allocates is not among them.
    """

    ours: float
    textbook: float | None
    memory: int | None = None
    textbook_memory: int | None = None

    @property
    def ratio(self) -> float | None:
        """Return how many times faster ours is."""
        return None if self.textbook is None else self.textbook / self.ours


def compare(
    ours: Callable[[], object],
    textbook: Callable[[], object] | None,
    repeats: int,
    *,
    shortest: float = SHORTEST_MEASUREMENT,
    warm: bool = True,
) -> Timing:
    """Warm both up, then measure them in turn, so that a slow spell of the machine meets both.

    Our first call is the one whose memory is measured, which takes time of its own. The yardstick's memory is measured
    too, unless it is slow: then its first call is its measurement. Without `warm` there are no calls before.
    """
    ways, calls = [ours], [1]
    memory: list[int | None] = [None, None]
    once: float | None = None
    if warm:
        memory[0], seconds = _watched(ours)
        calls[0] = _calls_a_measurement(ours, seconds, shortest)
    if textbook is not None and warm:
        once = _seconds(textbook, 1)
    if textbook is not None and (once is None or once < SLOW):
        ways.append(textbook)
        calls.append(1 if once is None else _calls_a_measurement(textbook, once, shortest))
        memory[1], once = None if once is None else _watched(textbook)[0], None
    medians = [statistics.median(measured) for measured in _in_turn(ways, calls, repeats)]
    return Timing(medians[0], medians[1] if len(medians) == 2 else once, *memory)


def _in_turn(ways: Sequence[Callable[[], object]], calls: Sequence[int], repeats: int) -> list[list[float]]:
    """Return seconds of a call, measurement by measurement, of each."""
    seconds: list[list[float]] = [[] for _ in ways]
    start = time.perf_counter()
    for _ in range(repeats):
        for way, count, measured in zip(ways, calls, seconds, strict=True):
            measured.append(_seconds(way, count))
        if time.perf_counter() - start > LONGEST_CASE:
            break
    return seconds


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


def check_picks_but_for_ties(what: str, ours: Tensor, theirs: Tensor, utilities: Tensor) -> str:
    """Say that both pick the same, up to a first tie; `utilities` [b, n] are theirs before each of their picks.

    Raises:
        RuntimeError: if the first pick that differs is worth less to them by more than rounding.
    """
    for i, (found, expected) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
        if found != expected:
            if not torch.isclose(utilities[i, found], utilities[i, expected], rtol=1e-12, atol=0):
                check_picks(what, ours, theirs)
            return f"same picks up to pick {i + 1}, where two are worth the same up to rounding"
    return "same picks"


def check_picks(what: str, ours: Tensor, textbook: Tensor) -> None:
    """Raise RuntimeError unless both pick the same in the same order."""
    if ours.tolist() != textbook.tolist():
        raise RuntimeError(f"{what}: picked {ours.tolist()}, but the textbook picks {textbook.tolist()}")


def _watched(way: Callable[[], object]) -> tuple[int, float]:
    """Return memory and seconds of a call whose tensors are counted."""
    start = time.perf_counter()
    with fixed_threads():  # What other threads hold would not be seen.
        memory = peak_bytes(way, CPU)
    return memory, time.perf_counter() - start


def _calls_a_measurement(way: Callable[[], object], seconds: float, shortest: float) -> int:
    """Return how many calls a measurement needs, after one more of them unless it is clear that one is enough."""
    if seconds < 10 * shortest:
        seconds = _seconds(way, 1)
    return max(1, round(shortest / seconds))


def _seconds(way: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - start) / calls
