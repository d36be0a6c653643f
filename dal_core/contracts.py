"""Contracts of public functions: the annotation of an argument is its check, and a refusal is one line.

    @checked
    def bait_select(features: Float[Tensor, "n d"], batch_size: BatchSize) -> Int[Tensor, " b"]: ...

An axis name has one size over all arguments, floats are all float32 or all float64 and on one device, integers are
int64. The function gets tensors without gradients and plain Python numbers. `check_fields` does the same for the
fields of a dataclass. Defaults, and what has no annotation or one that cannot be resolved, are not checked.
"""

import builtins
import contextlib
import functools
import inspect
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from dal_core import checks
from dal_core.checks import check_alike, check_below, shown

F = TypeVar("F", bound=Callable[..., Any])
LABELS = ("labels", "targets")  # Arguments of these names hold classes; integers of other names are positions.
AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # The kinds of devices whose autocast a caller may have switched on.
LARGEST = 1e308  # An integer may be larger than any float.
LONGEST_DOT = 2**31 - 1  # BLAS counts the entries of a vector in 32 bits.
RANGES = {
    "neither": "between {:g} and {:g}", "both": "from {:g} to {:g}",
    "low": "of at least {:g} and below {:g}", "high": "above {:g} and at most {:g}",
}  # fmt: skip


class Between(NamedTuple):
    """A range of numbers; `closed` names the ends that belong to it. NaN and infinity belong to none."""

    low: float
    high: float
    closed: Literal["neither", "low", "high", "both"] = "neither"

    def allows(self, value: float) -> bool:
        above = self.low <= value if self.closed in ("low", "both") else self.low < value
        below = value <= self.high if self.closed in ("high", "both") else value < self.high
        return above and below and abs(value) < math.inf

    def expected(self, noun: str) -> str:
        if self.high < math.inf:
            return f"a {noun} {RANGES[self.closed].format(self.low, self.high)}"
        end = "of at least" if self.closed == "low" else "above"
        return f"a {'finite number' if noun == 'number' else noun} {end} {self.low:g}"


def AtLeast(lowest: float) -> Between:  # noqa: N802  # It stands in annotations beside Between.
    """The range from `lowest` on."""
    return Between(lowest, math.inf, "low")


class UpTo(NamedTuple):
    """Of a whole number: from 1 to the size of an axis of the arguments, or of a dataclass among them."""

    axis: str
    meaning: str = "the number of unlabelled instances"

    def check(self, name: str, value: Any, number: int | None, seen: "_Seen") -> None:
        size = seen.size(self.axis)
        if number is None or number < 1 or (size is not None and number > size):
            expected = "a whole number of at least 1" if size is None else f"1 to {size}, {self.meaning},"
            raise _refusal(name, value if number is None else number, expected)


class Below(NamedTuple):
    """Of an integer tensor: every entry is at least 0 and below the size of an axis, as classes and positions are."""

    axis: str

    def check(self, name: str, tensor: Tensor | None, seen: "_Seen") -> None:
        size = seen.size(self.axis)
        if size is not None and tensor is not None and not tensor.is_meta:
            check_below(name, "labels" if _holds_labels(name) else "positions", tensor, size)


class Fewest(NamedTuple):
    """Of a tensor: the axis has at least so many entries, as a softmax needs two classes to say anything."""

    axis: str
    lowest: int
    nouns: str


Positive = Annotated[float, Between(0, math.inf)]
NonNegative = Annotated[float, AtLeast(0)]
Fraction = Annotated[float, Between(0, 1, "both")]
Share = Annotated[float, Between(0, 1, "high")]
Count = Annotated[int, AtLeast(1)]
Size = Annotated[int, AtLeast(0)]
BatchSize = Annotated[int, UpTo("n")]


