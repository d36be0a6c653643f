"""The active learning loop: train, evaluate, ask the strategy, buy, cycle after cycle."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch

from dal_core import strategies
from dal_core.data import FeatureBank
from dal_core.devices import with_float64
from dal_core.experiment import Experiment
from dal_core.metrics import evaluate
from dal_core.models.heads import Head
from dal_core.models.training import Training, train_heads
from dal_core.randomness import generator_for
from dal_core.snapshot import LabelledSet, OracleSnapshot, Pool, Snapshot, long_tailed
from dal_core.trace import Step, watched
from dal_core.updates import select_sequentially


class FailedRunError(RuntimeError):
    """One of several runs that go together failed: `experiment`, for the reason in `__cause__`."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(f"the run with the seed {experiment.seed} failed")
        self.experiment = experiment


def check_alike_but_for_seed(experiments: Sequence[Experiment]) -> None:
    """Raise ValueError unless there are experiments, and they differ in the seed alone."""
    if other := [each for each in experiments if not isinstance(each, Experiment)]:
        raise ValueError(f"experiments holds a {type(other[0]).__name__}; a list of Experiments was expected")
    if not experiments:
        raise ValueError("experiments is empty; at least one was expected")
    names = [field.name for field in dataclasses.fields(Experiment) if field.name != "seed"]
    first, *others = experiments
    if different := [name for name in names if any(getattr(e, name) != getattr(first, name) for e in others)]:
        raise ValueError(
            f"experiments differ in {', '.join(different)}; runs that go together differ in the seed alone"
        )


def _check_size(experiment: Experiment, num_instances: int, name: str) -> None:
    needed = experiment.initial_size + experiment.cycles * experiment.batch_size
    size = num_instances - experiment.validation_size
    if needed > size:
        raise ValueError(f"the experiment buys {needed} instances, but the pool of {name} has {size}")


@dataclasses.dataclass(eq=False)
class _Run:
    """A run on its way: what stays the same from cycle to cycle, and from `pool` on what `advance` changes."""

    experiment: Experiment
    bank: FeatureBank  # where strategies choose, as is the initial head
    initial: Head
    validation: torch.Tensor  # positions in the train split that are set aside
    pool: Pool
    acquired: torch.Tensor  # what was bought since the row before
    planned: torch.Tensor  # what the strategy has picked ahead and is not bought yet
    cycle: int = 0
    query_seconds: float = float("nan")
    told: dict[str, Any] = dataclasses.field(default_factory=dict)  # by the strategy, about what was acquired
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the strategy keeps between acquisitions
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    watch: Callable[[Step], None] | None = None  # is told of each question to the strategy

    def draw(self, *purpose: str | int) -> torch.Generator:
        return generator_for(self.experiment.seed, *purpose)

    def advance(self, head: Head, train_seconds: float) -> None:
        """Record the row of a head trained on what is labelled, and buy the next batch if there is another cycle."""
        head = head.to(self.bank.train_features.device)
        if not torch.isfinite(head.weight.sum()):
            raise ValueError(
                f"learning_rate is {self.experiment.training.learning_rate:g}, with which training diverged; a smaller "
                "one was expected"
            )
        scores = evaluate(head.logits(self.bank.test_features).double(), self.bank.test_labels)
        self.rows.append(
            {"cycle": self.cycle, "n_labeled": len(self.pool.labelled), **scores}
            | {"query_s": self.query_seconds, "train_s": train_seconds, "acquired": self.acquired.tolist()}
            | {strategies.RECORD: json.dumps(self.told)}
        )
        if self.cycle < self.experiment.cycles:
            self._buy(head)

    def _buy(self, head: Head) -> None:
        device, batch_size = self.bank.train_features.device, self.experiment.batch_size
        start, self.told = now(device), {}
        if not len(self.planned):
            self.planned = _acquire(self, head)
        self.acquired, self.planned = self.planned[:batch_size], self.planned[batch_size:]
        self.query_seconds = now(device) - start
        self.pool = self.pool.buy(self.acquired)
        self.cycle += 1


def learning_curves(
    experiments: Sequence[Experiment],
    bank: FeatureBank,
    device: torch.device,
    watch: Callable[[Step], None] | None = None,
    name: str = "the data",
) -> list[pd.DataFrame]:
    """The rows of experiments that differ in the seed only, on `bank`, whose arrays are on `device`.

    The runs go from cycle to cycle side by side: their heads are trained in one batched computation, because a single
    small head leaves a GPU idle; evaluation and acquisition go run by run.

    Args:
        watch: is told of each question to the strategy.
        name: of the data, for messages.

    Raises:
        ValueError: if the experiments differ in more than the seed, there are none, or the pool is too small.
        FailedRunError: if one of several runs fails; a single one fails with its error itself.
    """
    check_alike_but_for_seed(experiments)
    runs: list[_Run] = []
    choosing = with_float64(device)
    seen = bank if choosing == device else bank.to(choosing)
    for experiment in experiments:
        with _naming(experiment, experiments):
            runs.append(dataclasses.replace(_start(experiment, seen, choosing, name), watch=watch))
    initial, training = Head.stack([course.initial for course in runs]).to(device), experiments[0].training
    for cycle in range(experiments[0].cycles + 1):
        start = now(device)
        # Pools may differ in size (long tails), but each run has bought as many instances as the others.
        index_sets = torch.stack([course.pool.labelled for course in runs]).to(device)  # [e, m]
        shuffles = [course.draw("minibatches", cycle) for course in runs]
        heads = train_heads(initial, bank.train_features, bank.train_labels, index_sets, training, shuffles)
        train_seconds = (now(device) - start) / len(runs)
        for i, course in enumerate(runs):
            with _naming(course.experiment, experiments):
                course.advance(heads.unstacked(i), train_seconds)
    return [pd.DataFrame(course.rows, columns=course.experiment.columns) for course in runs]


