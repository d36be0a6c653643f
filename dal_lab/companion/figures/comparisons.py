"""Figures that compare many strategies; like those of `curves`, they draw what `statistics` computed."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from dal_lab.companion.figures.curves import note
from dal_lab.companion.figures.style import look, short_label, verbatim
from dal_lab.companion.statistics import CONFIDENCE, friedman

CELL = 0.42  # inches, the side of a square with two decimals in it
BLOCKS = 10  # Fewer blocks than these cannot tell many strategies apart: all bars would be as long as the axis.
LETTER = 0.065  # inches, a letter of the names beside the squares
BAR = 3  # points, the width of a bar that joins ranks


def win_rates(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw heat maps of win rates side by side, titled with their keys: shares in which the row is above the column.

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
    names = LETTER * max(len(short_label(strategy)) for matrix in matrices.values() for strategy in matrix) + 0.15
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
        axes.set_title(verbatim(title))
        left += names + side
    bar = figure.colorbar(axes.collections[0], cax=place(left + 0.15, 0.15, max(sides)))
    bar.set_label("Share in which the row\nis above the column", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.set_label("White is one half; grey squares have no value.")
    return figure


def _heat_map(axes: Axes, matrix: pd.DataFrame) -> None:
    """Draw squares with their numbers, blue above one half, red below, grey where there is no number."""
    import seaborn as sns

    sns.heatmap(
        matrix, ax=axes, mask=np.eye(len(matrix), dtype=bool), vmin=0, vmax=1, center=0.5, cmap="RdBu",
        annot=True, fmt=".2f", annot_kws={"size": 8.5}, linewidths=0.5, cbar=False,
    )  # fmt: skip
    axes.set_facecolor("#BBBBBB")
    names, places = [short_label(strategy) for strategy in matrix], np.arange(len(matrix)) + 0.5
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names, rotation=0)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)


def critical_difference(blocks: int, strategies: int) -> float:
    """Return how far average ranks have to be apart to differ at 5 % (Nemenyi's test).

    CD = q_0.95(k, inf) / sqrt(2) * sqrt(k (k + 1) / (6 N))        k strategies, N blocks; Demsar 2006, 3.2.2
    """
    q = stats.studentized_range.ppf(CONFIDENCE, strategies, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(strategies * (strategies + 1) / (6 * blocks)))


def enough_blocks(blocks: pd.DataFrame) -> bool:
    """Return whether there are blocks enough for `ranks`."""
    return len(blocks) >= BLOCKS


def ranks(blocks: pd.DataFrame) -> Figure:
    """Draw average ranks on an axis; bars join strategies that Nemenyi's test does not tell apart (Demsar 2006).

    `blocks` has a row a block and a column a strategy (`statistics.blocks`).

    Raises:
        ValueError: if there are fewer than `BLOCKS` blocks; `enough_blocks` asks.
    """
    if not enough_blocks(blocks):
        raise ValueError(f"blocks has {len(blocks)} rows (data set and seed); at least {BLOCKS} were expected")
    import scikit_posthocs as posthoc  # Its import takes seconds.

    n, k = blocks.shape
    colours = {short_label(name): look(str(name))[1] for name in blocks}
    blocks = pd.DataFrame(blocks.to_numpy(), columns=list(colours))
    figure, axes = plt.subplots(figsize=(6.8, 1.2 + 0.2 * k), layout="constrained")
    drawn = posthoc.critical_difference_diagram(
        blocks.rank(axis=1, ascending=False).mean(), posthoc.posthoc_nemenyi_friedman(blocks), alpha=1 - CONFIDENCE,
        ax=axes, color_palette=colours, text_h_margin=0.03 * (k - 1),
        label_fmt_left="{label} ({rank:.2f}) ", label_fmt_right=" {label} ({rank:.2f})",
        label_props={"fontsize": 8}, elbow_props={"linewidth": 1}, marker_props={"s": 20},
        crossbar_props={"linewidth": BAR, "solid_capstyle": "butt"},
    )  # fmt: skip
    for text in drawn["labels"]:
        text.set_color("black")
    for (bar,) in drawn["crossbars"]:
        bar.set_xdata(sorted(bar.get_xdata()))  # The library goes through a set, and each process in another order.
    axes.tick_params(labelsize=8)
    axes.grid(visible=False)
    axes.set_xticks(range(1, k + 1))
    axes.spines["top"].set_visible(True)
    p = friedman(blocks)
    note = f"{n} blocks of data set and seed; Friedman's p {f'= {p:.2g}' if p >= 1e-4 else '< 0.0001'}"
    figure.supxlabel(f"Average rank, 1 is best ({note}; CD = {critical_difference(n, k):.2f})", fontsize=9)
    figure.set_label(
        "A bar joins strategies whose ranks differ by less than the critical difference CD (Nemenyi, 5 %). Seeds of a "
        "data set count as blocks of their own: this is about these data sets, not about others."
    )
    return figure


def differences(table: pd.DataFrame, text: str) -> Figure:
    """Draw differences in points with their 95 % intervals, a panel a data set, a line a strategy, against 0.

    `table` has data, strategy, difference and difference_ci, as `statistics.paired` returns them, in percent.
    """
    names, data = (list(table[column].drop_duplicates()) for column in ("strategy", "data"))
    size = (1.2 + 3.2 * len(data), 0.8 + 0.28 * len(names))
    figure, panels = plt.subplots(1, len(data), figsize=size, squeeze=False, sharey=True)
    for axes, title in zip(panels.flat, data, strict=True):
        for row in table[table["data"] == title].itertuples():
            _, colour, marker = look(str(row.strategy))
            place, half = names.index(row.strategy), row.difference_ci
            axes.errorbar(row.difference, place, xerr=half, fmt=marker, color=colour, capsize=2, markersize=6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=verbatim(title), xlabel=text)
        axes.set_yticks(range(len(names)), map(short_label, names))
    panels.flat[0].set_ylim(len(names) - 0.5, -0.5)  # the first strategy on top
    if "seeds" in table:
        note(axes, table["seeds"], "bars: 95 % intervals of the difference, paired by seed")
    return figure
