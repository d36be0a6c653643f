"""A dozen points in the plane, to see what a method does with each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dal_lab.companion.figures.curves import panels
from dal_lab.companion.figures.style import CLASS_COLOURS, CLASS_MARKERS, RED


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
