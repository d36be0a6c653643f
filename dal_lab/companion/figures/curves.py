"""The figures of the notebooks. Each takes tidy rows and returns a matplotlib figure; nothing is computed here."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from dal_core.checks import check_columns
from dal_lab.companion.figures.style import BLUE, CLASS_COLOURS, CLASS_MARKERS, GREY, RED, look, verbatim
from dal_lab.companion.statistics import mean_over_seeds

PANEL = (3.4, 2.7)  # inches
VALUE_LABELS = {
    "accuracy": "Test accuracy (%)",
    "gain": "Gain over base (points)",
    "difference": "Difference to random (points)",
    "nll": "Test NLL (nats)",
    "flips": "Decision flips (%)",
    "update_s": "Time of an update (ms)",
    "speedup": "Speed-up (times)",
    "query_s": "Time of an acquisition (s)",
    "peak_bytes": "Memory beside the features (MB)",
}
SIZES = {"N": "Pool size N", "D": "Features D", "K": "Classes K", "b": "Batch size b"}
SCALES = {
    "accuracy": 100.0, "gain": 100.0, "difference": 100.0, "flips": 100.0, "update_s": 1000.0, "peak_bytes": 1e-6,
}  # fmt: skip


def panels(count: int, *, columns: int = 3, panel: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `columns` in a row."""
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
    """A line of `y` (mean over seeds) against `x` for each entry of the column `by`, with 95 % confidence bands.

    Lines are drawn in the order in which their names first appear.
    """
    scale = SCALES.get(y, 1.0)
    table = mean_over_seeds(rows, [by, x], [y])
    for name in rows[by].drop_duplicates():
        line = table[table[by] == name].sort_values(x)
        label, colour, marker = looks(name)
        mean, half = line[y].to_numpy() * scale, line[f"{y}_ci"].to_numpy() * scale
        every = max(1, len(line) // 10)
        axes.plot(line[x], mean, color=colour, marker=marker, markevery=every, label=label)
        if band and np.isfinite(half).all():
            axes.fill_between(line[x], mean - half, mean + half, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylabel(VALUE_LABELS.get(y, y))


def shared_legend(figure: Figure, axes: Sequence[Axes], *, columns: int = 5) -> None:
    """One legend below all panels; a single panel is too narrow for more than two columns."""
    columns = columns if len(axes) > 1 else 2
    handles: dict[str, Artist] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(columns, len(handles)))


def learning_curves(rows: pd.DataFrame, *, y: str = "accuracy") -> Figure:
    """`y` of the strategies against the number of labels, a panel a data set."""
    check_columns("rows", rows, ("data", "strategy", "seed", "n_labeled", y))
    data = list(rows["data"].drop_duplicates())
    figure, axes = panels(len(data), panel=(4.6, 3.4))
    for each, name in zip(axes, data, strict=True):
        curves(each, rows[rows["data"] == name], x="n_labeled", y=y, by="strategy")
        each.set(title=verbatim(name), xlabel="Labelled instances")
    shared_legend(figure, axes, columns=4)
    return figure


def accuracy_against_time(rows: pd.DataFrame) -> Figure:
    """Mean accuracy over the curve against the mean time of an acquisition, a point a strategy, a panel a data set."""
    check_columns("rows", rows, ("data", "strategy", "seed", "accuracy", "query_s"))
    data = list(rows["data"].drop_duplicates())
    figure, axes = panels(len(data), panel=(4.6, 3.4))
    for each, title in zip(axes, data, strict=True):
        part = rows[rows["data"] == title]
        part = part.assign(accuracy=100 * part["accuracy"])
        table = mean_over_seeds(part, ["strategy"], ["accuracy", "query_s"])
        for name, x, y, half in table[["strategy", "query_s", "accuracy", "accuracy_ci"]].to_numpy().tolist():
            text, colour, marker = look(name)
            each.errorbar(x, y, half, fmt=marker, color=colour, label=text, capsize=2)
        each.set(title=title, xlabel=VALUE_LABELS["query_s"], ylabel="Mean test accuracy (%)", xscale="log")
    shared_legend(figure, axes, columns=4)
    return figure


def costs(rows: pd.DataFrame, *, y: str) -> Figure:
    """`y` of each strategy against what was varied, a panel each, on logarithmic axes."""
    check_columns("rows", rows, ("varied", "size", "strategy", "seed", y))
    varied = list(rows["varied"].drop_duplicates())
    figure, axes = panels(len(varied), columns=2, panel=(4.2, 3.0))
    for each, name in zip(axes, varied, strict=True):
        curves(each, rows[rows["varied"] == name], x="size", y=y, by="strategy", band=False)
        for line in each.lines:
            line.set_markevery(1)
        each.set(xlabel=SIZES.get(name, name), xscale="log", yscale="log")
        sizes = sorted(rows.loc[rows["varied"] == name, "size"].unique())
        each.set_xticks(sizes, [f"{size:,}" for size in sizes])
        each.xaxis.set_minor_locator(NullLocator())
        each.yaxis.set_minor_formatter(NullFormatter())
    shared_legend(figure, axes, columns=4)
    return figure


def shares(table: pd.DataFrame, *, expected: float) -> Figure:
    """Bars of the shares in percent, a panel a data set: a group of bars a strategy, in it one bar a budget.

    `table` has the index data, budget and a column a strategy; `expected` is drawn as a dashed line.
    """
    data = list(table.index.get_level_values("data").unique())
    figure, axes = panels(len(data), columns=2, panel=(5.6, 3.4))
    for each, name in zip(axes, data, strict=True):
        part = table.loc[name]
        width = 0.8 / len(part)
        for i, (budget, values) in enumerate(part.iterrows()):
            places = np.arange(len(values)) + (i - (len(part) - 1) / 2) * width
            each.bar(places, values, width, color=plt.get_cmap("viridis")(0.15 + 0.35 * i), label=f"{budget} budget")
        each.axhline(expected, color="black", linestyle="--", linewidth=0.8, label="if all were equally good")
        each.set(title=name, ylabel="Share of the bought batches (%)")
        names = [look(strategy)[0].removesuffix(" (oracle)") for strategy in part.columns]
        each.set_xticks(range(len(names)), names, rotation=40, ha="right")
    shared_legend(figure, axes, columns=4)
    return figure


def ablation(sources: Mapping[str, pd.DataFrame], *, x: str, label: str, log: bool = True) -> Figure:
    """Mean accuracy over the curve against the setting `x`, a panel a data set of each source, with 95 % intervals."""
    parts = [
        (f"{data}, {source}", part)
        for source, rows in sources.items()
        for data, part in rows.groupby("data", sort=False)
    ]  # fmt: skip
    figure, axes = panels(len(parts))
    for each, (title, part) in zip(axes, parts, strict=True):
        table = mean_over_seeds(part, [x], ["accuracy"]).sort_values(x)
        half = 100 * table["accuracy_ci"].fillna(0)
        each.errorbar(table[x], 100 * table["accuracy"], half, color=BLUE, marker="o", capsize=2)
        each.set(title=title, xlabel=label, ylabel="Mean test accuracy (%)")
        if log:
            each.set_xscale("log")
            each.xaxis.set_minor_locator(NullLocator())
        each.set_xticks(table[x], [f"{value:,}" for value in table[x]])
    return figure


def updating_study(rows: pd.DataFrame, *, y: str, band: bool = True) -> Figure:
    """`y` of each method against the number of new samples, a panel a data set and initial size."""
    settings = list(rows[["data", "initial_size"]].drop_duplicates().itertuples(index=False))
    figure, axes = panels(len(settings))
    for each, (data, initial_size) in zip(axes, settings, strict=True):
        part = rows[(rows["data"] == data) & (rows["initial_size"] == initial_size)]
        curves(each, part, x="n_new", y=y, by="method", band=band)
        each.set(title=f"{data}, {initial_size} initial labels", xlabel="New samples")
    shared_legend(figure, axes)
    return figure


def step_sizes(rows: pd.DataFrame, *, base: pd.DataFrame, retraining: pd.DataFrame) -> Figure:
    """Accuracy of the second-order update for each gamma, between what base and retraining reach."""
    settings = list(rows[["data", "initial_size"]].drop_duplicates().itertuples(index=False))
    figure, axes = panels(len(settings))
    palette = plt.get_cmap("viridis")(np.linspace(0, 0.85, rows["gamma"].nunique()))
    colours = dict(zip(sorted(rows["gamma"].unique()), palette, strict=True))
    for each, (data, initial_size) in zip(axes, settings, strict=True):

        def part(frame: pd.DataFrame, data: str = data, initial_size: int = initial_size) -> pd.DataFrame:
            return frame[(frame["data"] == data) & (frame["initial_size"] == initial_size)]

        curves(each, part(rows), x="n_new", y="accuracy", by="gamma", band=False,
               looks=lambda gamma: (f"γ = {gamma:g}", colours[gamma], "s"))  # fmt: skip
        for frame, colour, name in ((base, GREY, "Base"), (retraining, RED, "Retraining")):
            curves(each, part(frame), x="n_new", y="accuracy", by="method", band=False,
                   looks=lambda _, colour=colour, name=name: (name, colour, None))  # fmt: skip
            each.lines[-1].set_linestyle("--")
        each.set(title=f"{data}, {initial_size} initial labels", xlabel="New samples")
    shared_legend(figure, axes, columns=4)
    return figure


def decision_surface(
    axes: Axes,
    probabilities: np.ndarray,
    extent: tuple[float, float, float, float],
    *,
    title: str,
    strength: float = 0.6,
) -> None:
    """Probability of the predicted class over the plane, shaded, with the decision boundary.

    `probabilities` [rows, columns, k] on a regular grid over `extent` (left, right, bottom, top); `strength` is that of
    the shades, 0 to 1.
    """
    confidence, predicted = probabilities.max(axis=-1), probabilities.argmax(axis=-1)
    shades = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in CLASS_COLOURS])
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
    """Labelled instances in the plane, marked by class; new ones are large, with a red rim."""
    for k in np.unique(labels):
        chosen = positions[labels == k]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=55 if new else 20, color=CLASS_COLOURS[k], marker=CLASS_MARKERS[k],
            edgecolor=RED if new else "black", linewidth=1.8 if new else 0.6, zorder=3 + new,
        )  # fmt: skip
