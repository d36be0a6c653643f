"""Checks at the border of the package: one line that names the argument, what was found and what was expected."""

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Hashable, Iterable
from typing import Any

import psutil
import torch
from torch import Tensor

CONTROL = ("Cc", "Cs", "Zl", "Zp")  # categories of characters: control, halves of surrogate pairs, ends of lines
UNDECODED = re.compile("[\udc80-\udcff](?=.*/)")  # bytes in the name of a folder, as Python reads it
LONGEST = 200  # characters of a value in a message


def shown(value: object) -> str:
    """A value for a message: its representation in one line, shortened."""
    text = one_line(repr(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def one_line(text: object) -> str:
    """A message of whatever origin in one line."""
    return printable(" ".join(line.strip() for line in str(text).splitlines()))


def printable(text: object) -> str:
    """A path or a name with its control characters, which may break a line or a terminal, written out."""
    return "".join(repr(each)[1:-1] if unicodedata.category(each) in CONTROL else each for each in str(text))


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`; the message lists what exists, and what may be meant."""
    choices = list(choices)
    if not isinstance(value, Hashable) or value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{name} is {shown(value)}; it has to be one of {known}{suggestion(value, choices)}")


def suggestion(value: object, choices: Iterable[object]) -> str:
    """What may be meant by a misspelt name, to end a message with; empty if nothing is near."""
    near = difflib.get_close_matches(value[:LONGEST], map(str, choices), n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless `value` is True or False: the word "no" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; True or False was expected")


def check_text(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a string that is not empty and has no control characters.

    In folders of a path there may be what the locale cannot decode, as every letter but ASCII's where it is C.
    """
    plain = UNDECODED.sub("?", value) if isinstance(value, str) else ""
    if not plain.strip() or plain != printable(plain):
        raise ValueError(f"{name} is {shown(value)}; a text without control characters was expected, not empty")


def check_options(name: str, options: object) -> None:
    """Raise ValueError unless `options` maps names to values that JSON can hold, as the key of a stored run has to."""
    if not isinstance(options, dict) or not all(isinstance(each, str) for each in options):
        raise ValueError(f"{name} is {shown(options)}; a dictionary from names of options to their values was expected")
    for key, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                f"{name}[{key!r}] is {shown(value)}; a finite number, a text, True, False, None or a list of such was "
                "expected"
            ) from None


def as_json(name: str, value: object) -> str:
    """The value as JSON; raise ValueError if JSON cannot hold it."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {shown(value)}, which JSON cannot hold: {error}") from None


def check_columns(name: str, frame: Any, columns: Iterable[str]) -> None:
    """Raise ValueError unless `frame` is a data frame that has all `columns`."""
    if not hasattr(frame, "columns"):
        raise ValueError(f"{name} is {shown(frame)}; a data frame was expected")
    if missing := sorted(set(columns) - set(frame.columns)):
        raise ValueError(f"{name} lacks the columns {missing}; it has {sorted(map(str, frame.columns))}")
    if not len(frame):
        raise ValueError(f"{name} is empty; at least one row was expected")


def check_whole(name: str, value: object, lowest: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} is {shown(value)}; a whole number of at least {lowest} was expected")


def check_tensor(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; a tensor was expected")


def check_generator(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a generator on the CPU, which draws the same for every device."""
    if not isinstance(value, torch.Generator):
        raise ValueError(f"{name} is {shown(value)}; a torch.Generator was expected")
    if value.device.type != "cpu":
        raise ValueError(f"{name} has device {value.device}; a torch.Generator on the CPU was expected")


def check_alike(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are float32 or all float64, and on one device."""
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
    (first, reference), *others = tensors.items()
    if reference.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{first} has dtype {reference.dtype}; float32 or float64 was expected")
    for name, tensor in others:
        for what in ("dtype", "device"):
            found, expected = getattr(tensor, what), getattr(reference, what)
            if found != expected:
                raise ValueError(f"{name} has {what} {found}, but {first} has {expected}; both have to agree")


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise ValueError unless the shape of `tensor` is `expected`; None matches any size."""
    check_tensor(name, tensor)
    fits = tensor.ndim == len(expected) and all(
        e is None or found == e for found, e in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; ({wanted}) was expected")


def check_finite(**tensors: Tensor) -> None:
    """Raise ValueError if a tensor holds NaN or infinity, naming the first such place."""
    for name, tensor in tensors.items():
        # A finite sum is faster to see than a look at each value; one that overflows says nothing.
        if not tensor.sum().isfinite() and len(places := (~tensor.isfinite()).nonzero()):
            first = tuple(places[0].tolist())
            raise ValueError(f"{name} holds {len(places)} values that are NaN or infinite, the first at {first}")


def check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless `labels` are int64, which torch takes for an index, in 0..num_classes-1."""
    check_tensor(name, labels)
    if labels.dtype != torch.int64:
        integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        wanted = "int64 was" if integers else "integer class labels were"
        raise ValueError(f"{name} has dtype {labels.dtype}; {wanted} expected")
    check_below(name, "labels", labels, num_classes)


def check_below(name: str, what: str, numbers: Tensor, size: int) -> None:
    """Raise ValueError unless all of the integers are at least 0 and below `size`."""
    lowest, highest = map(int, numbers.aminmax()) if numbers.numel() else (0, size - 1)
    if lowest < 0 or highest >= size:
        raise ValueError(f"{name} holds {what} from {lowest} to {highest}; 0 to {size - 1} was expected")


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
