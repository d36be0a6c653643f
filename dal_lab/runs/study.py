"""Running experiments, and studies that are no plain runs, by the names of their data.

All that the rooms of runs know about the fields of a configuration stands here.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch

from dal_core import loop
from dal_core.checks import shown
from dal_core.context import Question
from dal_core.data import warn_of_scales
from dal_core.devices import resolve_device, with_float64
from dal_core.experiment import Experiment, Strategy, check_alike_but_for_seed
from dal_core.strategies import members, registry
from dal_lab.runs.settings import add, experiment_of, settings_of
from dal_lab.sources import catalogue


@runtime_checkable
class Study(Protocol):
    """A computation of a grid that is no Experiment: a frozen dataclass of JSON values that says itself how it is run.

    Fields that are called so mean the same as in an Experiment: `dataset` and `encoder` (without them a study makes up
    its data), `device` (without it, the CPU), and `strategy` with `options`. Its class may have a `version`, which is
    raised when numbers change; the text of its functions counts, too, but for the package's.
    """

    seed: int

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the columns that `run` returns."""

    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        """Return at least one row. The same but for times for the same configuration and data, bit by bit."""


AnyStudy = Experiment | Study


def is_study(value: object) -> bool:
    """Return whether `run` takes it."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(value, AnyStudy)


def run(study: Any, *, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Run an experiment, or another study; of an experiment, return a row a cycle, the first of the initial set.

    Columns: cycle, n_labeled, accuracy, nll (nats), brier, ece, ace on the test split; query_s and train_s (seconds);
    acquired, the instances bought since the row before, as positions in the train split, in the order of picking; and
    record, as JSON, of a strategy that explains its choice. Rows but for the two times are the same bit by bit for
    the same configuration and data on one CPU.

    Raises:
        ValueError: if the pool is too small for the experiment.
        DatasetUnavailableError: if the data are not to be had.
    """
    if isinstance(study, Experiment):
        warn_of_data(study, data_dir)
        return run_together([study], data_dir=data_dir)[0]
    if not is_study(study):
        raise TypeError(f"experiment is a {type(study).__name__}; an Experiment was expected")
    return study.run(data_dir=data_dir)


def run_together(
    experiments: Sequence[Experiment],
    *,
    data_dir: str | Path | None = None,
    watch: Callable[[Question], None] | None = None,
) -> list[pd.DataFrame]:
    """Return the rows of `run` for each of several experiments that differ in the seed only and share trainings.

    Rows are those of single runs up to rounding. `train_s` is a run's share, the seconds of the joint training divided
    by the number of runs. `watch` is called with each question to a strategy and its answer.

    Raises:
        ValueError: if the experiments differ in more than the seed, or there are none.
        FailedRunError: if one of several runs fails; a single one fails with its error itself.
    """
    check_alike_but_for_seed(experiments)
    first = experiments[0]
    bank = catalogue.load(first.data, encoder=first.encoder, data_dir=data_dir)
    return loop.run_together(experiments, bank.train, bank.test, watch)


def warn_of_data(experiment: Experiment, data_dir: str | Path | None) -> None:
    """Warn of features on which models learn little, unless the experiment standardises them."""
    if experiment.protocol.standardise:
        return
    with contextlib.suppress(catalogue.DatasetUnavailableError, catalogue.EncoderUnavailableError):
        bank = catalogue.load(experiment.data, encoder=experiment.encoder, data_dir=data_dir)
        warn_of_scales(bank.train, bank.provenance)


def walk(experiment: Experiment, *, data_dir: str | Path | None = None) -> list[Question]:
    """Return the questions that `run` asks the strategy, in order, with their snapshots and answers.

    Picks are those of `run` for the same experiment. Memory: all snapshots, a copy of the pool's features each.

    Raises:
        ValueError, DatasetUnavailableError: as `run`.
    """
    steps: list[Question] = []
    run_together([experiment], data_dir=data_dir, watch=steps.append)
    return steps


def data_of(study: Any) -> tuple[str, str | None] | None:
    """Return the names of a study's data set and encoder; None if it makes up its data."""
    name = study.data if isinstance(study, Experiment) else getattr(study, "dataset", None)
    return None if name is None else (name, getattr(study, "encoder", None))


def digest_of(study: Any, data_dir: str | Path | None) -> str:
    """Return the digest of the data that a study computes on."""
    data = data_of(study)
    return "no data" if data is None else catalogue.load(*data, data_dir=data_dir).digest


def device_of(study: Any) -> torch.device:
    """Return the device that a study computes on; only an Experiment does so on MPS, which has no float64."""
    device = resolve_device(getattr(study, "device", "cpu"))
    return device if isinstance(study, Experiment) else with_float64(device)


def strategies_of(study: Any) -> dict[str, int]:
    """Return the strategies that a study runs, itself or as parts of another strategy, with their versions."""
    strategy = getattr(study, "strategy", None)
    if isinstance(strategy, str):
        strategy = Strategy(strategy, **getattr(study, "options", {}))
    names = [] if strategy is None else sorted(registry.used(strategy.name, strategy.options))
    return {name: registry.version(name) for name in names}