class _Seen:
    """What the arguments of one call have shown so far, and the checks that need all of them."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[Any, str]] = {}  # of an axis, and the argument that has shown it
        self.floats: dict[str, Tensor] = {}
        self.objects: list[Any] = []
        self.later: list[Callable[[], None]] = []

    def finish(self) -> None:
        if len(self.floats) > 1:
            first, *others = self.floats.values()
            if any(each.dtype != first.dtype or each.device != first.device for each in others):
                check_alike(**self.floats)
        later, self.later = self.later, []  # The checks know this object: in a cycle, it would keep all arguments.
        for check in later:
            check()

    def size(self, axis: str) -> int | None:
        """The size of the axis; None where no argument has it, as the tensors that would may be None."""
        if axis in self.sizes:
            return self.sizes[axis][0]
        for each in self.objects:
            for field, place in _axes(each.__class__).get(axis, ()):
                if isinstance(tensor := getattr(each, field, None), Tensor):
                    return tensor.shape[place]
        return None


_Check = Callable[[str, Any, _Seen], Any]  # It refuses a value by its name, or returns what the function gets for it.


def checked(function: F) -> F:
    """The function with its annotations as checks of the arguments, and with autocast off while it runs.

    If the result is made of float tensors, one look at it for NaN and infinity stands for looks at the arguments,
    which follow where it holds some. Picks or a plain number would not show them: there the arguments are looked at.
    `unchecked` returns the function itself, for inner loops.

    Raises:
        ValueError: one line that names the argument, what was found and what was expected.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return call(*arguments, **options)
        by_name, positional, by_result = _contract(function)  # At the first call, later names can be resolved, too.
        seen = _Seen()
        values = [check(name, value, seen) for (name, check), value in zip(positional, arguments, strict=False)]
        values += arguments[len(values) :]  # of *arguments, or too many, which Python itself refuses
        for name, value in options.items():
            options[name] = by_name.get(name, _unchanged)(name, value, seen)
        seen.finish()
        if not by_result:
            _look(seen.floats)
        try:
            result = _without_gradient(function(*values, **options))
        except Exception:  # A decomposition complains of what follows from values that are not finite.
            try:
                _look(seen.floats)
            except ValueError as reason:
                raise reason from None
            raise
        if by_result and not _is_finite(result):
            _look(seen.floats)
            names = ", ".join(seen.floats) or "the arguments"
            raise ValueError(f"{names} lead to values that are not finite; smaller numbers were expected")
        return result

    call.__is_checked__ = True  # type: ignore[attr-defined]
    return typing.cast(F, call)


def is_checked(function: object) -> bool:
    """Whether the function, or the one that a partial holds, was decorated with `checked`."""
    return getattr(getattr(function, "func", function), "__is_checked__", False)


def unchecked(function: F) -> F:
    """The function that `checked` has decorated, for loops over arguments that have been checked."""
    return typing.cast(F, function.__wrapped__) if is_checked(function) else function  # type: ignore[attr-defined]


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass by its annotations; for `__post_init__`, also of a frozen one.

    Raises:
        ValueError: one line that names the field, what was found and what was expected.
    """
    seen = _Seen()
    for name, check in _contract(instance.__class__)[0].items():
        value = getattr(instance, name)
        if (taken := check(name, value, seen)) is not value:
            object.__setattr__(instance, name, taken)
    seen.finish()
    _look(seen.floats)


@functools.cache
def _contract(owner: Callable[..., Any]) -> tuple[dict[str, _Check], list[tuple[str, _Check]], bool]:
    """The checks by name, those of positional arguments in order, and whether a look at the result is enough."""
    hints = _hints(owner)
    parameters = [each for each in inspect.signature(owner).parameters.values() if each.kind.name[:3] != "VAR"]
    by_name = {each.name: _check_of(hints.get(each.name)) for each in parameters}
    positional = [(each.name, by_name[each.name]) for each in parameters if each.kind is not each.KEYWORD_ONLY]
    return by_name, positional, _tensors_in(hints.get("return")) == {"Float"}


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """The annotations of a function or class by name, without those that cannot be resolved."""
    hints: dict[str, Any] = {}
    for part in reversed(inspect.getmro(owner)) if isinstance(owner, type) else (owner,):
        names = getattr(part, "__globals__", None) or vars(sys.modules.get(part.__module__, builtins))
        for name, annotation in inspect.get_annotations(part).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            with contextlib.suppress(NameError, AttributeError, TypeError, SyntaxError):
                hints |= typing.get_type_hints(alone, names, include_extras=True)
    return hints


@functools.cache
def _axes(kind: type) -> dict[str, list[tuple[str, int]]]:
    """Where a class's tensors have which axis: by its name the fields, and the places counted from the end."""
    places: dict[str, list[tuple[str, int]]] = {}
    for field, annotation in _hints(kind).items():
        for place, axis in enumerate(reversed(getattr(annotation, "dim_str", "").split()), start=1):
            places.setdefault(axis, []).append((field, -place))
    return places


def _tensors_in(annotation: Any) -> set[str]:
    """The kinds of tensors, Float or Int or others, that a result is made of; a model may have diverged."""
    if _is_array(annotation):
        return {annotation.dtype.__name__}
    if typing.get_origin(annotation) in (tuple, list, Annotated, typing.Union, types.UnionType):
        return set().union(*map(_tensors_in, typing.get_args(annotation)))
    return set()


