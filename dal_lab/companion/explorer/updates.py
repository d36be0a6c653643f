"""A batch picked one by one, with an update of the head after each label, beside retraining and beside a plain batch.

Axes: b batch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dal_core import posterior
from dal_core.data import FeatureBank
from dal_core.experiment import Experiment
from dal_core.models.heads import Head
from dal_core.models.learners import fit
from dal_core.models.training import Training, train_head
from dal_core.parallel import fixed_threads
from dal_core.randomness import generator_for
from dal_core.strategies.registry import query
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.reasons import Reason, reason
from dal_lab.companion.figures.style import BLACK
from dal_lab.runs.study import walk
from dal_lab.sources.catalogue import load


@dataclasses.dataclass(frozen=True, eq=False)
class Update(maps.View):
    """A pick within a batch; the step has the updated head.

    Args:
        number: how many of the batch are labelled already.
        before: the head that the batch began with.
        retrained: from the initial weights, on the labels that the updated head knows.
        at_once: what the strategy would pick if it was asked for the whole batch at the beginning.
        why: what the strategy sees on the updated head.
    """

    number: int
    before: Head
    retrained: Head
    at_once: Int[Tensor, " b"]
    why: Reason

    @property
    def batch(self) -> Int[Tensor, " b"]:
        """What is picked of the batch so far, this pick included."""
        return torch.cat((self.labelled[len(self.labelled) - self.number :], self.step.instances))

    @property
    def new_labels(self) -> str:
        return f"{self.number} new label{'' if self.number == 1 else 's'}"

    @property
    def where(self) -> str:
        return f"cycle {self.step.context.cycle}, pick {self.number + 1} of {self.experiment.protocol.batch_size}"

    @property
    def comparison(self) -> str:
        """The updated head beside the one before and the retrained one, in words."""
        plane, updated = self.plane, self.step.head
        same = 100 * float((plane.predicted(updated) == plane.predicted(self.retrained)).double().mean())
        return (
            f"With {self.new_labels} of the batch the updated head is right on {self.correct} of the test split "
            f"(before the batch: {plane.correct(self.before)}, retrained: {plane.correct(self.retrained)}) "
            f"and agrees with the retrained one on {same:.1f} %."
        )

    @property
    def reason(self) -> str:
        return f"{self.comparison} {self.why.text}"

    def draw(self) -> Figure:
        """The updated head and what the strategy sees on it, and the retrained head."""
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0))
        self.draw_updated(left, f"Updated, {self.new_labels}: {self.correct} correct", size=14, numbers=True)
        self.draw_retrained(right, f"Retrained on the same labels: {self.plane.correct(self.retrained)} correct")
        if self.why.scores is not None:
            maps.bar(figure, left, self.why.scores, self.why.quantity)
        return _legend(figure, self, "unlabelled")

    def draw_updated(self, axes: Axes, title: str = "", *, size: float = 7, numbers: bool = False) -> None:
        """Draw the updated head, what the strategy sees on it, the batch so far, and the plain batch."""
        title, batch = title or f"{self.new_labels}, {self.correct}", self.batch
        self.map(axes, title, self.why.scores, size=size, rings=batch, crosses=self.at_once, numbers=numbers)

    def draw_retrained(self, axes: Axes, title: str = "") -> None:
        """Draw the retrained head and the batch that it knows."""
        title = title or f"{self.new_labels}, {self.plane.correct(self.retrained)}"
        maps.surface(axes, self.plane, self.retrained, self.labelled, title)
        maps.ring(axes, self.plane, self.batch[:-1], size=45)


def half_moons(gamma: float = 10.0, seed: int = 1) -> tuple[FeatureBank, Tensor, dict[str, tuple[Head, int]]]:
    """Return the half moons, the places of twenty, and heads with the number of these that they know."""
    bank = load("moons")
    order = torch.randperm(len(bank.train_labels), generator=generator_for(seed, "moons"))[:20]
    start = Head.initial("mlp", bank.num_features, bank.num_classes, generator_for(seed, "initial weights"))
    data, radam = (bank.train_features, bank.train_labels), Training("radam")
    with fixed_threads():
        before, after = (train_head(start, *data, order[:n], radam, generator_for(seed, "shuffle")) for n in (12, 20))
        phi, targets = before.embed(bank.train_features[order]), bank.train_labels[order]
        state = posterior.fit(phi[:12], before.weight)  # N(W, Σ) of the last layer
        state = posterior.update(state, phi[12:], targets[12:], gamma=gamma)  # a Newton step on each new sample
    updated = Head(state.weight, None, before.hidden_weight, before.hidden_bias)
    return bank, order, {"Before": (before, 12), "Second-order update": (updated, 20), "Retraining": (after, 20)}


def views(experiment: Experiment) -> list[Update]:
    """A view of each pick of a run that updates its head after each of them.

    Raises:
        ValueError: unless the experiment has `Updates(every=1)`.
    """
    if experiment.updates is None or experiment.updates.every != 1:
        raise ValueError(f"updates is {experiment.updates}; Updates(every=1) was expected")
    plane, found, size = maps.Plane.of(experiment.data), [], experiment.protocol.batches[0]
    with fixed_threads():
        for number, step in enumerate(walk(experiment)):
            at: Any = step.snapshot
            if (place := number % size) == 0:
                before, generator = step.head, generator_for(experiment.seed, "strategy", step.context.cycle)
                at_once = at.instances[query(experiment.strategy.function, at, size, generator)]
            retrained: Any = next(fit(at, [at.labelled], [at.labels], [at.draw]))
            why = reason(experiment.strategy, step)
            found.append(Update(plane, experiment, step, place, before, retrained.head, at_once, why))
    return found


def figure(found: Mapping[float, Sequence[Update]], numbers: Sequence[int]) -> Figure:
    """Updated heads after so many labels (columns) for each gamma (rows), and below them the retrained ones."""
    rows: dict[str, list[Callable[[Axes], None]]] = {
        f"Updates, γ = {gamma:g}": [views[i].draw_updated for i in numbers] for gamma, views in found.items()
    }
    gamma, views = list(found.items())[-1]
    rows[f"Retrained, labels of γ = {gamma:g}"] = [views[i].draw_retrained for i in numbers]
    last = views[numbers[-1]]
    return _legend(maps.grid(rows, height=2.05), last, f"unlabelled; darker: higher {last.why.quantity}", columns=3)


def summary(found: Mapping[float, Sequence[Update]], number: int) -> str:
    """How the updated heads compare after `number` labels of the first batch, and how far apart the picks are."""
    lines = []
    for gamma, views in found.items():
        last = views[views[0].experiment.protocol.batches[0] - 1]
        lines.append(
            f"- γ = {gamma:g}: {views[number].comparison} Picked one by one, the instances of the first batch "
            f"lie {_spread(last.plane, last.batch):.2f} from the nearest other one; picked at once, "
            f"{_spread(last.plane, last.at_once):.2f}."
        )
    return "\n".join(lines)


def _legend(figure: Figure, update: Update, pool: str, columns: int = 4) -> Figure:
    at_once = maps.mark("x", BLACK, 6, "picked by a plain batch", markeredgewidth=1.3)
    picked = "of this batch, picked one by one"
    return maps.legend(figure, update.plane, at_once, picked=picked, pool=pool, columns=columns)


def _spread(plane: maps.Plane, batch: Int[Tensor, " b"]) -> float:
    """Mean distance in the plane from an instance to the nearest other one of its batch."""
    features = plane.bank.train_features[batch]
    return float(torch.cdist(features, features).fill_diagonal_(torch.inf).amin(dim=1).mean())
