"""Strategies by name.

A strategy is a function `strategy(snapshot, batch_size, generator, **options) -> LongTensor [b]` of distinct positions
in the snapshot's unlabelled instances, in the order of picking. The annotation of its snapshot argument is the least
view that it needs; one that asks for `Truth` is refused wherever that was not allowed.

A strategy with the keyword `context` is passed what it may know of its run, and leaves there what it wants to tell
(`context.Context`). An ensemble has the option `strategies`, the names of those that it is made of.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dal_core import snapshot as snapshots
from dal_core.checks import check_choice, check_text, check_whole, shown, suggestion
from dal_core.context import Context, Question
from dal_core.contracts import BatchSize, checked
from dal_core.snapshot import Snapshot, Truth

Strategy = Callable[..., Tensor]
PACKAGE = __name__.split(".")[0]
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
GIVEN = {PACKAGE, "dal_lab", *sys.stdlib_module_names}  # whose versions count, and no text
CONTEXT = "context"  # a keyword that is no option

_HOMES = ("dal_core.strategies", "dal_core.oracles", "dal_core.ensembles")  # Importing one registers what it holds.
_STRATEGIES: dict[str, Strategy] = {}
_VERSIONS: dict[str, int] = {}
_warn_once = functools.cache(warnings.warn)
_SOURCES: dict[str, str] = {}  # The texts of strategies that are not the package's, by name.
NAMING = ("strategies", "final_strategy")  # options whose values are names of other strategies


def register(name: str, version: int = 1) -> Callable[[Strategy], Strategy]:
    """Decorator that makes a strategy known as `name`.

    A function that a notebook or script defines again takes the place of the earlier one. A raised `version` says that
    the strategy's numbers changed: stored runs of it, and of ensembles that ask it, are computed anew.

    Raises:
        ValueError: if the name is no text, or taken by another function, or the function lacks the three arguments.
    """

    check_text("name", name)
    check_whole("version", version, 1)

    def decorate(strategy: Strategy) -> Strategy:
        if not callable(strategy):
            raise ValueError(f"strategy {name!r} is {shown(strategy)}; a function was expected")
        positional = [*_signature(strategy)][:3]
        if positional != ["snapshot", "batch_size", "generator"]:
            raise ValueError(f"strategy {name!r} takes {positional}; snapshot, batch_size, generator was expected")
        if name in _STRATEGIES and not _is_same_again(_STRATEGIES[name], strategy):
            raise ValueError(f"strategy {name!r} is registered already, by {_STRATEGIES[name].__module__}")
        _STRATEGIES[name], _VERSIONS[name] = strategy, version
        if _is_own(strategy):
            _SOURCES[name] = text_of(function_of(strategy))
        return strategy

    return decorate


def _is_same_again(earlier: Strategy, strategy: Strategy) -> bool:
    """Whether a cell of a notebook was run again."""
    before, now = ((each.__module__, each.__qualname__) for each in map(function_of, (earlier, strategy)))
    return before == now and (now[0] == "__main__" or isinstance(strategy, functools.partial))


def used(name: str, options: Mapping[str, Any]) -> set[str]:
    """The names of all strategies that `name` runs with these options: itself, and those that it asks in turn."""
    found, left = set[str](), [(name, options)]
    while left:
        name, options = left.pop()
        found.add(name)
        for option, parameter in _signature(_find(name)).items():
            value = options.get(option, parameter.default) if option in NAMING else ()
            names = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
            left += [
                (each, {}) for each in names if isinstance(each, str) and each in _STRATEGIES and each not in found
            ]
    return found


def version(name: str) -> int:
    """The version that the strategy was registered with."""
    _find(name)
    return _VERSIONS.get(name, 1)


def own() -> dict[str, Strategy]:
    """The registered strategies that are not the package's."""
    return {name: strategy for name, strategy in _STRATEGIES.items() if _is_own(strategy)}


def own_source(name: str) -> str:
    """The text of one of them when it was registered, where there is one, and what it holds beside it now."""
    strategy = _find(name)
    return _SOURCES[name] + _held(strategy) if name in _SOURCES else ""


