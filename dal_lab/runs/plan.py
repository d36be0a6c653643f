"""What a grid tells in words: which runs failed and why, which are stored and which would run, and for how long."""

import dataclasses
import platform
import statistics
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dal_core.experiment import Experiment
from dal_lab.runs.study import bank_name, configuration

# Of a summary: characters of an error, and runs that are named with it. The files of the failures have all.
ERROR_LENGTH, MOST_NAMED = 300, 5


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed; `refused` if it cannot be done as it was asked for."""

    key: str
    study: Any
    error: str
    traceback: str
    refused: bool

    @classmethod
    def of(cls, key: str, study: Any, error: BaseException) -> "Failure":
        told = " ".join(f"{type(error).__name__}: {error}".split())
        told = told if len(told) <= ERROR_LENGTH else told[: ERROR_LENGTH - 6] + " [...]"
        refused = isinstance(error, (ValueError, OSError))
        return cls(key, study, told, "".join(traceback.format_exception(error)), refused)

    def text(self) -> str:
        """All there is to know."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return f"{when} on {platform.node()}: the run {configuration(self.study)} failed\n\n{self.traceback}"


def failure_summary(failures: Sequence[Failure], total: int, folder: Path) -> str:
    """How many of `total` runs failed, and a line for those that failed alike."""
    alike: dict[str, list[Any]] = {}
    for failure in failures:
        alike.setdefault(failure.error, []).append(failure.study)
    lines = [f"{_named(studies)}: {error}" for error, studies in alike.items()]
    start = f"{len(failures)} of {total} runs failed"
    if len(lines) == 1:
        return f"{start}: {lines[0]} (tracebacks in {folder})"
    return "\n    ".join([f"{start}, with tracebacks in {folder}:", *lines])


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs that are stored, and those that would be computed, each with the seconds that runs like it took."""

    stored: Sequence[Any]
    missing: Sequence[tuple[Any, Sequence[float]]]
    side_by_side: int

    def seconds(self) -> float:
        """Estimate of the time for the missing runs that stored runs tell about: medians, `side_by_side` at a time."""
        known = [statistics.median(durations) for _, durations in self.missing if durations]
        return max(sum(known) / self.side_by_side, *known) if known else 0.0

    def lines(self) -> list[str]:
        """The plan for people, runs that differ in the seed only in one line."""
        lines = [f"stored     {what}, {seeds_in_words(seeds)}" for what, seeds in _by_seed(self.stored).items()]
        durations = {described(study): known for study, known in self.missing}
        for what, seeds in _by_seed(study for study, _ in self.missing).items():
            known = durations[what]
            each = f"about {duration_in_words(statistics.median(known))} each" if known else "no estimate"
            lines.append(f"would run  {what}, {seeds_in_words(seeds)}: {each}")
        return [*lines, self._total()]

    def _total(self) -> str:
        unknown = sum(not durations for _, durations in self.missing)
        told = f"{len(self.stored)} runs are stored, {len(self.missing)} would run"
        if not self.missing:
            return told
        if unknown == len(self.missing):
            return f"{told}; no stored run tells for how long"
        beside = f"{self.side_by_side} at a time" if self.side_by_side > 1 else "one after another"
        without = f", and {unknown} that no stored run tells about" if unknown else ""
        return f"{told}: about {duration_in_words(self.seconds())}, {beside}{without}"


def described(study: Any) -> str:
    """A study in short: its data and strategy, and what is not as by default but for the seed."""
    told = (
        [bank_name(study), study.strategy]
        if isinstance(study, Experiment)
        else [type(study).__name__, bank_name(study)]
    )
    for field in dataclasses.fields(study):
        value = getattr(study, field.name)
        if field.name not in ("dataset", "encoder", "strategy", "seed", "device", "options") and value != field.default:
            told.append(f"{field.name}={value}")
    return ", ".join([*told, *(f"{name}={value}" for name, value in study.options.items())])


def seeds_in_words(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def duration_in_words(seconds: float) -> str:
    """A duration as people say it, to about two digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.1):.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _named(studies: Sequence[Any]) -> str:
    names = [f"{what}, {seeds_in_words(seeds)}" for what, seeds in _by_seed(studies).items()]
    more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more


def _by_seed(studies: Iterable[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for study in studies:
        found.setdefault(described(study), []).append(study.seed)
    return found
