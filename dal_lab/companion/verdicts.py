"""Verdicts on the claims of a paper: one rule decides, from paired measurements, which hold.

A claim is a sentence and a region for a mean: above a threshold, below one, or between two. It *holds* if the interval
of the mean lies wholly inside, is *contradicted* if it lies wholly on the other side of a threshold, and else *open*.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dal_lab.companion.artefacts import ReadableTable, Report
from dal_lab.companion.statistics import holm

ERROR = 0.05  # The probability that any verdict of a notebook is wrong.
MARGIN = 0.5  # Points of accuracy within which two methods count as equally good.
COLUMNS = ["claim", "source", "measure", "value", "low", "high", "seeds", "verdict"]
FILES = "[0-9][0-9]_verdicts*.csv"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says about a mean: that it lies above `above` and below `below`.

    Attributes:
        claim: the sentence, with the mark in front that the specification gives it.
        source: the section, figure or table of the paper.
        measure: what `values` are, in words with their unit.
        values: paired measurements, such as differences of two methods that share their seed; the levels of their index
            are data and seed. Several of one seed are averaged; pairs that a preset lacks are NaN or absent.
        above: the lower end of the region.
        below: the upper end of the region.
        time: whether `values` are ratios of measured times. Their mean is the geometric one, its interval that of the
            logarithms, so that "twice as fast" and "half as fast" are equally far from 1.
    """

    claim: str
    source: str
    measure: str
    values: pd.Series = dataclasses.field(repr=False)
    above: float = -np.inf
    below: float = np.inf
    time: bool = False

    @property
    def region(self) -> str:
        """The region in words."""
        ends = {"above": self.above, "below": self.below}
        return " and ".join(f"{side} {end:g}" for side, end in ends.items() if np.isfinite(end))

    def on_scale(self, values: Any) -> Any:
        """Return `values`, or an end of the region, on the scale on which the mean is taken."""
        with np.errstate(divide="ignore"):
            return np.log(np.maximum(values, 0)) if self.time else values


def verdicts(claims: Sequence[Claim], error: float = ERROR) -> pd.DataFrame:
    """Return a row a claim with the mean of its values, the mean's interval, the number of seeds, and the verdict.

    The interval is Student's, over the seeds of a data set; over the data sets' means if there are several, and `seeds`
    is the smallest number that one of them has. A claim with a single value has no interval and is open. So is one
    that this preset has no values for. Values without any scatter have an interval of length 0.

    Holm's procedure (1979) corrects for the number of claims and keeps the probability that any verdict is wrong below
    `error`. Of m claims that have an interval the one with the i-th smallest p has an interval of the level
    1 - error / (m - i + 1), as long as all before it are decided; the first that stays open, and all after it, have the
    level of that first one. So a claim is decided by its interval exactly if Holm's procedure decides it. p is that of
    the t test against the threshold, and the larger one of a region with two ends.

    Raises:
        ValueError: if a claim has no region, or infinite values.
    """
    samples = [_sample(claim) for claim in claims]
    count = np.array([len(sample) for sample in samples])
    mean = np.array([sample.mean() if len(sample) else np.nan for sample in samples])
    scatter = np.array([stats.sem(sample) if len(sample) > 1 else np.nan for sample in samples])
    ends = np.array([claim.on_scale(np.array([claim.above, claim.below])) for claim in claims]).reshape(-1, 2)
    freedom = np.maximum(count - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean[:, None] - ends) / scatter[:, None]  # [m, 2]
    t[(mean[:, None] == ends) & (scatter == 0)[:, None]] = 0.0  # 0 / 0: the mean is the threshold itself
    half = scatter * stats.t.isf(_levels(2 * stats.t.sf(t, freedom[:, None]).max(axis=1), error) / 2, freedom)
    low, high = mean - half, mean + half
    decided = {
        "holds": (ends[:, 0] < low) & (high < ends[:, 1]),
        "contradicted": (high < ends[:, 0]) | (ends[:, 1] < low),
    }
    rows = []
    for i, claim in enumerate(claims):
        value, least, most = (np.exp(each) if claim.time else each for each in (mean[i], low[i], high[i]))
        seeds, sets = _seeds(claim)
        where = "; not measured in this preset" if not seeds else f"; over {sets} data sets" if sets > 1 else ""
        verdict = next((name for name, each in decided.items() if each[i]), "open")
        measure = f"{claim.measure}, {claim.region}{where}"
        rows.append([claim.claim, claim.source, measure, value, least, most, seeds, verdict])
    return pd.DataFrame(rows, columns=COLUMNS)


