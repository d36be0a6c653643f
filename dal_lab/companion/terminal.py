"""Strategies side by side, in a terminal of 80 columns and as files: what `dal compare` shows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dal_core.checks import check_columns
from dal_lab.companion import statistics
from dal_lab.companion.artefacts import Report
from dal_lab.companion.figures import comparisons, curves
from dal_lab.companion.figures.style import label
from dal_lab.companion.statistics import mean_over_seeds

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 80  # columns of a terminal
NAME = 20  # letters of a strategy's name there, at most
NUMBER = 6  # columns of a number below the bars
POINTS = 8  # so many numbers are printed of a learning curve
COLUMNS = {  # of the table: heading, width and format
    "accuracy": ("accuracy", 9, ".2f"), "accuracy_ci": ("±", 6, ".2f"), "final": ("final", 7, ".2f"),
    "final_ci": ("±", 6, ".2f"), "difference": ("difference", 11, "+.2f"), "difference_ci": ("±", 6, ".2f"),
    "p_holm": ("p", 8, ".2g"), "seeds": ("seeds", 6, ""),
}  # fmt: skip
NOTES = """\
Accuracy in percent, mean over the curve and at its end; ± is half the width of
the 95 % interval over seeds. Difference to {reference} in points, paired by seed;
p is of a paired t test, corrected for all of a data set (Holm). Bars: one scale
for a data set. Win rates: share of data sets, seeds and cycles in which the
row's strategy is above that of the column's number; ties count for neither."""


def check_strategies(strategies: Sequence[str]) -> None:
    """Raise ValueError unless there are two or more different strategies."""
    if isinstance(strategies, str) or len(strategies) < 2 or len(set(strategies)) < len(strategies):
        raise ValueError(
            f"the strategies are {', '.join(map(str, strategies))}; two or more different ones were expected"
        )


class Comparison:
    """Learning curves of several strategies, the first of which is the reference, as tables.

    `rows` are those of `Grid.rows`: data, strategy, seed, cycle, n_labeled and accuracy (a share). The tables have
    accuracies in percent and differences in points; `_ci` is half the width of the 95 % interval over seeds:

    - `curves`, each point of the learning curves: data, strategy, n_labeled, accuracy, accuracy_ci, seeds;
    - `accuracy`, mean over the curve and at its end: data, strategy, accuracy, accuracy_ci, final, final_ci, seeds;
    - `differences`, of the mean over the curve to the reference, paired by seed: see `statistics.paired`;
    - `win_rates`, shares of data sets, seeds and cycles in which the row's strategy is above the column's.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        check_columns("rows", rows, ("data", "strategy", "seed", "cycle", "n_labeled", "accuracy"))
        self.rows, self.reference, by = rows, str(rows["strategy"].iloc[0]), ["data", "strategy"]
        percent = rows.assign(accuracy=100 * rows["accuracy"])
        last = percent.groupby("data", sort=False)["cycle"].transform("max") == percent["cycle"]
        final = mean_over_seeds(percent[last].rename(columns={"accuracy": "final"}), by, ["final"])
        mean = mean_over_seeds(percent, by, ["accuracy"]).drop(columns="seeds")
        self.curves = mean_over_seeds(percent, [*by, "n_labeled"], ["accuracy"])
        self.accuracy = mean.merge(final, on=by, how="left")
        self.differences = statistics.paired(percent, self.reference)
        self.win_rates = statistics.win_rates(rows)

    def text(self) -> str:
        """Return the tables for a terminal, and the learning curves as bars."""
        parts = [self._block(data) for data in self.rows["data"].drop_duplicates()]
        return "\n\n".join([*parts, self._wins(), NOTES.format(reference=self.reference)]) + "\n"

    def _block(self, data: str) -> str:
        """Return one data set: the table, then the curves."""
        table = self.accuracy.merge(self.differences.drop(columns="seeds"), on=["data", "strategy"], how="left")
        lines = [_line("strategy", [heading for heading, _, _ in COLUMNS.values()])]
        for row in table[table["data"] == data].to_dict("records"):
            cells = ["" if np.isnan(row[name]) else format(row[name], form) for name, (_, _, form) in COLUMNS.items()]
            if row["p_holm"] < 1e-4:
                cells[-2] = "<0.0001"
            lines.append(_line(row["strategy"], cells))
        return "\n".join([data, "-" * min(WIDTH, len(data)), *lines, "", *self._sparklines(data)])

    def _sparklines(self, data: str) -> list[str]:
        """Return a line a strategy: the curve as bars on one scale for all, and some of its accuracies."""
        part = self.curves[self.curves["data"] == data]
        names = [str(name) for name in part["strategy"].drop_duplicates()]
        table = part.pivot(index="strategy", columns="n_labeled", values="accuracy").loc[names]
        values, labels = table.to_numpy(dtype=float), list(table.columns)
        width = min(NAME, max(map(len, names)))
        shown = _spread(len(labels), POINTS)
        bars = _spread(len(labels), WIDTH - width - 2 - NUMBER * len(shown))
        lines = [f"{'labels':{width}}  {'':{len(bars)}}" + "".join(f"{labels[i]:{NUMBER}}" for i in shown)]
        for name, curve in zip(names, values, strict=True):
            line = f"{_short(name, width)}  {sparkline(curve[bars], values.min(), values.max())}"
            lines.append(line + "".join(f"{value:{NUMBER}.1f}" for value in curve[shown]))
        return lines

    def _wins(self) -> str:
        """Return the matrix of win rates; columns have the numbers of the rows."""
        names, values = [str(name) for name in self.win_rates], self.win_rates.to_numpy()
        width = min(NAME, max(map(len, names)))
        lines = [f"{'win rates':{width + 3}}" + "".join(f"{i:5d}" for i in range(1, len(names) + 1))]
        for i, name in enumerate(names):
            cells = "".join("    -" if i == j else f"{values[i, j]:5.2f}" for j in range(len(names)))
            lines.append(f"{i + 1:2d} {_short(name, width)}{cells}")
        return "\n".join(lines)

    def write(self, report: Report, keys: Sequence[str]) -> None:
        """Write figures and tables into the folder of `report`; `keys` are those of the runs."""
        name, about = label(self.reference), dict[str, Any](cell="comparison", keys=keys)
        difference = f"difference to {name} (points)"
        over = {"difference": difference, "difference_ci": f"{difference}_ci"}
        data = ", ".join(self.rows["data"].drop_duplicates())
        report.table(self.accuracy, "accuracy", **about)
        report.table(self.differences.rename(columns=over), "tests", **about)
        report.table(self.win_rates.rename_axis(columns=None).reset_index(), "win_rates", **about)
        report.table(self.curves, "curves", **about)
        report.figure(curves.learning_curves(self.rows), "learning_curves", **about)
        report.figure(comparisons.win_rates({data: self.win_rates}), "win_rates", **about)
        differences = comparisons.differences(self.differences, f"Difference to {name}\n(points)")
        report.figure(differences, "differences", **about)


def sparkline(values: Float[np.ndarray, " n"], low: float, high: float) -> str:
    """Return the values as bars of eight heights, `low` the smallest and `high` the largest."""
    steps = np.floor((values - low) / (high - low) * len(BARS)) if high > low else np.zeros(len(values))
    return "".join(BARS[int(step)] for step in np.clip(steps, 0, len(BARS) - 1))


def _spread(count: int, most: int) -> list[int]:
    """Return up to `most` positions below `count`, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _line(name: str, cells: Iterable[str]) -> str:
    columns = [f"{cell:>{width}}" for cell, (_, width, _) in zip(cells, COLUMNS.values(), strict=True)]
    return f"{_short(name, NAME)}{''.join(columns)}"


def _short(name: str, width: int) -> str:
    """Return a name cut or filled to `width` letters."""
    return f"{name:{width}}" if len(name) <= width else f"{name[: width - 1]}…"
