"""Means over seeds and how sure of them one can be."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from dal_core.checks import check_columns
from dal_lab.companion.figures.style import label

CONFIDENCE = 0.95
SHARES = ("accuracy", "gain", "flips", "difference")
NAMES = ("method", "strategy")


def in_percent(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows for a table: accuracies and other shares in percent, methods and strategies by their names for readers."""
    shares = {name: 100 * rows[name] for name in SHARES if name in rows}
    names = {name: rows[name].map(label) for name in NAMES if name in rows}
    return rows.assign(**shares, **names)


def mean_over_seeds(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean of each value over seeds, with the half width of its 95 % confidence interval and the number of seeds.

    Rows of one seed (draws, cycles) are averaged first: they share their data and are not independent. The interval
    is Student's, so that it is honest about three seeds; it is NaN for a single one.

    Returns a frame with the columns `by`, then for each value `value` and `value_ci`, then `seeds`.
    """
    by, values = list(by), list(values)
    check_columns("rows", rows, [*by, "seed", *values])
    per_seed = rows.groupby([*by, "seed"], dropna=False, sort=False)[values].mean().reset_index()
    groups = per_seed.groupby(by, dropna=False, sort=False)[values]
    mean, spread, count = groups.mean(), groups.std(ddof=1), groups.count()
    half = spread / np.sqrt(count) * stats.t.ppf(0.5 + CONFIDENCE / 2, (count - 1).clip(lower=1))
    table = mean.join(half.add_suffix("_ci")).assign(seeds=count[values[0]])
    order = [name for value in values for name in (value, f"{value}_ci")]
    return table[[*order, "seeds"]].reset_index()


def difference_to(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Learning curves as the difference in accuracy to the strategy `reference` of the same data, seed and cycle.

    Raises:
        ValueError: if rows lack their counterpart.
    """
    by = ["data", "seed", "cycle"]
    check_columns("rows", rows, [*by, "strategy", "accuracy"])
    others = rows[rows["strategy"] == reference].set_index(by)["accuracy"]
    level = others.reindex(pd.MultiIndex.from_frame(rows[by])).to_numpy()
    if np.isnan(level).any():
        raise ValueError(f"rows lack the strategy {reference!r} of some data set, seed or cycle; all were expected")
    return rows.assign(difference=rows["accuracy"] - level)


def paired_difference(rows: pd.DataFrame, left: str, right: str, *, by: str, value: str) -> tuple[float, float, int]:
    """Mean over seeds of `left - right` (two entries of the column `by`), its 95 % half width, the number of seeds.

    Pairing by seed takes out what the two share: initial labels, initial weights, test split.
    """
    check_columns("rows", rows, ["seed", by, value])
    table = rows.groupby(["seed", by])[value].mean().unstack(by)
    missing = {left, right} - set(table.columns)
    if missing:
        raise ValueError(f"{by} lacks {sorted(missing)}; it has {sorted(table.columns)}")
    difference = (table[left] - table[right]).dropna()
    count = len(difference)
    half = float("nan")
    if count > 1:
        half = float(difference.std(ddof=1) / np.sqrt(count) * stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1))
    return float(difference.mean()), half, count


def verdict(difference: tuple[float, float, int], better: str, worse: str) -> str:
    """A sentence about `paired_difference`, for values in percent: who is ahead, by how much, and how sure that is."""
    mean, half, seeds = difference
    ahead, behind = (better, worse) if mean >= 0 else (worse, better)
    if np.isnan(half):
        return f"{ahead} is {abs(mean):.2f} points ahead of {behind} (1 seed, which says nothing about scatter)"
    sure = "more than the seeds' scatter explains" if abs(mean) > half else "within the scatter of the seeds"
    return f"{ahead} is {abs(mean):.2f} ± {half:.2f} points ahead of {behind} ({seeds} seeds; {sure})"
