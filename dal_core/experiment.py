"""The configuration of an active learning run."""

import dataclasses
from typing import Any, Literal

from dal_core import strategies
from dal_core.checks import check_choice, check_options, check_text, check_whole
from dal_core.contracts import Count, Size, check_fields, checked
from dal_core.models.training import PROTOCOLS, Training
from dal_core.snapshot import Imbalance
from dal_core.updates import Updates

# Options that mean the field of the training at their right, unless the strategy has one of that name itself.
CHANGES = ("learning_rate", "weight_decay", "batch_size", "epochs", "drop_last")
TRAINING_OPTIONS = {f"training_{field}": field for field in CHANGES} | {
    field: field for field in CHANGES if field != "batch_size"
}
UPDATE_OPTIONS = {f"update_{field.name}" for field in dataclasses.fields(Updates)}
OTHER_OPTIONS = {*TRAINING_OPTIONS, *UPDATE_OPTIONS, "validation_size", "imbalance"}
COLUMNS = (
    "cycle", "n_labeled", "accuracy", "nll", "brier", "ece", "ace", "query_s", "train_s", "acquired",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Configuration of one active learning run; everything that its rows depend on, next to the data.

    Args:
        dataset: the name of a data set, or the path of a feature file of your own.
        encoder: what turns its images, texts or sounds into features.
        strategy: a registered name.
        seed: of the initial labelled set, the head's initial weights, the minibatches, the pool subsets, the strategy.
        batch_size: instances bought in a cycle.
        initial_size: instances labelled at the start, drawn at random.
        cycles: number of acquisitions.
        subset_size: the strategy sees that many unlabelled instances, drawn anew in each cycle; None: the whole pool.
        head: "linear" or "mlp".
        optimiser: "sgd" (BoSS, REFINE) or "radam" (Laplace updates, Fast Fishing), with the protocol of those papers.
        device: "auto" takes CUDA where there is one, else MPS, else the CPU. On MPS, which has no float64, heads are
            trained; strategies choose on the CPU.
        allow_oracle: allow a strategy that looks at true labels.
        options: the strategy's own options; changes to the training (`learning_rate`, `weight_decay`,
            `training_batch_size`, `epochs`, `drop_last`); `update_every`, with `update_gamma`, `update_likelihood` and
            `update_prior_precision`, to update the head within a batch; `validation_size`, instances of the train
            split that are never bought, for oracles that judge by a validation set; and `imbalance`, for a long-tailed
            part of the train split (`snapshot.long_tailed`). An option that the strategy has itself is the strategy's,
            whatever it is called; `training_epochs` and the like always mean the training.

    Raises:
        ValueError: on anything unknown or out of range; lists what exists.
    """

    dataset: str = "digits"
    encoder: str | None = None
    strategy: str = "margin"
    seed: Size = 0
    batch_size: Count = 10
    initial_size: Count = 10
    cycles: Size = 20
    subset_size: Count | None = 1000
    head: Literal["linear", "mlp"] = "linear"
    optimiser: Literal["sgd", "radam"] = "sgd"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    allow_oracle: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("dataset", self.dataset)
        if self.encoder is not None:
            check_text("encoder", self.encoder)
        check_options("options", self.options)
        strategies.get(self.strategy, self.strategy_options)
        check_fields(self)
        if self.subset_size is not None:
            check_whole("subset_size", self.subset_size, self.batch_size)
        _check_options_of_run(self)
        self.training  # noqa: B018 - validates the options of the training

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the run's rows."""
        return (*COLUMNS, strategies.RECORD) if strategies.records(self.strategy) else COLUMNS

    @property
    def validation_size(self) -> int:
        """Instances that are set aside."""
        return self._of_run.get("validation_size", 0)

    @property
    def imbalance(self) -> float | None:
        """How many times rarer the rarest class of the pool is than the most frequent one; None: as it comes."""
        return self._of_run.get("imbalance")

    def __hash__(self) -> int:
        return hash((self.dataset, self.strategy, self.seed))  # options are a dict, and cannot take part

    @property
    def training(self) -> Training:
        """The protocol of `optimiser`, with what `options` changes."""
        return training_protocol(self.optimiser, {k: v for k, v in self._of_run.items() if k in TRAINING_OPTIONS})

    @property
    def updates(self) -> Updates | None:
        """Updates within a batch, if `options` asks for them."""
        if "update_every" not in self._of_run:
            return None
        changes = {k.removeprefix("update_"): v for k, v in self._of_run.items() if k in UPDATE_OPTIONS}
        try:
            return Updates(**changes)
        except ValueError as refusal:
            raise ValueError(f"update_{refusal}") from None

    @property
    def strategy_options(self) -> dict[str, Any]:
        """Those of `options` that the strategy takes."""
        return {k: v for k, v in self.options.items() if k not in self._of_run}

    @property
    def _of_run(self) -> dict[str, Any]:
        own = strategies.option_names(self.strategy)
        return {k: v for k, v in self.options.items() if k in OTHER_OPTIONS and k not in own}


@checked
def _check_pool(validation_size: Size, imbalance: Imbalance | None) -> None:
    """Raise ValueError unless both are in range."""


def _check_options_of_run(experiment: Experiment) -> None:
    name = experiment.strategy
    if strategies.needs_oracle(name) and not experiment.allow_oracle:
        raise ValueError(f"strategy {name!r} looks at true labels: allow_oracle is False, True was expected to run it")
    if experiment.updates is not None and strategies.needs_oracle(name):
        raise ValueError(f"update_every is given, but the oracle {name!r} picks whole batches")
    if experiment.updates is None and (lost := UPDATE_OPTIONS & set(experiment._of_run)):
        raise ValueError(f"options holds {sorted(lost)}, which have no effect without update_every")
    planned = experiment.cycles * experiment.batch_size
    if strategies.plans_ahead(name) and experiment.subset_size is not None and experiment.subset_size < planned:
        raise ValueError(
            f"subset_size is {experiment.subset_size}; at least {planned} was expected, because {name!r} plans all "
            "acquisitions on the first subset"
        )
    _check_pool(experiment.validation_size, experiment.imbalance)


def training_protocol(optimiser: str, changes: dict[str, Any]) -> Training:
    """The papers' protocol for `optimiser`, with `changes` by option name.

    Raises:
        ValueError: for an option that the training does not have.
    """
    for name in changes:
        check_choice("option of the training", name, sorted(TRAINING_OPTIONS))
    fields = {TRAINING_OPTIONS[name]: value for name, value in changes.items()}
    if len(fields) < len(changes):
        raise ValueError(f"options holds {sorted(changes)}, of which two mean the same; one of them was expected")
    try:
        return dataclasses.replace(PROTOCOLS[optimiser], **fields)
    except ValueError as refusal:
        raise ValueError(f"of the training {refusal}") from None
