"""Asks strategies for batches of small snapshots, and records their answers and what they changed."""

import contextlib
import dataclasses
import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dal_core.checks import one_line
from dal_core.context import Context
from dal_core.devices import resolve_device
from dal_core.models.learners import HeadModel, Linear
from dal_core.protocols import Learner
from dal_core.snapshot import AbsentError, Snapshot
from dal_core.strategies import registry
from dal_core.task import Classification

LONGEST = 300  # characters of an error or a warning in a line
POOL = 37  # unlabelled instances
CPU = torch.device("cpu")
State = tuple[Callable[[], Any], Callable[[Any], Any]]  # How a setting of the process is read, and how it is written.


class Situation(NamedTuple):
    """What a strategy is asked, and where: `kind` of pool, `seed` of the global generators, what its snapshot has."""

    kind: str = "usual"
    dtype: str = "float64"
    batch_size: int = 7
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

    words: str  # They name the situation in messages.
    batch_size: int
    returned: Any
    error: str
    picks: list[int]  # The answer, if it is a tensor of integers.
    instances: list[int]  # Positions before a permutation, sorted, if all picks are in the pool.
    drew: bool  # Whether it drew from its own generator.
    written: list[str]
    generators: list[str]  # global ones
    settings: list[str]
    warned: list[str]


KINDS = {
    "identical": "identical rows", "duplicated": "rows that double labelled ones", "certain": "one-hot probabilities",
    "equal": "equal probabilities", "one class": "one class seen", "one feature": "one feature",
}  # fmt: skip
FIRST, AGAIN, RESEEDED, PERMUTED = "float64", "second call", "other global seeds", "permuted pool"
SITUATIONS: dict[str, Situation] = {
    FIRST: Situation(),
    AGAIN: Situation(),
    RESEEDED: Situation(seed=2),
    PERMUTED: Situation(permuted=True),
    "float32": Situation(dtype="float32"),
    "batch of one": Situation(batch_size=1),
    "batch as large as the pool": Situation(batch_size=POOL),
    **{words: Situation(kind) for kind, words in KINDS.items()},
    **{f"{words}, all of them in float32": Situation(kind, "float32", POOL) for kind, words in KINDS.items()},
}


def situations() -> dict[str, Situation]:
    """Return what there is to ask on this machine."""
    device = resolve_device("auto")
    return SITUATIONS | ({} if device == CPU else {f"on {device.type}": Situation(dtype="float32", device=device)})


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
    "the default device": (
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device == CPU else device),
    ),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the precision of products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "the working folder": (os.getcwd, os.chdir),
    "NumPy's errors": (np.geterr, lambda errors: np.seterr(**errors)),
}


def example(
    situation: Situation, *, learner: Learner = Linear(),  # noqa: B008  # It is frozen.
    n: int = POOL, m: int = 6, k: int = 3, d: int = 5,
) -> Example:  # fmt: skip
    """Return a small snapshot of n unlabelled and m labelled instances; labels follow from a rule its head lacks."""
    kind, regression, draw = situation.kind, situation.regression, np.random.default_rng(1)
    d = 1 if kind == "one feature" else d
    features, weight, bias, rule, test, validation, noise = (
        draw.normal(size=shape) for shape in ((n + m, d), (k, d), (k,), (k, d), (11, d), (13, d), (n + m, 4))
    )
    labelled = draw.permutation(n + m)[:m]  # Labelled instances come in the order of buying.
    rest = np.setdiff1d(np.arange(n + m), labelled)
    if kind == "identical":
        features[rest] = features[rest[:1]]
    if kind == "duplicated":
        features[rest] = features[labelled[np.arange(n) % m]]
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

    given: dict[str, Any] = {"features": placed(features), "labels": placed(targets[labelled])}
    given["labelled"] = placed(labelled)
    if regression:
        mean = features @ weight[0] * (kind != "equal")
        variance = (np.ones(n + m) if kind == "equal" else (features**2).mean(axis=1)) * (kind != "certain")
        members = np.delete(mean[:, None] + np.sqrt(variance)[:, None] * noise, labelled, axis=0)
        given |= {"mean": placed(mean), "variance": placed(variance), "members": torch.as_tensor(placed(members))}
    else:
        sharpness = {"certain": 1e6, "equal": 0.0}.get(kind, 1.0)
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
def settings_kept() -> Iterator[list[str]]:
    """Tell in the yielded list which settings of the process the block has changed, and undo that."""
    before, changed = {name: read() for name, (read, _) in SETTINGS.items()}, list[str]()
    try:
        yield changed
    finally:
        for name, (read, write) in SETTINGS.items():
            if (now := read()) != before[name]:
                changed.append(f"{name} is {now}, and was {before[name]}")
                write(before[name])


@contextlib.contextmanager
def watched(seed: int) -> Iterator[dict[str, list[str]]]:
    """Seed the global generators, record in the yielded dictionary what the block has changed, and undo that."""
    generators, device = dict(GENERATORS), resolve_device("auto").type
    if device != "cpu":
        there: Any = getattr(torch, device)
        generators[f"torch.{device}"] = _torch_state(there.get_rng_state, there.set_rng_state)
    outside = {name: read() for name, (read, _) in generators.items()}
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    before = {name: read() for name, (read, _) in generators.items()}
    try:
        with settings_kept() as settings:
            changed = {"generators": list[str](), "settings": settings}
            yield changed
    finally:
        for name, (read, write) in generators.items():
            if read() != before[name]:
                changed["generators"].append(name)
            write(outside[name])


def ask(strategy: registry.Strategy, situation: Situation, words: str) -> Answer:
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
        except (Exception, SystemExit) as raised:
            error = f"{type(raised).__name__}: {one_line(raised)}"[:LONGEST]
    after = tensors_of(places)
    picks = []
    if isinstance(returned, Tensor) and returned.dtype in registry.INTEGERS and returned.ndim == 1:
        picks = returned.tolist()
    inside = all(0 <= each < POOL for each in picks)
    return Answer(
        words, situation.batch_size, returned, error, picks,
        instances=sorted(order[snapshot.instances[each]] for each in picks) if inside else [],
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
