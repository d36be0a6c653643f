"""Maps of a pool in the plane: what the head predicts, what is labelled, what a strategy saw in the rest and picked.

Axes: n unlabelled, m labelled, b batch, k classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core.context import Question
from dal_core.data import FeatureBank
from dal_core.experiment import Experiment
from dal_core.models.heads import Head
from dal_core.parallel import fixed_threads
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.style import BLACK, CLASS_COLOURS, CLASS_MARKERS, RED
from dal_lab.sources import catalogue

SIDE = 100  # points of the grid on which a head is drawn
MARGIN = 0.2  # around the data
TINT = 0.35  # strength of the decision surface, so that grey dots can be told apart on it
# Hues belong to the classes; what a strategy looks at is light to dark.
GREYS = LinearSegmentedColormap.from_list("light to dark", plt.get_cmap("Greys")(np.linspace(0.25, 1, 128)))
PLAIN, RIM, GONE = "#8C8C8C", "#333333", "#C9C9C9"


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
    """Data in the plane, and a grid over them."""

    bank: FeatureBank
    extent: tuple[float, float, float, float]  # left, right, bottom, top
    grid: Float[Tensor, "rows columns 2"]

    @classmethod
    def of(cls, dataset: str) -> "Plane":
        """The data set `dataset`.

        Raises:
            ValueError: unless its instances have two features.
        """
        bank = catalogue.load(dataset)
        if bank.num_features != 2:
            raise ValueError(f"dataset {dataset!r} has {bank.num_features} features; 2 were expected, for a map")
        lower, upper = bank.train_features.amin(dim=0) - MARGIN, bank.train_features.amax(dim=0) + MARGIN
        axes = [torch.linspace(float(lower[i]), float(upper[i]), SIDE) for i in (0, 1)]
        grid = torch.cartesian_prod(*axes).view(SIDE, SIDE, 2).transpose(0, 1).to(bank.train_features.dtype)
        return cls(bank, (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1])), grid)

    def predicted(self, head: Head) -> Int[Tensor, " t"]:
        """What a head makes of the test split."""
        with fixed_threads():
            return head.logits(self.bank.test_features).argmax(dim=1)

    def accuracy(self, head: Head) -> float:
        """Share of the test split that a head predicts right, in percent."""
        return 100 * float((self.predicted(head) == self.bank.test_labels).double().mean())

    def correct(self, head: Head) -> str:
        """The accuracy in words."""
        return f"{self.accuracy(head):.1f} %"

    def places(self, positions: Int[Tensor, " p"]) -> np.ndarray:
        """Where instances of the train split lie.  [p, 2]"""
        return self.bank.train_features[positions].numpy()


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A step of a run in the plane, to be drawn and explained; each kind has `draw()` and `reason` of its own."""

    plane: Plane
    experiment: Experiment
    step: Question

    @property
    def labelled(self) -> Int[Tensor, " m"]:
        """Positions in the train split, in the order of buying."""
        return self.step.snapshot.labelled

    @property
    def labels(self) -> str:
        return f"{len(self.labelled)} labels"

    @property
    def correct(self) -> str:
        return self.plane.correct(self.step.head)

    @property
    def where(self) -> str:
        return f"cycle {self.step.context.cycle}, {self.labels}"

    def map(
        self, axes: Axes, title: str, scores: Float[Tensor, " n"] | None, *, size: float,
        rings: Int[Tensor, " b"] | None = None, numbers: bool = False, crosses: Int[Tensor, " b"] | None = None,
        left: Int[Tensor, " p"] | None = None,
    ) -> None:  # fmt: skip
        """Draw the head, and the unlabelled instances as dots of `size`, the darker the higher their score.

        Without scores all dots are of one grey. `rings` are what was picked, with the order of picking if `numbers`,
        and `crosses` what else could have been. Of a filtered pool `left` are the positions among the unlabelled
        instances: these dots get a rim, and the others are small and light.
        """
        surface(axes, self.plane, self.step.head, self.labelled, title)
        places = self.plane.places(self.step.snapshot.instances)  # [n, 2]
        shown = np.arange(len(places)) if left is None else left.numpy()
        if left is not None:
            _dots(axes, np.delete(places, shown, axis=0), s=size / 4, color=GONE, linewidth=0, zorder=2)
        if scores is None:
            _dots(axes, places[shown], s=size, color=PLAIN, linewidth=0, zorder=2)
        else:
            shown = shown[scores.numpy()[shown].argsort(kind="stable")]  # the dark ones on top
            _dots(
                axes, places[shown], s=size, c=scores.numpy()[shown], cmap=GREYS, norm=_scale(scores),
                linewidth=0 if left is None else 0.5, edgecolor=RIM, zorder=2,
            )  # fmt: skip
        if crosses is not None:
            _dots(axes, self.plane.places(crosses), s=4 * size, marker="x", color=BLACK, linewidth=1.3, zorder=5)
        if rings is not None:
            ring(axes, self.plane, rings, size=6 * size, numbers=numbers)


