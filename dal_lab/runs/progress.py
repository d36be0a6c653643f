"""Progress of long work: a live bar for a person, plain throttled lines everywhere else."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm
from tqdm.auto import tqdm as notebook_or_terminal_bar

PLAIN_INTERVAL = 5.0  # seconds between two lines of a log


class _PlainLines(tqdm):
    """A bar that prints a line for each report and never redraws itself, for log files."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.update(mininterval=PLAIN_INTERVAL, maxinterval=PLAIN_INTERVAL, miniters=1, leave=True)
        options["file"] = io.StringIO()  # tqdm's own writing, cursor movements and line ends, goes nowhere
        options["bar_format"] = "{desc}: {n_fmt}/{total_fmt}{unit}, {elapsed} gone, {remaining} to go{postfix}"
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # noqa: ARG002 - tqdm's signature
        line = self.format_dict | {"unit": f" {self.unit}"}
        print(msg or self.format_meter(**line), file=sys.stderr, flush=True)
        return True

    def moveto(self, n: int) -> None:
        """Lines stay where they were printed."""


def progress(iterable: Iterable[Any] | None = None, what: str = "", *, unit: str = "runs", **options: Any) -> tqdm:
    """Return a tqdm over `iterable` (or with `total=` and `update()`), which shows `what` and the time that is left."""
    bar = notebook_or_terminal_bar if _somebody_watches() else _PlainLines
    return bar(iterable, desc=what, unit=unit, **options)


def notebook_is_live() -> bool:
    """Return whether this is the kernel of a notebook that a person has open, rather than one that runs in a batch."""
    return "ipykernel" in sys.modules and _somebody_watches()


def _somebody_watches() -> bool:
    if os.environ.get("DAL_PROGRESS") == "plain":
        return False
    if "ipykernel" in sys.modules:
        return not _runs_in_a_batch()
    return sys.stderr.isatty()


@lru_cache(maxsize=1)
def _runs_in_a_batch() -> bool:
    """Return whether this kernel was started by papermill or nbconvert."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process().parent()
        words = [] if parent is None else [Path(word).name for word in parent.cmdline()]
        return any(word in ("papermill", "nbconvert", "jupyter-nbconvert") for word in words)
    return False
