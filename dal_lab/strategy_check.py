"""The contract of strategies: what every strategy keeps, the package's and one's own.

A strategy is asked once in each of the `SITUATIONS`, on small snapshots, and each of the `PROPERTIES` looks at all of
its answers. `check_file` is the command `dal check`.
"""

import collections
import contextlib
import dataclasses
import inspect
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dal_core.checks import one_line, shown
from dal_core.context import Context
from dal_core.devices import resolve_device
from dal_core.models.learners import HeadModel, Linear
from dal_core.protocols import Learner
from dal_core.snapshot import AbsentError, Snapshot, Truth
from dal_core.strategies import registry
from dal_core.task import Classification
from dal_lab.plugins import load_plugin

LONGEST = 300  # characters of an error or a warning in a line
POOL = 19  # unlabelled instances
CPU = torch.device("cpu")
Findings = Iterator[str]
State = tuple[Callable[[], Any], Callable[[Any], Any]]  # of the process: how it is read and written


class Situation(NamedTuple):
    """What a strategy is asked, and where: `kind` of pool, `seed` of the global generators, what its snapshot has."""

    kind: str = "usual"
    dtype: str = "float64"
    batch_size: int = 4
    seed: int = 1
    permuted: bool = False
    device: torch.device = CPU
    regression: bool = False
    truth: bool = False


class Example(NamedTuple):
    """A snapshot, the arrays that it was made of, and which instance each of its positions was before a permutation."""

    snapshot: Any
    arrays: dict[str, Any]
    order: list[int]


class Answer(NamedTuple):
    """What a strategy returned, or the error that it raised, and what was seen to change meanwhile."""

    situation: Situation
    returned: Any
    error: str
    picks: list[int]  # of a tensor of integers
    instances: list[int]  # those of valid picks, as positions before a permutation
    drew: bool  # from its own generator
    written: list[str]
    generators: list[str]  # global ones
    settings: list[str]
    warned: list[str]


class Asked(NamedTuple):
    """A strategy and its answers by situation."""

    strategy: registry.Strategy
    answers: dict[str, Answer]

    def each(self, look: Callable[[Answer], str]) -> Findings:
        """Yield what `look` finds in the answers, with the situation behind; an answer of "" is fine."""
        for words, answer in self.answers.items():
            if found := look(answer):
                what, _, expected = found.rpartition("; ")
                yield f"{what}{'' if words == 'float64' else f' ({words})'}; {expected}"

    def pair(self, words: str) -> tuple[Answer, Answer]:
        """Return the first answer and the one in a situation; twice the first if it was never asked there."""
        first = self.answers["float64"]
        return first, self.answers.get(words, first)


KINDS = {
    "identical": "identical rows", "duplicated": "rows that double labelled ones", "certain": "one-hot probabilities",
    "equal": "equal probabilities", "one class": "one class seen", "one feature": "one feature",
}  # fmt: skip
SITUATIONS: dict[str, Situation] = {
    "float64": Situation(),
    "float32": Situation(dtype="float32"),
    "second call": Situation(),
    "other global generators": Situation(seed=2),
    "permuted pool": Situation(permuted=True),
    "batch of one": Situation(batch_size=1),
    "batch as large as the pool": Situation(batch_size=POOL),
    **{words: Situation(kind) for kind, words in KINDS.items()},
    **{f"{words}, all of them in float32": Situation(kind, "float32", POOL) for kind, words in KINDS.items()},
}


def _torch_state(read: Callable[[], Tensor], write: Callable[[Tensor], None]) -> State:
    return lambda: read().tolist(), lambda state: write(torch.tensor(state, dtype=torch.uint8))


GENERATORS: dict[str, State] = {
    "torch": _torch_state(torch.get_rng_state, torch.set_rng_state),
    "numpy.random": (
        lambda: [np.asarray(each).tolist() for each in np.random.get_state()],  # noqa: NPY002  # It is watched.
        lambda state: np.random.set_state(tuple(state)),  # noqa: NPY002
    ),
    "random": (random.getstate, random.setstate),
}
SETTINGS: dict[str, State] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "the precision of products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "NumPy's errors": (np.geterr, lambda errors: np.seterr(**errors)),
}


