"""A case of the table, and what it aims for."""

import dataclasses
from collections.abc import Callable, Mapping

from benchmarks.timing import Timing


@dataclasses.dataclass(frozen=True)
class Goal:
    """At most so many seconds, so many times faster than the yardstick, so many bytes; None: no such goal.

    A ratio below 1 allows ours to be slower: 1/3 means within 3 times the yardstick.
    """

    seconds: float | None = None
    ratio: float | None = None
    memory: float | None = None

    def met(self, timing: Timing, memory: int | None) -> bool:
        fast_enough = self.seconds is None or timing.ours < self.seconds
        faster_enough = self.ratio is None or (timing.ratio is not None and timing.ratio >= self.ratio)
        small_enough = self.memory is None or (memory is not None and memory < self.memory)
        return fast_enough and faster_enough and small_enough

    def __str__(self) -> str:
        seconds = None if self.seconds is None else f"< {self.seconds:g} s"
        ratio = None if self.ratio is None else f">= {times(self.ratio)}"
        memory = None if self.memory is None else f"< {gigabytes(self.memory)}"
        return ", ".join(filter(None, (seconds, ratio, memory))) or "none"


@dataclasses.dataclass(frozen=True)
class Case:
    """Ours beside a yardstick, the textbook unless `note` names another; None where there is only a time to keep.

    The yardstick's seconds are multiplied by `scale` where it is measured on a part of the work, as `note` says.
    `memory` is the largest resident memory in bytes of a process of its own that does ours, and `own` what of it is
    beyond the inputs; where that is None it is measured in the first call. What a `foreign` yardstick holds are not
    tensors.

    `reads` are the bytes that ours has to read whatever it does, by what they are in words: the floor is the time that
    takes at the measured bandwidth. It may be a function, where ours itself finds out.
    """

    size: str
    ours: Callable[[], object]
    textbook: Callable[[], object] | None = None
    goal: Goal = dataclasses.field(default_factory=Goal)
    scale: float = 1.0
    note: str = ""
    memory: int | None = None
    own: int | None = None
    foreign: bool = False
    reads: Mapping[str, float] | Callable[[], Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def read(self) -> Mapping[str, float]:
        """Return `reads`, after ours was called."""
        return self.reads() if callable(self.reads) else self.reads


def times(ratio: float) -> str:
    """Return a ratio for readers: 0.25 is 1/4x."""
    if ratio < 1:
        return f"1/{1 / ratio:.3g}x"
    return f"{ratio:.3g}x" if ratio < 100 else f"{ratio:,.0f}x"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
