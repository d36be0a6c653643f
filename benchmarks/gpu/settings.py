"""What a section of the command is told, and the results file that all of them write into."""

import dataclasses
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dal_core.checks import one_line
from dal_lab.runs.files import write_text

FORMAT = 1
LONGEST_LINE = 400  # characters of an error
MOST_FRAMES = 6  # of an error's traceback
NO_TIME = "no time was left"
DEVICE_LOST = 75  # exit code of a section whose device computes no more

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where a section computes, reads and writes, and until when.

    Args:
        device: "cuda" or "cpu".
        inputs: the folder that `--prepare` wrote, or None; any part of it may be missing.
        out: the folder of the results.
        work: a folder for tables and for what is unpacked, which goes with the command.
        deadline: of the section, in seconds of `time.monotonic`.
        until: of the item that runs.
        scaled_down: whether sizes are those of a machine with a few cores.
    """

    device: str
    inputs: Path | None
    out: Path
    work: Path
    deadline: float
    until: float = float("inf")
    scaled_down: bool = False

    @property
    def where(self) -> torch.device:
        """Return the device."""
        return torch.device(self.device)

    def left(self) -> float:
        """Seconds that the item may still take, never below 0."""
        return max(0.0, min(self.deadline, self.until) - time.monotonic())

    def given(self, *parts: str) -> Path | None:
        """Return the path of a file or folder among the inputs; None where it is not there."""
        if self.inputs is None or not (path := self.inputs.joinpath(*parts)).exists():
            return None
        return path


@dataclasses.dataclass(frozen=True)
class Item:
    """One measurement of a section: `measure(settings)` returns what goes into the results.

    `weight` is its share of the time, beside those of the items that are still to come; it may take twice that share,
    or the part `may_take` of all the time that is left, if that is more: items come in the order of their worth, and it
    is better to leave out the last ones than to finish none.
    """

    name: str
    measure: Callable[[Settings], Result]
    weight: float = 1.0
    may_take: float = 0.25


class ItemTimeoutError(BaseException):
    """An item took longer than its share; no Exception, because code that goes on behind a failure would catch it."""


class Skipped(Exception):  # noqa: N818 - no error
    """There is nothing to measure here, for the reason in the message."""


class Results:
    """`gpu.json`: every change is written at once, whole, so that a reader finds a valid file at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {"format": FORMAT, "machine": {}, "sections": {}}
        if path.is_file():
            self.values = json.loads(path.read_text(encoding="utf-8"))

    def section(self, name: str) -> dict[str, Any]:
        """Return the part of a section, made if need be."""
        return self.values["sections"].setdefault(name, {"status": "running", "items": {}})

    def write(self) -> None:
        write_text(self.path, json.dumps(_plain(self.values), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: numbers of NumPy and torch as Python's, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # which NaN is not either
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def in_one_line(error: BaseException) -> str:
    """Return what went wrong, in one line of a length that can be read."""
    text = one_line(error) or "no message"
    return f"{type(error).__name__}: {text}"[:LONGEST_LINE]


def run_items(items: list[Item], settings: Settings, results: Results, name: str) -> None:
    """Run the items one after another, each within its share of the time; those in the results already are left out.

    An item that fails is written down with its one line. One that leaves the device unusable ends the process with
    `DEVICE_LOST`, for the caller to start another one that goes on behind it.
    """
    part = results.section(name)
    waiting = [item for item in items if item.name not in part["items"]]
    for position, item in enumerate(waiting):
        left = settings.deadline - time.monotonic()
        if left <= 0:  # all at once: to write the file for each of hundreds would take longer than there is
            part["items"] |= {each.name: {"status": "skipped", "line": NO_TIME} for each in waiting[position:]}
            results.write()
            return
        share = item.weight / sum(each.weight for each in waiting[position:])
        allowed = left * min(1.0, max(2 * share, item.may_take))
        part["items"][item.name] = {"status": "running", "limit_s": round(allowed, 1)}
        results.write()
        until = time.monotonic() + allowed
        part["items"][item.name] |= _measured(item, dataclasses.replace(settings, until=until))
        results.write()
        if settings.device == "cuda" and not _usable():
            os._exit(DEVICE_LOST)


def _measured(item: Item, settings: Settings) -> Result:
    start = time.monotonic()
    found: Result
    try:
        with limited(settings.left()):
            found = {"status": "done"} | item.measure(settings)
    except Skipped as reason:
        found = {"status": "skipped", "line": str(reason)}
    except ItemTimeoutError:
        found = {"status": "out of time", "line": f"not done after {time.monotonic() - start:.0f} s"}
    except (Exception, SystemExit) as error:
        found = {"status": "failed", "line": in_one_line(error), "where": _frames(error)}
    _free(settings.where)
    return {"seconds": round(time.monotonic() - start, 3)} | found


def _frames(error: BaseException) -> list[str]:
    """Return the innermost places of an error: who reads the results cannot ask for its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-MOST_FRAMES:]
    return [f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}" for frame in frames]


class limited:  # noqa: N801 - used as a function
    """A block that ends with ItemTimeoutError after so many seconds, in the main thread of a Unix process.

    A call into a library that does not come back to Python is not ended: for that the section's own limit is there.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.works = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self.works:
            self.before = signal.signal(signal.SIGALRM, self._ring)
            # It rings again, for code that catches every exception.
            signal.setitimer(signal.ITIMER_REAL, max(0.01, self.seconds), 5.0)

    def __exit__(self, *error: object) -> None:
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)

    @staticmethod
    def _ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG004
        raise ItemTimeoutError


def _free(device: torch.device) -> None:
    """Give back what the item before held, so that the next one has the whole memory."""
    if device.type == "cuda" and torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            return  # the device is lost, which `run_items` finds out


def _usable() -> bool:
    """Return whether the device still computes: after an illegal access nothing does in this process."""
    try:
        return int(torch.ones(2, device="cuda").sum()) == 2
    except RuntimeError:
        return False
