"""The configuration of an active learning run."""

import dataclasses
from typing import Any

from dal_core import strategies
from dal_core.checks import check_choice, check_flag, check_options, check_text, check_whole
from dal_core.devices import DEVICES
from dal_core.models.heads import KINDS
from dal_core.models.training import OPTIMISERS, PROTOCOLS, Training
from dal_core.snapshot import check_imbalance
from dal_core.updates import Updates

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
