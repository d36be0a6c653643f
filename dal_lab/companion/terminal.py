"""Strategies side by side, in a terminal of 80 columns and as files: what `python -m dal_lab compare` shows."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property

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
CELL = "comparison"  # in the manifest
HEAD = {"accuracy": 9, "±": 6, "final": 7, "± ": 6, "difference": 11, "±  ": 6, "p": 8, "seeds": 6}  # with widths
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


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Learning curves of several strategies, the first of which is the reference.

    `rows` are those of `Grid.rows`: data, strategy, seed, cycle, n_labeled and accuracy (a share). The tables have
    accuracies in percent and differences in points; `_ci` is half the width of the 95 % interval over seeds.
    """

    rows: pd.DataFrame

    def __post_init__(self) -> None:
        check_columns("rows", self.rows, ("data", "strategy", "seed", "cycle", "n_labeled", "accuracy"))

    @property
    def reference(self) -> str:
        return self.rows["strategy"].iloc[0]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Each point of the learning curves: data, strategy, n_labeled, accuracy, accuracy_ci, seeds."""
        return mean_over_seeds(self._percent, ["data", "strategy", "n_labeled"], ["accuracy"])

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """Mean over the curve and final accuracy: data, strategy, accuracy, accuracy_ci, final, final_ci, seeds."""
        by = ["data", "strategy"]
        last = self._percent.groupby("data", sort=False)["cycle"].transform("max") == self._percent["cycle"]
        final = mean_over_seeds(self._percent[last].rename(columns={"accuracy": "final"}), by, ["final"])
        return mean_over_seeds(self._percent, by, ["accuracy"]).drop(columns="seeds").merge(final, on=by, how="left")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Mean over the curve minus that of the reference, paired by seed: see `statistics.paired`."""
        return statistics.paired(self._percent, self.reference)

    @cached_property
    def win_rates(self) -> pd.DataFrame:
        """Share of data sets, seeds and cycles in which the row's strategy is above the column's."""
        return statistics.win_rates(self.rows)

    @cached_property
    def _percent(self) -> pd.DataFrame:
        return self.rows.assign(accuracy=100 * self.rows["accuracy"])

    def text(self) -> str:
        """The tables for a terminal, and the learning curves as bars."""
        parts = [self._block(data) for data in self.rows["data"].drop_duplicates()]
        return "\n\n".join([*parts, self._wins(), NOTES.format(reference=self.reference)]) + "\n"

    def _block(self, data: str) -> str:
        """One data set: the table, then the curves."""
        table = self.accuracy.merge(self.differences.drop(columns="seeds"), on=["data", "strategy"], how="left")
        columns = {"accuracy": ".2f", "accuracy_ci": ".2f", "final": ".2f", "final_ci": ".2f",
                   "difference": "+.2f", "difference_ci": ".2f", "p_holm": ".2g", "seeds": ""}  # fmt: skip
        lines = [_line("strategy", HEAD)]
        for row in table[table["data"] == data].to_dict("records"):
            cells = ["" if np.isnan(row[name]) else format(row[name], how) for name, how in columns.items()]
            if row["p_holm"] < 1e-4:
                cells[-2] = "<0.0001"
            lines.append(_line(row["strategy"], cells))
        return "\n".join([data, "-" * min(WIDTH, len(data)), *lines, "", *self._sparklines(data)])

    def _sparklines(self, data: str) -> list[str]:
        """A line a strategy: the curve as bars, on one scale for all, and the accuracy at some numbers of labels."""
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
        """The matrix of win rates; columns have the numbers of the rows."""
        names, values = [str(name) for name in self.win_rates], self.win_rates.to_numpy()
        width = min(NAME, max(map(len, names)))
        lines = [f"{'win rates':{width + 3}}" + "".join(f"{i:5d}" for i in range(1, len(names) + 1))]
        for i, name in enumerate(names):
            cells = "".join("    -" if i == j else f"{values[i, j]:5.2f}" for j in range(len(names)))
            lines.append(f"{i + 1:2d} {_short(name, width)}{cells}")
        return "\n".join(lines)

    def write(self, report: Report, keys: Sequence[str]) -> None:
        """Write figures and tables into the folder of `report`; `keys` are those of the runs."""
        name = label(self.reference)
        over = {"difference": f"over {name} (points)", "difference_ci": f"over {name} (points)_ci"}
        rates = self.win_rates.rename_axis(columns=None).reset_index()
        report.table(self.accuracy, "accuracy", cell=CELL, keys=keys)
        report.table(self.differences.rename(columns=over), "tests", cell=CELL, keys=keys)
        report.table(rates, "win_rates", cell=CELL, keys=keys)
        report.table(self.curves, "curves", cell=CELL, keys=keys)
        differences = comparisons.differences(self.differences, f"Difference to {name}\n(points)")
        report.figure(curves.learning_curves(self.rows), "learning_curves", cell=CELL, keys=keys)
        report.figure(comparisons.win_rates({"Win rates": self.win_rates}), "win_rates", cell=CELL, keys=keys)
        report.figure(differences, "differences", cell=CELL, keys=keys)


def sparkline(values: Float[np.ndarray, " n"], low: float, high: float) -> str:
    """The values as bars of eight heights, `low` the smallest and `high` the largest."""
    steps = np.floor((values - low) / (high - low) * len(BARS)) if high > low else np.zeros(len(values))
    return "".join(BARS[int(step)] for step in np.clip(steps, 0, len(BARS) - 1))


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` positions below `count`, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _line(name: str, cells: Iterable[str]) -> str:
    columns = [f"{cell.strip():>{width}}" for cell, width in zip(cells, HEAD.values(), strict=True)]
    return f"{_short(name, NAME)}{''.join(columns)}"


def _short(name: str, width: int) -> str:
    """A name cut or filled to `width` letters."""
    return f"{name:{width}}" if len(name) <= width else f"{name[: width - 1]}…"
