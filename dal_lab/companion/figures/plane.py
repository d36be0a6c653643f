"""A dozen points in the plane, to see what a method does with each of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dal_core.snapshot import Truth
from dal_lab.companion.figures import curves
from dal_lab.companion.figures.curves import decision_surface, panels
from dal_lab.companion.figures.style import CLASS_COLOURS, CLASS_MARKERS, GREY, RED


def few_points(
    pictures: Mapping[str, tuple[Any, Sequence[int]]], positions: Any, labelled: Any, labels: Any,
    *, columns: int = 4, limits: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Draw `positions` [n, 2] once for each entry {title: (values, picks)}: dark where values are high, picks ringed.

    `values` may be None: then all points are alike; NaN are dots, no longer in the pool. `limits` are the lightest and
    the darkest value; None: those of each picture. Labelled instances [m, 2] are marked by their class [m]. Picks have
    their place in the order of picking beside them.
    """
    figure, axes = panels(len(pictures), columns=columns, panel=(2.6, 2.5))
    positions, labelled, labels = np.asarray(positions), np.asarray(labelled), np.asarray(labels)
    for panel, (title, (values, picks)) in zip(axes, pictures.items(), strict=True):
        shades = np.full(len(positions), 0.3) if values is None else np.asarray(values, dtype=float)
        low, high = limits or (np.nanmin(shades), np.nanmax(shades))
        gone = np.isnan(shades)
        shades = 0.15 + 0.75 * (shades - low) / (high - low) if high > low else np.full(len(positions), 0.3)
        panel.scatter(
            positions[:, 0],
            positions[:, 1],
            s=np.where(gone, 6, 70),
            c=np.where(gone, 0.5, 1 - shades),
            cmap="gray",
            vmin=0,
            vmax=1,
            edgecolor="black",
            linewidth=0.6,
        )
        for place, pick in enumerate(picks, 1):
            panel.scatter(positions[pick, 0], positions[pick, 1], s=190, facecolor="none", edgecolor=RED, linewidth=1.8)
            panel.annotate(str(place), positions[pick], xytext=(7, 7), textcoords="offset points", color=RED)
        for k in np.unique(labels):
            own = labelled[labels == k]
            panel.scatter(
                own[:, 0], own[:, 1], s=60, color=CLASS_COLOURS[k], marker=CLASS_MARKERS[k], edgecolor="black", zorder=3
            )
        panel.set(title=title, xticks=[], yticks=[])
        panel.margins(0.18)
        panel.grid(visible=False)
    return figure


def points_left(
    rounds: Sequence[Any], values: Any, batch: Sequence[int], positions: Any, labelled: Any, labels: Any
) -> Figure:
    """Draw `positions` [n, 2] as `few_points` does: all, what each of `rounds` leaves of them, `batch` in the last."""
    values = np.asarray(values, dtype=float)
    pictures: dict[str, tuple[Any, Sequence[int]]] = {f"all {len(values)}": (values, [])}
    for number, left in enumerate(rounds, 1):
        shades = np.where(np.isin(np.arange(len(values)), left), values, np.nan)
        pictures[f"after round {number}: {len(left)} left"] = shades, batch if number == len(rounds) else []
    return few_points(pictures, positions, labelled, labels, limits=(values.min(), values.max()))


