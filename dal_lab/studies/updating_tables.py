"""What the rows of updating studies say: how much of retraining an update recovers, and what its time is worth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dal_lab.runs.settings import TRAINING_OPTIONS
from dal_lab.studies.updating import UpdateStudy, compared, tuned

PLACE = ["data", "initial_size"]


def studies(
    data: Iterable[Mapping[str, Any]], initial_sizes: Iterable[int], seeds: int, **settings: Any
) -> list[UpdateStudy]:
    """Return the studies of all data sets (a session's `data`), initial sizes and seeds.

    `settings` are those of an UpdateStudy; what `about.study` of a data set says comes before.
    """
    found = []
    for each in data:
        own = {name: each[name] for name in ("dataset", "encoder", "head") if name in each}
        changes = {name: value for name, value in each.get("options", {}).items() if name in TRAINING_OPTIONS}
        shared = settings | own | each.get("about", {}).get("study", {})
        shared["options"] = settings.get("options", {}) | changes
        found += [
            UpdateStudy(**shared, initial_size=size, seed=seed) for size in initial_sizes for seed in range(seeds)
        ]
    return found


def at_tuned_steps(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return the rows of `methods` at their tuned steps (`step`, NaN where there is none), with `gain`, by setting."""
    chosen = compared(tuned(rows, by=tuple(PLACE)), methods)
    chosen = chosen.assign(step=chosen["step"].where(chosen["step"] > 0))
    return pd.concat([part for _, part in chosen.groupby(PLACE, sort=False)])


def in_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their setting, data set and initial size, in the place of `data`."""
    return rows.assign(data=rows["data"] + ", " + rows["initial_size"].astype(str) + " initial labels")


def recovered(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return the share of retraining's gain over the base head that each update recovers, in percent.

    `accuracies` has a row a setting and a column a method, "base" and "retraining" among them.
    """
    gains = accuracies.sub(accuracies["base"], axis=0).drop(columns="base")
    table = gains.melt("retraining", var_name="method", value_name="gain", ignore_index=False)
    table = table.sort_index(kind="stable").reset_index().rename(columns={"retraining": "gain of retraining"})
    return table.assign(recovered=100 * table["gain"] / table["gain of retraining"])


def speedups(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return each method's median time of an update, and how many times faster than retraining it is, by setting."""
    medians = rows.groupby([*by, "method"], sort=False)["update_s"].median().reset_index()
    retraining = medians[medians["method"] == "retraining"].set_index(list(by))["update_s"].rename("retraining")
    table = medians.join(retraining, on=list(by))
    return table.assign(speedup=table["retraining"] / table["update_s"]).drop(columns="retraining")


def at_equal_time(steps: pd.DataFrame, update: pd.DataFrame) -> pd.DataFrame:
    """Return what gradient steps reach in the time of an update, a row a setting and kind of steps, beside the update.

    Of each kind it is the largest number of steps that takes no longer (medians), or the smallest if none is as fast.
    """
    mean = {"accuracy": ("accuracy", "mean"), "update_s": ("update_s", "median")}
    beside = update.groupby(PLACE).agg(**mean).set_axis(["second_order", "second_order_s"], axis=1)
    table = steps.groupby([*PLACE, "method", "steps"], sort=False).agg(**mean).reset_index().join(beside, on=PLACE)
    order = table["steps"].where(table["update_s"] <= table["second_order_s"], -table["steps"])
    chosen = order.groupby([table[name] for name in [*PLACE, "method"]], sort=False).idxmax()
    shares = ["accuracy", "second_order"]
    return table.loc[chosen].assign(**{name: 100 * table[name] for name in shares}).reset_index(drop=True)