def surface(axes: Axes, plane: Plane, head: Head, labelled: Int[Tensor, " m"], title: str) -> None:
    """Draw the decision surface of a head, and the labelled instances, marked by class."""
    probabilities = head.logits(plane.grid.reshape(-1, 2)).softmax(dim=-1).view(SIDE, SIDE, -1).numpy()
    draw.decision_surface(axes, probabilities, plane.extent, title=title, strength=TINT)
    draw.points(axes, plane.places(labelled), plane.bank.train_labels[labelled].numpy())
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB")


def ring(axes: Axes, plane: Plane, picked: Int[Tensor, " b"], *, size: float, numbers: bool = False) -> None:
    """Draw rings around what was picked, with the order of picking if `numbers`."""
    places = plane.places(picked)
    _dots(axes, places, s=size, facecolor="none", edgecolor=RED, linewidth=1.8, zorder=6)
    for i, place in enumerate(places if numbers else ()):
        axes.annotate(
            str(i + 1), place, (6, 5), textcoords="offset points", fontsize=8, color=RED, weight="bold", zorder=7,
            annotation_clip=True,
        )  # fmt: skip


def _dots(axes: Axes, places: np.ndarray, **look: Any) -> None:
    axes.scatter(places[:, 0], places[:, 1], **look)


def mark(marker: str, colour: str, size: float, label: str, **more: Any) -> Line2D:
    """An entry of a legend: a marker without a line."""
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=size, label=label, **more)


def grid(rows: Mapping[str, Sequence[Callable[[Axes], None]]], height: float, labelsize: int = 9) -> Figure:
    """A figure with a row of small maps for each entry, by the label at its left; each function draws a map."""
    columns = len(next(iter(rows.values())))
    figure, panels = plt.subplots(len(rows), columns, figsize=(2.5 * columns, height * len(rows)), squeeze=False)
    for row, (label, maps) in zip(panels, rows.items(), strict=True):
        for axes, draw_map in zip(row, maps, strict=True):
            draw_map(axes)
            axes.title.set_fontsize(9)
        row[0].set_ylabel(label, fontsize=labelsize)
    return figure


def legend(
    figure: Figure, plane: Plane, *more: Line2D, picked: str = "picked now", pool: str = "unlabelled", columns: int = 4
) -> Figure:
    """The figure with one legend below all panels: what the marks on a map stand for, and `more`."""
    handles = [
        mark(CLASS_MARKERS[k], CLASS_COLOURS[k], 5, f"labelled, class {k}", markeredgecolor="black")
        for k in range(plane.bank.num_classes)
    ]
    handles += [
        mark("o", PLAIN, 3.5, pool),
        mark("o", RED, 8, picked, markerfacecolor="none", markeredgewidth=1.8),
        Line2D([], [], color="black", linewidth=1, label="decision boundary"),
        *more,
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
    figure.set_label("One run with one seed; a dot is an instance of the pool.")
    return figure


def bar(figure: Figure, axes: Axes | Sequence[Axes], scores: Tensor | None, label: str) -> None:
    """Draw what light and dark mean; without scores from low to high."""
    norm, shrink = (Normalize(0, 1), 0.4) if scores is None else (_scale(scores), 0.85)
    shown = figure.colorbar(ScalarMappable(norm, GREYS), ax=axes, label=label, shrink=shrink, pad=0.01, aspect=30)
    if scores is None:
        shown.set_ticks([0, 1], labels=["low", "high"])
    shown.outline.set_visible(False)


def _scale(scores: Float[Tensor, " n"]) -> Normalize:
    """From the lowest to the highest score."""
    return Normalize(float(scores.min()), float(scores.max()))
