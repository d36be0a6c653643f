"""Figures that compare many strategies; like those of `figures`, they draw what `comparison` computed."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dal_lab.companion.comparison import Rankings
from dal_lab.companion.figures.style import look, verbatim

CELL = 0.37  # inches, of a square with two decimals in it
LETTER = 0.065  # inches, a letter of the names beside the squares
LEVEL = 0.2  # inches, between two names of a critical-difference diagram
BAR = 0.1  # inches, between two of its bars


def win_rates(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Heat maps of win rates side by side, titled with their keys: share in which the row is above the column.

    Raises:
        ValueError: if rows and columns of a matrix are not the same strategies in the same order.
    """
    for title, matrix in matrices.items():
        if list(matrix.index) != list(matrix.columns):
            raise ValueError(
                f"{title} has the rows {list(matrix.index)} and the columns {list(matrix.columns)}; "
                "the same strategies in the same order were expected"
            )
    # Placed in inches: matplotlib's layouts shrink squares below their numbers, or cut names off.
    names = LETTER * max(len(_name(strategy)) for matrix in matrices.values() for strategy in matrix) + 0.15
    sides = [CELL * len(matrix) for matrix in matrices.values()]
    width, height, top = sum(sides) + names * len(sides) + 0.95, max(sides) + 0.75 * names + 0.35, 0.3
    figure = plt.figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("none")  # from the start there would be no engine, and saving would take the default one

    def place(left: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, (height - top - high) / height, wide / width, high / height))

    left = 0.0
    for side, (title, matrix) in zip(sides, matrices.items(), strict=True):
        axes = place(left + names, side, side)
        _heat_map(axes, matrix)
        axes.set_title(title)
        left += names + side
    bar = figure.colorbar(axes.collections[0], cax=place(left + 0.15, 0.15, max(sides)))
    bar.set_label("Share in which the row\nis above the column", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _heat_map(axes: Axes, matrix: pd.DataFrame) -> None:
    """Squares with their numbers, blue above one half and red below; none on the diagonal."""
    sns.heatmap(
        matrix, ax=axes, mask=np.eye(len(matrix), dtype=bool), vmin=0, vmax=1, center=0.5, cmap="RdBu",
        annot=True, fmt=".2f", annot_kws={"size": 7}, linewidths=0.5, cbar=False,
    )  # fmt: skip
    names, places = [_name(strategy) for strategy in matrix], np.arange(len(matrix)) + 0.5
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names, rotation=0)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)


def critical_difference(rankings: Rankings) -> Figure:
    """Average ranks on an axis; bars join strategies that are no further apart than chance allows (Demsar 2006)."""
    ranks, groups = rankings.ranks, rankings.groups()
    k = len(ranks)
    rows = -(-k // 2)  # of names, the better half on the left
    depth = BAR * (len(groups) + 1) + LEVEL * rows
    figure, axes = plt.subplots(figsize=(6.8, depth + 1.2), layout="constrained")
    last = max(k, 1 + rankings.critical_difference)  # with few blocks the ruler is longer than the axis
    axes.set(xlim=(1, last), ylim=(-depth, 0.45))  # y in inches
    _rank_axis(axes, k)
    ruler = [1, 1 + rankings.critical_difference]
    axes.plot(ruler, [0.38, 0.38], color="black", marker="|", linewidth=1)
    axes.text(np.mean(ruler), 0.43, f"CD = {rankings.critical_difference:.2f}", ha="center", fontsize=8)
    for i, group in enumerate(groups):
        y = -BAR * (i + 1)
        axes.plot(ranks[[group[0], group[-1]]], [y, y], color="black", linewidth=3, solid_capstyle="butt", zorder=3)
    for i, (strategy, rank) in enumerate(ranks.items()):
        left = i < rows
        y = -BAR * (len(groups) + 1) - LEVEL * ((i if left else k - 1 - i) + 0.5)
        _, colour, marker = look(str(strategy))
        edge = 1 - 0.02 * (last - 1) if left else last + 0.02 * (last - 1)
        axes.plot([rank, rank, edge], [0, y, y], color=colour, linewidth=1, clip_on=False)
        axes.plot(rank, 0, color=colour, marker=marker, markersize=6, clip_on=False, zorder=4)
        text = f"{_name(strategy)} ({rank:.2f})"
        axes.text(edge, y, f"{text} " if left else f" {text}", ha="right" if left else "left", va="center", fontsize=8)
    p = f"= {rankings.friedman_p:.2g}" if rankings.friedman_p >= 1e-4 else "< 0.0001"
    note = f"{rankings.blocks} blocks of data set and seed; Friedman's p {p}"
    figure.supxlabel(f"Average rank, 1 is best ({note})", fontsize=9)
    return figure


def _rank_axis(axes: Axes, k: int) -> None:
    """The axis of ranks 1 to k, with its ticks above it, and no other."""
    axes.spines[["left", "bottom", "right"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0), bounds=(1, k))
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, k + 1))
    axes.tick_params(labelsize=8)
    axes.set_yticks([])
    axes.grid(visible=False)


def differences(table: pd.DataFrame, text: str) -> Figure:
    """Differences in points with their 95 % intervals, a panel a data set, a line a strategy, against 0.

    `table` has data, strategy, difference and difference_ci, as `comparison.paired_tests` returns them, in percent.
    """
    names = list(table["strategy"].drop_duplicates())
    data = list(table["data"].drop_duplicates())
    figure, panels = plt.subplots(
        1, len(data), figsize=(1.2 + 3.2 * len(data), 0.8 + 0.28 * len(names)), squeeze=False, sharey=True
    )
    for axes, title in zip(panels.flat, data, strict=True):
        part = table[table["data"] == title]
        places = [names.index(strategy) for strategy in part["strategy"]]
        for place, (_, row) in zip(places, part.iterrows(), strict=True):
            _, colour, marker = look(str(row["strategy"]))
            axes.errorbar(
                row["difference"], place, xerr=row["difference_ci"], fmt=marker, color=colour, capsize=2, markersize=6
            )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=verbatim(title), xlabel=text)
        axes.set_yticks(range(len(names)), [_name(strategy) for strategy in names])
    panels.flat[0].set_ylim(len(names) - 0.5, -0.5)  # the first strategy on top
    return figure


def _name(strategy: object) -> str:
    return look(str(strategy))[0].removesuffix(" (oracle)")
