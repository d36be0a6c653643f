"""Strategies beside each other: what each looked at in a cycle, and what it picked.

Axes: n unlabelled, b batch.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dal_core.experiment import Experiment
from dal_core.trace import Step
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.maps import Ground
from dal_lab.companion.explorer.page import Frame
from dal_lab.companion.explorer.reasons import Reason, reason
from dal_lab.companion.figures.style import RED, label
from dal_lab.runs.study import walk


def frames(experiment: Experiment) -> list[Frame]:
    """A frame a cycle: the map, and how the picks' scores stand in those of the pool."""
    ground = Ground.of(experiment.dataset)
    return [_frame(ground, step, _reason(experiment, step)) for step in walk(experiment)]


def figure(walks: Mapping[str, tuple[Experiment, Sequence[Step]]], cycles: Sequence[int]) -> Figure:
    """Maps of some cycles (columns) for each strategy (rows), by name."""
    figure, grid = plt.subplots(len(walks), len(cycles), figsize=(2.5 * len(cycles), 1.95 * len(walks)), squeeze=False)
    ground = None
    for row, (name, (experiment, steps)) in zip(grid, walks.items(), strict=True):
        ground = Ground.of(experiment.dataset)
        for axes, cycle in zip(row, cycles, strict=True):
            why = _reason(experiment, steps[cycle])
            title = f"{len(steps[cycle].labelled)} labels, {ground.accuracy(steps[cycle].head):.1f} %"
            _map(axes, ground, steps[cycle], why, title=title)
            axes.title.set_fontsize(9)
        looked = why.quantity or "looks at nothing"
        row[0].set_ylabel(f"{label(name)}\n{looked}", fontsize=8)
    assert ground is not None, "there is a strategy"
    maps.bar(figure, grid[:, -1], None, "what the strategy looks at, named at the left")
    maps.legend(figure, maps.entries(ground.bank.num_classes), columns=4)
    return figure


def summary(walks: Mapping[str, tuple[Experiment, Sequence[Step]]], cycle: int) -> str:
    """Of each strategy why it picked what it did in a cycle, and what the head made of the last batch, as Markdown."""
    lines = []
    for name, (experiment, steps) in walks.items():
        ground, last = Ground.of(experiment.dataset), steps[-1]
        accuracy = f"{ground.accuracy(last.head):.1f} % correct with {len(last.labelled)} labels"
        lines.append(f"- **{label(name)}** ({accuracy}). {_reason(experiment, steps[cycle]).text}")
    return "\n".join(lines)


def _reason(experiment: Experiment, step: Step) -> Reason:
    return reason(experiment.strategy, step, experiment.strategy_options)


def _frame(ground: Ground, step: Step, why: Reason) -> Frame:
    where = f"cycle {step.cycle}, {len(step.labelled)} labels"
    return Frame(where, lambda: _drawn(ground, step, why), why.text)


def _drawn(ground: Ground, step: Step, why: Reason) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 4.2), width_ratios=(2.1, 1))
    correct = f"{len(step.labelled)} labels: {ground.accuracy(step.head):.1f} % of the test split correct"
    _map(panels[0], ground, step, why, title=correct, numbers=True, size=16)
    if why.scores is None:
        panels[1].remove()
    else:
        _histogram(panels[1], why, why.scores[step.positions()])
        maps.bar(figure, panels[0], why.scores, why.quantity)
    maps.legend(figure, maps.entries(ground.bank.num_classes))
    return figure


def _map(
    axes: Axes, ground: Ground, step: Step, why: Reason, *, title: str, numbers: bool = False, size: float = 6
) -> None:
    maps.surface(axes, ground, step.head, step.labelled, title)
    maps.pool(axes, ground, step.visible, why.scores, size=size)
    maps.picks(axes, ground, step.picked, numbers=numbers, size=90 if numbers else 45)


def _histogram(axes: Axes, why: Reason, picked: torch.Tensor) -> None:
    """How the scores of the pool are spread, and where those of the picks are."""
    assert why.scores is not None, "there are scores"
    axes.hist(why.scores.numpy(), bins=30, color=maps.PLAIN)
    axes.set_yscale("symlog", linthresh=1)
    for score in picked.tolist():
        axes.axvline(score, color=RED, linewidth=1, alpha=0.8)
    axes.set(xlabel=why.quantity, ylabel="unlabelled instances", title="scores; red: the picks")
