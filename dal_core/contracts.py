"""Contracts of public functions: the annotation of an argument is its check, and a refusal is one line.

    @checked
    def bait_select(features: Float[Tensor, "n d"], batch_size: BatchSize) -> Int[Tensor, " b"]: ...

An axis name has one size over all arguments, floats are all float32 or all float64 and on one device, integers are
int64. The function gets tensors without gradients and plain Python numbers. `check_fields` does the same for the
fields of a dataclass. Defaults, and what has no annotation or one that cannot be resolved, are not checked.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from dal_core import checks
from dal_core.checks import check_alike, check_finite, check_labels, shown

F = TypeVar("F", bound=Callable[..., Any])
LABELS = ("labels", "targets")  # Arguments of these names hold classes; integers of other names are positions.
AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # The kinds of devices whose autocast a caller may have switched on.
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


class Below(NamedTuple):
    """Of an integer tensor: every entry is at least 0 and below the size of an axis, as classes and positions are."""

    axis: str


class Fewest(NamedTuple):
    """Of a tensor: the axis has at least so many entries, as a softmax needs two classes to say anything."""

    axis: str
    lowest: int
    noun: str


Positive = Annotated[float, Between(0, math.inf)]
NonNegative = Annotated[float, AtLeast(0)]
Fraction = Annotated[float, Between(0, 1, "both")]
Share = Annotated[float, Between(0, 1, "high")]
Count = Annotated[int, AtLeast(1)]
Size = Annotated[int, AtLeast(0)]
BatchSize = Annotated[int, UpTo("n")]


class _Seen:
    """What the arguments of one call have shown so far, and the checks that need all of them."""

    __slots__ = ("floats", "later", "objects", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[Any, str]] = {}  # of an axis, and the argument that has shown it
        self.floats: dict[str, Tensor] = {}
        self.objects: list[Any] = []
        self.later: list[Callable[[], None]] = []

    def finish(self) -> None:
        if self.floats:
            first, *others = self.floats.values()
            if any(each.dtype != first.dtype or each.device != first.device for each in others):
                check_alike(**self.floats)
        for check in self.later:
            check()

    def size(self, axis: str) -> int | None:
        """The size of the axis; None where no argument has it, as the tensors that would may be None."""
        if axis in self.sizes:
            return self.sizes[axis][0]
        for each in self.objects:
            for field, annotation in _hints(each.__class__).items():
                tensor, axes = getattr(each, field, None), getattr(annotation, "dim_str", "").split()
                if axis in axes and isinstance(tensor, Tensor):
                    return tensor.shape[axes.index(axis) - len(axes)]
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
    contract = functools.cache(lambda: _contract(function))  # At the first call, later names can be resolved, too.

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        by_name, positional, by_result = contract()
        seen = _Seen()
        values = [check(name, value, seen) for (name, check), value in zip(positional, arguments, strict=False)]
        values += arguments[len(values) :]  # of *arguments, or too many, which Python itself refuses
        options = {name: by_name.get(name, _unchanged)(name, value, seen) for name, value in options.items()}
        seen.finish()
        with _autocast_off():
            return _run(functools.partial(function, *values, **options), seen.floats, by_result)

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
    for name, check in _field_checks(instance.__class__).items():
        value = getattr(instance, name)
        if (taken := check(name, value, seen)) is not value:
            object.__setattr__(instance, name, taken)
    seen.finish()
    _look(seen.floats)


def _contract(function: Callable[..., Any]) -> tuple[dict[str, _Check], list[tuple[str, _Check]], bool]:
    """The checks by name, those of positional arguments in order, and whether a look at the result is enough."""
    hints = _hints(function)
    parameters = [each for each in inspect.signature(function).parameters.values() if each.kind.name[:3] != "VAR"]
    by_name = {each.name: _check_of(hints.get(each.name)) for each in parameters}
    positional = [(each.name, by_name[each.name]) for each in parameters if each.kind is not each.KEYWORD_ONLY]
    return by_name, positional, _tensors_in(hints.get("return")) == {"Float"}


@functools.cache
def _field_checks(kind: type) -> dict[str, _Check]:
    return {each.name: _check_of(_hints(kind).get(each.name)) for each in dataclasses.fields(kind)}


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    """The annotations of a function or class by name, without those that cannot be resolved."""
    unresolved = (NameError, AttributeError, TypeError, SyntaxError)
    with contextlib.suppress(*unresolved):
        return typing.get_type_hints(owner, include_extras=True)
    hints: dict[str, Any] = {}
    for part in reversed(inspect.getmro(owner)) if isinstance(owner, type) else (owner,):
        for name, annotation in inspect.get_annotations(part).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            with contextlib.suppress(*unresolved):
                hints |= typing.get_type_hints(alone, vars(sys.modules[part.__module__]), include_extras=True)
    return hints


def _tensors_in(annotation: Any) -> set[str]:
    """The kinds of tensors, Float or Int or others, that a result is made of."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return set().union(*(_tensors_in(each) for each in _hints(annotation).values() if each is not annotation))
    if _is_array(annotation):
        return {annotation.dtype.__name__}
    if typing.get_origin(annotation) in (tuple, list, Annotated, typing.Union, types.UnionType):
        return set().union(*map(_tensors_in, typing.get_args(annotation)))
    return set()


