"""Maps of a pool in the plane: what the head predicts, what is labelled, what a strategy saw in the rest and picked.

Axes: n unlabelled, m labelled, b batch, k classes.
"""

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core.data import FeatureBank
from dal_core.models.heads import Head
from dal_core.randomness import fixed_threads
from dal_lab.companion.figures import curves as draw
from dal_lab.companion.figures.style import CLASS_COLOURS, CLASS_MARKERS, RED
from dal_lab.sources import catalogue

SIDE = 100  # points of the grid on which a head is drawn
MARGIN = 0.2  # around the data
TINT = 0.35  # of the decision surface, so that grey dots can be told apart on it
# Hues belong to the classes; what a strategy looks at is light to dark.
GREYS = LinearSegmentedColormap.from_list("light to dark", plt.get_cmap("Greys")(np.linspace(0.25, 1, 128)))
PLAIN, RIM = "#8C8C8C", "#333333"


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """Data in the plane, and a grid over them."""

    bank: FeatureBank
    extent: tuple[float, float, float, float]  # left, right, bottom, top
    grid: Float[Tensor, "rows columns 2"]

    @classmethod
    def of(cls, dataset: str) -> "Ground":
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

    def accuracy(self, head: Head) -> float:
        """Share of the test split that a head predicts right, in percent."""
        with fixed_threads():
            predicted = head.logits(self.bank.test_features).argmax(dim=1)
        return 100 * float((predicted == self.bank.test_labels).double().mean())

    def places(self, positions: Int[Tensor, " p"]) -> np.ndarray:
        """Where instances of the train split lie.  [p, 2]"""
        return self.bank.train_features[positions].numpy()


def surface(axes: Axes, ground: Ground, head: Head, labelled: Int[Tensor, " m"], title: str) -> None:
    """The decision surface of a head, and the labelled instances, marked by class."""
    shape = ground.grid.shape[:2]
    probabilities = head.logits(ground.grid.reshape(-1, 2)).softmax(dim=-1).view(*shape, -1).numpy()
    draw.decision_surface(axes, probabilities, ground.extent, title=title, strength=TINT)
    draw.points(axes, ground.places(labelled), ground.bank.train_labels[labelled].numpy())
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB")


def pool(
    axes: Axes,
    ground: Ground,
    visible: Int[Tensor, " n"],
    scores: Float[Tensor, " n"] | None,
    *,
    size: float = 9,
    norm: Normalize | None = None,
    rim: float = 0,
) -> None:
    """The unlabelled instances as dots, the darker the higher their score; of one grey without scores.

    `norm` says what is light and what dark; without it that is the lowest and the highest score. `rim` is the width of
    a dark edge, for dots that have to be told from others.
    """
    places = ground.places(visible)
    if scores is None:
        axes.scatter(places[:, 0], places[:, 1], s=size, color=PLAIN, linewidth=0, zorder=2)
        return
    order = scores.argsort().numpy()  # the dark ones on top
    axes.scatter(
        places[order, 0], places[order, 1], s=size, c=scores.numpy()[order], cmap=GREYS, norm=norm or scale(scores),
        linewidth=rim, edgecolor=RIM, zorder=2,
    )  # fmt: skip


def scale(scores: Float[Tensor, " n"]) -> Normalize:
    """From the lowest to the highest score."""
    return Normalize(float(scores.min()), float(scores.max()))


def picks(axes: Axes, ground: Ground, picked: Int[Tensor, " b"], *, numbers: bool = False, size: float = 75) -> None:
    """Rings around what was picked, with the order of picking if `numbers`."""
    places = ground.places(picked)
    axes.scatter(
        places[:, 0], places[:, 1], s=size, facecolor="none", edgecolor=RED, linewidth=1.8, zorder=6
    )  # fmt: skip
    for i, place in enumerate(places if numbers else ()):
        axes.annotate(
            str(i + 1), place, (6, 5), textcoords="offset points", fontsize=8, color=RED, weight="bold", zorder=7,
            annotation_clip=True,
        )  # fmt: skip


def entries(num_classes: int, *, picked: str = "picked now", pool: str = "unlabelled") -> list[Artist]:
    """What the marks on a map stand for, for a legend; an empty text leaves an entry out."""
    marks = [
        Line2D([], [], linestyle="", marker=CLASS_MARKERS[k], color=CLASS_COLOURS[k], markeredgecolor="black",
               markersize=5, label=f"labelled, class {k}")
        for k in range(num_classes)
    ]  # fmt: skip
    if pool:
        marks.append(Line2D([], [], linestyle="", marker="o", color=PLAIN, markersize=3.5, label=pool))
    if picked:
        marks.append(
            Line2D([], [], linestyle="", marker="o", markerfacecolor="none", markeredgecolor=RED, markeredgewidth=1.8,
                   markersize=8, label=picked)
        )  # fmt: skip
    return [*marks, Line2D([], [], color="black", linewidth=1, label="decision boundary")]


def legend(figure: Figure, handles: Sequence[Artist], *, columns: int = 4) -> None:
    """One legend below all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def bar(figure: Figure, axes: Axes | Sequence[Axes], scores: Tensor | None, label: str) -> None:
    """What light and dark mean; without scores from low to high."""
    norm = Normalize(0, 1) if scores is None else scale(scores)
    shown = figure.colorbar(
        ScalarMappable(norm, GREYS), ax=axes, label=label, shrink=0.85 if scores is not None else 0.4, pad=0.01,
        aspect=30,
    )  # fmt: skip
    if scores is None:
        shown.set_ticks([0, 1], labels=["low", "high"])
    shown.outline.set_visible(False)
