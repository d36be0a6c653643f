"""Seconds and memory of a call on a device, and the same call with all that it refers to on another device."""

import dataclasses
import functools
import statistics
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks import memory
from benchmarks.gpu.settings import Result
from dal_core.loop import now

REPEATS = 5
CPU = torch.device("cpu")


def measured(way: Callable[[], object], device: torch.device, longest: float) -> Result:
    """Return the median of a few calls after a first one, whose memory is counted; fewer if they take `longest`.

    `held_bytes` is what the call holds on a card beyond its inputs, `peak_bytes` all that was held there; on a CPU the
    largest that the process has been.
    """
    start = time.monotonic()
    memory_of_it = with_memory(way, device)
    first = time.monotonic() - start
    seconds: list[float] = []
    while len(seconds) < REPEATS and time.monotonic() - start + statistics.median(seconds or [first]) < longest:
        before = now(device)
        way()
        seconds.append(now(device) - before)
    found = {"median_s": statistics.median(seconds or [first]), "calls": len(seconds), "first_s": first}
    return found | memory_of_it


def with_memory(way: Callable[[], object], device: torch.device) -> Result:
    """Call `way` and return what memory it took, in bytes."""
    if device.type != "cuda":  # to count tensors there takes many times as long as small calls do
        way()
        return {"held_bytes": None, "peak_bytes": memory.peak()}
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return {"held_bytes": peak - before, "peak_bytes": peak}


def once(way: Callable[[], object], device: torch.device) -> Result:
    """Measure a single call, for what takes too long for more."""
    start = now(device)
    memory_of_it = with_memory(way, device)
    return {"median_s": now(device) - start, "calls": 1} | memory_of_it


def side_by_side(ways: Mapping[str, Callable[[], object]], device: torch.device, longest: float) -> Result:
    """Measure each of several ways in alternation after a first call of each, so that a slow spell meets all."""
    found = {name: measured(way, device, 0.0) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    start, round_trip = time.monotonic(), sum(each["first_s"] for each in found.values())
    for _ in range(REPEATS):
        if time.monotonic() - start + round_trip > longest:
            break
        for name, way in ways.items():
            before = now(device)
            way()
            seconds[name].append(now(device) - before)
    for name, measured_seconds in seconds.items():
        if measured_seconds:
            found[name] |= {"median_s": statistics.median(measured_seconds), "calls": len(measured_seconds)}
    return found


def moved(value: Any, device: torch.device, known: dict[int, Any] | None = None) -> Any:
    """Return the value with all tensors in it on `device`: of dataclasses, containers and a function's closure.

    With it a case of the benchmarks, which is a function of nothing on the CPU, becomes one on the card.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    again = functools.partial(moved, device=device, known=known)
    there: Any
    if isinstance(value, torch.Tensor):
        there = value.to(device)
    elif isinstance(value, types.FunctionType):
        return _function_moved(value, again, known)
    elif isinstance(value, functools.partial):
        there = functools.partial(again(value.func), *map(again, value.args), **again(value.keywords))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        there = dataclasses.replace(value, **{name: again(part) for name, part in parts.items()})
    elif isinstance(value, dict):
        there = {name: again(part) for name, part in value.items()}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        there = type(value)(*map(again, value))
    elif type(value) in (list, tuple):
        there = type(value)(map(again, value))
    else:
        return value
    known[id(value)] = there
    return there


def _function_moved(function: types.FunctionType, again: Callable[[Any], Any], known: dict[int, Any]) -> Any:
    """Return a function with its closure and defaults moved; one of a module, which has neither, is itself."""
    if not function.__closure__ and not function.__defaults__:
        return function
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    there = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    known[id(function)] = there  # before its closure, in which it may be itself
    for cell, old in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = again(old.cell_contents)
    there.__defaults__ = again(function.__defaults__)
    there.__kwdefaults__ = again(function.__kwdefaults__)
    return there
