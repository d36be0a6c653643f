"""What a query costs, before it runs: the line of `dal estimate`. Without torch, so that it answers at once."""

import dataclasses
import difflib
import functools
import inspect
import json
import math
import os
import platform
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from dal_lab.cache import cache_dir
from dal_lab.costs import FORMULAS, Query, Rates, cost

DEVICES = ("cpu", "cuda")
SMALLEST = {"pool": 1, "labelled": 0, "features": 1, "classes": 2, "batch": 1, "test": 1, "cores": 1}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds and peak bytes of one query, by rates that were measured on this machine or by those shipped."""

    seconds: float
    peak_bytes: int
    measured: bool
    cores: int
    device: str
    free_bytes: int | None  # None where it cannot be known without torch

    def line(self) -> str:
        """Return it for people, as in "1.3 s, 210 MB: ..."."""
        where = f"{self.cores} core{'s' * (self.cores > 1)}" if self.device == "cpu" else "one card"
        card = "" if self.device == "cpu" else ", an NVIDIA H100's by its data sheet"
        whose = "measured on this machine" if self.measured else f"shipped{card} (--calibrate measures this machine's)"
        unknown = "" if self.free_bytes is not None else "; how much memory is free is not known without torch"
        return f"{self.short()}: on {where}, by rates {whose}{unknown}"

    def short(self) -> str:
        return f"{two_digits(self.seconds)} s, {two_digits(self.peak_bytes / 1e6)} MB"


def estimate(
    strategy: str, *, pool: int, features: int, classes: int, batch: int, labelled: int = 100, test: int = 1000,
    device: str = "cpu", cores: int | None = None, options: Mapping[str, Any] | None = None,
) -> Estimate:  # fmt: skip
    """Return the cost of one query.

    Args:
        pool, labelled, features, classes, batch: its sizes.
        test: instances that an oracle judges by.
        cores: that the query may use; None: those of this machine.
        options: the strategy's own.

    Raises:
        ValueError: on anything unknown or out of range, and for memory that this machine does not have.
    """
    sizes = {"pool": pool, "labelled": labelled, "features": features, "classes": classes, "batch": batch, "test": test}
    cores = cores or usual_cores()
    for name, size in {**sizes, "cores": cores}.items():
        if size < SMALLEST[name]:
            raise ValueError(f"{name} is {size}; a whole number of at least {SMALLEST[name]} was expected")
    if batch > pool:
        raise ValueError(f"batch is {batch}; at most {pool}, the pool, was expected")
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; {' or '.join(DEVICES)} was expected")
    check_options(strategy, options or {})
    measured = measured_rates(device)
    query = Query(
        pool, labelled, features, classes, batch, measured or shipped()[device], shipped()["factors"], test,
        cores if device == "cpu" else 1,
    )  # fmt: skip
    found = cost(strategy, query, options)
    free = psutil.virtual_memory().available if device == "cpu" else None
    if free is not None and found.peak > free:
        needed = f"{found.peak:,.0f} bytes ({two_digits(found.peak / 1e9)} GB)"
        raise ValueError(f"{strategy} needs {needed} for a pool of {pool:,}, {free:,} are free; use a smaller pool")
    return Estimate(found.seconds, math.ceil(found.peak), measured is not None, cores, device, free)


def check_options(strategy: str, options: Mapping[str, Any]) -> None:
    """Refuse a strategy without a formula, an option that it does not have, and one of another type."""
    if strategy not in FORMULAS:
        known = ", ".join(map(repr, sorted(FORMULAS)))
        raise ValueError(f"strategy is {strategy!r}; it has to be one of {known}{_meant(strategy, FORMULAS)}")
    defaults = {name: each.default for name, each in [*inspect.signature(FORMULAS[strategy]).parameters.items()][1:]}
    for name, value in options.items():
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"strategy {strategy!r} has no option {name!r}; it has {known}{_meant(name, defaults)}")
        usual = defaults[name]
        kinds = (int, float) if isinstance(usual, float) else (list, tuple) if isinstance(usual, tuple) else type(usual)
        if usual is not None and value is not None and not isinstance(value, kinds):
            raise ValueError(f"option {name} is {value!r}; a value like {usual!r} was expected")


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@functools.cache
def shipped() -> dict[str, Any]:
    """Return the table beside this module: rates by device, and measured / computed time by strategy (`factors`)."""
    table = tomllib.loads(Path(__file__).with_name("estimates.toml").read_text(encoding="utf-8"))
    return {device: Rates(**table[device]) for device in DEVICES} | {"factors": table["factors"]}


def machine() -> str:
    """Return what rates are kept under: host, processor and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{platform.node()}, {processor}, {os.cpu_count()} cores"


def usual_cores() -> int:
    """Return how many cores a run uses that has the machine for itself."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdecimal() and int(asked) else available


def measured_rates(device: str) -> Rates | None:
    """Return the rates that `calibrate` has measured on this machine, None if it has not."""
    return (rates := _kept().get(machine(), {}).get(device)) and Rates(**rates)


def calibrate(device: str = "cpu") -> Rates:
    """Measure the rates of this machine, in about 20 s, and keep them beside the features."""
    from dal_lab.calibration import measure
    from dal_lab.runs.files import write_text

    rates = measure(device)
    kept = _kept()
    kept.setdefault(machine(), {})[device] = rates._asdict()
    _file().parent.mkdir(parents=True, exist_ok=True)
    write_text(_file(), json.dumps(kept, indent=2))
    return rates


def _file() -> Path:
    return cache_dir() / "rates.json"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):  # Nothing was measured, or what was is damaged.
        return {}


def two_digits(number: float) -> str:
    """Return a number with two digits that count, never as a power of ten.

    >>> [two_digits(each) for each in (0.00123, 1.26, 128.0)]
    ['0.0012', '1.3', '130']
    """
    if number <= 0:
        return "0"
    rounded = float(f"{number:.1e}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}"
