"""An experiment as flat settings: what the command line is given, and the columns that set its rows apart."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dal_core.checks import check_choice, check_options, check_text
from dal_core.experiment import Experiment, Protocol, Strategy
from dal_core.models.learners import Linear, Mlp
from dal_core.models.training import Training
from dal_core.strategies import registry
from dal_core.updates import Updates

HEADS = {"linear": Linear, "mlp": Mlp}
# Options that mean the field of the training at their right, unless the strategy has one of that name itself.
CHANGES = ("learning_rate", "weight_decay", "batch_size", "epochs", "schedule_epochs", "drop_last")
TRAINING_OPTIONS = {f"training_{field}": field for field in CHANGES} | {
    field: field for field in CHANGES if field != "batch_size"
}
UPDATES = {f"update_{field.name}": field.name for field in dataclasses.fields(Updates)}
BUYING = ("batch_size", "initial_size", "cycles", "subset_size")  # of a Protocol, with a column for each run
# With one where they are set.
RARE = {"initial": "random", "validation_size": 0, "share": 1.0, "imbalance": 1.0, "mean_field": None}


def experiment_of(
    dataset: str = "digits", encoder: str | None = None, strategy: str = "margin", seed: int = 0, *,
    head: str = "linear", optimiser: str = "sgd", subset_size: int | None = 1000, device: Any = "auto",
    allow_oracle: bool = False, options: Mapping[str, Any] | None = None, **buying: Any,
) -> Experiment:  # fmt: skip
    """Return the experiment of flat settings.

    `options` are the strategy's own; changes to the training (`learning_rate`, `weight_decay`, `epochs`,
    `schedule_epochs`, `drop_last`, `training_batch_size`); `update_every`, with `update_gamma`, `update_likelihood` and
    `update_prior_precision`, for updates within a batch; and `validation_size`, `imbalance`, `share`, `initial`,
    `mean_field` of the protocol. One that the strategy has itself is the strategy's, whatever it is called;
    `training_epochs` and the like are the training's.

    Raises:
        ValueError: on anything unknown or out of range; lists what exists.
    """
    check_options("options", options := {} if options is None else options)
    check_text("dataset", dataset)
    check_choice("head", head, HEADS)
    own = registry.option_names(strategy)
    others = {name: value for name, value in options.items() if name not in own}
    training = {name: others.pop(name) for name in [*others] if name in TRAINING_OPTIONS}
    updates = {UPDATES[name]: others.pop(name) for name in [*others] if name in UPDATES}
    protocol = {name: others.pop(name) for name in [*others] if name in RARE}
    if updates and "every" not in updates:
        lost = sorted(UPDATES.keys() & options.keys())
        raise ValueError(f"options holds {lost}, which have no effect without update_every")
    taken = {name: value for name, value in options.items() if name in own} | others
    return Experiment(
        dataset, encoder, Strategy(strategy, **taken),
        HEADS[head](training_of(optimiser, training)), Protocol(subset_size=subset_size, **buying, **protocol),
        _named("update_", Updates, updates) if updates else None, seed=seed, device=device, allow_oracle=allow_oracle,
    )  # fmt: skip


def training_of(optimiser: str, changes: Mapping[str, Any]) -> Training:
    """Return the papers' training with an optimiser, with changes by the names of options.

    Raises:
        ValueError: for an option that the training does not have.
    """
    for name in changes:
        check_choice("option of the training", name, sorted(TRAINING_OPTIONS))
    fields = {TRAINING_OPTIONS[name]: value for name, value in changes.items()}
    if len(fields) < len(changes):
        raise ValueError(f"options holds {sorted(changes)}, of which two mean the same; one of them was expected")
    return _named("training_", Training, {"optimiser": optimiser, **fields})


def _named(prefix: str, kind: Any, fields: dict[str, Any]) -> Any:
    """The dataclass; a refusal names the option."""
    try:
        return kind(**fields)
    except ValueError as refusal:
        plain = str(refusal).startswith("optimiser")
        raise ValueError(f"{'' if plain else prefix}{refusal}") from None


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return the settings as columns: those of each run, and of the others those that are not the defaults."""
    strategy, learner, protocol = experiment.strategy, experiment.learner, experiment.protocol
    found = {
        "dataset": experiment.data,
        "encoder": experiment.encoder,
        "strategy": strategy.name,
        "seed": experiment.seed,
    }
    found |= {name: getattr(protocol, name) for name in BUYING}
    training = getattr(learner, "training", None)
    usual = {each.name: each.default for each in dataclasses.fields(learner)}  # type: ignore[arg-type]
    name = type(learner).__name__
    found |= {
        "head": name if "kind" in usual else getattr(learner, "kind", name),  # A field of that name is no kind of head.
        "optimiser": getattr(training, "optimiser", None),
        "device": experiment.device,
        "allow_oracle": experiment.allow_oracle,
    }
    found |= {"standardise": True} if protocol.standardise else {}
    found |= {name: getattr(protocol, name) for name, plain in RARE.items() if getattr(protocol, name) != plain}
    if (updates := experiment.updates) is not None:
        changed = {n: v for n, v in dataclasses.asdict(updates).items() if v != getattr(Updates(), n)}
        found |= {f"update_{name}": value for name, value in {"every": updates.every, **changed}.items()}
    add(found, strategy.options, "strategy_")
    if isinstance(training, Training):
        plain = Training(training.optimiser)
        values = {field: getattr(training, field) for field in CHANGES}
        add(found, {field: value for field, value in values.items() if value != getattr(plain, field)}, "training_")
    add(found, {n: v for n in usual if n != "training" and (v := getattr(learner, n)) != usual[n]}, "learner_")
    return found


def add(columns: dict[str, Any], values: Mapping[str, Any], prefix: str) -> None:
    """Add columns, with the prefix where a name is taken."""
    for name, value in values.items():
        while name in columns or name in ("run", "data"):
            name = f"{prefix}{name}"
        columns[name] = value
