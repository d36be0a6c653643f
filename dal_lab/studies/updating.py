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
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from dal_core import laplace
from dal_core.blocks import blocks
from dal_core.checks import check_choice, check_columns, check_options, check_text
from dal_core.contracts import Between, Count, Positive, Size, check_fields, unchecked
from dal_core.data import FeatureBank
from dal_core.devices import now
from dal_core.metrics import accuracy, nll
from dal_core.models.heads import Head
from dal_core.models.training import PROTOCOLS, Training, train_head, train_heads
from dal_core.parallel import fixed_threads, using_workers
from dal_core.pool import Pool
from dal_core.posterior import fit
from dal_core.randomness import choose, generator_for
from dal_core.strategies.uncertainty import highest, margin_scores
from dal_lab.runs.settings import HEADS, training_of
from dal_lab.runs.study import bank_name, device_of
from dal_lab.sources import catalogue

HYPOTHESES_AT_ONCE = 128  # Larger blocks are no faster.
PREDICTIONS_BYTES = 2**30  # of predictions that are summed up in one pass over the hypotheses
GRADIENT_SAMPLES = ("new", "all", "mixture")
StepSize = Count | Positive  # A whole number stays one: a study is stored under what was written.
Row = dict[str, Any]


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
        num_hypotheses, monte_carlo_gammas: of the Monte-Carlo update; hypotheses are drawn and judged in blocks.
        gradient_steps, gradient_rates: numbers of full-batch gradient steps and their learning rates; empty: none.
        options: changes to the training of the paper, which drops the last incomplete minibatch, e.g. {"epochs": 20}.
    """

    dataset: str = "digits"
    encoder: str | None = None
    seed: Size = 0
    initial_size: Count = 10
    new_sizes: tuple[Count, ...] = tuple(range(1, 11))
    draws: Count = 5
    selection: Literal["random", "margin"] = "random"
    validation_share: Annotated[float, Between(0, 1)] = 0.2
    gammas: tuple[StepSize, ...] = (1.0, 2.0, 5.0, 10.0, 30.0)
    likelihood: str = "gaussian"
    prior_precision: StepSize = 1.0
    first_order_gammas: tuple[StepSize, ...] = (0.001, 0.01, 0.1)
    num_hypotheses: Count = 10_000
    monte_carlo_gammas: tuple[StepSize, ...] = (0.01, 0.1, 0.3, 1.0)
    gradient_steps: tuple[Count, ...] = ()
    gradient_rates: tuple[StepSize, ...] = (0.01, 0.1, 1.0)
    head: Literal["linear", "mlp"] = "linear"
    optimiser: Literal["sgd", "radam"] = "radam"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = (
        "draw", "n_new", "method", "gamma", "steps", "rate",
        "accuracy", "nll", "flips", "validation_accuracy", "update_s",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)
        check_text("dataset", self.dataset)
        check_text("encoder", self.encoder or "none")
        check_choice("likelihood", self.likelihood, laplace.LIKELIHOODS)
        check_options("options", self.options)
        if not self.new_sizes or list(self.new_sizes) != sorted(set(self.new_sizes)):
            raise ValueError(f"new_sizes is {self.new_sizes}; ascending whole numbers of at least 1 were expected")
        self.training  # noqa: B018  # It refuses options that are none of the training.

    def __hash__(self) -> int:
        return hash((self.dataset, self.initial_size, self.seed))  # The options, a dictionary, cannot take part.

    @property
    def training(self) -> Training:
        return training_of(self.optimiser, {"drop_last": PROTOCOLS["laplace_updates"].drop_last, **self.options})

    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        """Return a row a draw, number of new samples, method and step size; nll in nats, update_s in seconds."""
        device, bank = device_of(self), catalogue.load(self.dataset, encoder=self.encoder, data_dir=data_dir)
        held_out = max(1, round(self.validation_share * len(bank.train_labels)))
        needed, left = self.initial_size + self.new_sizes[-1], len(bank.train_labels) - held_out
        if needed > left:
            raise ValueError(
                f"the study needs {needed} instances; the pool of {bank_name(self)} has {left} to train on"
            )
        with using_workers(1), fixed_threads():
            setting = _prepare(self, bank.to(device), held_out)
            new = _draw_new_samples(setting)  # [draws, b]
            rows = list(_monte_carlo_updates(setting, new))
            for n_new in self.new_sizes:
                for updated in (_laplace_updates, _gradient_updates, _retraining):
                    rows += [{"n_new": n_new, **row} for row in updated(setting, new[:, :n_new])]
        return pd.DataFrame(rows, columns=self.columns)


def tuned(rows: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the rows of each method at its step size (gamma, learning rate) with the best mean validation accuracy.

    `rows` are those of one or more studies. Within each combination of `by` and of `steps` (a budget, not a step
    size) the choice is made anew; ties go to the smaller step.
    """
    groups = [*by, "method", "steps"]
    check_columns("rows", rows, [*groups, "gamma", "rate", "validation_accuracy"])
    rows = rows.assign(step=rows["gamma"].fillna(rows["rate"]).fillna(0.0))
    means = rows.groupby([*groups, "step"], dropna=False)["validation_accuracy"].mean().reset_index()
    best = means.sort_values("validation_accuracy", ascending=False, kind="stable").drop_duplicates(groups)
    return rows.merge(best[[*groups, "step"]], on=[*groups, "step"])


