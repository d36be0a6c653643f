"""A dozen points in the plane, to see what a method does with each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dal_core.snapshot import Truth
from dal_lab.companion.figures.curves import decision_surface, panels, points
from dal_lab.companion.figures.style import CLASS_COLOURS, CLASS_MARKERS, GREY, RED


def few_points(
    pictures: Mapping[str, tuple[Any, Sequence[int]]], positions: Any, labelled: Any, labels: Any, *, columns: int = 4
) -> Figure:
    """Draw `positions` [n, 2] once for each entry {title: (values, picks)}: dark where values are high, picks ringed.

    `values` may be None: then all points are alike. Labelled instances [m, 2] are marked by their class [m]. Picks have
    their place in the order of picking beside them.
    """
    figure, axes = panels(len(pictures), columns=columns, panel=(2.6, 2.5))
    positions, labelled, labels = np.asarray(positions), np.asarray(labelled), np.asarray(labels)
    for panel, (title, (values, picks)) in zip(axes, pictures.items(), strict=True):
        shades = np.full(len(positions), 0.3) if values is None else np.asarray(values, dtype=float)
        low, high = shades.min(), shades.max()
        shades = 0.15 + 0.75 * (shades - low) / (high - low) if high > low else np.full(len(positions), 0.3)
        panel.scatter(
            positions[:, 0],
            positions[:, 1],
            s=70,
            c=1 - shades,
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
        points(panel, known, snapshot.labels.numpy())
        points(panel, positions[list(picks)], classes[list(picks)], new=True)
        panel.set(xticks=[], yticks=[], xlabel="", ylabel="")
        if i == marked:
            panel.title.set(color=RED, fontweight="bold")
            for spine in panel.spines.values():
                spine.set(color=RED, linewidth=2, visible=True)
    return figure
