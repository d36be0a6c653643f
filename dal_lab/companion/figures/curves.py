"""The figures of the notebooks. Each takes tidy rows and returns a matplotlib figure; nothing is computed here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dal_core.checks import check_columns
from dal_lab.companion.budgets import BUDGETS
from dal_lab.companion.figures.style import (
    BLUE,
    CLASS_COLOURS,
    CLASS_MARKERS,
    GREY,
    RED,
    STROKES,
    TABLES,
    label,
    look,
    short_label,
    verbatim,
)
from dal_lab.companion.statistics import mean_over_seeds

PANEL, WIDE = (3.4, 2.7), (4.6, 3.4)  # inches
COLUMN = 1.75  # Inches of a legend's column.
FEW = 4  # Lines of a panel whose bands can be told apart.
LIMITED = ("accuracy", "flips")  # Shares, which end at 0 and 100 %.
VALUES: dict[str, tuple[str, float]] = {name: tuple(each) for name, each in TABLES["values"].items()}


def panels(count: int, *, columns: int = 3, panel: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, at most `columns` in a row, in as few rows as possible, evenly filled."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure, grid = plt.subplots(rows, columns, figsize=(panel[0] * columns, panel[1] * rows), squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def curves(
    axes: Axes, rows: pd.DataFrame, *, x: str, y: str, by: str, looks: Callable = look, band: bool | None = None
) -> None:
    """Draw a line of `y` (mean over seeds) against `x` for each entry of `by`, with 95 % intervals.

    Up to `FEW` lines have bands, none beyond what shares can be; more have one bar beside the panel, as long as the
    median interval. `band` decides otherwise. Lines are drawn in the order in which their names first appear; one
    without a marker is dashed, and so is one that lies exactly on an earlier one, which shows between its dashes.
    The figure's label says what is drawn.
    """
    name_of_value, scale = VALUES.get(y, (y, 1.0))
    table = mean_over_seeds(rows, [by, x], [y])
    names, ends = rows[by].drop_duplicates(), (0.0, 100.0) if y in LIMITED else (-np.inf, np.inf)
    few = len(names) <= FEW if band is None else band
    drawn, covers = list[np.ndarray](), False
    for name in names:
        line = table[table[by] == name].sort_values(x)
        text, colour, marker = looks(name)
        mean, half = line[y].to_numpy() * scale, line[f"{y}_ci"].to_numpy() * scale
        place = np.stack([line[x].to_numpy(dtype=float), mean])
        hides = any(place.shape == other.shape and np.allclose(place, other) for other in drawn)
        stroke = "--" if hides or not marker else STROKES.get(name, "-")
        every = max(1, len(line) // 10)
        axes.plot(line[x], mean, stroke, color=colour, marker=marker, markevery=every, label=text)
        if few and np.isfinite(half).all():
            axes.fill_between(
                line[x], *np.clip([mean - half, mean + half], *ends), color=colour, alpha=0.12, linewidth=0
            )
        drawn.append(place)
        covers |= hides
    axes.set_ylabel(name_of_value)
    half = scale * table[f"{y}_ci"].median()
    if band is None and not few and np.isfinite(half):
        bar = np.mean(axes.get_ylim()) + np.array([-half, half])
        axes.plot(
            [1.04] * 2, bar, "-_", color="black", linewidth=1, scaley=False, label="_interval", clip_on=False,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    typical = "bar at the right: the median 95 % interval of a point" if band is None else ""
    note(axes, table["seeds"], "bands: 95 % intervals" if few else typical, covers=covers)


def note(axes: Axes, seeds: pd.Series, intervals: str = "", *, covers: bool = False) -> None:
    """Say in the figure's label over how many seeds a panel has means, and what `intervals` are drawn how."""
    least, most = int(seeds.min()), int(seeds.max())
    said = f"Mean over {most} seeds" if least == most else f"Mean over {least} to {most} seeds"
    said += f"; {intervals} (t over seeds)." if intervals else "."
    if most == 1:
        said = "A single seed: no intervals."
    said += " A dashed line on another one: the two are equal." * covers
    figure: Any = axes.figure
    if said not in figure.get_label():
        figure.set_label(f"{figure.get_label()} {said}".strip())