def judged(report: Report, claims: Sequence[Claim], *, cell: str, keys: Sequence[str]) -> list[ReadableTable]:
    """Write the tables `verdicts` and `verdicts_time`, and return them with a sentence that counts the verdicts.

    Times differ from run to run and must not move the other intervals. So the claims about them are corrected among
    themselves; both parts get the share of the notebook's error that is their share of its claims.
    """
    tables, shown = [], []
    for name, timed in (("verdicts", False), ("verdicts_time", True)):
        if part := [claim for claim in claims if claim.time == timed]:
            tables.append(verdicts(part, ERROR * len(part) / len(claims)))
            shown.append(report.table(tables[-1], name, cell=cell, keys=keys))
    return [*shown, ReadableTable(f"**Reading.** {counted(pd.concat(tables))}")]


def counted(table: pd.DataFrame) -> str:
    """Return a sentence that says how many claims hold, are contradicted, and are open."""
    holds, against, left = (int((table["verdict"] == name).sum()) for name in ("holds", "contradicted", "open"))
    return f"Claims that hold: {holds} of {len(table)}; contradicted: {against}; open: {left}."


def all_verdicts(folder: Path) -> pd.DataFrame:
    """Return the verdicts that the notebooks have written to `folder`, with the notebook's number in front."""
    parts = [pd.DataFrame(columns=["notebook", *COLUMNS])]
    for path in sorted(folder.glob(FILES)):
        parts.append(pd.read_csv(path).assign(notebook=path.name[:2]))
    return pd.concat(parts[1:] or parts, ignore_index=True)[["notebook", *COLUMNS]]


def lead_over(means: pd.DataFrame, name: str, others: Sequence[str]) -> pd.Series:
    """Return the column `name` less the best of `others`: of each data set the one with the highest mean over seeds.

    `means` are those of `statistics.curve_means`. What they lack is NaN.
    """
    rivals = means.reindex(columns=list(others))
    level = rivals.groupby(level="data", sort=False).transform("mean")
    best = rivals.where(level.eq(level.max(axis=1), axis=0)).max(axis=1)
    return means.reindex(columns=[name])[name] - best


def _sample(claim: Claim) -> np.ndarray:
    """Return the independent values of a claim: means of seeds, or of data sets if there are several."""
    if not claim.region:
        raise ValueError(f"claim {claim.claim!r} has no region; a finite `above` or `below` was expected")
    values = claim.on_scale(claim.values.dropna())
    if not np.isfinite(values).all():
        raise ValueError(f"claim {claim.claim!r} has infinite values; finite ones were expected, ratios above 0")
    values = values.groupby(level=["data", "seed"], sort=False).mean()
    if values.index.unique("data").size > 1:
        values = values.groupby(level="data", sort=False).mean()
    # Sums of the same numbers in another order differ in their last digits, which is no scatter.
    return values.to_numpy(dtype=float).round(12)


def _seeds(claim: Claim) -> tuple[int, int]:
    """Return the smallest number of seeds of a data set, and the number of data sets."""
    seeds = claim.values.dropna().index.to_frame(index=False).groupby("data")["seed"].nunique()
    return int(seeds.min()) if len(seeds) else 0, len(seeds)


def _levels(p: np.ndarray, error: float) -> np.ndarray:
    """Return one less the confidence level of each claim's interval; NaN where p is: no claim is tested there."""
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    levels = np.full(len(p), np.nan)
    if len(order):
        steps = error / np.arange(len(order), 0, -1)
        decided = holm(p[order], error)[0].sum()
        levels[order] = np.minimum(steps, steps[min(decided, len(order) - 1)])
    return levels