def example(
    situation: Situation, *, learner: Learner = Linear(),  # noqa: B008  # It is frozen.
    n: int = POOL, m: int = 6, k: int = 3, d: int = 5,
) -> Example:  # fmt: skip
    """Return a small snapshot of n unlabelled and m labelled instances; labels follow from a rule its head lacks.

    All but permutation, regression and sizes leaves the drawn numbers as they are.
    """
    kind, regression, draw = situation.kind, situation.regression, np.random.default_rng(5)
    d = 1 if kind == "one feature" else d
    features, weight, bias, rule, test, validation, noise = (
        draw.normal(size=shape) for shape in ((n + m, d), (k, d), (k,), (k, d), (11, d), (13, d), (n + m, 4))
    )
    labelled = draw.permutation(n + m)[:m]  # in the order of buying
    rest = np.setdiff1d(np.arange(n + m), labelled)
    if kind == "identical":
        features[rest] = features[rest[:1]]
    if kind == "duplicated":
        features[rest] = features[labelled[np.arange(n) % m]]
    sharpness = {"certain": 1e6, "equal": 0.0}.get(kind, 1.0)
    targets = features @ rule[0] if regression else (features @ rule.T).argmax(axis=1)
    if not regression:
        targets[labelled] = np.arange(m) % k
    if kind == "one class":
        targets[:] = 1
    order = draw.permutation(n + m) if situation.permuted else np.arange(n + m)
    features, targets, noise, labelled = features[order], targets[order], noise[order], np.argsort(order)[labelled]

    def placed(array: np.ndarray) -> Any:
        array = array.astype(situation.dtype) if array.dtype == np.float64 else array
        return array if situation.device == CPU else torch.from_numpy(array).to(situation.device)

    given: dict[str, Any] = {"features": placed(features), "labelled": placed(labelled)}
    given["labels"] = placed(targets[labelled])
    if regression:
        variance = (features**2).mean(axis=1) if sharpness == 1 else np.full(n + m, 1 - np.sign(sharpness))
        mean = features @ weight[0] * np.sign(sharpness)
        given |= {"mean": placed(mean), "variance": placed(variance)}
        members = mean[:, None] + np.sqrt(variance)[:, None] * noise
        given["members"] = torch.as_tensor(placed(members[np.setdiff1d(np.arange(n + m), labelled)]))
    else:
        given |= {"weight": placed(weight * sharpness), "bias": placed(bias * sharpness)}
    if situation.truth:
        given["hidden_labels"] = placed(np.delete(targets, labelled))
        for name, held in {"test": test, "validation": validation}.items():
            known = held @ rule[0] if regression else (held @ rule.T).argmax(axis=1)
            given[name] = (placed(held), placed(known))
    snapshot: Any = Snapshot.of(**given)
    if not regression:
        model = HeadModel.of(*(torch.as_tensor(given[name]).clone() for name in ("weight", "bias")))
        snapshot = dataclasses.replace(snapshot, model=model, learner=learner, task=Classification(k))
    return Example(snapshot, given, order.tolist())