def _autocast_off() -> contextlib.ExitStack:
    off = contextlib.ExitStack()
    for kind in AUTOCAST:
        if torch.is_autocast_enabled(kind):
            off.enter_context(torch.autocast(kind, enabled=False))
    return off


def _run(call: Callable[[], Any], floats: dict[str, Tensor], by_result: bool) -> Any:
    if not by_result:
        _look(floats)
        return _without_gradient(call())
    try:
        result = _without_gradient(call())
    except Exception:
        try:
            _look(floats)  # Values that are not finite are the reason for what a decomposition complains about.
        except ValueError as reason:
            raise reason from None
        raise
    if not all(math.isfinite(each.sum().item()) or bool(each.isfinite().all()) for each in _floats_in(result)):
        _look(floats)
        names = ", ".join(floats) or "the arguments"
        raise ValueError(f"{names} lead to values that are not finite; smaller numbers were expected")
    return result


def _without_gradient(result: Any) -> Any:
    """The result detached, for a function may compute with parameters that are no arguments of it."""
    if type(result) is tuple:
        return tuple(map(_without_gradient, result))
    return result.detach() if isinstance(result, Tensor) and result.requires_grad else result


def _floats_in(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor) and result.is_floating_point():
        yield result
    parts = result if isinstance(result, tuple | list) else ()
    if dataclasses.is_dataclass(type(result)):
        parts = [getattr(result, each.name) for each in dataclasses.fields(result)]
    for each in parts:
        yield from _floats_in(each)


def _look(floats: dict[str, Tensor]) -> None:
    """Refuse NaN, infinity, and numbers whose squares overflow: distances of them are infinite, and picks arbitrary."""
    for name, tensor in floats.items():
        size = tensor.numel()
        dense = tensor if tensor.ndim < 2 or tensor.is_contiguous() else tensor.mT
        if size <= LONGEST_DOT and dense.is_contiguous():
            flat = dense.view(-1)
            if math.isfinite(torch.dot(flat, flat).item()):
                continue
        if size:
            lowest, highest = tensor.amin().item(), tensor.amax().item()  # aminmax copies what is not contiguous.
            largest, dtype = max(-lowest, highest), tensor.dtype
            if not math.isfinite(largest):
                check_finite(**{name: tensor})
            if largest * largest > torch.finfo(dtype).max:
                way_out = "smaller numbers" + (" or float64" if dtype == torch.float32 else "")
                raise ValueError(
                    f"{name} holds values up to {largest:g}, whose squares overflow; {way_out} were expected"
                )


def _refusal(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} is {shown(value)}; {expected} was expected")


def _is_array(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, AbstractArray)


