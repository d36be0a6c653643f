"""Devices by name."""

import os
import platform
import time

import torch

from dal_core.checks import check_choice

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str) -> torch.device:
    """The device that a configuration means; "auto" is CUDA where there is one, else MPS, else the CPU.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    check_choice("device", device, DEVICES)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, found in there.items() if found)
    if not there[device]:
        raise ValueError(
            f"device is {device!r}, but torch sees no {device.upper()} device here; 'cpu' or 'auto' was expected"
        )
    return torch.device(device)


def device_in_words(device: str) -> str:
    """The device that a configuration means, as people name it; what was asked for where it cannot be had."""
    try:
        kind = resolve_device(device).type
    except ValueError:
        return device
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{kind.upper()} ({platform.machine()}, {os.cpu_count()} cores)"


def with_float64(device: torch.device) -> torch.device:
    """The device itself, or the CPU in place of MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def now(device: torch.device) -> float:
    """Seconds on a clock that only goes forward, after the device has finished what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