def tensors_of(value: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors and arrays in a snapshot, or whatever it holds, by where they are; arrays share memory."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return {name: value}
    parts: Mapping[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, tuple):
        parts = value._asdict() if hasattr(value, "_asdict") else dict(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = vars(value)
    found = (tensors_of(inner, f"{name}.{part}" if name else part) for part, inner in parts.items())
    return {key: tensor for each in found for key, tensor in each.items()}


@contextlib.contextmanager
def watched(seed: int) -> Iterator[dict[str, list[str]]]:
    """Seed the global generators, tell in the yielded dictionary what the block has changed, and undo that."""
    generators, device = dict(GENERATORS), resolve_device("auto").type
    if device != "cpu":
        there: Any = getattr(torch, device)
        generators[f"torch.{device}"] = _torch_state(there.get_rng_state, there.set_rng_state)
    outside = {name: read() for name, (read, _) in generators.items()}
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    before = {name: read() for name, (read, _) in (generators | SETTINGS).items()}
    changed: dict[str, list[str]] = {"generators": [], "settings": []}
    try:
        yield changed
    finally:
        for name, (read, write) in SETTINGS.items():
            if (now := read()) != before[name]:
                changed["settings"].append(f"{name} is {now}; {before[name]}, as before, was expected")
                write(before[name])
        for name, (read, write) in generators.items():
            if read() != before[name]:
                changed["generators"].append(name)
            write(outside[name])


def ask(strategy: registry.Strategy, situation: Situation) -> Answer:
    """Return a strategy's answer in a situation.

    Raises:
        AbsentError: if it looks for what its snapshot has not.
    """
    snapshot, arrays, order = example(situation)
    if not situation.regression:
        assert snapshot.probabilities is not None, "They are computed before tensors are listed."
    places = {"snapshot": snapshot} | {f"the caller's {name}": array for name, array in arrays.items()}
    before = {name: tensor.clone() for name, tensor in tensors_of(places).items()}
    generator, returned, error = torch.Generator().manual_seed(0), None, ""
    state, known = generator.get_state(), {}
    if registry.CONTEXT in inspect.signature(strategy).parameters:
        known[registry.CONTEXT] = Context(remaining=(situation.batch_size,))
    with warnings.catch_warnings(record=True) as caught, watched(situation.seed) as changed:
        warnings.simplefilter("always")
        try:
            returned = strategy(snapshot, situation.batch_size, generator, **known)
        except AbsentError:
            raise
        except Exception as raised:
            error = f"{type(raised).__name__}: {one_line(raised)}"[:LONGEST]
    after = tensors_of(places)
    picks = []
    if isinstance(returned, Tensor) and returned.dtype in registry.INTEGERS and returned.ndim == 1:
        picks = returned.tolist()
    return Answer(
        situation, returned, error, picks,
        instances=[order[snapshot.instances[each]] for each in picks if 0 <= each < len(snapshot.instances)],
        drew=not torch.equal(generator.get_state(), state),
        written=[f"{name} {words}" for name, old in before.items() if (words := _change(old, after.get(name)))],
        warned=[f"{each.category.__name__}: {one_line(each.message)}"[:LONGEST] for each in caught],
        **changed,
    )  # fmt: skip


def _change(before: Tensor, after: Tensor | None) -> str:
    if after is None or before.shape != after.shape:
        return "is gone or has another shape"
    if after.requires_grad:
        return "requires gradients"
    return "" if torch.equal(before, after) else f"changed by up to {(after - before).abs().max().item():.2g}"


def _usual(name: str, strategy: registry.Strategy) -> Situation:
    """With what the strategy needs; its annotation need not say that it is one for regressions."""
    needed, error = registry.needed_view(name), AbsentError()
    for regression in (False, True):
        usual = Situation(regression=regression, truth=issubclass(needed, Truth))
        try:
            if missing := {each.name for each in dataclasses.fields(needed)} - vars(example(usual).snapshot).keys():
                raise AbsentError(f"snapshot has no {min(missing)}, which this strategy needs")
            ask(strategy, usual)
        except AbsentError as absent:
            error = absent
        else:
            return usual
    raise error


def has_defaults(asked: Asked) -> Findings:
    """Every option has a default, so that the name alone is enough."""
    for name, option in [*inspect.signature(asked.strategy).parameters.items()][3:]:
        if option.default is option.empty and option.kind is option.KEYWORD_ONLY and name != registry.CONTEXT:
            yield f"{name} has no default; one for each option was expected"


def answers(asked: Asked) -> Findings:
    """It answers whatever the pool looks like: in both dtypes, on the devices of this machine, for any batch."""
    return asked.each(lambda it: it.error and f"{it.error}; {it.situation.batch_size} positions were expected")


def returns_positions(asked: Asked) -> Findings:
    """It returns whole numbers, as many as were asked for."""

    def look(it: Answer) -> str:
        found = f"{len(it.picks)} positions" if it.picks else shown(it.returned)
        right = it.error or len(it.picks) == it.situation.batch_size
        return "" if right else f"{found}; a tensor of {it.situation.batch_size} integers was expected"

    return asked.each(look)


def returns_different_ones(asked: Asked) -> Findings:
    """No position comes twice."""

    def look(it: Answer) -> str:
        pick, times = max(collections.Counter(it.picks).items(), key=lambda each: each[1], default=(0, 0))
        return f"position {pick} comes {times} times; different positions were expected" if times > 1 else ""

    return asked.each(look)


def stays_in_the_pool(asked: Asked) -> Findings:
    """Each is a position among the unlabelled instances, and so nothing labelled is among them."""

    def look(it: Answer) -> str:
        outside = [each for each in it.picks if not 0 <= each < POOL]
        expected = f"positions from 0 to {POOL - 1}, in snapshot.features and not in the data, were expected"
        return f"position {outside[0]}; {expected}" if outside else ""

    return asked.each(look)


def leaves_inputs_alone(asked: Asked) -> Findings:
    """The snapshot, its data, labels and model, and the caller's arrays have the same values as before."""
    expected = "the same values as before were expected"
    return asked.each(lambda it: f"{', '.join(it.written)}; {expected}" if it.written else "")


def leaves_generators_alone(asked: Asked) -> Findings:
    """It draws from the generator that it is given, and from no global one."""
    expected = "draws from the argument generator alone were expected"
    return asked.each(
        lambda it: f"the state of {', '.join(it.generators)} changed; {expected}" if it.generators else ""
    )


def leaves_settings_alone(asked: Asked) -> Findings:
    """Dtype, device, threads, gradients and the like are those of before."""
    return asked.each(lambda it: it.settings[0] if it.settings else "")


def is_quiet(asked: Asked) -> Findings:
    """It warns of nothing."""
    return asked.each(lambda it: f"{it.warned[0]}; no warning was expected" if it.warned else "")


def answers_again(asked: Asked) -> Findings:
    """The same snapshot and the same state of the generator give the same batch."""
    first, again = asked.pair("second call")
    if first.picks != again.picks:
        yield f"{shown(first.picks)}, then {shown(again.picks)}; the same batch was expected"


def needs_no_global_state(asked: Asked) -> Findings:
    """Seeds of the global generators make no difference."""
    (first, other), (_, again) = asked.pair("other global generators"), asked.pair("second call")
    if first.picks == again.picks != other.picks:
        yield f"{shown(first.picks)}, with other seeds {shown(other.picks)}; the same batch was expected"


def needs_no_order(asked: Asked) -> Findings:
    """Where it draws nothing, a permuted pool gives the same instances, exact ties apart."""
    first, other = asked.pair("permuted pool")
    before, after = sorted(first.instances), sorted(other.instances)
    if before != after and not first.drew and not other.drew:
        expected = "the same instances, or draws from the argument generator, were expected"
        yield f"instances {before}, of the permuted pool {after}; {expected}"


PROPERTIES: dict[str, Callable[[Asked], Findings]] = {  # by how it is told that one of them is broken
    "needs an option": has_defaults,
    "fails": answers,
    "returns no batch": returns_positions,
    "repeats a pick": returns_different_ones,
    "picks what is not in the pool": stays_in_the_pool,
    "writes into its input": leaves_inputs_alone,
    "draws from a global generator": leaves_generators_alone,
    "changes a setting of the process": leaves_settings_alone,
    "warns": is_quiet,
    "changes from call to call": answers_again,
    "depends on a global generator": needs_no_global_state,
    "depends on the order of the pool": needs_no_order,
}


def check(name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Return a line for each property that a registered strategy breaks: its name, the property, found and expected.

    Raises:
        AbsentError: if the strategy needs what the snapshots of this check have not.
    """
    asked = Asked(registry.get(name, options), {})
    if missing := next(has_defaults(asked), ""):
        return [f"{name}: needs an option: {missing}"]
    usual = _usual(name, asked.strategy)
    for words, situation in situations().items():
        plain = asked.answers.get(situation.dtype)
        if plain is None or not plain.error:  # or else all of this dtype would fail in the same way
            asked.answers[words] = ask(
                asked.strategy, situation._replace(regression=usual.regression, truth=usual.truth)
            )
    return [
        f"{name}: {broken}: {finding}"
        for broken, keeps in PROPERTIES.items()
        for finding in itertools.islice(keeps(asked), None if broken == "fails" else 1)
    ]


def situations() -> dict[str, Situation]:
    """Return what there is to ask on this machine."""
    device = resolve_device("auto")
    return SITUATIONS | ({} if device == CPU else {f"on {device.type}": Situation(dtype="float32", device=device)})


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
        code = max(code, bool(broken))
    if resolve_device("auto") == CPU:
        print("checked on the CPU alone: torch sees no CUDA or MPS device here")
    return code