def _is_array(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray)


def _without_gradient(result: Any) -> Any:
    """The result detached, for a function may compute with parameters that are no arguments of it."""
    if type(result) is tuple:
        return tuple(map(_without_gradient, result))
    return result.detach() if isinstance(result, Tensor) and result.requires_grad else result


def _is_finite(result: Any) -> bool:
    if isinstance(result, tuple | list):
        return all(map(_is_finite, result))
    return result is None or math.isfinite(result.sum().item()) or bool(result.isfinite().all())


def _look(floats: Mapping[str, Tensor]) -> None:
    """Refuse NaN, infinity, and numbers whose squares overflow: distances of them are infinite, and picks arbitrary."""
    for name, tensor in floats.items():
        size, dtype = tensor.numel(), tensor.dtype
        dense = tensor if tensor.ndim < 2 or tensor.is_contiguous() else tensor.mT
        if size <= LONGEST_DOT and dense.is_contiguous():
            flat = dense.view(-1)
            if math.isfinite(torch.dot(flat, flat).item()):
                continue
        if size:
            lowest, highest = tensor.amin().item(), tensor.amax().item()  # aminmax copies what is not contiguous.
            if not math.isfinite(largest := max(-lowest, highest)):
                checks.check_finite(**{name: tensor})
            limit, summed = torch.finfo(dtype).max, tensor.shape[-1] if tensor.ndim > 1 else 1
            if largest * largest * summed > limit:
                squares = "squares overflow" if largest * largest > limit else "squares overflow, summed over a row"
                way_out = "smaller numbers" + (" or float64" if dtype == torch.float32 else "")
                raise ValueError(f"{name} holds values up to {largest:g}, whose {squares}; {way_out} were expected")


def _refusal(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} is {shown(value)}; {expected} was expected")


def _holds_labels(name: str) -> bool:
    return any(each in name for each in LABELS)


