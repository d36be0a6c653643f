"""The candidate batches of BoSS: who proposed them, what each would lead to, and which one was bought.

Axes: t candidates, b batch.
"""

import dataclasses
import functools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core.experiment import Experiment
from dal_core.oracles.boss import STRATEGIES, draw_candidates
from dal_core.randomness import fixed_threads
from dal_core.snapshot import OracleSnapshot
from dal_core.trace import Step
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.maps import Ground
from dal_lab.companion.explorer.page import Frame
from dal_lab.companion.figures.style import BLACK, GREY, RED, label
from dal_lab.runs.study import walk


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The candidates of a cycle; losses are in percent of the test split."""

    step: Step
    batches: Int[Tensor, "t b"]  # positions in the train split
    suppliers: list[str]
    losses: Float[Tensor, " t"]
    loss_before: float
    bought: int  # which candidate

    @property
    def worst(self) -> int:
        """The candidate with the largest loss; the first of several."""
        return int(self.losses.argmax())

    @property
    def proposals(self) -> Float[Tensor, " n"]:
        """How many candidate batches hold each of the unlabelled instances."""
        return (self.step.visible.unsqueeze(1) == self.batches.flatten()).sum(dim=1).double()


def choices(experiment: Experiment) -> list[Choice]:
    """The candidates of each cycle of a run of BoSS that judges by the zero-one loss.

    Raises:
        ValueError: for another strategy or another loss.
    """
    options = experiment.strategy_options
    if experiment.strategy != "boss" or options.get("loss", "zero_one") != "zero_one":
        raise ValueError(
            f"strategy is {experiment.strategy!r} with {options}; 'boss' with the zero-one loss was expected"
        )
    drawing = {
        "num_candidates": options.get("num_candidates", 100),
        "strategies": options.get("strategies", STRATEGIES),
    }
    with fixed_threads():
        return [_choice(step, drawing) for step in walk(experiment)]


def _choice(step: Step, drawing: dict) -> Choice:
    assert isinstance(step.snapshot, OracleSnapshot), "what an oracle sees"
    # Drawn once more, from the same generator: the run keeps the losses alone.
    drawn, _ = draw_candidates(step.snapshot, len(step.picked), step.generator(), **drawing)
    assert drawn.strategies == step.told["strategies"], "the same candidates"
    bought = int((drawn.batches == step.positions()).all(dim=1).nonzero()[0])
    losses = 100 * torch.tensor(step.told["losses"], dtype=torch.float64)
    return Choice(step, step.visible[drawn.batches], drawn.strategies, losses, 100 * step.told["loss_before"], bought)


def frames(experiment: Experiment) -> list[Frame]:
    """A frame a cycle: where the candidates are, and the test error that each would lead to."""
    ground, order = Ground.of(experiment.dataset), _order(experiment)
    shown = []
    for each in choices(experiment):
        where = f"cycle {each.step.cycle}, {len(each.step.labelled)} labels"
        shown.append(Frame(where, functools.partial(_drawn, ground, each, order), reason(each)))
    return shown


def figure(experiment: Experiment, found: Sequence[Choice], cycles: Sequence[int]) -> Figure:
    """Maps of some cycles, and below each the test errors of its candidates."""
    figure, grid = plt.subplots(
        2, len(cycles), figsize=(2.6 * len(cycles), 5.0), height_ratios=(1, 1.15), squeeze=False
    )
    ground, order = Ground.of(experiment.dataset), _order(experiment)
    for column, cycle in enumerate(cycles):
        _map(grid[0, column], ground, found[cycle], f"{len(found[cycle].step.labelled)} labels")
        _strip(grid[1, column], found[cycle], order, names=column == 0)
    maps.legend(figure, _entries(ground), columns=4)
    return figure


def reason(choice: Choice) -> str:
    """What was bought, from whom, and what the other candidates would have led to."""
    losses, best = choice.losses, float(choice.losses[choice.bought])
    better, equal = int((losses < choice.loss_before).sum()), int((losses == best).sum())
    chance = "" if equal == 1 else f" {equal} candidates are equally good, and chance decides between them."
    return (
        f"{better} of {len(losses)} candidate batches {'lowers' if better == 1 else 'lower'} the test error, "
        f"{choice.loss_before:.1f} % before. Bought is one from {label(choice.suppliers[choice.bought])}, with "
        f"{best:.1f} %; the worst, from {label(choice.suppliers[choice.worst])}, leads to "
        f"{float(losses[choice.worst]):.1f} %.{chance}"
    )


def summary(found: Sequence[Choice]) -> str:
    """The reasons of all cycles, as Markdown."""
    return "\n".join(f"- {len(each.step.labelled)} labels: {reason(each)}" for each in found)


def _order(experiment: Experiment) -> list[str]:
    return list(experiment.strategy_options.get("strategies", STRATEGIES))


def _drawn(ground: Ground, choice: Choice, order: Sequence[str]) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(9.8, 4.2), width_ratios=(1.6, 1))
    title = f"{len(choice.step.labelled)} labels: {ground.accuracy(choice.step.head):.1f} % of the test split correct"
    _map(panels[0], ground, choice, title, size=16)
    maps.bar(figure, panels[0], choice.proposals, "candidate batches that hold it")
    _strip(panels[1], choice, order, names=True)
    maps.legend(figure, _entries(ground))
    return figure


def _map(axes: Axes, ground: Ground, choice: Choice, title: str, *, size: float = 7) -> None:
    """Where the candidates are, with the bought one and the worst one."""
    maps.surface(axes, ground, choice.step.head, choice.step.labelled, title)
    maps.pool(axes, ground, choice.step.visible, choice.proposals, size=size)
    places = ground.places(choice.batches[choice.worst])
    axes.scatter(places[:, 0], places[:, 1], s=4 * size, marker="x", color=BLACK, linewidth=1.3, zorder=5)
    maps.picks(axes, ground, choice.step.picked, size=6 * size)


def _strip(axes: Axes, choice: Choice, order: Sequence[str], *, names: bool) -> None:
    """The test error after each candidate, a line a strategy; several with the same error beside each other."""
    heights = np.array([float(order.index(name)) for name in choice.suppliers])
    losses = choice.losses.numpy()
    for name in range(len(order)):
        own = np.flatnonzero(heights == name)
        heights[own] += np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else 0
    axes.scatter(losses, heights, s=16, color=GREY, linewidth=0, zorder=2)
    for which, marker, colour in ((choice.worst, "x", BLACK), (choice.bought, "*", RED)):
        axes.scatter(
            losses[which], heights[which], s=110 if marker == "*" else 40, marker=marker, color=colour, zorder=3
        )
    axes.axvline(choice.loss_before, color="black", linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(order)), [label(name).removesuffix(" (oracle)") for name in order] if names else [])
    axes.margins(x=0.1)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel="test error after the batch (%)")


def _entries(ground: Ground) -> list[Artist]:
    def mark(marker: str, colour: str, size: float, text: str) -> Artist:
        return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=size, label=text)

    return [
        *maps.entries(ground.bank.num_classes, picked="bought", pool="unlabelled; darker: in more candidate batches"),
        mark("x", BLACK, 6, "worst candidate"),
        mark("o", GREY, 4, "a candidate batch"),
        mark("*", RED, 10, "the bought batch"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="test error before"),
    ]