def adopt(name: str, strategy: Strategy, source: str, version: int = 1) -> None:
    """Register what another process has registered and checked; it takes the place of a strategy of that name."""
    _STRATEGIES[name], _SOURCES[name], _VERSIONS[name] = strategy, source, version


def forget_own(names: Iterable[str] | None = None) -> None:
    """Forget strategies that are not the package's, these or all."""
    for name in own() if names is None else names:
        del _STRATEGIES[name]
        _SOURCES.pop(name, None)
        _VERSIONS.pop(name, None)


def _is_own(strategy: Strategy) -> bool:
    return strategy.__module__.split(".")[0] != PACKAGE


def text_of(written: Any) -> str:
    """The text of a function, or a class with what it inherits; warns, once a class, if functions cannot be read."""
    if not inspect.isclass(written):
        return _read.__wrapped__(written)  # It may hold much.
    texts, constants, functions = [], [], {}
    for kind in written.__mro__:
        given = _is_given(kind)
        texts.append("" if given else _read(kind))  # In a notebook there is none, but for functions.
        for name, value in vars(kind).items():
            part = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "func", value))
            if inspect.isfunction(part) and not _is_given(part):
                functions[kind, name] = _read(part)
            elif isinstance(value, int | float | str | tuple) and not (texts[-1] or given or name.startswith("__")):
                constants.append((name, value))
    # What every object has may be made by `dataclass`, without a text.
    if not any((*texts, *functions.values())) and any(name not in vars(object) for _, name in functions):
        _warn_once(f"the text of {written.__qualname__} cannot be read: stored runs will not notice its changes")
    return "".join((*texts, *functions.values(), str(constants or "")))


@functools.cache
def _read(written: Any) -> str:
    """The text when it was first asked for; empty where there is none, as for what was typed in."""
    try:
        return inspect.getsource(written)
    except Exception:  # A file that has changed since makes it raise all sorts of errors.
        return ""


def _held(value: Any) -> str:
    """What a function, method, partial or object holds beside its text, without addresses."""
    if isinstance(value, functools.partial):
        return f"{_held(value.func)}{value.args}{sorted(value.keywords.items())}"
    if inspect.ismethod(value):
        return f"{_held(value.__self__)}{_held(value.__func__)}"
    held = object.__getstate__(value)
    if inspect.isfunction(value):
        filled = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        held = [each for each in (filled, value.__defaults__, value.__kwdefaults__) if each] or None
    return "" if held is None else re.sub(r" at 0x[0-9a-f]+", "", repr(held))


def _is_given(written: Any) -> bool:
    return (written.__module__ or "").split(".")[0] in GIVEN


def function_of(strategy: Strategy) -> Any:
    """What was written down: the function itself, that of a partial, or the class of an object that can be called."""
    while isinstance(strategy, functools.partial):
        strategy = strategy.func
    return strategy if inspect.isroutine(strategy) else type(strategy)


def names(*, oracle: bool | None = None) -> list[str]:
    """Registered names; with `oracle` only those that need ground truth (True) or do without (False)."""
    return sorted(name for name in _registered() if oracle is None or needs_oracle(name) == oracle)


def needed_view(name: str) -> type[Snapshot]:
    """The least view that the strategy needs."""
    return _needed_view(_find(name))


def _needed_view(strategy: Strategy) -> type[Snapshot]:
    written = function_of(strategy)
    return _annotated_view(written if inspect.isroutine(written) else written.__call__)


@functools.lru_cache(maxsize=128)  # Ensembles ask the same strategies hundreds of times a cycle.
def _annotated_view(written: Callable[..., Tensor]) -> type[Snapshot]:
    try:  # Annotations may be texts, and may name what was imported for type checkers only.
        hint = typing.get_type_hints(written).get("snapshot")
    except NameError:
        hint = written.__annotations__.get("snapshot")
    if isinstance(hint, str):
        hint = getattr(snapshots, hint.rpartition(".")[2], Snapshot)
    return hint if inspect.isclass(hint) and issubclass(hint, Snapshot) else Snapshot


