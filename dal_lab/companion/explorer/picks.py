"""Strategies beside each other: what each looked at in a cycle, and what it picked.

Axes: n unlabelled, b batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dal_core.experiment import Experiment
from dal_lab.companion.explorer import maps
from dal_lab.companion.explorer.reasons import Reason, reason
from dal_lab.companion.figures.style import RED, label
from dal_lab.runs.study import walk


@dataclasses.dataclass(frozen=True, eq=False)
class Pick(maps.View):
    """What a strategy picked in a cycle, and why."""

    why: Reason

    @property
    def reason(self) -> str:
        return self.why.text

    def draw(self) -> Figure:
        """The map, and how the picks' scores stand in those of the pool."""
        figure, panels = plt.subplots(1, 2, figsize=(9.2, 4.2), width_ratios=(2.1, 1))
        title = f"{self.labels}: {self.correct} of the test split correct"
        self.map(panels[0], title, self.why.scores, size=16, rings=self.step.instances, numbers=True)
        if self.why.scores is None:
            panels[1].remove()
        else:
            self._histogram(panels[1])
            maps.bar(figure, panels[0], self.why.scores, self.why.quantity)
        return maps.legend(figure, self.plane)

    def draw_map(self, axes: Axes) -> None:
        """Draw the map small."""
        self.map(axes, f"{self.labels}, {self.correct}", self.why.scores, size=7, rings=self.step.instances)

    def _histogram(self, axes: Axes) -> None:
        assert self.why.scores is not None, "there are scores"
        axes.hist(self.why.scores.numpy(), bins=30, color=maps.PLAIN)
        axes.set_yscale("symlog", linthresh=1)
        for score in self.why.scores[self.step.picked].tolist():
            axes.axvline(score, color=RED, linewidth=1, alpha=0.8)
        axes.set(xlabel=self.why.quantity, ylabel="unlabelled instances", title="scores; red: the picks")


def views(experiment: Experiment) -> list[Pick]:
    """A view of each cycle of a run."""
    plane = maps.Plane.of(experiment.data)
    return [Pick(plane, experiment, step, reason(experiment.strategy, step)) for step in walk(experiment)]


def figure(found: Mapping[str, Sequence[Pick]], cycles: Sequence[int]) -> Figure:
    """Maps of some cycles (columns) for each strategy (rows), by name."""
    rows = {}
    for name, views in found.items():
        last = views[cycles[-1]]
        rows[f"{label(name)}\n{last.why.quantity or 'looks at nothing'}"] = [views[cycle].draw_map for cycle in cycles]
    figure = maps.grid(rows, height=1.95, labelsize=8)
    right = figure.axes[len(cycles) - 1 :: len(cycles)]
    maps.bar(figure, right, None, "what the strategy looks at, named at the left")
    return maps.legend(figure, last.plane)


def summary(found: Mapping[str, Sequence[Pick]], cycle: int) -> str:
    """Of each strategy why it picked what it did in a cycle, and what the head made of the last batch, as Markdown."""
    return "\n".join(
        f"- **{label(name)}** ({views[-1].correct} correct with {views[-1].labels}). {views[cycle].reason}"
        for name, views in found.items()
    )
