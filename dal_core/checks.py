"""Checks at the border of the package: one line that names the argument, what was found and what was expected."""

import math
from collections.abc import Iterable

import psutil
import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`; the message lists what exists."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it has to be one of {', '.join(map(repr, choices))}")


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless every number is finite and above zero."""
    for name, value in numbers.items():
        check_number(name, value)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; a finite number above 0 was expected")


def check_whole(name: str, value: object, lowest: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} is {value!r}; a whole number of at least {lowest} was expected")


def check_batch_size(batch_size: int, pool_size: int) -> None:
    """Raise ValueError unless a batch of that size can be picked from so many instances."""
    if not 0 < batch_size <= pool_size:
        raise ValueError(
            f"batch_size is {batch_size}; 1 to {pool_size}, the number of unlabelled instances, was expected"
        )


def check_number(name: str, value: object) -> None:
    """Raise ValueError unless `value` is an int or a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}; a number was expected")


def check_alike(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are floating point and share one dtype and one device."""
    (first, reference), *others = tensors.items()
    if not reference.is_floating_point():
        raise ValueError(f"{first} has dtype {reference.dtype}; float32 or float64 was expected")
    for name, tensor in others:
        for what in ("dtype", "device"):
            found, expected = getattr(tensor, what), getattr(reference, what)
            if found != expected:
                raise ValueError(f"{name} has {what} {found}, but {first} has {expected}; both have to agree")


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise ValueError unless the shape of `tensor` is `expected`; None matches any size."""
    fits = tensor.ndim == len(expected) and all(
        e is None or found == e for found, e in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; ({wanted}) was expected")


def check_finite(**tensors: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or infinity, naming the first such place."""
    for name, tensor in tensors.items():
        if torch.isfinite(tensor.sum()):  # faster than a look at each; where the sum overflows, look
            continue
        finite = torch.isfinite(tensor)
        if not finite.all():
            place = tuple((~finite).nonzero()[0].tolist())
            found = int((~finite).sum())
            raise ValueError(f"{name} holds {found} values that are NaN or infinite, the first at {place}")


def check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless `labels` are integers in 0..num_classes-1."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {labels.dtype}; integer class labels were expected")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        lowest, highest = int(labels.min()), int(labels.max())
        raise ValueError(f"{name} holds labels from {lowest} to {highest}; 0 to {num_classes - 1} was expected")


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device; MPS shares the CPU's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps of tensors that are gone looks taken to the driver, and is free to us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def check_memory(what: str, shape: tuple[int, ...], like: Tensor, way_out: str) -> None:
    """Raise ValueError if a tensor of `shape`, with the dtype and on the device of `like`, cannot fit into free memory.

    To be called before it is allocated; the message has the number of bytes and the way out.
    """
    needed, free = math.prod(shape) * like.element_size(), free_memory(like.device)
    if needed > free:
        raise ValueError(
            f"{what} of shape {shape} needs {needed:,} bytes, {free:,} are free on {like.device}; {way_out}"
        )