@contextlib.contextmanager
def _naming(experiment: Experiment, together: Sequence[Experiment]) -> Iterator[None]:
    """Say whose error it is, where it could be that of another run."""
    try:
        yield
    except Exception as error:
        if len(together) == 1:
            raise
        raise FailedRunError(experiment) from error


def _start(experiment: Experiment, bank: FeatureBank, device: torch.device, name: str) -> _Run:
    """A run that has its initial labelled set, and no row yet."""
    draw = functools.partial(generator_for, experiment.seed)
    instances = torch.arange(len(bank.train_labels))
    if experiment.imbalance is not None:
        instances = long_tailed(bank.train_labels, experiment.imbalance, draw("long tail"))
    _check_size(experiment, len(instances), name)
    pool = Pool.among(instances, experiment.initial_size, draw("initial labelled set"))
    validation = pool.subset(experiment.validation_size, draw("validation set"))
    pool = pool.without(validation)
    initial = initial_head(experiment, bank, device)
    return _Run(experiment, bank, initial, validation, pool, acquired=pool.labelled, planned=pool.labelled[:0])


def _acquire(course: _Run, head: Head) -> torch.Tensor:
    """The instances that the strategy picks, as positions in the train split, on the CPU; fills `course.told`."""
    experiment, bank, device = course.experiment, course.bank, course.bank.train_features.device
    pool, cycle = course.pool, course.cycle
    subset = pool.subset(experiment.subset_size, course.draw("pool subset", cycle))
    visible, labelled = subset.to(device), pool.labelled.to(device)
    strategy, batch_size = strategies.get(experiment.strategy, experiment.strategy_options), experiment.batch_size
    if strategies.records(experiment.strategy):
        strategy = functools.partial(strategy, **{strategies.RECORD: course.told})
    if strategies.remembers(experiment.strategy):
        strategy = functools.partial(strategy, **{strategies.MEMORY: course.memory})
    if strategies.plans_ahead(experiment.strategy):
        strategy = functools.partial(strategy, **{strategies.ACQUISITION_SIZE: batch_size})
        batch_size *= experiment.cycles - cycle
    generator = course.draw("strategy", cycle)
    snapshot = take_snapshot(bank, head, labelled, visible, experiment.training, course.initial, cycle)
    if strategies.needs_oracle(experiment.strategy):
        snapshot = _with_truth(snapshot, course, head, visible)
    if course.watch is not None:
        start = Step(
            cycle, head, course.initial, snapshot, labelled, visible, visible[:0], course.told, generator.get_state()
        )
        strategy = watched(strategy, course.watch, start)
    if experiment.updates is None:
        positions = strategies.query(strategy, snapshot, batch_size, generator)
    else:
        positions = select_sequentially(
            strategy,
            snapshot,
            batch_size,
            generator,
            annotate=lambda picked: bank.train_labels[visible[picked]],
            updates=experiment.updates,
        )
    return subset[positions.cpu()]


def _with_truth(snapshot: Snapshot, course: _Run, head: Head, visible: torch.Tensor) -> OracleSnapshot:
    """The snapshot for an oracle, with the labels of what is visible, the test set and the validation set."""
    bank = course.bank

    def labelled_set(features: torch.Tensor, labels: torch.Tensor) -> LabelledSet:
        return LabelledSet(head.embed(features), labels, None if head.hidden_weight is None else features)

    aside = course.validation.to(visible.device)
    return OracleSnapshot(
        **{field.name: getattr(snapshot, field.name) for field in dataclasses.fields(snapshot)},
        hidden_labels=bank.train_labels[visible],
        test=labelled_set(bank.test_features, bank.test_labels),
        validation=labelled_set(bank.train_features[aside], bank.train_labels[aside]) if len(aside) else None,
    )


def initial_head(study: Any, bank: FeatureBank, device: torch.device) -> Head:
    """The head that every training of a run starts from: the same for all strategies of a seed."""
    return Head.initial(
        study.head,
        bank.num_features,
        bank.num_classes,
        generator_for(study.seed, "initial weights"),
        dtype=bank.train_features.dtype,
        device=device,
    )


def take_snapshot(
    bank: FeatureBank,
    head: Head,
    labelled: torch.Tensor,
    visible: torch.Tensor,
    training: Training,
    initial: Head | None = None,
    cycle: int = 0,
) -> Snapshot:
    """What a strategy sees when `labelled` is labelled and it may choose from `visible`."""
    inputs, labelled_inputs = bank.train_features[visible], bank.train_features[labelled]
    features, labelled_features = head.embed(inputs), head.embed(labelled_inputs)
    hidden = head.hidden_weight is not None
    return Snapshot(
        features=features,
        logits=head.last_layer(features),
        labelled_features=labelled_features,
        labelled_logits=head.last_layer(labelled_features),
        labels=bank.train_labels[labelled],
        weight=head.weight,
        bias=head.bias,
        training=training,
        initial=initial,
        inputs=inputs if hidden else None,
        labelled_inputs=labelled_inputs if hidden else None,
        cycle=cycle,
    )


def now(device: torch.device) -> float:
    """Seconds on a clock that only goes forward, after the device has finished what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
