"""REFINE round after round: what the filter leaves of the pool, and what is picked from it.

Axes: n unlabelled, p positions in a pool.
"""

import dataclasses
import functools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dal_core.ensembles.members import STRATEGIES
from dal_core.experiment import Experiment
from dal_core.strategies.uncertainty import margin_scores
from dal_lab.companion.explorer import maps
from dal_lab.companion.figures.style import label
from dal_lab.runs.study import walk


@dataclasses.dataclass(frozen=True, eq=False)
class Round(maps.View):
    """The pools of a cycle, as positions among the step's unlabelled instances: all, and what each round left.

    `number` 0 is before the first round, and the number after the last one is the final choice.
    """

    pools: tuple[Int[Tensor, " _"], ...]
    number: int

    @property
    def is_final(self) -> bool:
        return self.number == len(self.pools)

    @property
    def left(self) -> Int[Tensor, " p"]:
        return self.pools[min(self.number, len(self.pools) - 1)]

    @property
    def name(self) -> str:
        return "the batch" if self.is_final else f"after round {self.number}" if self.number else "whole pool"

    @property
    def where(self) -> str:
        return f"cycle {self.step.context.cycle}, {self.name}"

    @property
    def uncertainty(self) -> Float[Tensor, " n"]:
        """Margin uncertainty of all unlabelled instances."""
        return margin_scores(self.step.snapshot.probabilities)

    @property
    def reason(self) -> str:
        options, left, batch = self.experiment.strategy.options, self.left, len(self.step.picked)
        members = options.get("strategies", STRATEGIES)
        if self.number == 0:
            return f"{len(left)} instances are unlabelled, and {len(members)} strategies are about to clean the pool."
        medians = (
            f"median margin uncertainty {float(self.uncertainty[left].quantile(0.5)):.2g} of what is left, "
            f"{float(self.uncertainty.quantile(0.5)):.2g} of the whole pool"
        )
        if self.is_final:
            final = label(options.get("final_strategy", "unc_herding"))
            return f"{final} picks {batch} of the {len(left)} instances that are left ({medians})."
        each = max(1, options.get("num_batches", 100) // len(members))
        return (
            f"Round {self.number}: each of {len(members)} strategies queried {each} batches of {batch}, each from a "
            f"random part of {len(self.pools[self.number - 1])} instances; {len(left)} were queried by any ({medians})."
        )

    def draw(self) -> Figure:
        """The map of what is left."""
        figure, axes = plt.subplots(figsize=(7.6, 4.4))
        title = f"{self.labels}, {self.correct} correct; {len(self.left)} instances left"
        self.draw_map(axes, title, batch=self.is_final, size=18)
        maps.bar(figure, axes, self.uncertainty, "margin uncertainty")
        return _legend(figure, self.plane)

    def draw_map(self, axes: Axes, title: str = "", *, batch: bool, size: float = 7) -> None:
        """Draw what is left, and the batch if asked to."""
        title = title or f"{self.name}: {len(self.left)} left"
        rings, left = self.step.instances if batch else None, self.left if self.number else None
        self.map(axes, title, self.uncertainty, size=size, rings=rings, left=left)


def views(experiment: Experiment) -> list[Round]:
    """A view of the whole pool of each cycle of a run of REFINE, one of each round, and one of the batch.

    Raises:
        ValueError: for another strategy.
    """
    if experiment.strategy.name != "refine":
        raise ValueError(f"strategy is {experiment.strategy.name!r}; 'refine' was expected")
    plane, found = maps.Plane.of(experiment.data), []
    for step in walk(experiment):
        pools = (torch.arange(len(step.snapshot.instances)), *step.context.trace["rounds"].rounds)
        found += [Round(plane, experiment, step, pools, number) for number in range(len(pools) + 1)]
    return found


def figure(found: Sequence[Round], cycles: Sequence[int], rounds: Sequence[int]) -> Figure:
    """What some rounds (columns) leave of the pool in some cycles (rows), the last column with the batch."""
    known = {(each.step.context.cycle, each.number): each for each in found}
    rows = {}
    for cycle in cycles:
        views = [known[cycle, number] for number in rounds]
        rows[views[0].labels] = [functools.partial(view.draw_map, batch=view is views[-1]) for view in views]
    return _legend(maps.grid(rows, height=2.05), found[0].plane)


def summary(found: Sequence[Round]) -> str:
    """Of each cycle how far the pool shrinks, and what is picked, as Markdown."""
    return "\n".join(
        f"- {each.labels}: the pool shrinks from {' to '.join(str(len(pool)) for pool in each.pools)}. {each.reason}"
        for each in found
        if each.is_final
    )


def taken_home(found: Sequence[Round]) -> str:
    """Return a sentence on how much the filter leaves first, and how often that is more uncertain than the pool."""
    final = [each for each in found if each.is_final]
    higher = sum(bool(each.uncertainty[each.left].median() > each.uncertainty.median()) for each in final)
    return (
        f"The filter leaves {len(final[0].left)} of {len(final[0].pools[0])} instances at the first acquisition; what "
        f"is left has a higher median uncertainty than the pool in {higher} of {len(final)} acquisitions."
    )


def _legend(figure: Figure, plane: maps.Plane) -> Figure:
    pool, gone = "left in the pool; darker: higher margin uncertainty", maps.mark("o", maps.GONE, 2, "filtered out")
    return maps.legend(figure, plane, gone, picked="the batch", pool=pool, columns=3)
