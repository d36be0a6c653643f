"""The candidate batches of BoSS: who proposed them, what each would lead to, and which one was bought.

Axes: t candidates, b batch, n unlabelled.
"""

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core.context import Question
from dal_core.experiment import Experiment
from dal_core.oracles.boss import STRATEGIES
from dal_lab.companion.explorer import maps
from dal_lab.companion.figures.style import BLACK, GREY, RED, label, short_label
from dal_lab.runs.study import walk


@dataclasses.dataclass(frozen=True, eq=False)
class Choice(maps.View):
    """The candidates of a cycle; losses are in percent of the test split."""

    batches: Int[Tensor, "t b"]  # positions in the train split
    suppliers: list[str]
    losses: Float[Tensor, " t"]
    loss_before: float
    bought: int  # which candidate
    order: Sequence[str]  # of the strategies that supply

    @property
    def worst(self) -> int:
        """The candidate with the largest loss; the first of several."""
        return int(self.losses.argmax())

    @property
    def proposals(self) -> Float[Tensor, " n"]:
        """How many candidate batches hold each of the unlabelled instances."""
        return (self.step.snapshot.instances.unsqueeze(1) == self.batches.flatten()).sum(dim=1).double()

    @property
    def reason(self) -> str:
        losses, best = self.losses, float(self.losses[self.bought])
        better, equal = int((losses < self.loss_before).sum()), int((losses == best).sum())
        chance = "" if equal == 1 else f" {equal} candidates are equally good, and chance decides between them."
        return (
            f"{better} of {len(losses)} candidate batches {'lowers' if better == 1 else 'lower'} the test error, "
            f"{self.loss_before:.1f} % before. Bought is one from {label(self.suppliers[self.bought])}, with "
            f"{best:.1f} %; the worst, from {label(self.suppliers[self.worst])}, leads to "
            f"{float(losses[self.worst]):.1f} %.{chance}"
        )

    def draw(self) -> Figure:
        """Where the candidates are, and the test error that each would lead to."""
        figure, panels = plt.subplots(1, 2, figsize=(9.8, 4.2), width_ratios=(1.6, 1))
        self.draw_map(panels[0], f"{self.labels}: {self.correct} of the test split correct", size=16)
        maps.bar(figure, panels[0], self.proposals, "candidate batches that hold it")
        self.draw_strip(panels[1], names=True)
        return _legend(figure, self)

    def draw_map(self, axes: Axes, title: str, *, size: float = 7) -> None:
        """Draw where the candidates are, with the bought one and the worst one."""
        worst = self.batches[self.worst]
        self.map(axes, title, self.proposals, size=size, rings=self.step.instances, crosses=worst)

    def draw_strip(self, axes: Axes, *, names: bool) -> None:
        """Draw the test error after each candidate, a line a strategy; several of one error beside each other."""
        heights = np.array([float(self.order.index(name)) for name in self.suppliers])
        losses, lines = self.losses.numpy(), range(len(self.order))
        for line in lines:
            own = np.flatnonzero(heights == line)
            heights[own] += np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else 0
        axes.scatter(losses, heights, s=16, color=GREY, linewidth=0, zorder=2)
        for which, marker, colour, size in ((self.worst, "x", BLACK, 40), (self.bought, "*", RED, 110)):
            axes.scatter(losses[which], heights[which], s=size, marker=marker, color=colour, zorder=3)
        axes.axvline(self.loss_before, color="black", linestyle="--", linewidth=0.9)
        axes.set_yticks(lines if names else [], [short_label(name) for name in self.order] if names else [])
        axes.margins(x=0.1)
        axes.set(ylim=(len(self.order) - 0.5, -0.5), xlabel="test error after the batch (%)")


def views(experiment: Experiment) -> list[Choice]:
    """A view of each cycle of a run of BoSS that judges by the zero-one loss.

    Raises:
        ValueError: for another strategy or another loss.
    """
    strategy = experiment.strategy
    if strategy.name != "boss" or strategy.options.get("loss", "zero_one") != "zero_one":
        raise ValueError(f"strategy is {strategy}; 'boss' with the zero-one loss was expected")
    plane = maps.Plane.of(experiment.data)
    return [_choice(plane, experiment, step) for step in walk(experiment)]


def _choice(plane: maps.Plane, experiment: Experiment, step: Question) -> Choice:
    candidates, record = step.context.trace["candidates"], step.context.record
    bought = int((candidates.batches == step.picked).all(dim=1).nonzero()[0])
    losses, before = 100 * torch.tensor(record["losses"], dtype=torch.float64), 100 * record["loss_before"]
    batches = step.snapshot.instances[candidates.batches]
    order = list(experiment.strategy.options.get("strategies", STRATEGIES))
    return Choice(plane, experiment, step, batches, candidates.strategies, losses, before, bought, order)


def figure(found: Sequence[Choice], cycles: Sequence[int]) -> Figure:
    """Maps of some cycles, and below each the test errors of its candidates."""
    size = {"figsize": (2.6 * len(cycles), 5.0), "height_ratios": (1, 1.15)}
    figure, grid = plt.subplots(2, len(cycles), squeeze=False, **size)
    for column, cycle in enumerate(cycles):
        found[cycle].draw_map(grid[0, column], found[cycle].labels)
        found[cycle].draw_strip(grid[1, column], names=column == 0)
    return _legend(figure, found[0])


def summary(found: Sequence[Choice]) -> str:
    """The reasons of all cycles, as Markdown."""
    return "\n".join(f"- {each.labels}: {each.reason}" for each in found)


def _legend(figure: Figure, choice: Choice) -> Figure:
    return maps.legend(
        figure, choice.plane,
        maps.mark("x", BLACK, 6, "worst candidate"),
        maps.mark("o", GREY, 4, "a candidate batch"),
        maps.mark("*", RED, 10, "the bought batch"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="test error before"),
        picked="bought", pool="unlabelled; darker: in more candidate batches",
    )  # fmt: skip