def shared_legend(figure: Figure, axes: Sequence[Axes], *, columns: int = 5) -> Figure:
    """Return the figure with one legend below all panels: `columns` columns, or as many as it has room for."""
    handles: dict[str, Artist] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    columns = min(columns, len(handles), max(1, int(figure.get_figwidth() / COLUMN)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with values at its ticks: enough to read, and none of them crowded."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = axis.get_view_interval()
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [step * 10.0**power for power in range(-12, 13) for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    axis.set_ticks(ticks, [f"{tick:,g}" if tick < 1e6 else f"{tick:.0e}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def zoom(axes: Axes) -> list[str]:
    """Limit the y axis to the lines that lie together, and return the labels of those that leave it.

    A line leaves if the others need less than a third of the height without it.
    """
    spans = {
        str(line.get_label()): (np.nanmin(line.get_ydata()), np.nanmax(line.get_ydata()))
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }
    left = list[str]()

    def height(names: Collection[str]) -> float:
        return max(spans[name][1] for name in names) - min(spans[name][0] for name in names)

    while len(spans) - len(left) > 2:
        kept = [name for name in spans if name not in left]
        heights = {name: height([other for other in kept if other != name]) for name in kept}
        widest = min(heights, key=lambda name: heights[name])
        if heights[widest] * 3 >= height(kept):
            break
        left.append(widest)
    if left:
        kept = [name for name in spans if name not in left]
        low, high, room = min(spans[name][0] for name in kept), max(spans[name][1] for name in kept), height(kept) / 8
        axes.set_ylim(low - room, high + room)
    return left


def _split(rows: pd.DataFrame, by: str | list[str], **size: Any) -> tuple[Figure, list[tuple[Axes, Any, pd.DataFrame]]]:
    """Return a figure with a panel for each entry of the columns `by`, and each panel with its entry and rows."""
    groups = list(rows.groupby(by, sort=False))
    figure, axes = panels(len(groups), **size)
    return figure, [(each, *group) for each, group in zip(axes, groups, strict=True)]


def learning_curves(rows: pd.DataFrame, *, y: str = "accuracy", reference: str = "random") -> Figure:
    """Draw `y` of the strategies against the number of labels, a panel a data set.

    Below accuracies of more than `FEW` strategies, which come together, are the differences to `reference`, paired by
    seed; a strategy that would squeeze the others leaves that panel. Data sets without the reference have none.
    """
    check_columns("rows", rows, ("data", "strategy", "seed", "n_labeled", y))
    many = rows.groupby("data")["strategy"].nunique().max() > FEW
    below = y == "accuracy" and many and (rows["strategy"] == reference).any()
    parts, left = list(rows.groupby("data", sort=False)), dict[str, None]()
    columns, high = min(3, len(parts)), 1 + below
    size = {"nrows": -(-len(parts) // columns) * high, "ncols": columns}
    figure, grid = plt.subplots(**size, figsize=(columns * WIDE[0], size["nrows"] * WIDE[1] * 0.9), squeeze=False)
    spare = set(grid.flat)
    for i, (name, part) in enumerate(parts):
        upper, lower = (grid[i // columns * high + k, i % columns] for k in (0, high - 1))
        curves(upper, part, x="n_labeled", y=y, by="strategy")
        upper.set(title=verbatim(str(name)), xlabel="Labelled instances")
        spare -= {upper}
        if below and (part["strategy"] == reference).any():
            level = part[part["strategy"] == reference].set_index(["seed", "n_labeled"])["accuracy"]
            others = part[part["strategy"] != reference].join(level.rename("level"), on=["seed", "n_labeled"])
            others = others.assign(difference=others["accuracy"] - others["level"]).dropna(subset="difference")
            curves(lower, others, x="n_labeled", y="difference", by="strategy")
            lower.axhline(0, color="black", linewidth=0.8)
            lower.set(xlabel="Labelled instances", ylabel=f"Difference to {label(reference)}\n(points)")
            upper.set_xlabel("")
            upper.sharex(lower)
            left |= dict.fromkeys(zoom(lower))
            spare -= {lower}
    for axes in spare:
        axes.remove()
    if left:
        figure.set_label(f"{figure.get_label()} Partly below or above its lower panel: {', '.join(left)}.")
    return shared_legend(figure, figure.axes, columns=4)


def accuracy_against_time(rows: pd.DataFrame) -> Figure:
    """Draw mean accuracy over the curve against mean time of an acquisition, a point a strategy, a panel a data set."""
    check_columns("rows", rows, ("data", "strategy", "seed", "accuracy", "query_s"))
    figure, parts = _split(rows.assign(accuracy=100 * rows["accuracy"]), "data", panel=WIDE)
    for axes, data, part in parts:
        table = mean_over_seeds(part, ["strategy"], ["accuracy", "query_s"])
        for name, x, y, half in table[["strategy", "query_s", "accuracy", "accuracy_ci"]].to_numpy().tolist():
            text, colour, marker = look(name)
            axes.errorbar(x, y, half, fmt=marker, color=colour, label=text, capsize=2)
        axes.set(title=verbatim(data), xlabel=VALUES["query_s"][0], ylabel="Mean test accuracy (%)")
        logarithmic(axes.xaxis)
        note(axes, table["seeds"], "bars: 95 % intervals of the accuracy")
    return shared_legend(figure, figure.axes, columns=4)


def costs(rows: pd.DataFrame, *, y: str) -> Figure:
    """Draw `y` of each strategy against what was varied, a panel each, on logarithmic axes."""
    check_columns("rows", rows, ("varied", "size", "strategy", "seed", y))
    figure, parts = _split(rows, "varied", columns=2, panel=(4.2, 3.0))
    for axes, name, part in parts:
        curves(axes, part, x="size", y=y, by="strategy", band=False)
        axes.set(xlabel=TABLES["sizes"].get(name, name))
        logarithmic(axes.yaxis)
        logarithmic(axes.xaxis)
        sizes = sorted(part["size"].unique())
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    figure.set_label("A point is one measurement; both axes are logarithmic.")
    return shared_legend(figure, figure.axes, columns=4)


def shares(table: pd.DataFrame, *, expected: float) -> Figure:
    """Draw bars of the shares in percent, a panel a data set: a group of bars a strategy, in it one bar a budget.

    `table` has the index data, budget and a column a strategy. Whole numbers are counts: they stand above their bars,
    which are their shares. `expected` is drawn as a dashed line.
    """
    figure, parts = _split(table, "data", columns=2, panel=(max(5.6, 0.62 * table.shape[1]), 3.4))
    counted = all(kind.kind in "iu" for kind in table.dtypes)
    for axes, data, part in parts:
        width = 0.86 / len(part)
        for i, (budget, values) in enumerate(part.droplevel("data").iterrows()):
            places = np.arange(len(values)) + (i - (len(part) - 1) / 2) * width
            heights = 100 * values / max(values.sum(), 1) if counted else values
            text = f"{budget} budget" + f" ({values.sum()} batches)" * counted
            bars = axes.bar(places, heights, width, color=plt.get_cmap("viridis")(0.15 + 0.35 * i), label=text)
            if counted:
                axes.bar_label(bars, [str(count or "") for count in values], fontsize=6.5, padding=1)
        axes.axhline(expected, color="black", linestyle="--", linewidth=0.8, label="if all were equally good")
        axes.set(title=verbatim(data), ylabel="Share of batches (%)")
        axes.grid(visible=False, axis="x")
        axes.set_xticks(range(part.shape[1]), map(short_label, part.columns), rotation=40, ha="right")
    if counted:
        figure.set_label("Numbers above the bars: batches that were bought, of all seeds.")
    return shared_legend(figure, figure.axes, columns=4)


def leads(rows: pd.DataFrame) -> Figure:
    """Draw the lead over the best strategy with its 95 % interval, a point a budget, a panel a data set.

    `rows` are those of `budgets.leads` (data, budget, seed, difference as a share). With a column `source`, published
    leads are hollow, beside measured ones of the same data set; those of other data sets are left out.
    """
    check_columns("rows", rows, ("data", "budget", "seed", "difference"))
    rows = rows if "source" in rows else rows.assign(source="measured")
    measured, paper = (rows[(rows["source"] == "measured") == own] for own in (True, False))
    figure, parts = _split(measured, "data", panel=(2.9, 2.9))
    for axes, data, part in parts:
        part = part.sort_values("budget", key=lambda budget: budget.map(BUDGETS.index))
        table = mean_over_seeds(part, ["budget"], ["difference"])
        places = range(len(table))
        half = 100 * table["difference_ci"].fillna(0)
        axes.errorbar(places, 100 * table["difference"], half, fmt="o", color=BLUE, capsize=3, label="measured")
        beside = table[["budget"]].merge(paper[paper["data"] == data], how="left")
        if beside["difference"].notna().any():
            axes.plot(
                [x + 0.15 for x in places], 100 * beside["difference"], "s", color=RED, mfc="none", label="published"
            )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=verbatim(data), xlabel="Budget", ylabel="Lead over the best\nstrategy (points)")
        axes.set_xticks(places, table["budget"])
        axes.set_xlim(-0.5, len(table) - 0.5)
        axes.grid(visible=False, axis="x")
        note(axes, table["seeds"], "bars: 95 % intervals")
    return shared_legend(figure, figure.axes) if len(figure.axes[0].get_legend_handles_labels()[1]) > 1 else figure


def ablation(sources: Mapping[str, pd.DataFrame], *, x: str, label: str, log: bool = True) -> Figure:
    """Draw mean accuracy over the curve against `x`, with 95 % intervals, a panel a data set of each source."""
    rows = pd.concat([rows.assign(panel=rows["data"] + f", {source}") for source, rows in sources.items()])
    figure, parts = _split(rows, "panel")
    for axes, title, part in parts:
        table = mean_over_seeds(part, [x], ["accuracy"]).sort_values(x)
        half = 100 * table["accuracy_ci"].fillna(0)
        axes.errorbar(table[x], 100 * table["accuracy"], half, fmt="o:", color=BLUE, capsize=2)
        axes.set(title=verbatim(title), xlabel=label, ylabel="Mean test accuracy (%)")
        if log:
            logarithmic(axes.xaxis)
        axes.set_xticks(table[x], [f"{value:,}" for value in table[x]])
        note(axes, table["seeds"], "bars: 95 % intervals")
    return figure


def updating_study(rows: pd.DataFrame, *, y: str, band: bool | None = None) -> Figure:
    """Draw `y` of each method against the number of new samples, a panel a data set and initial size."""
    figure, parts = _split(rows, ["data", "initial_size"])
    for axes, (data, size), part in parts:
        curves(axes, part, x="n_new", y=y, by="method", band=band)
        axes.set(title=verbatim(f"{data}, {size} initial labels"), xlabel="New samples")
        if y == "speedup":
            logarithmic(axes.yaxis)
            figure.set_label("Median over seeds; the axis of times is logarithmic.")
    return shared_legend(figure, figure.axes, columns=5)


def step_sizes(rows: pd.DataFrame, *, base: pd.DataFrame, retraining: pd.DataFrame) -> Figure:
    """Draw the gain of the second-order update over base for each gamma, mean over all numbers of new samples.

    All have the columns data, initial_size, seed, n_new and accuracy. Gains are paired by seed and have 95 % intervals.
    A gamma whose gain would squeeze the others is an arrow at the edge, with its value.
    """
    by = ["data", "initial_size", "seed"]
    means = {gamma: part.groupby(by, sort=False)["accuracy"].mean() for gamma, part in rows.groupby("gamma")}
    level, best = (each.groupby(by, sort=False)["accuracy"].mean() for each in (base, retraining))
    gains = pd.concat(
        [(100 * (mean - level)).rename("gain").reset_index().assign(gamma=g) for g, mean in means.items()]
    )
    of_best = (100 * (best - level)).groupby(["data", "initial_size"], sort=False).mean()
    figure, parts = _split(gains, ["data", "initial_size"])
    for axes, place, part in parts:
        table = mean_over_seeds(part, ["gamma"], ["gain"])
        middle = table["gain"].median()
        reach = 4 * (table["gain"] - middle).abs().median() + 1
        inside = table["gain"].sub(middle).abs() <= max(reach, abs(of_best[place] - middle))
        ticks = np.arange(len(table))
        shown = table[inside]
        axes.errorbar(ticks[inside], shown["gain"], shown["gain_ci"].fillna(0), fmt="s", color=BLUE, capsize=3)
        axes.axhline(of_best[place], color=RED, linestyle="--", label="Retraining")
        axes.axhline(0, color=GREY, linestyle="--", label="Base (no update)")
        for tick, gain in zip(ticks[~inside], table.loc[~inside, "gain"], strict=True):
            edge = axes.get_ylim()[int(gain > middle)]
            axes.annotate(
                f"{gain:.1f}", (tick, edge), (0, 16 if gain < middle else -16), textcoords="offset points", fontsize=8,
                ha="center", va="center", arrowprops={"arrowstyle": "-|>", "color": BLUE},
            )  # fmt: skip
        axes.set_xticks(ticks, [f"{gamma:g}" for gamma in table["gamma"]])
        axes.set_xlim(-0.5, len(table) - 0.5)
        axes.set(title=verbatim("{}, {} initial labels".format(*place)), xlabel="Step size γ", ylabel=VALUES["gain"][0])
        note(axes, table["seeds"], "bars: 95 % intervals")
    figure.set_label(f"{figure.get_label()} An arrow with a number: far outside the panel.")
    return shared_legend(figure, figure.axes)


def decision_surface(
    axes: Axes,
    probabilities: np.ndarray,
    extent: tuple[float, float, float, float],
    *,
    title: str,
    strength: float = 0.6,
) -> None:
    """Draw the probability of the predicted class over the plane, shaded, with the decision boundary.

    `probabilities` [rows, columns, k] on a regular grid over `extent` (left, right, bottom, top); `strength` is that of
    the shades, 0 to 1.
    """
    confidence, predicted = probabilities.max(axis=-1), probabilities.argmax(axis=-1)
    shades = np.array([to_rgb(colour) for colour in CLASS_COLOURS])
    chance = 1 / probabilities.shape[-1]
    shading = ((confidence - chance) / (1 - chance))[..., None] * strength
    axes.imshow(1 - shading * (1 - shades[predicted]), origin="lower", extent=extent, aspect="auto", rasterized=True)
    x, y = np.linspace(*extent[:2], probabilities.shape[1]), np.linspace(*extent[2:], probabilities.shape[0])
    for k in range(probabilities.shape[-1]):
        others = np.delete(probabilities, k, axis=-1).max(axis=-1)
        axes.contour(x, y, probabilities[..., k] - others, levels=[0.0], colors="black", linewidths=1.0)
    axes.set(title=title, xlabel="Feature 1", ylabel="Feature 2", xlim=extent[:2], ylim=extent[2:])
    axes.grid(visible=False)


def points(axes: Axes, positions: np.ndarray, labels: np.ndarray, *, new: bool = False) -> None:
    """Draw labelled instances in the plane, marked by class; new ones are large, with a red rim."""
    for k in np.unique(labels):
        chosen = positions[labels == k]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=55 if new else 20, color=CLASS_COLOURS[k], marker=CLASS_MARKERS[k],
            edgecolor=RED if new else "black", linewidth=1.8 if new else 0.6, zorder=3 + new,
        )  # fmt: skip


def gradient_steps(rows: pd.DataFrame, levels: pd.DataFrame) -> Figure:
    """Draw the gain by the number of gradient steps, a line a method, and the mean gain of `levels` as dashed lines."""
    figure, parts = _split(rows, ["data", "initial_size"])
    for axes, entry, part in parts:
        curves(axes, part, x="steps", y="gain", by="method")
        beside = levels[(levels["data"] == entry[0]) & (levels["initial_size"] == entry[1])]
        for method, gain in beside.groupby("method", sort=False)["gain"].mean().items():
            text, colour, _ = look(str(method))
            axes.axhline(100 * gain, color=colour, linestyle="--", label=text)
        ticks = sorted(part["steps"].unique())
        axes.set(title=verbatim("{}, {} initial labels".format(*entry)), xlabel="Gradient steps", xscale="log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    return shared_legend(figure, figure.axes, columns=3)
