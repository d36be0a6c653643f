"""REFINE round after round: what the filter leaves of the pool, and what is picked from it.

Axes: p positions in a pool.
"""

import dataclasses
import functools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from dal_core.ensembles.members import STRATEGIES
from dal_core.ensembles.refine import first_stage
from dal_core.experiment import Experiment
from dal_core.randomness import fixed_threads
from dal_core.strategies.uncertainty import margin_scores
from dal_core.trace import Step
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.maps import Ground
from dal_lab.companion.explorer.page import Frame
from dal_lab.companion.figures.style import label
from dal_lab.runs.study import walk

GONE = "#C9C9C9"


@dataclasses.dataclass(frozen=True, eq=False)
class Cleaning:
    """The pools of a cycle, as positions among the step's unlabelled instances: all, and what each round left."""

    step: Step
    pools: tuple[Int[Tensor, " _"], ...]

    @property
    def uncertainty(self) -> Float[Tensor, " n"]:
        """Margin uncertainty of all unlabelled instances."""
        return margin_scores(self.step.snapshot.probabilities)


def cleanings(experiment: Experiment) -> list[Cleaning]:
    """The pools of each cycle of a run of REFINE.

    Raises:
        ValueError: for another strategy.
    """
    if experiment.strategy != "refine":
        raise ValueError(f"strategy is {experiment.strategy!r}; 'refine' was expected")
    with fixed_threads():
        return [_cleaning(step, experiment) for step in walk(experiment)]


def _cleaning(step: Step, experiment: Experiment) -> Cleaning:
    # Filtered once more, from the same generator: the run keeps the sizes alone.
    filtered, _ = first_stage(step.snapshot, len(step.picked), step.generator(), **experiment.strategy_options)
    assert list(filtered.sizes) == step.told["pool_sizes"], "the same rounds"
    return Cleaning(step, (torch.arange(len(step.visible)), *filtered.rounds))


def frames(experiment: Experiment) -> list[Frame]:
    """A frame for the whole pool of a cycle, one for each round, and one for the batch."""
    ground, shown = Ground.of(experiment.dataset), []
    for each in cleanings(experiment):
        for number in range(len(each.pools) + 1):
            name = _name(number) if number < len(each.pools) else "the batch"
            picture = functools.partial(_drawn, ground, each, number)
            shown.append(Frame(f"cycle {each.step.cycle}, {name}", picture, reason(experiment, each, number)))
    return shown


def figure(experiment: Experiment, found: Sequence[Cleaning], cycles: Sequence[int], rounds: Sequence[int]) -> Figure:
    """What some rounds (columns) leave of the pool in some cycles (rows), the last column with the batch."""
    figure, grid = plt.subplots(
        len(cycles), len(rounds), figsize=(2.5 * len(rounds), 2.05 * len(cycles)), squeeze=False
    )
    ground = Ground.of(experiment.dataset)
    for row, cycle in zip(grid, cycles, strict=True):
        for axes, number in zip(row, rounds, strict=True):
            left = len(found[cycle].pools[number])
            _map(axes, ground, found[cycle], number, f"{_name(number)}: {left} left", batch=number == rounds[-1])
            axes.title.set_fontsize(9)
        row[0].set_ylabel(f"{len(found[cycle].step.labelled)} labels", fontsize=9)
    maps.legend(figure, _entries(ground), columns=3)
    return figure


def reason(experiment: Experiment, cleaning: Cleaning, number: int) -> str:
    """What happened in round `number`; 0 is before the first, and the number after the last is the final choice."""
    pools, uncertainty, options = cleaning.pools, cleaning.uncertainty, experiment.strategy_options
    members = options.get("strategies", STRATEGIES)
    left = pools[min(number, len(pools) - 1)]
    medians = (
        f"median margin uncertainty {float(uncertainty[left].quantile(0.5)):.2g} of what is left, "
        f"{float(uncertainty.quantile(0.5)):.2g} of the whole pool"
    )
    if number == 0:
        return f"{len(left)} instances are unlabelled, and {len(members)} strategies are about to clean the pool."
    if number == len(pools):
        final = options.get("final_strategy", "unc_herding")
        return (
            f"{label(final)} picks {len(cleaning.step.picked)} of the {len(left)} instances that are left ({medians})."
        )
    each = max(1, options.get("num_batches", 100) // len(members))
    return (
        f"Round {number}: each of {len(members)} strategies queried {each} batches of {len(cleaning.step.picked)}, "
        f"each from a random part of {len(pools[number - 1])} instances; {len(left)} were queried by any ({medians})."
    )


def summary(experiment: Experiment, found: Sequence[Cleaning]) -> str:
    """Of each cycle how far the pool shrinks, and what is picked, as Markdown."""
    lines = []
    for each in found:
        sizes = ", ".join(str(len(pool)) for pool in each.pools)
        final = reason(experiment, each, len(each.pools))
        lines.append(
            f"- {len(each.step.labelled)} labels: the pool shrinks from {sizes.replace(', ', ' to ')}. {final}"
        )
    return "\n".join(lines)


def _name(number: int) -> str:
    return f"after round {number}" if number else "whole pool"


def _drawn(ground: Ground, cleaning: Cleaning, number: int) -> Figure:
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    last = len(cleaning.pools) - 1
    left, batch = len(cleaning.pools[min(number, last)]), number > last
    correct = f"{len(cleaning.step.labelled)} labels, {ground.accuracy(cleaning.step.head):.1f} % correct"
    _map(axes, ground, cleaning, min(number, last), f"{correct}; {left} instances left", batch=batch, size=18)
    maps.bar(figure, axes, cleaning.uncertainty, "margin uncertainty")
    maps.legend(figure, _entries(ground), columns=3)
    return figure


def _map(
    axes: Axes, ground: Ground, cleaning: Cleaning, number: int, title: str, *, batch: bool, size: float = 7
) -> None:
    step, left = cleaning.step, cleaning.pools[number]
    maps.surface(axes, ground, step.head, step.labelled, title)
    gone = torch.ones(len(step.visible), dtype=torch.bool).index_fill(0, left, False)
    places = ground.places(step.visible[gone])
    axes.scatter(places[:, 0], places[:, 1], s=size / 4, color=GONE, linewidth=0, zorder=2)
    uncertainty, rim = cleaning.uncertainty, 0.5 if number else 0
    maps.pool(axes, ground, step.visible[left], uncertainty[left], size=size, norm=maps.scale(uncertainty), rim=rim)
    if batch:
        maps.picks(axes, ground, step.picked, size=6 * size)


def _entries(ground: Ground) -> list[Artist]:
    gone = Line2D([], [], linestyle="", marker="o", color=GONE, markersize=2, label="filtered out")
    pool = "left in the pool; darker: higher margin uncertainty"
    return [*maps.entries(ground.bank.num_classes, picked="the batch", pool=pool), gone]
