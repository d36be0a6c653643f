"""The updating study of paper 1: what a head knows after an update with a few new labels (arXiv 2210.06112, section 5).

A head is trained on an initial labelled set. New labels arrive, and five ways to take them in are compared: leave the
head as it is, re-weight hypotheses (Monte-Carlo), gradient steps with the paper's first-order update, the
second-order update, and retraining from scratch. Beside them stand plain gradient steps with a choice of what they
look at (the new samples only, all samples, a mixture), at several numbers of steps and learning rates.

Every step size is a grid: each value has its own rows, with accuracy on a validation split next to accuracy on the
test split, so that whoever reads the rows can tune each method in the same way (`tuned`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from dal_core.checks import (
    check_choice,
    check_columns,
    check_number,
    check_options,
    check_positive,
    check_text,
    check_whole,
)
from dal_core.data import FeatureBank
from dal_core.devices import DEVICES
from dal_core.experiment import training_protocol
from dal_core.laplace import (
    LIKELIHOODS,
    covariance_matrix,
    first_order_update,
    monte_carlo_probabilities,
    monte_carlo_weights,
    precision_matrix,
    sample_weights,
    second_order_update,
)
from dal_core.loop import initial_head, now
from dal_core.metrics import accuracy, nll
from dal_core.models.heads import KINDS, Head
from dal_core.models.training import OPTIMISERS, Training, train_head, train_heads
from dal_core.randomness import choose, fixed_threads, generator_for
from dal_core.snapshot import Pool
from dal_core.strategies.uncertainty import highest, margin_scores
from dal_lab.runs.study import bank_name, device_of, run
from dal_lab.sources import catalogue

SELECTIONS = ("random", "margin")
GRADIENT_SAMPLES = ("new", "all", "mixture")


@dataclasses.dataclass(frozen=True)
class UpdateStudy:
    """Configuration of one updating study: one initial labelled set, `draws` sequences of new samples.

    Args:
        dataset, encoder, head, optimiser, device: as in Experiment; MPS is left to the CPU.
        seed: of the initial labelled set, the initial weights, the minibatches, the draws.
        initial_size: labels before the update.
        new_sizes: numbers of new samples; those of a draw are nested, the first 2 of 3 are the 2.
        draws: independent sequences of new samples.
        validation_share: share of the train split that is held out, for tuning.
        selection: "random" draws them uniformly; "margin" takes the most uncertain of a random half of the pool.
        gammas: steps of the second-order update.
        likelihood, prior_precision: of the Laplace approximation.
        first_order_gammas: steps of the first-order update.
        num_hypotheses, monte_carlo_gammas: of the Monte-Carlo update.
        gradient_steps, gradient_rates: numbers of full-batch gradient steps and their learning rates; empty: none.
        options: changes to the training, e.g. {"epochs": 20}.

    Raises:
        ValueError: on anything unknown or out of range.
    """

    dataset: str = "digits"
    encoder: str | None = None
    seed: int = 0
    initial_size: int = 10
    new_sizes: tuple[int, ...] = tuple(range(1, 11))
    draws: int = 5
    selection: str = "random"
    validation_share: float = 0.2
    gammas: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 30.0)
    likelihood: str = "gaussian"
    prior_precision: float = 1.0
    first_order_gammas: tuple[float, ...] = (0.001, 0.01, 0.1)
    num_hypotheses: int = 1000
    monte_carlo_gammas: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
    gradient_steps: tuple[int, ...] = ()
    gradient_rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    head: str = "linear"
    optimiser: str = "radam"
    device: str = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    columns: ClassVar[tuple[str, ...]] = (
        "draw", "n_new", "method", "gamma", "steps", "rate",
        "accuracy", "nll", "flips", "validation_accuracy", "update_s",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, value in {"dataset": self.dataset, "encoder": self.encoder or "none"}.items():
            check_text(name, value)
        check_options("options", self.options)
        for name in (
            "new_sizes",
            "gammas",
            "first_order_gammas",
            "monte_carlo_gammas",
            "gradient_steps",
            "gradient_rates",
        ):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}; a tuple of numbers was expected")
        check_choice("head", self.head, KINDS)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        check_choice("device", self.device, DEVICES)
        check_choice("selection", self.selection, SELECTIONS)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        for name, lowest in {"seed": 0, "initial_size": 1, "draws": 1, "num_hypotheses": 1}.items():
            check_whole(name, getattr(self, name), lowest)
        for name in ("new_sizes", "gradient_steps"):
            for i, size in enumerate(getattr(self, name)):
                check_whole(f"{name}[{i}]", size, 1)
        if not self.new_sizes or list(self.new_sizes) != sorted(set(self.new_sizes)):
            raise ValueError(f"new_sizes is {self.new_sizes}; ascending whole numbers of at least 1 were expected")
        check_positive(prior_precision=self.prior_precision)
        for name in ("gammas", "first_order_gammas", "monte_carlo_gammas", "gradient_rates"):
            check_positive(**{f"{name}[{i}]": value for i, value in enumerate(getattr(self, name))})
        check_number("validation_share", self.validation_share)
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; a number between 0 and 1 was expected")
        self.training  # noqa: B018 - validates the options of the training

    def __hash__(self) -> int:
        return hash((self.dataset, self.initial_size, self.seed))  # options are a dict, and cannot take part

    @property
    def training(self) -> Training:
        return training_protocol(self.optimiser, self.options)


def tuned(rows: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """The rows of each method at its step size (gamma, learning rate) with the best mean accuracy on validation data.

    `rows` are those of one or more studies. Within each combination of `by` and of `steps` (a budget, not a step
    size) the choice is made anew; ties go to the smaller step.
    """
    groups = [*by, "method", "steps"]
    check_columns("rows", rows, [*groups, "gamma", "rate", "validation_accuracy"])
    step = rows["gamma"].fillna(rows["rate"]).fillna(0.0)
    rows = rows.assign(step=step)
    means = rows.groupby([*groups, "step"], dropna=False)["validation_accuracy"].mean().reset_index()
    best = means.sort_values("validation_accuracy", ascending=False, kind="stable").drop_duplicates(groups)
    return rows.merge(best[[*groups, "step"]], on=[*groups, "step"])


def compared(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of `methods`, in that order, with the column `gain`: accuracy above the base head of the same draw."""
    pairing = ["run", "draw", "n_new"]
    check_columns("rows", rows, [*pairing, "method", "accuracy"])
    base = rows[rows["method"] == "base"].set_index(pairing)["accuracy"]
    rows = rows.assign(gain=rows["accuracy"] - base.loc[rows.set_index(pairing).index].to_numpy())
    order = {method: position for position, method in enumerate(methods)}
    chosen = rows[rows["method"].isin(methods)]
    return chosen.sort_values("method", key=lambda names: names.map(order), kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting:
    """What all updates of a study start from; features are those that the last layer sees."""

    study: UpdateStudy
    bank: FeatureBank
    initial: Head
    base: Head
    pool: Pool
    covariance: Tensor  # [d, d]
    hypotheses: Tensor  # [e, k, d]
    judged: Tensor  # inputs that predictions are judged on: the test split, then the validation split
    truth: Tensor

    @functools.cached_property
    def judged_features(self) -> Tensor:
        return self.base.embed(self.judged)

    @functools.cached_property
    def base_logits(self) -> Tensor:
        return self.base.last_layer(self.judged_features)

    def logits(self, weight: Tensor) -> Tensor:
        """Logits of another last layer with the base head's bias."""
        return dataclasses.replace(self.base, weight=weight).last_layer(self.judged_features)

    def score(self, logits: Tensor, seconds: float, **what: Any) -> dict[str, Any]:
        """A row: accuracy, nll in nats, decision flips (share of test predictions that differ from the base head's)."""
        # Gradient steps at too high a rate diverge. Such a head takes whatever is NaN for the most probable class.
        diverged, most = not torch.isfinite(logits).all(), torch.finfo(logits.dtype).max
        logits = logits.nan_to_num(nan=most, posinf=most / 2) if diverged else logits
        split = len(self.bank.test_labels)
        test, labels = logits[:split], self.bank.test_labels
        flips = (test.argmax(dim=1) != self.base_logits[:split].argmax(dim=1)).double().mean().item()
        scores = {"accuracy": accuracy(test, labels), "nll": nll(test, labels), "flips": flips}
        scores |= {"nll": float("nan")} if diverged else {}
        validation = accuracy(logits[split:], self.truth[split:])
        return {**what, **scores, "validation_accuracy": validation, "update_s": seconds}


@run.register
def _(study: UpdateStudy, *, data_dir: str | Path | None = None) -> pd.DataFrame:
    """A row a draw, number of new samples, method and step size.

    Columns: draw, n_new, method, gamma, steps, rate, accuracy, nll, flips, validation_accuracy, update_s (seconds).
    """
    device = device_of(study)
    bank = catalogue.load(study.dataset, encoder=study.encoder, data_dir=data_dir)
    needed = study.initial_size + study.new_sizes[-1]
    left = len(bank.train_labels) - _validation_size(study, bank)
    if needed > left:
        raise ValueError(f"the study needs {needed} instances; the pool of {bank_name(study)} has {left} to train on")
    with fixed_threads():
        setting = _prepare(study, bank.to(device), device)
        new = _draw_new_samples(setting)  # [draws, b]
        rows = _monte_carlo_updates(setting, new, device)
        for n_new in study.new_sizes:
            for updated in (_laplace_updates, _gradient_updates, _retraining):
                rows += [{"n_new": n_new, **row} for row in updated(setting, new[:, :n_new], device)]
    return pd.DataFrame(rows, columns=study.columns)


def _validation_size(study: UpdateStudy, bank: FeatureBank) -> int:
    return max(1, round(study.validation_share * len(bank.train_labels)))


def _prepare(study: UpdateStudy, bank: FeatureBank, device: torch.device) -> _Setting:
    draw = functools.partial(generator_for, study.seed)
    size = len(bank.train_labels)
    order = choose(size, size, draw("validation split"))
    count = _validation_size(study, bank)
    validation, rest = order[:count].to(device), order[count:]
    positions = Pool.start(len(rest), study.initial_size, draw("initial labelled set"))
    pool = Pool(rest[positions.labelled], rest[positions.unlabelled])

    initial = initial_head(study, bank, device)
    labelled = pool.labelled.to(device)
    base = train_head(initial, bank.train_features, bank.train_labels, labelled, study.training, draw("minibatches", 0))
    features = base.embed(bank.train_features[labelled])
    precision = precision_matrix(
        features,
        base.last_layer(features),
        likelihood=study.likelihood,
        prior_precision=study.prior_precision,
    )
    covariance = covariance_matrix(precision)
    return _Setting(
        study,
        bank,
        initial,
        base,
        pool,
        covariance,
        hypotheses=sample_weights(base.weight, covariance, study.num_hypotheses, draw("hypotheses")),
        judged=torch.cat((bank.test_features, bank.train_features[validation])),
        truth=torch.cat((bank.test_labels, bank.train_labels[validation])),
    )


def _draw_new_samples(setting: _Setting) -> Tensor:
    """Positions in the train split of the new samples, best or first drawn first.  [draws, b]"""
    study, unlabelled, device = setting.study, setting.pool.unlabelled, setting.judged.device
    count = study.new_sizes[-1]
    draws = []
    for draw in range(study.draws):
        order = unlabelled[choose(len(unlabelled), len(unlabelled), generator_for(study.seed, "new", draw))]
        if study.selection == "margin":
            order = order[: max(count, len(order) // 2)]
            logits = setting.base.logits(setting.bank.train_features[order.to(device)])
            order = order[highest(margin_scores(logits.softmax(dim=-1)), count).cpu()]
        draws.append(order[:count].to(device))
    return torch.stack(draws)


def _laplace_updates(setting: _Setting, new: Tensor, device: torch.device) -> list[dict[str, Any]]:
    """The base head as it is, first-order and second-order updates, draw by draw."""
    study, base, rows = setting.study, setting.base, []
    for draw, indices in enumerate(new):
        features, targets = base.embed(setting.bank.train_features[indices]), setting.bank.train_labels[indices]
        rows.append(setting.score(setting.base_logits, 0.0, draw=draw, method="base"))
        for gamma in study.first_order_gammas:
            start = now(device)
            weight = first_order_update(base.weight, features, targets, gamma=gamma, bias=base.bias)
            seconds = now(device) - start
            rows.append(setting.score(setting.logits(weight), seconds, draw=draw, method="first_order", gamma=gamma))
        for gamma in study.gammas:
            start = now(device)
            weight, _ = second_order_update(
                base.weight, setting.covariance, features, targets,
                likelihood=study.likelihood, gamma=gamma, bias=base.bias,
            )  # fmt: skip
            seconds = now(device) - start
            rows.append(setting.score(setting.logits(weight), seconds, draw=draw, method="second_order", gamma=gamma))
    return rows


def _monte_carlo_updates(setting: _Setting, new: Tensor, device: torch.device) -> list[dict[str, Any]]:
    """All numbers of new samples and step sizes of a draw at once: they share the hypotheses' predictions."""
    study, base, rows = setting.study, setting.base, []
    for draw, indices in enumerate(new if study.monte_carlo_gammas else []):
        features, targets = base.embed(setting.bank.train_features[indices]), setting.bank.train_labels[indices]
        keys, weights, seconds = [], [], []
        for n_new in study.new_sizes:
            for gamma in study.monte_carlo_gammas:
                start = now(device)
                weights.append(
                    monte_carlo_weights(
                        setting.hypotheses, features[:n_new], targets[:n_new], gamma=gamma, bias=base.bias
                    )
                )
                seconds.append(now(device) - start)
                keys.append({"draw": draw, "n_new": n_new, "method": "monte_carlo", "gamma": gamma})
        probabilities = monte_carlo_probabilities(
            setting.hypotheses, torch.stack(weights), setting.judged_features, bias=base.bias
        )  # [s, n, k]
        logs = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        rows += [setting.score(log, spent, **key) for log, spent, key in zip(logs, seconds, keys, strict=True)]
    return rows


def _gradient_updates(setting: _Setting, new: Tensor, device: torch.device) -> list[dict[str, Any]]:
    """Full-batch gradient steps from the base head, on three choices of samples; all draws at once."""
    study = setting.study
    labelled = setting.pool.labelled.to(device)
    draws, count = new.shape
    # The mixture: as many old samples as new ones, drawn per number of new samples.
    picks = [choose(len(labelled), count, generator_for(study.seed, "mixture", count, draw)) for draw in range(draws)]
    old = labelled[torch.stack(picks).to(device)]
    samples = {
        "new": new,
        "all": torch.cat((labelled.expand(draws, -1), new), dim=1),
        "mixture": torch.cat((old, new), dim=1),
    }
    rows = []
    for steps in study.gradient_steps:
        for rate in study.gradient_rates:
            for name in GRADIENT_SAMPLES:
                indices = samples[name]
                training = dataclasses.replace(
                    study.training, optimiser="sgd", learning_rate=rate, batch_size=indices.shape[1], epochs=steps
                )
                what = {"method": f"gradient_{name}", "steps": steps, "rate": rate}
                rows += _trained_heads(setting, setting.base, indices, training, device, what)
    return rows


def _retraining(setting: _Setting, new: Tensor, device: torch.device) -> list[dict[str, Any]]:
    """From the initial weights on everything labelled: what an update stands in for."""
    labelled = setting.pool.labelled.to(device).expand(len(new), -1)
    indices = torch.cat((labelled, new), dim=1)
    return _trained_heads(setting, setting.initial, indices, setting.study.training, device, {"method": "retraining"})


def _trained_heads(
    setting: _Setting, start_head: Head, indices: Tensor, training: Training, device: torch.device, what: dict[str, Any]
) -> list[dict[str, Any]]:
    bank, seed = setting.bank, setting.study.seed
    shuffles = [generator_for(seed, "retraining", indices.shape[1], draw) for draw in range(len(indices))]
    heads = train_heads(start_head, bank.train_features, bank.train_labels, indices, training, shuffles)
    # Trained together the heads cost less than one by one; the time that a user waits for is that of one head alone.
    start = now(device)
    generator = generator_for(seed, "timing")
    train_head(start_head, bank.train_features, bank.train_labels, indices[0], training, generator)
    seconds = now(device) - start
    logits = heads.logits(setting.judged)  # [draws, n, k]
    return [setting.score(each, seconds, draw=draw, **what) for draw, each in enumerate(logits)]
