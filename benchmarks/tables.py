"""The results as text: the machine, and for each family of cases a table of numbers and one of what they are about."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import tabulate

from benchmarks.case import Case, gigabytes, times
from benchmarks.timing import Timing

NUMBERS = ("case", "time", "memory", "yardstick", "its memory", "ratio", "floor", "time / floor", "goal", "met")
WORDS = ("case", "size", "yardstick", "floor reads")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "scikit-activeml", "laplace-torch")
LEGEND = """\
- **time** and **yardstick**: seconds of one call, the median of the repeats, measured in alternation; **ratio**: how
  many times faster ours is.
- **memory**: bytes of the tensors that a call makes and holds at the same time, at most, on one thread. The inputs are
  not among them, nor what libraries other than torch allocate, so that yardsticks on NumPy have none. That of
  `refine-query` is what its process grew by.
- **floor**: the bytes that have to be read, divided by the measured bandwidth. "floor reads" says which: X the features
  of the pool, Z its logits, L the labelled features, T those of the test set, S the covariance, W a weight, "new" what
  an update learns. Each once, or with a factor where as many steps, each of which depends on the one before, have to
  read it again; t are heads, e hypotheses. What is written, what is computed, and what is read a second time for any
  other reason is not counted.
- **time / floor**: below 1 where data that are read again stay in the processor's cache; far above it where the time
  goes into computing, as for kernels of all pairs and the training of heads.
- **goal**: for two threads; not judged on one."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A measured case; `judged` says whether its goal counts."""

    name: str
    case: Case
    timing: Timing
    judged: bool

    @property
    def missed(self) -> bool:
        return self.judged and not self.case.goal.met(self.timing, self.case.memory)


@dataclasses.dataclass(frozen=True)
class Failed:
    """A case that was not measured, and why."""

    name: str
    line: str


def machine(cores: int, threads: int, load: str, repeats: int, bandwidth: float) -> str:
    """Return what the numbers were measured on and with."""
    versions = [f"Python {platform.python_version()}", *filter(None, map(_version, PACKAGES))]
    return (
        f"{processor()}, {cores} cores available, threads used: {threads}, load before {load}; bandwidth measured "
        f"{bandwidth / 1e9:.3g} GB/s. {', '.join(versions)}. Median of {repeats} repeats, of fewer for slow cases."
    )


def processor() -> str:
    """Return the processor's name as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def section(title: str, results: Sequence[Result | Failed], bandwidth: float) -> str:
    """Return a family's heading and both of its tables."""
    numbers = tabulate.tabulate([_numbers(each, bandwidth) for each in results], NUMBERS, **_STYLE)
    words = tabulate.tabulate([_words(each) for each in results], WORDS, **_STYLE)
    return f"## {title}\n\n{numbers}\n\n{words}"


_STYLE = {"tablefmt": "github", "disable_numparse": True}


def _numbers(result: Result | Failed, bandwidth: float) -> tuple[str, ...]:
    if isinstance(result, Failed):
        return (result.name, "failed", *["-"] * (len(NUMBERS) - 3), "NO")
    case, timing = result.case, result.timing
    memory = case.own if case.own is not None else timing.memory
    floor = sum(case.read().values()) / bandwidth
    no_goal = str(case.goal) == "none"
    return (
        result.name,
        duration(timing.ours),
        size(memory),
        "-" if timing.textbook is None else duration(timing.textbook),
        size(timing.textbook_memory),
        "-" if timing.ratio is None else times(timing.ratio),
        duration(floor) if floor else "-",
        _multiple(timing.ours / floor) if floor else "-",
        "-" if no_goal else str(case.goal),
        "-" if no_goal or not result.judged else "NO" if result.missed else "yes",
    )


def _multiple(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def _words(result: Result | Failed) -> tuple[str, ...]:
    if isinstance(result, Failed):
        return result.name, f"failed: {result.line}", "-", "-"
    case = result.case
    process = f"; {gigabytes(case.memory)} of memory, all of a process" if case.memory is not None else ""
    yardstick = "-" if case.textbook is None and not case.note else case.note or "textbook"
    return result.name, case.size + process, yardstick, " + ".join(case.read()) or "nothing"


def duration(seconds: float) -> str:
    """Return three digits, with a unit that keeps the number short."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-6:#.3g} µs".replace(". ", " ")


def size(memory: int | None) -> str:
    """Return bytes for readers."""
    if not memory:
        return "-"
    return f"{memory / 1e6:.3g} MB" if memory >= 1e5 else f"{memory / 1e3:.3g} kB"