def configuration(study: Any) -> dict[str, Any]:
    """Return the full configuration of a study as JSON values; a part of it begins with the name of its class."""
    values = _as_json(study) | {"device": device_of(study).type}
    if isinstance(study, Experiment) and not study.protocol.standardise:
        values["protocol"].pop("standardise")  # Runs from before there was this field are still found.
    if (data := data_of(study)) is not None:  # A file counts by its name and its content, in any folder.
        values["data" if isinstance(study, Experiment) else "dataset"] = catalogue.short_name(data[0])
    return json.loads(json.dumps(values))


def _as_json(value: Any, name: str = "") -> Any:
    if dataclasses.is_dataclass(value):
        name = name or type(value).__name__
        fields = {
            each.name: _as_json(getattr(value, each.name), f"{name}.{each.name}") for each in dataclasses.fields(value)
        }
        return {"kind": type(value).__name__} | {"kind_" if n == "kind" else n: each for n, each in fields.items()}
    value = dict(value) if isinstance(value, Mapping) else value
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{name} is {shown(value)}; a dataclass or a value that JSON can hold was expected") from None
    return value


def canonical(study: Any) -> str:
    """Return `configuration` as text that is the same for the same configuration."""
    return json.dumps(configuration(study), sort_keys=True)


def own_texts(study: Any) -> list[str]:
    """Return the texts of the user's own code behind a study's numbers; another process may be unable to read them."""
    texts = [registry.own_source(name) for name in strategies_of(study)]
    return [text for text in (*texts, *(registry.text_of(type(part)) for part in _parts(study))) if text]


def _parts(value: Any) -> Iterator[Any]:
    """Yield a dataclass and those in its fields."""
    if dataclasses.is_dataclass(value):
        yield value
        for each in dataclasses.fields(value):
            yield from _parts(getattr(value, each.name))


def code_of(study: Any, texts: Sequence[str] | None = None) -> list[str]:
    """Return texts that change with the code behind a study's numbers: its `own_texts`, and raised versions.

    Versions of 1 leave no text, so that runs from before there were versions are still found.
    """
    raised = {**strategies_of(study), "": getattr(type(study), "version", 1)}
    versions = (f"{name} {version}" for name, version in raised.items() if version > 1)
    return [*(own_texts(study) if texts is None else texts), *versions]


def settings(study: Any) -> dict[str, Any]:
    """Return the columns that a study's rows get: its data, its single values, and its options, lists as JSON.

    Options that set two curves of one strategy apart become columns of their own.
    """
    found: dict[str, Any] = {"data": bank_name(study)}
    if isinstance(study, Experiment):
        found |= settings_of(study)
    else:
        plain = ((each.name, getattr(study, each.name)) for each in dataclasses.fields(study))
        add(found, {name: value for name, value in plain if not isinstance(value, dict | tuple | list)}, "study_")
        add(found, getattr(study, "options", {}), "strategy_")
    return {n: v if isinstance(v, str | int | float | None) else json.dumps(_as_json(v, n)) for n, v in found.items()}


def bank_name(study: Any) -> str:
    """Return the data of a study in words."""
    if (data := data_of(study)) is None:
        return "synthetic"
    name, encoder = catalogue.short_name(data[0]), data[1]
    return name if encoder is None else f"{name} ({encoder})"


def described(study: Any) -> str:
    """Return the data, the strategy, and the settings that are not the defaults, but for the seed."""
    if isinstance(study, Experiment):
        values, usual, words = settings_of(study), settings_of(experiment_of()), [bank_name(study), study.strategy.name]
    else:
        values = {each.name: getattr(study, each.name) for each in dataclasses.fields(study)}
        usual = {each.name: each.default for each in dataclasses.fields(study)}
        add(values, values.pop("options", {}), "strategy_")
        words = [type(study).__name__, bank_name(study)]
    known = ("dataset", "encoder", "seed", "device", *(["strategy"] if isinstance(study, Experiment) else []))
    changed = {n: v for n, v in values.items() if n not in known and (n not in usual or v != usual[n])}
    return ", ".join([*words, *(f"{name}={value}" for name, value in changed.items())])


def described_by_seed(studies: Iterable[Any]) -> dict[str, str]:
    """Return each description with the seeds of all studies that it fits."""
    seeds: dict[str, list[int]] = {}
    for study in studies:
        seeds.setdefault(described(study), []).append(study.seed)
    return {what: f"{what}, seed{'s' * (len(n) > 1)} {', '.join(map(str, sorted(n)))}" for what, n in seeds.items()}


def for_workers(study: Any) -> Any:
    """Return the study for another process, or machine; its key stays.

    Its data have their full path, as the working directory may be another, and its device is the one that it means
    here, which "auto" may not mean there.
    """
    changes, data = {"device": device_of(study).type}, data_of(study)
    if data is not None:
        changes["data" if isinstance(study, Experiment) else "dataset"] = catalogue.absolute_name(data[0])
    fields = {field.name for field in dataclasses.fields(study)}
    return dataclasses.replace(study, **{name: changes[name] for name in changes.keys() & fields})


def joint_training(study: Any) -> str | None:
    """Return what is equal for studies that may share their trainings; None if this one is computed alone.

    Oracles and ensembles, which query far longer than a head trains, go alone: an interruption would lose more of
    their group's work than the joint training saves.
    """
    together = isinstance(study, Experiment) and study.strategy.name in members()
    if not together:
        return None
    return "\n".join((json.dumps(_as_json(dataclasses.replace(study, seed=0)), sort_keys=True), *own_texts(study)))