def _check_of(annotation: Any) -> _Check:
    """The check that an annotation stands for."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if isinstance(annotation, TypeVar):
        return _check_of(annotation.__bound__)
    if _is_array(annotation):
        axes = annotation.dim_str.split()
        spread = next((i for i, axis in enumerate(axes) if axis[0] in "*."), None)
        return functools.partial(_array, annotation.dtype.__name__, axes, spread)
    if annotation in (int, float) or (origin is Annotated and parts[0] in (int, float)):
        return functools.partial(_number, parts[0] if parts else annotation, parts[1:])
    if origin is Annotated:
        return functools.partial(_sized, _check_of(parts[0]), parts[1:])
    if origin in (typing.Union, types.UnionType):
        return functools.partial(_union, [_check_of(each) for each in parts])
    if origin is Literal:
        return functools.partial(_choice, parts)
    if origin in (list, tuple, Sequence) and parts:
        fixed = origin is tuple and parts[-1] is not ...
        return functools.partial(_sequence, origin, fixed, [_check_of(each) for each in parts if each is not ...])
    if origin in (dict, Mapping) and parts:
        return functools.partial(_mapping, _check_of(parts[0]), _check_of(parts[1]))
    kind = origin or annotation
    answers = isinstance(kind, type) and getattr(kind, "_is_runtime_protocol", not getattr(kind, "_is_protocol", False))
    return functools.partial(_instance, kind) if answers else _unchanged


def _array(kind: str, axes: list[str], spread: int | None, name: str, value: Any, seen: _Seen) -> Tensor:
    """`*s` and `...` stand for any number of axes, `_` for one of any size; other names have one size everywhere."""
    value = _tensor(name, value, seen)
    if kind == "Float":
        if value.dtype not in (torch.float32, torch.float64):
            check_alike(**{name: value})
        seen.floats[name] = value
    elif kind in INTEGERS and value.dtype != INTEGERS[kind]:
        if any(each in name for each in LABELS):
            check_labels(name, value, 0)
        raise ValueError(f"{name} has dtype {value.dtype}; {kind.lower().replace('int', 'int64')} was expected")
    sizes: list[Any] = list(value.shape)
    if spread is not None and len(sizes) >= len(axes) - 1:
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

    def check(axis: str) -> None:
        size = seen.size(axis)
        if size is not None and isinstance(taken, Tensor) and taken.numel() and not taken.is_meta:
            lowest, highest = (int(each) for each in taken.aminmax())
            if lowest < 0 or highest >= size:
                what = "labels" if any(each in name for each in LABELS) else "positions"
                raise ValueError(f"{name} holds {what} from {lowest} to {highest}; 0 to {size - 1} was expected")

    seen.later += [functools.partial(check, each.axis) for each in rules if isinstance(each, Below)]
    for each in rules:
        if isinstance(each, Fewest) and (size := seen.size(each.axis)) is not None and size < each.lowest:
            shape, verb = tuple(taken.shape), "was" if each.lowest == 1 else "were"
            raise ValueError(f"{name} has shape {shape}; at least {each.lowest} {each.noun} {verb} expected")
    return taken


def _number(kind: type, rules: Sequence[Any], name: str, value: Any, seen: _Seen) -> Any:
    number = _whole(value) if kind is int else _real(value)
    noun = "whole number" if kind is int else "number"

    def check(limit: UpTo) -> None:
        size = seen.size(limit.axis)
        if number is None or not 1 <= number <= (number if size is None else size):
            expected = "a whole number of at least 1" if size is None else f"1 to {size}, {limit.meaning},"
            raise _refusal(name, value if number is None else number, expected)

    for rule in rules:
        if isinstance(rule, UpTo):
            seen.later.append(functools.partial(check, rule))
            return number
    if number is None and kind is float:
        checks.check_number(name, value)
    ranges = [each for each in rules if isinstance(each, Between)]
    if number is None or math.isnan(number) or not all(each.allows(number) for each in ranges):
        raise _refusal(name, value if number is None else number, ranges[0].expected(noun) if ranges else f"a {noun}")
    return number


def _whole(value: Any) -> int | None:
    """The int that NumPy's integers and tensors without axes are; no bool is one."""
    if type(value) is int:
        return value
    if (
        isinstance(value, bool | np.bool_)
        or getattr(value, "ndim", False)
        or getattr(value, "dtype", None) is torch.bool
    ):
        return None
    with contextlib.suppress(TypeError):
        return operator.index(value)
    return None


def _real(value: Any) -> float | None:
    if isinstance(value, float | np.floating):
        return float(value)
    whole = _whole(value)
    return None if whole is None or abs(whole) > checks.LARGEST else float(whole)


def _union(forms: Sequence[_Check], name: str, value: Any, seen: _Seen) -> Any:
    """Take the first form that fits; None is no form of a refusal, as nobody gives it by mistake for a value."""
    if value is None and _none in forms:
        return None
    refusals = []
    for form in forms:
        try:
            return form(name, value, seen)
        except ValueError as refusal:
            refusals += [str(refusal)] if form is not _none else []
    others = dict.fromkeys(each.partition("; ")[2] for each in refusals[1:] if each != refusals[0])
    raise ValueError("; or ".join((refusals[0], *others)))


def _sequence(origin: Any, fixed: bool, of: Sequence[_Check], name: str, value: Any, seen: _Seen) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or (fixed and len(value) != len(of)):
        raise _refusal(name, value, f"a tuple of {len(of)}" if fixed else "a tuple" if origin is tuple else "a list")
    forms = of if fixed else [*of] * len(value)
    taken = [form(f"{name}[{i}]", value[i], seen) for i, form in enumerate(forms)]
    if isinstance(value, origin) and all(map(operator.is_, taken, value)):
        return value  # The same list, since a function may be meant to append to it.
    return tuple(taken) if origin is tuple or isinstance(value, tuple) else taken


def _mapping(of_key: _Check, of_value: _Check, name: str, value: Any, seen: _Seen) -> Any:
    if not isinstance(value, Mapping):
        raise _refusal(name, value, "a dictionary")
    taken = {
        of_key(f"a key of {name}", key, seen): of_value(f"{name}[{shown(key)}]", each, seen)
        for key, each in value.items()
    }
    return value if all(map(operator.is_, taken.values(), value.values())) else taken


def _instance(kind: type, name: str, value: Any, seen: _Seen) -> Any:
    if not isinstance(value, kind):
        found = "None" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {found}; a {kind.__name__} was expected")
    if dataclasses.is_dataclass(type(value)):
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


def _none(name: str, value: Any, _: _Seen) -> None:
    if value is not None:
        raise _refusal(name, value, "None")


def _unchanged(_: str, value: Any, __: _Seen) -> Any:
    return value


INTEGERS = {"Int": torch.int64, "Bool": torch.bool}
SIMPLE: dict[Any, _Check] = {
    bool: _flag, torch.Generator: _generator, Tensor: _tensor, types.NoneType: _none,
    Any: _unchanged, object: _unchanged, None: _unchanged, inspect.Parameter.empty: _unchanged,
}  # fmt: skip
