"""The figures of the notebooks. Each takes tidy rows and returns a matplotlib figure; nothing is computed here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from dal_core.checks import check_columns
from dal_lab.companion.figures.style import (
    BLUE,
    CLASS_COLOURS,
    CLASS_MARKERS,
    GREY,
    RED,
    TABLES,
    look,
    short_label,
    verbatim,
)
from dal_lab.companion.statistics import mean_over_seeds

PANEL, WIDE = (3.4, 2.7), (4.6, 3.4)  # inches
VALUES: dict[str, tuple[str, float]] = {name: tuple(each) for name, each in TABLES["values"].items()}


def panels(count: int, *, columns: int = 3, panel: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, `columns` in a row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(panel[0] * columns, panel[1] * rows), squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def curves(
    axes: Axes, rows: pd.DataFrame, *, x: str, y: str, by: str, looks: Callable = look, band: bool = True
) -> None:
    """Draw a line of `y` (mean over seeds) against `x` for each entry of the column `by`, with 95 % confidence bands.

    Lines are drawn in the order in which their names first appear; one without a marker is dashed.
    """
    name_of_value, scale = VALUES.get(y, (y, 1.0))
    table = mean_over_seeds(rows, [by, x], [y])
    for name in rows[by].drop_duplicates():
        line = table[table[by] == name].sort_values(x)
        label, colour, marker = looks(name)
        mean, half = line[y].to_numpy() * scale, line[f"{y}_ci"].to_numpy() * scale
        every, style = max(1, len(line) // 10), "-" if marker else "--"
        axes.plot(line[x], mean, style, color=colour, marker=marker, markevery=every, label=label)
        if band and np.isfinite(half).all():
            axes.fill_between(line[x], mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylabel(name_of_value)


def shared_legend(figure: Figure, axes: Sequence[Axes], *, columns: int = 5) -> Figure:
    """Return the figure with one legend below all panels; a single panel is too narrow for more than two columns."""
    handles: dict[str, Artist] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(columns if len(axes) > 1 else 2, len(handles))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


def _split(rows: pd.DataFrame, by: str | list[str], **size: Any) -> tuple[Figure, list[tuple[Axes, Any, pd.DataFrame]]]:
    """Return a figure with a panel for each entry of the columns `by`, and each panel with its entry and rows."""
    groups = list(rows.groupby(by, sort=False))
    figure, axes = panels(len(groups), **size)
    return figure, [(each, *group) for each, group in zip(axes, groups, strict=True)]


def _lines(
    rows: pd.DataFrame, by: str | list[str], lines: dict[str, Any], *, xlabel: str, columns: int,
    size: tuple[float, float] = PANEL,
) -> Figure:  # fmt: skip
    """Draw curves as `lines` has them, a panel for each entry of `by`: data sets, or data sets and initial sizes."""
    figure, parts = _split(rows, by, panel=size)
    for axes, entry, part in parts:
        curves(axes, part, **lines)
        title = verbatim(entry) if isinstance(entry, str) else "{}, {} initial labels".format(*entry)
        axes.set(title=title, xlabel=xlabel)
    return shared_legend(figure, figure.axes, columns=columns)


def learning_curves(rows: pd.DataFrame, *, y: str = "accuracy") -> Figure:
    """Draw `y` of the strategies against the number of labels, a panel a data set."""
    check_columns("rows", rows, ("data", "strategy", "seed", "n_labeled", y))
    lines = {"x": "n_labeled", "y": y, "by": "strategy"}
    return _lines(rows, "data", lines, xlabel="Labelled instances", columns=4, size=WIDE)


def accuracy_against_time(rows: pd.DataFrame) -> Figure:
    """Draw mean accuracy over the curve against mean time of an acquisition, a point a strategy, a panel a data set."""
    check_columns("rows", rows, ("data", "strategy", "seed", "accuracy", "query_s"))
    figure, parts = _split(rows.assign(accuracy=100 * rows["accuracy"]), "data", panel=WIDE)
    for axes, data, part in parts:
        table = mean_over_seeds(part, ["strategy"], ["accuracy", "query_s"])
        for name, x, y, half in table[["strategy", "query_s", "accuracy", "accuracy_ci"]].to_numpy().tolist():
            text, colour, marker = look(name)
            axes.errorbar(x, y, half, fmt=marker, color=colour, label=text, capsize=2)
        axes.set(title=data, xlabel=VALUES["query_s"][0], ylabel="Mean test accuracy (%)", xscale="log")
    return shared_legend(figure, figure.axes, columns=4)


def costs(rows: pd.DataFrame, *, y: str) -> Figure:
    """Draw `y` of each strategy against what was varied, a panel each, on logarithmic axes."""
    check_columns("rows", rows, ("varied", "size", "strategy", "seed", y))
    figure, parts = _split(rows, "varied", columns=2, panel=(4.2, 3.0))
    for axes, name, part in parts:
        curves(axes, part, x="size", y=y, by="strategy", band=False)
        axes.set(xlabel=TABLES["sizes"].get(name, name), xscale="log", yscale="log")
        sizes = sorted(part["size"].unique())
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    return shared_legend(figure, figure.axes, columns=4)


def shares(table: pd.DataFrame, *, expected: float) -> Figure:
    """Draw bars of the shares in percent, a panel a data set: a group of bars a strategy, in it one bar a budget.

    `table` has the index data, budget and a column a strategy; `expected` is drawn as a dashed line.
    """
    figure, parts = _split(table, "data", columns=2, panel=(5.6, 3.4))
    for axes, data, part in parts:
        width = 0.8 / len(part)
        for i, (budget, values) in enumerate(part.droplevel("data").iterrows()):
            places = np.arange(len(values)) + (i - (len(part) - 1) / 2) * width
            axes.bar(places, values, width, color=plt.get_cmap("viridis")(0.15 + 0.35 * i), label=f"{budget} budget")
        axes.axhline(expected, color="black", linestyle="--", linewidth=0.8, label="if all were equally good")
        axes.set(title=data, ylabel="Share of the bought batches (%)")
        axes.set_xticks(range(part.shape[1]), map(short_label, part.columns), rotation=40, ha="right")
    return shared_legend(figure, figure.axes, columns=4)


def ablation(sources: Mapping[str, pd.DataFrame], *, x: str, label: str, log: bool = True) -> Figure:
    """Draw mean accuracy over the curve against `x`, with 95 % intervals, a panel a data set of each source."""
    rows = pd.concat([rows.assign(panel=rows["data"] + f", {source}") for source, rows in sources.items()])
    figure, parts = _split(rows, "panel")
    for axes, title, part in parts:
        table = mean_over_seeds(part, [x], ["accuracy"]).sort_values(x)
        half = 100 * table["accuracy_ci"].fillna(0)
        axes.errorbar(table[x], 100 * table["accuracy"], half, color=BLUE, marker="o", capsize=2)
        axes.set(title=title, xlabel=label, ylabel="Mean test accuracy (%)")
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(table[x], [f"{value:,}" for value in table[x]])
    return figure


def updating_study(rows: pd.DataFrame, *, y: str, band: bool = True) -> Figure:
    """Draw `y` of each method against the number of new samples, a panel a data set and initial size."""
    lines = {"x": "n_new", "y": y, "by": "method", "band": band}
    return _lines(rows, ["data", "initial_size"], lines, xlabel="New samples", columns=5)


def step_sizes(rows: pd.DataFrame, *, base: pd.DataFrame, retraining: pd.DataFrame) -> Figure:
    """Draw accuracy of the second-order update for each gamma, between what base and retraining reach."""
    names = {gamma: f"γ = {gamma:g}" for gamma in sorted(rows["gamma"].unique())}
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(names)))
    looks = {name: (name, colour, "s") for name, colour in zip(names.values(), colours, strict=True)}
    looks |= {"base": ("Base", GREY, ""), "retraining": ("Retraining", RED, "")}
    rows = pd.concat([rows.assign(method=rows["gamma"].map(names)), base, retraining])
    lines = {"x": "n_new", "y": "accuracy", "by": "method", "band": False, "looks": looks.__getitem__}
    return _lines(rows, ["data", "initial_size"], lines, xlabel="New samples", columns=4)


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


def batches(rows: pd.DataFrame) -> Figure:
    """Draw learning curves of each kind of `batch`, a panel for each data set and strategy."""
    check_columns("rows", rows, ("data", "strategy", "batch", "seed", "n_labeled", "accuracy"))
    figure, parts = _split(rows, ["data", "strategy"], columns=min(4, rows["strategy"].nunique()))
    for axes, (data, strategy), part in parts:
        curves(axes, part, x="n_labeled", y="accuracy", by="batch")
        axes.set(title=f"{look(strategy)[0]}, {verbatim(data)}", xlabel="Labelled instances")
    return shared_legend(figure, figure.axes)


def gradient_steps(rows: pd.DataFrame, levels: pd.DataFrame) -> Figure:
    """Draw the gain by the number of gradient steps, a line a method, and the mean gain of `levels` as dashed lines."""
    place = ["data", "initial_size"]
    figure, parts = _split(rows, place)
    for axes, entry, part in parts:
        curves(axes, part, x="steps", y="gain", by="method")
        beside = levels[(levels[place] == entry).all(axis=1)]
        for method, gain in beside.groupby("method", sort=False)["gain"].mean().items():
            text, colour, _ = look(str(method))
            axes.axhline(100 * gain, color=colour, linestyle="--", label=text)
        ticks = sorted(part["steps"].unique())
        axes.set(title=verbatim("{}, {} initial labels".format(*entry)), xlabel="Gradient steps", xscale="log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    return shared_legend(figure, figure.axes, columns=3)