def needs_oracle(name: str) -> bool:
    """Whether the strategy asks for `Truth`."""
    return issubclass(needed_view(name), Truth)


def compares_classes(strategy: Strategy) -> bool:
    """Whether it is one of this package's oracles, none of which knows what to do on a regression."""
    return issubclass(_needed_view(strategy), Truth) and function_of(strategy).__module__.startswith(
        "dal_core.oracles."
    )


def option_names(name: str) -> list[str]:
    """The options that the strategy knows beyond snapshot, batch size and generator."""
    return [option for option in _parameters(name)[3:] if option != CONTEXT]


def members() -> list[str]:
    """Names of what an ensemble can be made of: ordinary strategies that are no ensembles themselves."""
    return [name for name in names(oracle=False) if "strategies" not in option_names(name)]


def check_strategies(strategies: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError unless `strategies` names at least one strategy, and only those that are `known`."""
    if not strategies:
        raise ValueError(f"strategies is {shown(strategies)}; a list of at least one name was expected")
    for name in strategies:
        check_choice("strategies", name, known)


def get(name: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy `name` with `options` bound.

    Raises:
        ValueError: if the name or an option is unknown; lists what exists.
    """
    strategy = _find(name)
    known = option_names(name)
    for option in options or {}:
        if option not in known:
            meant = suggestion(option, known)
            raise ValueError(f"strategy {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}{meant}")
    return functools.partial(strategy, **options) if options else strategy


def bound(strategies: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Strategy]:
    """The strategies by name, each with its own of the `options` bound.

    Raises:
        ValueError: for options of what is not among the strategies, and for one that a strategy does not have.
    """
    for name in options or {}:
        check_choice("strategy_options", name, [*strategies])
    return {name: get(name, (options or {}).get(name)) for name in strategies}


@checked
def query(
    strategy: Strategy,
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    context: Context | None = None,
    watch: Callable[[Question], None] | None = None,
) -> Tensor:
    """Ask a strategy for a batch and check its answer: distinct positions in range.  [b] int64

    A strategy that knows from its context which batches follow may pick some of them, too, in the order of buying.
    `watch` is called with the question and its answer.

    Raises:
        AbsentError: if the snapshot lacks what the strategy needs.
        ValueError: if the batch is larger than the pool, or the answer is not a batch.
    """
    if compares_classes(strategy) and snapshot.labels.is_floating_point():
        told = f"strategy {function_of(strategy).__name__!r} compares classes, but labels are those of a regression"
        raise ValueError(f"{told}; a classification was expected")
    if not isinstance(snapshot, needed := _needed_view(strategy)):
        for field in dataclasses.fields(needed):
            getattr(snapshot, field.name)  # What is not there raises the error.
    size, allowed = len(snapshot.features), {batch_size}
    if context is not None and CONTEXT in _signature(strategy):
        strategy = functools.partial(strategy, context=context)
        allowed |= {*itertools.accumulate(context.remaining)}
    picked = strategy(snapshot, batch_size, generator)
    if not isinstance(picked, Tensor) or picked.dtype not in INTEGERS:
        raise ValueError(f"the strategy returned {shown(picked)}; a tensor of integer positions was expected")
    picked = picked.long()
    found = set(picked.flatten().tolist())
    distinct = picked.ndim == 1 and len(found) == len(picked)
    if not distinct or len(picked) not in allowed or not all(0 <= each < size for each in found):
        raise ValueError(
            f"the strategy returned {shown(picked.tolist())}; "
            f"{batch_size} distinct positions below {size} were expected"
        )
    if watch is not None:
        watch(Question(snapshot, picked, context or Context()))
    return picked


def _parameters(name: str) -> list[str]:
    return [*_signature(_find(name))]


def _signature(strategy: Strategy) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(strategy).parameters


def _find(name: str) -> Strategy:
    check_choice("strategy", name, sorted(_registered()))
    return _STRATEGIES[name]


def _registered() -> dict[str, Strategy]:
    """All strategies by name, those of modules that nobody has imported yet, too."""
    for home in _HOMES:
        importlib.import_module(home)
    return _STRATEGIES
