"""Metrics of predictions (tensors) and of learning curves (data frames)."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_choice,
    check_columns,
    check_finite,
    check_labels,
    check_number,
    check_shape,
    check_whole,
)

CALIBRATION_BINS = 15
BINNINGS = ("standard", "published")
ADAPTIVE_THRESHOLD = 0.01  # class probabilities below it say nothing about calibration (Nixon et al. 2019)


def accuracy(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Share of samples whose most probable class is the true one."""
    _check(logits, labels)
    return (logits.argmax(dim=1) == labels).double().mean().item()


def nll(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Mean negative log-likelihood of the true class, in nats."""
    _check(logits, labels)
    return torch.nn.functional.cross_entropy(logits.double(), labels).item()


def brier(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> float:
    """Squared distance between probabilities and one-hot label, summed over classes, mean over samples: 0 to 2."""
    _check(logits, labels)
    errors = logits.double().softmax(dim=1)
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return errors.square().sum(dim=1).mean().item()


def ece(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], *, bins: int = CALIBRATION_BINS, binning: str = "standard"
) -> float:
    """Expected calibration error: mean over samples of |accuracy - confidence| of their bin of equal width.

    `binning="standard"` puts confidence 1.0 into the last bin [1 - 1/bins, 1]; "published" gives it a bin of its own,
    as the binning does that the authors' tables were made with.

    Raises:
        ValueError: if arguments do not fit each other, or `binning` is unknown.
    """
    _check(logits, labels)
    check_whole("bins", bins, 1)
    check_choice("binning", binning, BINNINGS)
    confidence, prediction = logits.double().softmax(dim=1).max(dim=1)
    gap = (prediction == labels).double() - confidence  # summed per bin: n_bin (accuracy - confidence)
    index = (confidence * bins).long()  # [0, 1/bins) to 0, ..., exactly 1.0 to `bins`
    if binning == "standard":
        index.clamp_(max=bins - 1)
    sums = torch.zeros(bins + 1, dtype=gap.dtype, device=gap.device).index_add_(0, index, gap)
    return (sums.abs().sum() / len(labels)).item()


def ace(
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    *,
    bins: int = CALIBRATION_BINS,
    threshold: float = ADAPTIVE_THRESHOLD,
) -> float:
    """Adaptive calibration error: mean of |frequency - probability| over bins of equally many samples, of all classes.

    A class's bins are spread over the probabilities above `threshold`, between order statistics (Nixon et al. 2019).
    """
    _check(logits, labels)
    check_whole("bins", bins, 1)
    check_number("threshold", threshold)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; a number from 0 to 1 was expected")
    probabilities = logits.double().softmax(dim=1).cpu().numpy()
    classes = labels.cpu().numpy()
    errors: list[float] = []
    for k in range(probabilities.shape[1]):
        above = probabilities[:, k] > threshold
        values, hits = probabilities[above, k], classes[above] == k
        if values.size == 0:
            continue
        edges = np.interp(np.linspace(0, values.size, bins + 1), np.arange(values.size), np.sort(values))
        index = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
        counts = np.bincount(index, minlength=bins)
        gaps = np.bincount(index, weights=hits - values, minlength=bins)
        errors.extend(np.abs(gaps[counts > 0]) / counts[counts > 0])
    return float(np.mean(errors)) if errors else 0.0


def evaluate(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """All prediction metrics by name."""
    return {metric.__name__: metric(logits, labels) for metric in (accuracy, nll, brier, ece, ace)}


def aulc(curves: pd.DataFrame, value: str = "accuracy") -> pd.Series:
    """Area under the learning curve as the papers state it: the mean of `value` over all cycles of a run.

    `curves` has a row a cycle and the columns run, cycle and `value`; returns one number a run.
    """
    check_columns("curves", curves, ("run", "cycle", value))
    return curves.groupby("run")[value].mean()


def win_rates(
    scores: pd.DataFrame, *, contestant: str = "strategy", value: str = "accuracy", margin: float = 0.0
) -> pd.DataFrame:
    """Pairwise win rates: how often the row's contestant beats the column's by more than `margin`.

    `scores` is tidy: every combination of the other columns (data set, seed, cycle, ...) is one duel, which both
    contestants have to take part in. A draw counts for neither.

    Raises:
        ValueError: if a duel lacks a contestant or has one twice, naming the duel.
    """
    check_columns("scores", scores, (contestant, value))
    check_number("margin", margin)
    if not margin >= 0:
        raise ValueError(f"margin is {margin}; a number of at least 0 was expected")
    keys = [column for column in scores.columns if column not in (contestant, value)]
    twice = scores.duplicated([*keys, contestant])
    if twice.any():
        raise ValueError(f"scores holds {scores.loc[twice, [*keys, contestant]].iloc[0].to_dict()} more than once")
    duels = scores.pivot(index=keys, columns=contestant, values=value)
    if duels.isna().any(axis=None):
        duel = duels[duels.isna().any(axis=1)].iloc[0]
        place = duels[duels.isna().any(axis=1)].reset_index()[keys].iloc[0].to_dict()
        raise ValueError(f"scores lacks {list(duel.index[duel.isna()])} in the duel {place}")
    values = duels.to_numpy()  # [duels, contestants]
    rates = (values[:, :, None] - values[:, None, :] > margin).mean(axis=0)
    return pd.DataFrame(rates, index=duels.columns, columns=duels.columns)


def _check(logits: Tensor, labels: Tensor) -> None:
    check_alike(logits=logits)
    check_shape("logits", logits, (None, None))
    if len(logits) == 0:
        raise ValueError("logits is empty; at least one sample was expected")
    check_shape("labels", labels, (len(logits),))
    check_labels("labels", labels, logits.shape[1])
    check_finite(logits=logits)