def compared(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return the rows of `methods`, in that order, with `gain`: the accuracy above the base head of the same draw."""
    pairing = ["run", "draw", "n_new"]
    check_columns("rows", rows, [*pairing, "method", "accuracy"])
    base = rows[rows["method"] == "base"].set_index(pairing)["accuracy"]
    rows = rows.assign(gain=rows["accuracy"] - base.loc[rows.set_index(pairing).index].to_numpy())
    chosen = rows[rows["method"].isin(methods)]
    return chosen.sort_values("method", key=lambda names: names.map(list(methods).index), kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class _Setting:
    """What all updates of a study start from; features are those that the last layer sees."""

    study: UpdateStudy
    bank: FeatureBank
    initial: Head
    base: Head
    labelled: Tensor
    unlabelled: Tensor
    covariance: Tensor  # [d, d]
    judged: Tensor  # Inputs that predictions are judged on: the test split, then the validation split.
    truth: Tensor

    @functools.cached_property
    def judged_features(self) -> Tensor:
        return self.base.embed(self.judged)

    @functools.cached_property
    def base_logits(self) -> Tensor:
        return self.base.last_layer(self.judged_features)

    def hypotheses(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the hypotheses [e, k, d], the same in each pass, so that few are held at a time."""
        study, draw = self.study, generator_for(self.study.seed, "hypotheses")
        for start in range(0, study.num_hypotheses, HYPOTHESES_AT_ONCE):
            block = slice(start, min(start + HYPOTHESES_AT_ONCE, study.num_hypotheses))
            yield block, laplace.sample_weights(self.base.weight, self.covariance, block.stop - start, draw)

    def samples(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Features and labels of instances of the train split."""
        return self.base.embed(self.bank.train_features[indices]), self.bank.train_labels[indices]

    def timed(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
        """The result of a call and the seconds that it took."""
        start = now(self.judged.device)
        result = call(*arguments, **options)
        return result, now(self.judged.device) - start

    def score_weight(self, weight: Tensor, seconds: float, **what: Any) -> Row:
        """`score` of another last layer with the base head's bias."""
        logits = dataclasses.replace(self.base, weight=weight).last_layer(self.judged_features)
        return self.score(logits, seconds, **what)

    def score(self, logits: Tensor, seconds: float, **what: Any) -> Row:
        """A row: accuracy, nll in nats, decision flips (share of test predictions that differ from the base head's)."""
        # Gradient steps at too high a rate diverge. Such a head takes whatever is NaN for the most probable class.
        diverged, most = not torch.isfinite(logits).all(), torch.finfo(logits.dtype).max
        logits = logits.nan_to_num(nan=most, posinf=most / 2) if diverged else logits
        correct, split = unchecked(accuracy), len(self.bank.test_labels)  # The contract refuses logits of that size.
        test, truth = logits[:split], self.truth[:split]
        flips = test.argmax(dim=1) != self.base_logits[:split].argmax(dim=1)
        scores = {"accuracy": correct(test, truth), "nll": float("nan") if diverged else unchecked(nll)(test, truth)}
        scores |= {"flips": flips.double().mean().item()}
        scores |= {"validation_accuracy": correct(logits[split:], self.truth[split:])}
        return {**what, **scores, "update_s": seconds}


def _prepare(study: UpdateStudy, bank: FeatureBank, held_out: int) -> _Setting:
    draw, size, device = functools.partial(generator_for, study.seed), len(bank.train_labels), bank.train_labels.device
    validation, rest = choose(size, size, draw("validation split")).split([held_out, size - held_out])
    pool = Pool.start(len(rest), study.initial_size, draw("initial labelled set"))
    labelled, validation = rest[pool.labelled].to(device), validation.to(device)
    initial = HEADS[study.head](study.training).initial(
        bank.train_features, bank.num_classes, lambda purpose: draw(purpose)
    )
    base = train_head(initial, bank.train_features, bank.train_labels, labelled, study.training, draw("minibatches", 0))
    posterior = fit(
        base.embed(bank.train_features[labelled]), base.weight, base.bias,
        likelihood=study.likelihood, prior_precision=study.prior_precision,
    )  # fmt: skip
    return _Setting(
        study, bank, initial, base, labelled, rest[pool.unlabelled], posterior.covariance,
        judged=torch.cat((bank.test_features, bank.train_features[validation])),
        truth=torch.cat((bank.test_labels, bank.train_labels[validation])),
    )  # fmt: skip


def _draw_new_samples(setting: _Setting) -> Tensor:
    """Positions in the train split of the new samples, best or first drawn first.  [draws, b]"""
    study, unlabelled, device = setting.study, setting.unlabelled, setting.judged.device
    count, draws = study.new_sizes[-1], []
    for draw in range(study.draws):
        order = unlabelled[choose(len(unlabelled), len(unlabelled), generator_for(study.seed, "new", draw))]
        if study.selection == "margin":
            order = order[: max(count, len(order) // 2)]
            logits = setting.base.logits(setting.bank.train_features[order.to(device)])
            order = order[highest(margin_scores(logits.softmax(dim=-1)), count).cpu()]
        draws.append(order[:count].to(device))
    return torch.stack(draws)


def _laplace_updates(setting: _Setting, new: Tensor) -> Iterator[Row]:
    """The base head as it is, first-order and second-order updates, draw by draw."""
    study, weight, covariance, bias = setting.study, setting.base.weight, setting.covariance, setting.base.bias
    for draw, indices in enumerate(new):
        samples = setting.samples(indices)
        yield setting.score(setting.base_logits, 0.0, draw=draw, method="base")
        for gamma in study.first_order_gammas:
            found, spent = setting.timed(laplace.first_order_update, weight, *samples, gamma=gamma, bias=bias)
            yield setting.score_weight(found, spent, draw=draw, method="first_order", gamma=gamma)
        for gamma in study.gammas:
            options = {"likelihood": study.likelihood, "gamma": gamma, "bias": bias}
            (found, _), spent = setting.timed(laplace.second_order_update, weight, covariance, *samples, **options)
            yield setting.score_weight(found, spent, draw=draw, method="second_order", gamma=gamma)


def _monte_carlo_updates(setting: _Setting, new: Tensor) -> Iterator[Row]:
    """All draws, numbers of new samples and step sizes together: they share the hypotheses' predictions.

    A first pass over the hypotheses finds their weights, a second one sums up what they predict.
    """
    study, bias, judged = setting.study, setting.base.bias, setting.judged_features
    steps = list(itertools.product(range(study.draws), study.new_sizes, study.monte_carlo_gammas))
    if not steps:
        return
    known = [setting.samples(indices) for indices in new]
    scores = judged.new_empty(study.draws, len(study.new_sizes), study.num_hypotheses)
    seconds, ends = dict.fromkeys(study.new_sizes, 0.0), torch.tensor(study.new_sizes, device=judged.device) - 1
    for block, hypotheses in setting.hypotheses():
        for draw, samples in enumerate(known):  # Those of fewer new samples are the first of them.
            found = laplace.log_likelihoods(hypotheses, *samples, bias=bias).cumsum(dim=1)  # [e, b]
            scores[draw, :, block] = found[:, ends].mT
        for n_new in study.new_sizes:
            first = (each[:n_new] for each in known[0])
            seconds[n_new] += setting.timed(laplace.log_likelihoods, hypotheses, *first, bias=bias)[1]
    gammas = torch.tensor(study.monte_carlo_gammas, dtype=scores.dtype, device=scores.device)
    weights = (gammas.unsqueeze(1) * scores.unsqueeze(2)).softmax(dim=-1).flatten(0, 2)  # [s, e]
    for part in blocks(len(steps), setting.base_logits.nbytes, PREDICTIONS_BYTES):
        means = setting.base_logits.new_zeros(part.stop - part.start, *setting.base_logits.shape)  # [s, n, k]
        for block, hypotheses in setting.hypotheses():
            means += laplace.monte_carlo_probabilities(hypotheses, weights[part, block], judged, bias=bias)
        logs = means.clamp_min_(torch.finfo(means.dtype).tiny).log_()
        for log, (draw, n_new, gamma) in zip(logs, steps[part], strict=True):
            yield setting.score(log, seconds[n_new], draw=draw, n_new=n_new, method="monte_carlo", gamma=gamma)


def _gradient_updates(setting: _Setting, new: Tensor) -> Iterator[Row]:
    """Full-batch gradient steps from the base head, on three choices of samples; all draws at once."""
    study, labelled = setting.study, setting.labelled
    draws, count = new.shape
    # The mixture has as many old samples as new ones, drawn anew for each number of new samples.
    picks = [choose(len(labelled), count, generator_for(study.seed, "mixture", count, draw)) for draw in range(draws)]
    old = labelled[torch.stack(picks).to(labelled.device)]
    everything = torch.cat((labelled.expand(draws, -1), new), dim=1)
    samples = dict(zip(GRADIENT_SAMPLES, (new, everything, torch.cat((old, new), dim=1)), strict=True))
    for steps, rate, (name, indices) in itertools.product(study.gradient_steps, study.gradient_rates, samples.items()):
        change: Row = {"optimiser": "sgd", "learning_rate": rate, "batch_size": indices.shape[1], "epochs": steps}
        what = {"method": f"gradient_{name}", "steps": steps, "rate": rate}
        yield from _trained_heads(setting, setting.base, indices, dataclasses.replace(study.training, **change), what)


def _retraining(setting: _Setting, new: Tensor) -> Iterator[Row]:
    """From the initial weights on everything labelled: what an update stands in for."""
    indices = torch.cat((setting.labelled.expand(len(new), -1), new), dim=1)
    return _trained_heads(setting, setting.initial, indices, setting.study.training, {"method": "retraining"})


def _trained_heads(
    setting: _Setting, start: Head, indices: Tensor, training: Training, what: dict[str, Any]
) -> Iterator[Row]:
    data, seed = (start, setting.bank.train_features, setting.bank.train_labels), setting.study.seed
    shuffles = [generator_for(seed, "retraining", indices.shape[1], draw) for draw in range(len(indices))]
    train = unchecked(train_heads)  # Some heads diverge, which is a result, too.
    heads = train(*data, indices, training, shuffles)
    # Trained together the heads cost less than one by one; the time that a user waits for is that of one head alone.
    _, seconds = setting.timed(train, *data, indices[:1], training, [generator_for(seed, "timing")])
    for draw, logits in enumerate(heads.logits(setting.judged)):  # [draws, n, k]
        yield setting.score(logits, seconds, draw=draw, **what)
