"""A batch picked one by one, with an update of the head after each label, beside retraining and beside a plain batch.

Axes: b batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core import strategies
from dal_core.experiment import Experiment
from dal_core.models.heads import Head
from dal_core.models.training import train_head
from dal_core.randomness import fixed_threads, generator_for
from dal_core.trace import Step
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.maps import Ground
from dal_lab.companion.explorer.page import Frame
from dal_lab.companion.explorer.reasons import Reason, reason
from dal_lab.companion.figures.style import BLACK
from dal_lab.runs.study import walk

AT_ONCE = "picked by a plain batch"


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """A pick within a batch.

    Args:
        step: the pick, with the updated head.
        number: how many of the batch are labelled already.
        before: the head that the batch began with.
        retrained: from the initial weights, on the labels that the updated head knows.
        at_once: what the strategy would pick if it was asked for the whole batch at the beginning.
    """

    step: Step
    number: int
    before: Head
    retrained: Head
    at_once: Int[Tensor, " b"]

    @property
    def batch(self) -> Int[Tensor, " b"]:
        """What is picked of the batch so far, this pick included."""
        return torch.cat((self.step.labelled[len(self.step.labelled) - self.number :], self.step.picked))


def updates(experiment: Experiment) -> list[Update]:
    """The picks of a run that updates its head after each of them.

    Raises:
        ValueError: unless the experiment has `update_every` 1.
    """
    if experiment.updates is None or experiment.updates.every != 1:
        raise ValueError(f"options is {experiment.options}; update_every = 1 was expected")
    ground, found = Ground.of(experiment.dataset), []
    strategy = strategies.get(experiment.strategy, experiment.strategy_options)
    with fixed_threads():
        for number, step in enumerate(walk(experiment)):
            if number % experiment.batch_size == 0:
                first = step
                at_once = first.visible[
                    strategies.query(strategy, first.snapshot, experiment.batch_size, first.generator())
                ]
            order = generator_for(experiment.seed, "minibatches", step.cycle)
            data = ground.bank.train_features, ground.bank.train_labels, step.labelled
            retrained = train_head(step.initial, *data, experiment.training, order)
            found.append(Update(step, number % experiment.batch_size, first.head, retrained, at_once))
    return found


def frames(experiment: Experiment) -> list[Frame]:
    """A frame a pick: the updated head and what the strategy sees on it, and the retrained head."""
    ground = Ground.of(experiment.dataset)
    return [_frame(ground, experiment, update) for update in updates(experiment)]


def figure(walks: Mapping[float, tuple[Experiment, Sequence[Update]]], numbers: Sequence[int]) -> Figure:
    """Updated heads after so many labels (columns) for each gamma (rows), and below them the retrained ones."""
    rows = len(walks) + 1
    figure, grid = plt.subplots(rows, len(numbers), figsize=(2.5 * len(numbers), 2.05 * rows), squeeze=False)
    for row, (gamma, (experiment, found)) in zip(grid, walks.items(), strict=False):
        ground = Ground.of(experiment.dataset)
        for axes, number in zip(row, numbers, strict=True):
            update = found[number]
            title = f"{_labels(update.number)}, {ground.accuracy(update.step.head):.1f} %"
            _map(axes, ground, update, _reason(experiment, update.step), title)
        row[0].set_ylabel(f"Updates, γ = {gamma:g}", fontsize=9)
    for axes, number in zip(grid[-1], numbers, strict=True):  # on the labels of the last gamma
        _retrained(axes, ground, found[number])
    grid[-1, 0].set_ylabel(f"Retrained, labels of γ = {gamma:g}", fontsize=9)
    for axes in grid.flat:
        axes.title.set_fontsize(9)
    seen = _reason(experiment, found[0].step).quantity
    maps.legend(figure, _entries(ground, seen), columns=3)
    return figure


def summary(walks: Mapping[float, tuple[Experiment, Sequence[Update]]], number: int) -> str:
    """How the updated heads compare after `number` labels of the first batch, and how far apart the picks are."""
    lines = []
    for gamma, (experiment, found) in walks.items():
        ground, update, last = Ground.of(experiment.dataset), found[number], found[experiment.batch_size - 1]
        lines.append(
            f"- γ = {gamma:g}: {_comparison(ground, update)} Picked one by one, the instances of the first batch "
            f"lie {_spread(ground, last.batch):.2f} from the nearest other one; picked at once, "
            f"{_spread(ground, last.at_once):.2f}."
        )
    return "\n".join(lines)


def _frame(ground: Ground, experiment: Experiment, update: Update) -> Frame:
    step, why = update.step, _reason(experiment, update.step)
    where = f"cycle {step.cycle}, pick {update.number + 1} of {experiment.batch_size}"
    return Frame(where, lambda: _drawn(ground, update, why), f"{_comparison(ground, update)} {why.text}")


def _drawn(ground: Ground, update: Update, why: Reason) -> Figure:
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.0))
    title = f"Updated, {_labels(update.number)}: {ground.accuracy(update.step.head):.1f} % correct"
    _map(panels[0], ground, update, why, title, numbers=True)
    _retrained(panels[1], ground, update)
    panels[1].set_title(f"Retrained on the same labels: {ground.accuracy(update.retrained):.1f} % correct")
    if why.scores is not None:
        maps.bar(figure, panels[0], why.scores, why.quantity)
    maps.legend(figure, _entries(ground, ""))
    return figure


def _map(axes: Axes, ground: Ground, update: Update, why: Reason, title: str, *, numbers: bool = False) -> None:
    """The updated head, what the strategy sees on it, the batch so far, and the plain batch."""
    step, size = update.step, 14 if numbers else 6
    maps.surface(axes, ground, step.head, step.labelled, title)
    maps.pool(axes, ground, step.visible, why.scores, size=size)
    places = ground.places(update.at_once)
    axes.scatter(places[:, 0], places[:, 1], s=4 * size, marker="x", color=BLACK, linewidth=1.3, zorder=5)
    maps.picks(axes, ground, update.batch, numbers=numbers, size=90 if numbers else 45)


def _retrained(axes: Axes, ground: Ground, update: Update) -> None:
    title = f"{_labels(update.number)}, {ground.accuracy(update.retrained):.1f} %"
    maps.surface(axes, ground, update.retrained, update.step.labelled, title)
    maps.picks(axes, ground, update.batch[:-1], size=45)


def _entries(ground: Ground, seen: str) -> list[Artist]:
    dots = f"unlabelled; darker: higher {seen}" if seen else "unlabelled"
    at_once = Line2D([], [], linestyle="", marker="x", color=BLACK, markeredgewidth=1.3, markersize=6, label=AT_ONCE)
    return [*maps.entries(ground.bank.num_classes, picked="of this batch, picked one by one", pool=dots), at_once]


def _comparison(ground: Ground, update: Update) -> str:
    """The updated head beside the one before and the retrained one."""
    heads = {"before the batch": update.before, "updated": update.step.head, "retrained": update.retrained}
    scores = {name: f"{ground.accuracy(head):.1f} %" for name, head in heads.items()}
    updated, retrained = (heads[name].logits(ground.bank.test_features).argmax(dim=1) for name in list(heads)[1:])
    same = 100 * float((updated == retrained).double().mean())
    return (
        f"With {_labels(update.number)} of the batch the updated head is right on {scores['updated']} of the test "
        f"split (before the batch: {scores['before the batch']}, retrained: {scores['retrained']}) and agrees with "
        f"the retrained one on {same:.1f} %."
    )


def _labels(number: int) -> str:
    return f"{number} new label{'' if number == 1 else 's'}"


def _reason(experiment: Experiment, step: Step) -> Reason:
    return reason(experiment.strategy, step, experiment.strategy_options)


def _spread(ground: Ground, batch: Int[Tensor, " b"]) -> float:
    """Mean distance in the plane from an instance to the nearest other one of its batch."""
    features = ground.bank.train_features[batch]
    return float(torch.cdist(features, features).fill_diagonal_(torch.inf).amin(dim=1).mean())
