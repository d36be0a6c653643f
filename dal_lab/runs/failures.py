"""Why runs failed: as a record a run, and as one error at the end."""

import dataclasses
import platform
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dal_lab.runs.study import configuration, described_by_seed

# Limits of a summary, in characters of an error and in runs named with it; the files of the failures have all.
ERROR_LENGTH, MOST_NAMED = 300, 5


class RunError(RuntimeError):
    """Runs failed; the message names them."""


class RunRefusedError(RunError, ValueError):
    """Runs cannot be done as they were asked for."""


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
        line = " ".join(f"{type(error).__name__}: {error}".split())
        line = line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 6] + " [...]"
        refused = isinstance(error, (ValueError, OSError))
        return cls(key, study, line, "".join(traceback.format_exception(error)), refused)

    def text(self) -> str:
        """Return the configuration of the run and its traceback, for a file."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return f"{when} on {platform.node()}: the run {configuration(self.study)} failed\n\n{self.traceback}"


def error_of(failures: Sequence[Failure], total: int, folder: Path) -> RunError:
    """Return an error that says how many of `total` runs failed, with a line for those that failed alike."""
    alike: dict[str, list[Any]] = {}
    for failure in failures:
        alike.setdefault(failure.error, []).append(failure.study)
    lines = []
    for error, studies in alike.items():
        names = [*described_by_seed(studies).values()]
        names[MOST_NAMED:] = [f"and {len(names) - MOST_NAMED} more"] * (len(names) > MOST_NAMED)
        lines.append(f"{'; '.join(names)}: {error}")
    start = f"{len(failures)} of {total} runs failed"
    kind = RunRefusedError if all(failure.refused for failure in failures) else RunError
    if len(lines) == 1:
        return kind(f"{start}: {lines[0]} (tracebacks in {folder})")
    return kind("\n    ".join([f"{start}, with tracebacks in {folder}:", *lines]))
