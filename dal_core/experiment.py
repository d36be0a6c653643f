"""One active learning run: a configuration in, tidy rows out."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import dal_core.ensembles  # registers the ensembles
import dal_core.oracles  # noqa: F401 - registers the oracles
from dal_core import strategies
from dal_core.checks import check_choice, check_flag, check_options, check_text, check_whole
from dal_core.data import FeatureBank
from dal_core.devices import DEVICES, resolve_device
from dal_core.metrics import evaluate
from dal_core.models.heads import KINDS, OPTIMISERS, PROTOCOLS, Head, Training, train_heads
from dal_core.randomness import fixed_threads, generator_for
from dal_core.snapshot import LabelledSet, OracleSnapshot, Pool, Snapshot, check_imbalance, long_tailed
from dal_core.trace import Step, watched
from dal_core.updates import Updates, select_sequentially
from dal_lab.sources import catalogue

# Option names that belong to the training and to updates within a batch; all others are the strategy's.
TRAINING_OPTIONS = {"learning_rate", "weight_decay", "training_batch_size", "epochs", "drop_last"}
UPDATE_OPTIONS = {f"update_{field.name}" for field in dataclasses.fields(Updates)}
VALIDATION_SIZE, IMBALANCE = "validation_size", "imbalance"  # options of the pool
OTHER_OPTIONS = {*TRAINING_OPTIONS, *UPDATE_OPTIONS, VALIDATION_SIZE, IMBALANCE}
COLUMNS = (
    "cycle", "n_labeled", "accuracy", "nll", "brier", "ece", "ace", "query_s", "train_s", "acquired",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Configuration of one active learning run; everything that its rows depend on, next to the data.

    Args:
        dataset, encoder: what `datasets.load` understands: a name, or the path of a feature file of your own.
        strategy: a registered name.
        seed: of the initial labelled set, the head's initial weights, the minibatches, the pool subsets, the strategy.
        batch_size, initial_size, cycles: `cycles` batches of `batch_size` are bought after the initial ones.
        subset_size: the strategy sees that many unlabelled instances, drawn anew in each cycle; None: the whole pool.
        head: "linear" or "mlp".
        optimiser: "sgd" (BoSS, REFINE) or "radam" (Laplace updates, Fast Fishing), with the protocol of those papers.
        device: "auto" takes CUDA where there is one, else MPS, else the CPU. On MPS, which has no float64, heads are
            trained; strategies choose on the CPU.
        allow_oracle: has to be True for a strategy that looks at true labels.
        options: the strategy's own options; changes to the training (`learning_rate`, `weight_decay`,
            `training_batch_size`, `epochs`, `drop_last`); `update_every`, with `update_gamma`, `update_likelihood` and
            `update_prior_precision`, to update the head within a batch; `validation_size`, instances of the train
            split that are never bought, for oracles that judge by a validation set; and `imbalance`, for a long-tailed
            part of the train split (`pool.long_tailed`).

    Raises:
        ValueError: on anything unknown or out of range; lists what exists.
    """

    dataset: str = "digits"
    encoder: str | None = None
    strategy: str = "margin"
    seed: int = 0
    batch_size: int = 10
    initial_size: int = 10
    cycles: int = 20
    subset_size: int | None = 1000
    head: str = "linear"
    optimiser: str = "sgd"
    device: str = "auto"
    allow_oracle: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("dataset", self.dataset)
        if self.encoder is not None:
            check_text("encoder", self.encoder)
        check_flag("allow_oracle", self.allow_oracle)
        check_options("options", self.options)
        check_choice("head", self.head, KINDS)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_choice("device", self.device, DEVICES)
        for name, lowest in {"seed": 0, "batch_size": 1, "initial_size": 1, "cycles": 0}.items():
            check_whole(name, getattr(self, name), lowest)
        if self.subset_size is not None:
            check_whole("subset_size", self.subset_size, self.batch_size)
        if strategies.needs_oracle(self.strategy) and not self.allow_oracle:
            raise ValueError(
                f"strategy {self.strategy!r} looks at true labels: allow_oracle is False, True was expected to run it"
            )
        if self.updates is not None and strategies.needs_oracle(self.strategy):
            raise ValueError(f"update_every is given, but the oracle {self.strategy!r} picks whole batches")
        if self.updates is None and (lost := UPDATE_OPTIONS & set(self.options)):
            raise ValueError(f"options holds {sorted(lost)}, which have no effect without update_every")
        if strategies.plans_ahead(self.strategy):
            planned = self.cycles * self.batch_size
            if self.subset_size is not None and self.subset_size < planned:
                raise ValueError(
                    f"subset_size is {self.subset_size}; at least {planned} was expected, because {self.strategy!r} "
                    "plans all acquisitions on the first subset"
                )
        check_whole(VALIDATION_SIZE, self.validation_size, 0)
        check_imbalance(self.options.get(IMBALANCE, 1))
        strategies.get(self.strategy, self.strategy_options)
        self.training  # noqa: B018 - validates the options of the training

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the run's rows."""
        return (*COLUMNS, strategies.RECORD) if strategies.records(self.strategy) else COLUMNS

    @property
    def validation_size(self) -> int:
        """Instances that are set aside."""
        return self.options.get(VALIDATION_SIZE, 0)

    def __hash__(self) -> int:
        return hash((self.dataset, self.strategy, self.seed))  # options are a dict, and cannot take part

    @property
    def training(self) -> Training:
        """The protocol of `optimiser`, with what `options` changes."""
        return training_protocol(self.optimiser, {k: v for k, v in self.options.items() if k in TRAINING_OPTIONS})

    @property
    def updates(self) -> Updates | None:
        """Updates within a batch, if `options` asks for them."""
        if "update_every" not in self.options:
            return None
        return Updates(**{k.removeprefix("update_"): v for k, v in self.options.items() if k in UPDATE_OPTIONS})

    @property
    def strategy_options(self) -> dict[str, Any]:
        """Those of `options` that the strategy takes."""
        return {k: v for k, v in self.options.items() if k not in OTHER_OPTIONS}


