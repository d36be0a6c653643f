"""Running experiments, and studies that are no plain runs, by the names of their data; configurations as JSON."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dal_core import loop
from dal_core.context import Question
from dal_core.devices import resolve_device, with_float64
from dal_core.experiment import Experiment, check_alike_but_for_seed
from dal_lab.runs.settings import experiment_of, settings_of
from dal_lab.sources import catalogue


def device_of(study: Any) -> torch.device:
    """The device that a study computes on; only an Experiment does so on MPS, which has no float64."""
    device = resolve_device(study.device)
    return device if isinstance(study, Experiment) else with_float64(device)


def configuration(study: Any) -> dict[str, Any]:
    """The full configuration of a study (an Experiment, or another dataclass that `run` knows) as JSON values."""
    values = _as_json(study) | {"device": device_of(study).type}
    if (name := data_of(study)) is not None:  # A file counts by its name and its content, in any folder.
        values[data_field(study)] = catalogue.short_name(name)
    return values


def _as_json(value: Any) -> Any:
    """The value for JSON; a dataclass as its fields after the name of its class."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {name: _as_json(each) for name, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else value


def data_field(study: Any) -> str:
    """Return which field has the name of a study's data."""
    return "data" if isinstance(study, Experiment) else "dataset"


def data_of(study: Any) -> str | None:
    """Return the name of a study's data; None if it makes its own."""
    return getattr(study, data_field(study))


def canonical(study: Any) -> str:
    """`configuration` as text that is the same for the same configuration."""
    return json.dumps(configuration(study), sort_keys=True)


@functools.singledispatch
def run(experiment: Any, *, data_dir: str | Path | None = None) -> pd.DataFrame:  # noqa: ARG001
    """Run an experiment; returns a row for the initial labelled set and one for each acquisition.

    Columns: cycle, n_labeled, accuracy, nll (nats), brier, ece, ace on the test split; query_s and train_s (seconds);
    acquired, the instances bought since the row before, as positions in the train split, in the order of picking; and
    record, as JSON, of a strategy that explains its choice. Rows but for the two times are the same bit by bit for
    the same configuration and data on one CPU.

    Raises:
        ValueError: if the pool is too small for the experiment.
        DatasetUnavailableError: if the data are not to be had.
    """
    raise TypeError(f"experiment is a {type(experiment).__name__}; an Experiment was expected")


@run.register
def _(experiment: Experiment, *, data_dir: str | Path | None = None) -> pd.DataFrame:
    (rows,) = run_together([experiment], data_dir=data_dir)
    return rows


def run_together(
    experiments: Sequence[Experiment],
    *,
    data_dir: str | Path | None = None,
    watch: Callable[[Question], None] | None = None,
) -> list[pd.DataFrame]:
    """The rows of `run` for each of several experiments that differ in the seed only, which share their trainings.

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


def walk(experiment: Experiment, *, data_dir: str | Path | None = None) -> list[Question]:
    """The questions that `run` asks the strategy, in order, with their snapshots and answers.

    Picks are those of `run` for the same experiment. Memory: all snapshots, a copy of the pool's features each.

    Raises:
        ValueError, DatasetUnavailableError: as `run`.
    """
    steps: list[Question] = []
    run_together([experiment], data_dir=data_dir, watch=steps.append)
    return steps


def bank_name(study: Any) -> str:
    """The data of a study in words."""
    if (name := data_of(study)) is None:
        return "synthetic"
    name = catalogue.short_name(name)
    return name if study.encoder is None else f"{name} ({study.encoder})"


def described(study: Any) -> str:
    """The data, the strategy, and the settings that are not the defaults, but for the seed."""
    if isinstance(study, Experiment):
        words, found, plain = [bank_name(study), study.strategy.name], settings_of(study), settings_of(experiment_of())
    else:
        words, plain = [type(study).__name__, bank_name(study)], {f.name: f.default for f in dataclasses.fields(study)}
        found = {name: getattr(study, name) for name in plain if name != "options"} | study.options
    left_out = ("dataset", "encoder", "strategy", "seed", "device")
    changed = {
        name: value for name, value in found.items() if name not in left_out and (name, value) not in plain.items()
    }
    return ", ".join([*words, *(f"{name}={value}" for name, value in changed.items())])


def described_by_seed(studies: Iterable[Any]) -> dict[str, str]:
    """For each description, the same with the seeds of all studies that it fits."""
    seeds: dict[str, list[int]] = {}
    for study in studies:
        seeds.setdefault(described(study), []).append(study.seed)
    return {what: f"{what}, seed{'s' * (len(n) > 1)} {', '.join(map(str, sorted(n)))}" for what, n in seeds.items()}