def _check_of(annotation: Any) -> _Check:
    """The check that an annotation stands for."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if _is_array(annotation):
        return functools.partial(_array, annotation.dtype.__name__, annotation.dim_str.split())
    if annotation in (int, float) or (origin is Annotated and parts[0] in (int, float)):
        kind, rule = parts or (annotation, None)
        return functools.partial(_number, kind, rule)
    if origin is Annotated:
        return functools.partial(_sized, _check_of(parts[0]), parts[1:])
    if origin in (typing.Union, types.UnionType):
        forms = [_check_of(each) for each in parts if each is not types.NoneType]
        return functools.partial(_union, forms, len(forms) < len(parts))
    if origin is Literal:
        return functools.partial(_choice, parts)
    if origin in (list, Sequence) or (origin is tuple and parts[-1] is ...):
        return functools.partial(_sequence, origin, _check_of(parts[0]))
    kind = origin or annotation
    answers = isinstance(kind, type) and getattr(kind, "_is_runtime_protocol", not getattr(kind, "_is_protocol", False))
    return functools.partial(_instance, kind) if answers else _unchanged


def _array(kind: str, axes: list[str], name: str, value: Any, seen: _Seen) -> Tensor:
    """`*s` and `...` stand for any number of axes, `_` for one of any size; other names have one size everywhere."""
    value = _tensor(name, value, seen)
    if kind == "Float":
        if value.dtype not in (torch.float32, torch.float64):
            check_alike(**{name: value})
        seen.floats[name] = value
    elif kind in INTEGERS and value.dtype != INTEGERS[kind]:
        if _holds_labels(name):
            checks.check_labels(name, value, 0)
        expected = str(INTEGERS[kind]).removeprefix("torch.")
        raise ValueError(f"{name} has dtype {value.dtype}; {expected} was expected")
    sizes: list[Any] = list(value.shape)
    for spread, axis in enumerate(axes):
        if axis[0] in "*." and len(sizes) >= len(axes) - 1:
            end = spread + len(sizes) - len(axes) + 1
            sizes[spread:end] = [tuple(sizes[spread:end])]
    fits, where = len(sizes) == len(axes), ""
    for axis, size in zip(axes, sizes, strict=False) if fits else ():
        if axis[0] == "*" or (axis[0] != "_" and axis.isidentifier()):
            known, first = seen.sizes.setdefault(axis, (size, name))
            if known != size:
                where = f" with {axis} = {known} as in {first}"
        elif axis.isdecimal() and int(axis) != size:
            fits = False
    if where or not fits:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; ({', '.join(axes)}){where} was expected")
    return value


def _tensor(name: str, value: Any, _: _Seen) -> Tensor:
    """The tensor without its gradient, since threads do not inherit no_grad, and one that heads can be trained on."""
    if not isinstance(value, Tensor):
        way_out = ": torch.from_numpy makes one of it" if isinstance(value, np.ndarray) else ""
        raise ValueError(f"{name} is a {type(value).__name__}; a tensor was expected{way_out}")
    if value.layout is not torch.strided:
        raise ValueError(f"{name} has layout {value.layout}; a dense tensor was expected")
    if value.is_inference() and not torch.is_inference_mode_enabled():
        return value.clone()
    return value.detach() if value.requires_grad else value


def _sized(base: _Check, rules: Sequence[Any], name: str, value: Any, seen: _Seen) -> Any:
    taken = base(name, value, seen)
    for rule in rules:
        if isinstance(rule, Below):
            seen.later.append(functools.partial(rule.check, name, taken, seen))
        elif isinstance(rule, Fewest) and (size := seen.size(rule.axis)) is not None and size < rule.lowest:
            shape = tuple(taken.shape)
            raise ValueError(f"{name} has shape {shape}; {rule.lowest} or more {rule.nouns} were expected")
    return taken


def _number(kind: type, rule: Any, name: str, value: Any, seen: _Seen) -> Any:
    number: Any = value if type(value) is kind else _plain(kind, value)
    if isinstance(rule, UpTo):
        seen.later.append(functools.partial(rule.check, name, value, number, seen))
    elif number is None or number != number or (rule and not rule.allows(number)):
        noun = "whole number" if kind is int else "number"
        expected = rule.expected(noun) if rule else f"a {noun}"
        if number is None and kind is float:
            expected = "a number" if _plain(int, value) is None else f"a number of at most {LARGEST:g}"
        raise _refusal(name, value if number is None else number, expected)
    return number


def _plain(kind: type, value: Any) -> float | None:
    """The Python number that NumPy's numbers and tensors without axes are; no bool is one."""
    if kind is float and isinstance(value, float | np.floating):
        return float(value)
    is_flag = isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) is torch.bool
    if is_flag or getattr(value, "ndim", False):
        return None
    try:
        whole = operator.index(value)
    except TypeError:
        return None
    return whole if kind is int else float(whole) if abs(whole) <= LARGEST else None


def _union(forms: Sequence[_Check], optional: bool, name: str, value: Any, seen: _Seen) -> Any:
    """Take the first form that fits; None is no form of a refusal, as nobody gives it by mistake for a value."""
    if value is None and optional:
        return None
    refusals = []
    for form in forms:
        try:
            return form(name, value, seen)
        except ValueError as refusal:
            refusals.append(str(refusal))
    others = dict.fromkeys(each.partition("; ")[2] for each in refusals[1:] if each != refusals[0])
    raise ValueError("; or ".join((refusals[0], *others)))


def _sequence(origin: Any, of: _Check, name: str, value: Any, seen: _Seen) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _refusal(name, value, "a tuple" if origin is tuple else "a list")
    taken = [of(f"{name}[{i}]", each, seen) for i, each in enumerate(value)]
    if isinstance(value, origin) and all(map(operator.is_, taken, value)):
        return value  # The same list, since a function may be meant to append to it.
    return tuple(taken) if origin is tuple or isinstance(value, tuple) else taken


def _instance(kind: type, name: str, value: Any, seen: _Seen) -> Any:
    if not isinstance(value, kind):
        found = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {found}; a {kind.__name__} was expected")
    seen.objects.append(value)
    return value


def _choice(choices: tuple[Any, ...], name: str, value: Any, _: _Seen) -> Any:
    checks.check_choice(name, value, choices)
    return choices[choices.index(value)]


def _flag(name: str, value: Any, _: _Seen) -> bool:
    value = bool(value) if isinstance(value, np.bool_) else value
    checks.check_flag(name, value)
    return value


def _generator(name: str, value: Any, _: _Seen) -> torch.Generator:
    checks.check_generator(name, value)
    return value


def _unchanged(_: str, value: Any, __: _Seen) -> Any:
    return value


INTEGERS = {"Int": torch.int64, "Bool": torch.bool}
SIMPLE: dict[Any, _Check] = {bool: _flag, torch.Generator: _generator, Tensor: _tensor, Any: _unchanged}