def training_protocol(optimiser: str, changes: dict[str, Any]) -> Training:
    """The papers' protocol for `optimiser`, with `changes` by option name.

    Raises:
        ValueError: for an option that the training does not have.
    """
    for name in changes:
        check_choice("option of the training", name, sorted(TRAINING_OPTIONS))
    return dataclasses.replace(PROTOCOLS[optimiser], **{k.removeprefix("training_"): v for k, v in changes.items()})


def device_of(study: Any) -> torch.device:
    """The device that a study computes on; only an Experiment does so on MPS, which has no float64."""
    device = resolve_device(study.device)
    return device if isinstance(study, Experiment) else _with_float64(device)


def _with_float64(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


def configuration(study: Any) -> dict[str, Any]:
    """The full configuration of a study (an Experiment, or another dataclass that `run` knows) as JSON values."""
    values = dataclasses.asdict(study) | {"device": device_of(study).type}
    if study.dataset is not None:  # of a file the name alone: its content counts, wherever it lies
        values["dataset"] = catalogue.short_name(study.dataset)
    return {"kind": type(study).__name__, **json.loads(json.dumps(values))}


def canonical(study: Any) -> str:
    """`configuration` as text that is the same for the same configuration."""
    return json.dumps(configuration(study), sort_keys=True)


@functools.singledispatch
def run(experiment: Any, *, data_dir: str | Path | None = None) -> pd.DataFrame:  # noqa: ARG001
    """Run an experiment; a row for the initial labelled set and one for each acquisition.

    Columns: cycle, n_labeled, accuracy, nll (nats), brier, ece, ace on the test split; query_s and train_s (seconds);
    acquired, the instances bought since the row before, as positions in the train split, in the order of picking; and
    where the strategy tells about its choice, record, as JSON. Rows but for the two times are the same bit by bit for
    the same configuration and data on one CPU.

    Raises:
        ValueError: if the pool is too small for the experiment.
        DatasetUnavailableError: if the data are not to be had.
    """
    raise TypeError(f"experiment is a {type(experiment).__name__}; an Experiment was expected")


@run.register
def _(experiment: Experiment, *, data_dir: str | Path | None = None) -> pd.DataFrame:
    (rows,) = run_together([experiment], data_dir=data_dir)
    return rows


def walk(experiment: Experiment, *, data_dir: str | Path | None = None) -> list[Step]:
    """The questions that `run` asks the strategy, in order, with what it saw: for data small enough to look at.

    Picks are those of `run` for the same experiment. Memory: a snapshot a step.

    Raises:
        ValueError, DatasetUnavailableError: as `run`.
    """
    steps: list[Step] = []
    device = resolve_device(experiment.device)
    bank = catalogue.load(experiment.dataset, encoder=experiment.encoder, data_dir=data_dir)
    with fixed_threads():
        _learning_curves([experiment], bank.to(device), device, watch=steps.append)
    return steps


class FailedRunError(RuntimeError):
    """One of several runs that go together failed: `experiment`, for the reason in `__cause__`."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(f"the run with the seed {experiment.seed} failed")
        self.experiment = experiment


def run_together(experiments: Sequence[Experiment], *, data_dir: str | Path | None = None) -> list[pd.DataFrame]:
    """The rows of `run` for each of several experiments that differ in the seed only, which share their trainings.

    The runs go from cycle to cycle side by side: their heads are trained in one batched computation, because a single
    small head leaves a GPU idle; evaluation and acquisition go run by run. Rows are those of single runs up to
    rounding. `train_s` is a run's share, the seconds of the joint training divided by the number of runs.

    Raises:
        ValueError: if the experiments differ in more than the seed, or there are none.
        FailedRunError: if one of several runs fails; a single one fails with its error itself.
    """
    _check_alike_but_for_seed(experiments)
    first = experiments[0]
    device = resolve_device(first.device)
    bank = catalogue.load(first.dataset, encoder=first.encoder, data_dir=data_dir)
    with fixed_threads():
        return _learning_curves(experiments, bank.to(device), device)


def _check_alike_but_for_seed(experiments: Sequence[Experiment]) -> None:
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


def _check_size(experiment: Experiment, num_instances: int) -> None:
    needed = experiment.initial_size + experiment.cycles * experiment.batch_size
    size = num_instances - experiment.validation_size
    if needed > size:
        raise ValueError(f"the experiment buys {needed} instances, but the pool of {bank_name(experiment)} has {size}")


def bank_name(study: Any) -> str:
    """The data of a study in words."""
    if study.dataset is None:
        return "synthetic"
    name = catalogue.short_name(study.dataset)
    return name if study.encoder is None else f"{name} ({study.encoder})"


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
        scores = evaluate(head.logits(self.bank.test_features), self.bank.test_labels)
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


def _learning_curves(
    experiments: Sequence[Experiment],
    bank: FeatureBank,
    device: torch.device,
    watch: Callable[[Step], None] | None = None,
) -> list[pd.DataFrame]:
    runs: list[_Run] = []
    choosing = _with_float64(device)
    seen = bank if choosing == device else bank.to(choosing)
    for experiment in experiments:
        with _naming(experiment, experiments):
            runs.append(dataclasses.replace(_start(experiment, seen, choosing), watch=watch))
    initial, training = _stacked([course.initial for course in runs]).to(device), experiments[0].training
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


def _start(experiment: Experiment, bank: FeatureBank, device: torch.device) -> _Run:
    """A run that has its initial labelled set, and no row yet."""
    draw = functools.partial(generator_for, experiment.seed)
    instances = torch.arange(len(bank.train_labels))
    if IMBALANCE in experiment.options:
        instances = long_tailed(bank.train_labels, experiment.options[IMBALANCE], draw("long tail"))
    _check_size(experiment, len(instances))
    pool = Pool.among(instances, experiment.initial_size, draw("initial labelled set"))
    validation = pool.subset(experiment.validation_size, draw("validation set"))
    pool = pool.without(validation)
    initial = initial_head(experiment, bank, device)
    return _Run(experiment, bank, initial, validation, pool, acquired=pool.labelled, planned=pool.labelled[:0])


def _stacked(heads: Sequence[Head]) -> Head:
    stacks: dict[str, Any] = {}
    for field in dataclasses.fields(Head):
        tensors = [getattr(head, field.name) for head in heads]
        stacks[field.name] = None if tensors[0] is None else torch.stack(tensors)
    return Head(**stacks)


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
