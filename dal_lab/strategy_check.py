"""The contract of strategies: what every strategy keeps, the package's and one's own.

A strategy is asked once in each of the `SITUATIONS`, on small snapshots, and each of the `PROPERTIES` looks at all of
its answers. `check_file` is the command `dal check`.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dal_core.checks import shown
from dal_core.devices import resolve_device
from dal_core.parallel import fixed_threads
from dal_core.snapshot import AbsentError, Truth
from dal_core.strategies import registry
from dal_lab.plugins import load_plugin
from dal_lab.strategy_answers import (
    AGAIN,
    CPU,
    FIRST,
    PERMUTED,
    POOL,
    RESEEDED,
    Answer,
    Situation,
    ask,
    example,
    situations,
)

Answers = Mapping[str, Answer]
Find = Callable[[Answer, Answers], str]


class Property(NamedTuple):
    """`broken` says that it does not hold; `find` tells what was found in an answer, "" if all is well."""

    broken: str
    expected: str
    find: Find


PROPERTIES: list[Property] = []
FAILS = "fails"


def _property(broken: str, expected: str) -> Callable[[Find], Find]:
    def noted(find: Find) -> Find:
        PROPERTIES.append(Property(broken, expected, find))
        return find

    return noted


@_property(FAILS, "{b} positions were")
def answers(it: Answer, _: Answers) -> str:
    """It answers with its options' defaults: in both dtypes, on this machine's devices, whatever the pool and batch."""
    return it.error


@_property("returns no batch", "a tensor of {b} integers was")
def returns_positions(it: Answer, _: Answers) -> str:
    """It returns whole numbers, as many as were asked for."""
    found = f"{len(it.picks)} positions" if it.picks else shown(it.returned)
    return "" if it.error or len(it.picks) == it.batch_size else found


@_property("repeats a pick", "different positions were")
def returns_different_ones(it: Answer, _: Answers) -> str:
    """No position comes twice."""
    pick, times = max(collections.Counter(it.picks).items(), key=lambda each: each[1], default=(0, 0))
    return f"position {pick} comes {times} times" if times > 1 else ""


@_property("picks what is not in the pool", f"positions 0 to {POOL - 1} in snapshot.features, not in the data, were")
def stays_in_the_pool(it: Answer, _: Answers) -> str:
    """Each is a position among the unlabelled instances, so that nothing labelled is among them."""
    return next((f"position {each}" for each in it.picks if not 0 <= each < POOL), "")


@_property("writes into its input", "the same values as before were")
def leaves_inputs_alone(it: Answer, _: Answers) -> str:
    """The snapshot, its data, labels and model, and the caller's arrays stay as they are."""
    return ", ".join(it.written)


@_property("draws from a global generator", "draws from the argument generator alone were")
def leaves_generators_alone(it: Answer, _: Answers) -> str:
    """It draws from the generator that it is given, and from no global one."""
    return f"the state of {', '.join(it.generators)} changed" if it.generators else ""


@_property("changes a setting of the process", "the same as before was")
def leaves_settings_alone(it: Answer, _: Answers) -> str:
    """Dtype, device, threads, gradients and the like are those of before."""
    return ", ".join(it.settings)


@_property("warns", "no warning was")
def is_quiet(it: Answer, _: Answers) -> str:
    """It warns of nothing."""
    return it.warned[0] if it.warned else ""


@_property("changes from call to call", "the same batch was")
def answers_again(it: Answer, every: Answers) -> str:
    """The same snapshot and the same state of the generator give the same batch."""
    return _other_than(every[FIRST], it) if it.words == AGAIN else ""


@_property("depends on a global generator", "the same batch was")
def needs_no_global_state(it: Answer, every: Answers) -> str:
    """Seeds of the global generators make no difference."""
    return _other_than(every[FIRST], it) if it.words == RESEEDED and _repeats(every) else ""


@_property(
    "depends on the order of the pool", "the same instances (ties apart), or draws from the argument generator, were"
)
def needs_no_order(it: Answer, every: Answers) -> str:
    """Where it draws nothing, a permuted pool gives the same instances, exact ties apart."""
    first = every[FIRST]
    if it.words != PERMUTED or first.drew or it.drew or not _repeats(every):
        return ""
    compared = first.instances and it.instances and first.instances != it.instances
    return f"instances {first.instances}, and {it.instances}" if compared else ""


def _repeats(every: Answers) -> bool:
    return every[FIRST].picks == every[AGAIN].picks


def _other_than(first: Answer, it: Answer) -> str:
    return "" if first.picks == it.picks else f"{shown(first.picks)}, and {shown(it.picks)}"


def _first_answer(name: str, strategy: registry.Strategy) -> tuple[Answer, dict[str, Any]]:
    """An answer, and what situations have to have; an annotation need not say that a strategy is for regressions."""
    needed, errors = registry.needed_view(name), []
    for regression in (False, True):
        views: dict[str, Any] = {"regression": regression, "truth": issubclass(needed, Truth)}
        usual = Situation(**views)
        try:
            if missing := {each.name for each in dataclasses.fields(needed)} - vars(example(usual).snapshot).keys():
                raise AbsentError(f"snapshot has no {min(missing)}, which this strategy needs")
            return ask(strategy, usual, FIRST), views
        except AbsentError as absent:
            errors.append(absent)
    raise errors[0]


def check(name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Return a line for each property that a registered strategy breaks: its name, the property, found and expected.

    Raises:
        AbsentError: if the strategy needs what the snapshots of this check have not.
    """
    strategy, lines = registry.get(name, options), []
    with fixed_threads():  # as in a run
        first, needed = _first_answer(name, strategy)
        others = {words: each._replace(**needed) for words, each in situations().items() if words != FIRST}
        every = {FIRST: first} | {words: ask(strategy, each, words) for words, each in others.items()}
    for broken, expected, find in PROPERTIES:
        found: dict[str, Answer] = {}
        for it in every.values():
            found.setdefault(find(it, every), it)
        found.pop("", None)
        for what, it in itertools.islice(found.items(), None if broken == FAILS else 1):
            everywhere = it.words == FIRST and find(every["float32"], every) == what
            where = "" if everywhere else f" ({it.words})"
            lines.append(f"{name}: {broken}: {what}{where}; {expected.format(b=it.batch_size)} expected")
    return lines


def check_file(path: Path) -> int:
    """Check the strategies that a Python file registers, print a line a finding; return 0, or 1 if there are any.

    Raises:
        ValueError: if the file does not load, or registers none.
    """
    names, code = load_plugin(path), 0
    if not names:
        raise ValueError(f'{path} registers no strategy; a function below @dal_core.register("name") was expected')
    for name in names:
        try:
            broken = check(name)
        except AbsentError as absent:
            print(f"{name}: not checked: {absent}")
            continue
        print("\n".join(broken) or f"{name}: keeps all {len(PROPERTIES)} properties")
        code = max(code, int(bool(broken)))
    if resolve_device("auto") == CPU:
        print("checked on the CPU alone: torch sees no CUDA or MPS device here")
    return code