def surfaces(
    pictures: Mapping[str, tuple[Callable[[Tensor], Tensor], int]], points: Tensor, labels: Tensor,
    posteriors: Sequence[tuple[Tensor, Tensor]] = (),
) -> Figure:  # fmt: skip
    """Draw decision surfaces, a panel for each entry {title: (logits of points [n, 2], how many labels it knows)}.

    The first so many of `points` with their `labels` are labelled; those that the first entry does not know are large,
    the others hollow. `posteriors`, means [2] and covariances [2, 2] of a class's weights, have a panel of their own.
    """
    count = len(pictures) + bool(posteriors)
    figure, axes = panels(count, columns=5, panel=(2.7 if count > 3 else 3.3, 3.1))
    low, high = points.amin(dim=0), points.amax(dim=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    x, y = (torch.linspace(float(low[i]), float(high[i]), 160, dtype=points.dtype) for i in (0, 1))
    plane = torch.cartesian_prod(y, x).flip(1)
    old = next(iter(pictures.values()))[1]
    for panel, (title, (logits, known)) in zip(axes, pictures.items(), strict=False):
        probabilities = logits(plane).softmax(dim=-1).view(160, 160, -1).numpy()
        decision_surface(panel, probabilities, (*x[[0, -1]].tolist(), *y[[0, -1]].tolist()), title=title)
        x_rest, y_rest = points[known:].T.numpy()
        panel.scatter(x_rest, y_rest, s=20, facecolor="none", edgecolor="black", linewidth=0.8)
        for part, new in ((slice(old), False), (slice(old, known), True)):
            curves.points(panel, points[part].numpy(), labels[part].numpy(), new=new)
    if posteriors:
        _ellipses(axes[-1], posteriors)
    return figure


def _ellipses(axes: Axes, posteriors: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Draw one standard deviation of normal distributions around their means, numbered from 0 in their order."""
    turns = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
    circle = torch.stack((turns.cos(), turns.sin()))
    for i, (mean, covariance) in enumerate(posteriors):
        colour = plt.get_cmap("viridis")(0.85 * i / max(1, len(posteriors) - 1))
        axes.plot(*(mean[:, None] + torch.linalg.cholesky(covariance) @ circle).numpy(), color=colour)
        axes.annotate(str(i), (float(mean[0]), float(mean[1])), color=colour, ha="center", va="center", weight="bold")
    axes.set(title="Posterior of class 1", xlabel="Weight of feature 1", ylabel="Weight of feature 2")
    axes.grid(visible=False)


def few_heads(
    heads: Mapping[str, tuple[Any, Any, Sequence[int]]], snapshot: Truth, *, marked: int | None = None, columns: int = 4
) -> Figure:
    """Draw what linear heads decide in the plane, a panel for each entry {title: (weight, bias, picks)}.

    Large points are labelled, by class; picks have a red rim and show their class, other unlabelled instances are
    hollow; small dots are test instances in the colour of their class. The panel `marked` has a red frame.
    """
    figure, axes = panels(len(heads), columns=columns, panel=(2.6, 2.5))
    assert snapshot.test is not None
    held, positions, classes = snapshot.test.inputs().numpy(), snapshot.features.numpy(), snapshot.hidden_labels.numpy()
    known = snapshot.labelled_features.numpy()
    everything = np.concatenate([positions, held, known])
    (left, bottom), (right, top) = everything.min(axis=0) - 0.4, everything.max(axis=0) + 0.4
    grid = np.stack(np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200)), axis=-1)
    for i, (panel, (title, (weight, bias, picks))) in enumerate(zip(axes, heads.items(), strict=True)):
        odds = np.exp(grid @ np.asarray(weight).T + np.asarray(bias))
        shares, extent = odds / odds.sum(axis=-1, keepdims=True), (left, right, bottom, top)
        decision_surface(panel, shares, extent, title=title, strength=0.35)
        panel.scatter(held[:, 0], held[:, 1], s=6, color=[CLASS_COLOURS[k] for k in snapshot.test.labels], linewidth=0)
        panel.scatter(positions[:, 0], positions[:, 1], s=26, facecolor="white", edgecolor=GREY, linewidth=1)
        curves.points(panel, known, snapshot.labels.numpy())
        curves.points(panel, positions[list(picks)], classes[list(picks)], new=True)
        panel.set(xticks=[], yticks=[], xlabel="", ylabel="")
        if i == marked:
            panel.title.set(color=RED, fontweight="bold")
            for spine in panel.spines.values():
                spine.set(color=RED, linewidth=2, visible=True)
    return figure
