"""The active learning loop: train, evaluate, ask the strategy, buy, cycle after cycle."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dal_core.checks import as_json, shown
from dal_core.context import Context, Question
from dal_core.data import FeatureBank, Labelled, as_labelled, standardised, warn_of_scales
from dal_core.devices import now, resolve_device, with_float64
from dal_core.experiment import Experiment, Strategy, check_alike_but_for_seed, naming
from dal_core.parallel import fixed_threads
from dal_core.pool import first_of_each_class, instances_for
from dal_core.protocols import Model, Task
from dal_core.randomness import choose, generator_for
from dal_core.snapshot import take_snapshot
from dal_core.strategies import registry
from dal_core.task import Classification, as_many, check_converged, task_of
from dal_core.updates import select_sequentially

Watch = Callable[[Question], None]


def run(
    experiment: Experiment, data: FeatureBank | tuple[Any, Any, Any, Any], *, watch: Watch | None = None
) -> pd.DataFrame:
    """Run an experiment on data in memory; return a row for the initial labelled set and one for each acquisition.

    Columns: cycle, n_labeled, what the task measures on the test split (accuracy, nll in nats, brier, ece, ace);
    query_s and train_s (seconds); acquired, the instances bought since the row before, as positions in the training
    data in the order of picking; and record, what the strategy tells about its choice, as JSON. Rows but for the two
    times are the same bit by bit for the same configuration and data on one CPU.

    Args:
        data: a FeatureBank, or inputs and labels to train on, inputs and labels to test on: arrays, tensors, `Data`.
        watch: is called with each question to the strategy and its answer.

    Raises:
        ValueError: if the pool is too small for the experiment, or training diverges.

    >>> import dal_core as dal
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(60, 4, generator=draw), torch.arange(60) % 2
    >>> rows = dal.run(dal.Experiment(protocol=dal.Protocol(cycles=2)), (x[:40], y[:40], x[40:], y[40:]))
    >>> rows["n_labeled"].tolist()
    [10, 20, 30]
    """
    if not isinstance(experiment, Experiment):
        raise ValueError(f"experiment is {shown(experiment)}; an Experiment was expected")
    classes = isinstance(experiment.task, Classification | None)
    train, test = as_labelled(data, classes=classes, num_classes=getattr(experiment.task, "num_outputs", None))
    if not experiment.protocol.standardise:
        warn_of_scales(train, getattr(data, "provenance", {}))
    (rows,) = run_together([experiment], train, test, watch=watch)
    return rows


def run_together(
    experiments: Sequence[Experiment], train: Labelled, test: Labelled, watch: Watch | None = None
) -> list[pd.DataFrame]:
    """The rows of experiments that differ in the seed alone, cycle after cycle side by side.

    Their models are fitted by one call of the learner, because a single small head leaves a GPU idle; evaluation and
    acquisition go run by run. `train_s` is a run's share of the seconds.

    Raises:
        ValueError: if the experiments differ in more than the seed, there are none, or the pool is too small.
        FailedRunError: if one of several runs fails; a single one fails with its error itself.
    """
    check_alike_but_for_seed(experiments)
    first, models, device = experiments[0], None, resolve_device(experiments[0].device)
    task = first.task or task_of(train, test, first.protocol.mean_field)
    if first.protocol.standardise:
        train, test = standardised(train, test)
    to_fit, choosing = train.to(device), with_float64(device)
    train, test = train.to(choosing), test.to(choosing)
    with fixed_threads():
        runs = list[_Run]()
        for experiment in experiments:
            with naming(experiment, experiments):
                runs.append(_Run(experiment, train, test, task, watch))
        for cycle in range(len(first.protocol.batches) + 1):
            start, virtual = now(device), [run.context.virtual for run in runs]
            labelled, aside = [run.pool.labelled for run in runs], [run.validation for run in runs]
            fitted = first.learner.fit(
                task, to_fit.data, labelled, [to_fit.labels_at(each) for each in labelled],
                [functools.partial(draw_in, each.seed, cycle) for each in experiments], previous=models,
                validation=[(each, to_fit.labels_at(each)) for each in aside] if any(map(len, aside)) else None,
                virtual=virtual if any(virtual) else None,
            )  # fmt: skip
            models = as_many(len(runs), fitted, first.learner)
            seconds = (now(device) - start) / len(runs)
            for run, model in zip(runs, models, strict=True):
                with naming(run.experiment, experiments):
                    run.advance(cycle, model, seconds)
    return [pd.DataFrame(run.rows) for run in runs]


def draw_in(seed: int, cycle: int, purpose: str) -> torch.Generator:
    """Initial weights depend on the seed alone, all else on seed and cycle; no way leads from here to the run."""
    return generator_for(seed, purpose) if purpose == "initial weights" else generator_for(seed, purpose, cycle)


class _Run:
    """A run on its way: what one seed has bought, and its rows."""

    def __init__(
        self, experiment: Experiment, train: Labelled, test: Labelled, task: Task, watch: Watch | None
    ) -> None:
        self.experiment, self.train, self.test, self.task = experiment, train, test, task
        self.context, self.watch, self.rows = Context(), watch, list[dict[str, Any]]()
        self.query_seconds, protocol, labels = float("nan"), experiment.protocol, train.labels.cpu()
        self.pool = instances_for(protocol, labels, self.draw)
        self.acquired = self.initial_set(labels, self.draw("initial labelled set"))
        self.pool = self.pool.buy(self.acquired)
        self.validation = self.pool.subset(protocol.validation_size, self.draw("validation set"))
        self.pool, self.planned = self.pool.without(self.validation), self.acquired[:0]

    def draw(self, *purpose: str | int) -> torch.Generator:
        return generator_for(self.experiment.seed, *purpose)

    def initial_set(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Positions in the data of what is labelled first, in the order of buying."""
        protocol, instances = self.experiment.protocol, self.pool.unlabelled
        if protocol.initial == "random":
            return instances[choose(len(instances), protocol.initial_size, generator)]
        if protocol.initial == "balanced":
            return instances[first_of_each_class(labels[instances], protocol.initial_size, generator)]
        return self.ask(
            Strategy(protocol.initial), Context(remaining=(protocol.initial_size,)), None, instances, generator
        )

    def advance(self, cycle: int, model: Model, train_seconds: float) -> None:
        """Record the row of a model trained on what is labelled, and buy the next batch if there is one."""
        check_converged(model, self.experiment.learner)
        row: dict[str, Any] = {"cycle": cycle, "n_labeled": len(self.pool.labelled)}
        row |= self.task.evaluate(model, self.test, self.train, self.pool)
        row |= {"query_s": self.query_seconds, "train_s": train_seconds, "acquired": self.acquired.tolist()}
        self.rows.append(row | {"record": as_json("record", self.context.record)})
        if remaining := self.experiment.protocol.batches[cycle:]:
            start = now(self.train.labels.device)
            self.context = Context(cycle, remaining, self.context.memory)
            self.acquired = self.next_batch(model)
            self.query_seconds = now(self.train.labels.device) - start
            self.pool = self.pool.buy(self.acquired)

    def next_batch(self, model: Model) -> Tensor:
        """What the strategy picks, or has picked ahead, as positions in the data."""
        context, size = self.context, self.context.remaining[0]
        if not len(self.planned):
            visible = self.pool.subset(self.experiment.protocol.subset_size, self.draw("pool subset", context.cycle))
            generator = self.draw("strategy", context.cycle)
            self.planned = self.ask(self.experiment.strategy, context, model, visible, generator)
        batch, self.planned = self.planned[:size], self.planned[size:]
        return batch

    def ask(
        self, strategy: Strategy, context: Context, model: Model | None, visible: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The instances that the strategy picks of the visible ones, as positions in the data."""
        truth = None
        if registry.needs_oracle(strategy.name):
            truth = {"test": self.test, "validation": self.train.part(self.validation)}
        snapshot = take_snapshot(
            self.train, self.pool.labelled, visible, self.experiment.learner, model, truth, task=self.task,
            cycle=context.cycle, draw=functools.partial(draw_in, self.experiment.seed, context.cycle),
        )  # fmt: skip
        function, size, updates = strategy.function, context.remaining[0], self.experiment.updates
        if updates is None or model is None:
            return visible[registry.query(function, snapshot, size, generator, context, self.watch).cpu()]
        asked = function, snapshot, size, generator, self.train.labels_at(visible), updates, context, self.watch
        return visible[select_sequentially(*asked).cpu()]
