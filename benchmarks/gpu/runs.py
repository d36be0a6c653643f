"""Section 3: the notebooks' main grids seed by seed, and how far a card repeats itself and the CPU."""

import dataclasses
import functools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.gpu import tables
from benchmarks.gpu.inputs import data_folder, manifest, names_of
from benchmarks.gpu.protocols import IMAGES, Run, reproducibility, runs_of
from benchmarks.gpu.settings import Item, ItemTimeoutError, Result, Settings
from dal_core.experiment import Experiment
from dal_lab.runs.settings import settings_of
from dal_lab.runs.study import run

SEEDS = 10
SMALL_SEEDS = 2  # of the grid that is repeated
REPEATS = 3
RUNS, SPREAD, MEANS = "runs.parquet", "reproducibility.csv", "runs.csv"


def items(settings: Settings) -> list[Item]:
    """Return the measurements of this section."""
    there = names_of(settings)
    seeds = range(1) if settings.scaled_down else range(SEEDS)
    wanted = [each for seed in seeds for each in _wanted(seed, settings, there)]
    # What is behind the first seed waits, and takes no share from it.
    weights = [1.0 if each.study.seed == 0 else 0.2 for each in wanted]
    return [
        Item("inputs", inputs, 0.1),
        Item("the same grid again", the_same_grid_again, 12.0, may_take=0.4),
        *(
            Item(each.title, functools.partial(one, each), w, may_take=0.5)
            for each, w in zip(wanted, weights, strict=True)
        ),
    ]


def inputs(settings: Settings) -> Result:
    """Return which data are there, and what the eight bits cost, as it was measured where they were prepared."""
    prepared = manifest(settings)
    found = {"data": names_of(settings), "scaled_down": settings.scaled_down}
    return found | {name: prepared.get(name) for name in ("bytes", "accuracy", "commit")}


def _wanted(seed: int, settings: Settings, there: list[str]) -> Iterable[Run]:
    """Runs whose data are there."""
    images = []
    for name, data in IMAGES.items():
        images += [data | {"encoder": each.removeprefix(f"{name}_")} for each in there if each.startswith(f"{name}_")]
    for each in runs_of(seed, settings.device, images, scaled_down=settings.scaled_down):
        study = each.study
        stem = each.data if study.encoder is None else f"{each.data}_{study.encoder}"
        if stem in there:
            yield each


def one(wanted: Run, settings: Settings) -> Result:
    """Compute a run; its rows go to those of the others in one Parquet file."""
    start = time.monotonic()
    rows = run(wanted.study, data_dir=data_folder(settings))
    _keep(settings, _labelled(wanted, rows).assign(run_s=time.monotonic() - start))
    means = {name: float(rows[name].mean()) for name in ("accuracy", "query_s", "train_s", "update_s") if name in rows}
    found = {"grid": wanted.grid, "method": wanted.name, "rows": len(rows), "scaled_down": settings.scaled_down}
    curve = {name: rows[name].tolist() for name in ("n_labeled", "accuracy")} if "n_labeled" in rows else None
    return found | means | {"curve": curve}


def _labelled(wanted: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the settings of their run, lists as JSON: one schema for all."""
    study = wanted.study
    plain = rows.assign(**{name: rows[name].map(json.dumps) for name in ("acquired",) if name in rows})
    values = settings_of(study) if isinstance(study, Experiment) else dataclasses.asdict(study)
    values = {name: value for name, value in values.items() if name not in rows}
    words = {name: json.dumps(value) if isinstance(value, (dict, tuple)) else value for name, value in values.items()}
    return plain.assign(grid=wanted.grid, method_name=wanted.name, **words)


def _keep(settings: Settings, rows: pd.DataFrame) -> None:
    """Add rows to the table of all runs, and write their means beside it."""
    folder = settings.work / "runs"
    folder.mkdir(exist_ok=True)
    rows.to_parquet(folder / f"{len(list(folder.iterdir())):05}.parquet", index=False)
    table = _table(folder)
    tables.keep(settings, RUNS, table)
    by = ["grid", "dataset", "method_name", "seed"]
    tables.keep(settings, MEANS, table.groupby(by, sort=False)["accuracy"].agg(["mean", "last", "size"]).reset_index())


def _table(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.iterdir())], ignore_index=True)


def the_same_grid_again(settings: Settings) -> Result:
    """Run a small grid three times on the device and once on the CPU, with the same seeds, and compare accuracies."""
    parts: list[pd.DataFrame] = []
    turns = [("device", settings.device, 0), ("device", settings.device, 1), ("cpu", "cpu", 0)]
    turns += [("device", settings.device, repeat) for repeat in range(2, REPEATS)]
    line = "all repeats are there"
    try:
        for where, device, repeat in turns:
            parts.append(_grid_once(settings, device).assign(where=where, repeat=repeat))
            tables.keep(settings, SPREAD, pd.concat(parts, ignore_index=True))
    except ItemTimeoutError:
        if len(parts) < len(turns) - 1:  # without two repeats and the CPU's there is nothing to compare
            raise
        line = f"{len(parts)} of {len(turns)} repeats are there"
    return spread_of(pd.concat(parts, ignore_index=True)) | {"line": line}


def _grid_once(settings: Settings, device: str) -> pd.DataFrame:
    seeds = range(1 if settings.scaled_down else SMALL_SEEDS)
    parts = []
    for each in reproducibility(seeds, device, scaled_down=settings.scaled_down):
        rows = run(each.study)
        rows["acquired"] = rows["acquired"].map(json.dumps)
        parts.append(rows.assign(method=each.name, seed=each.study.seed))
    return pd.concat(parts, ignore_index=True)


def spread_of(table: pd.DataFrame) -> Result:
    """Largest differences in accuracy (shares of 1), at the same method, seed and cycle, and shares of equal batches.

    `table` has the rows of repeats on the device and of one run on the CPU, told apart by `where`.
    """
    by = ["method", "seed", "cycle"]
    on_device = table[table["where"] == "device"]
    there = on_device.groupby(by)["accuracy"]
    on_cpu = table[table["where"] == "cpu"].set_index(by)["accuracy"]
    differences = (there.mean() - on_cpu).abs().dropna()
    spread = there.max() - there.min()
    batches = on_device.groupby(by)["acquired"]
    cpu_batches = table[table["where"] == "cpu"].set_index(by)["acquired"].reindex(batches.first().index)
    per_method = spread.groupby("method").max()
    return {
        "largest_spread": float(spread.max()),
        "mean_spread": float(spread.mean()),
        "largest_difference_to_cpu": float(differences.max()),
        "mean_difference_to_cpu": float(differences.mean()),
        "same_batches_each_time": float((batches.nunique() == 1).mean()),
        "same_batches_as_the_cpu": float((batches.first() == cpu_batches).mean()),
        "spread_by_method": {name: float(value) for name, value in per_method.items()},
        "repeats": int(on_device["repeat"].nunique()),
        "points": len(spread),
    }
