"""Metrics of predictions, from logits [n, k] and true classes [n]. Probabilities are computed in float64."""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import Below, Count, Fewest, Fraction, checked, unchecked

CALIBRATION_BINS = 15
ADAPTIVE_THRESHOLD = 0.01  # Smaller class probabilities say nothing about calibration (Nixon et al. 2019).

Logits = Annotated[Float[Tensor, "n k"], Fewest("n", 1, "samples"), Fewest("k", 2, "classes")]
Labels = Annotated[Int[Tensor, " n"], Below("k")]
Binning = Literal["standard", "published"]


@checked
def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of samples whose most probable class is the true one.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    0.5
    """
    return (logits.argmax(dim=1) == labels).double().mean().item()


@checked
def nll(logits: Logits, labels: Labels) -> float:
    """Return the mean negative log-likelihood of the true class, in nats.

    >>> round(nll(torch.zeros(1, 2), torch.tensor([0])), 4)
    0.6931
    """
    return torch.nn.functional.cross_entropy(logits.double(), labels).item()


@checked
def brier(logits: Logits, labels: Labels) -> float:
    """Return the mean over samples of the squared distance between probabilities and one-hot label, from 0 to 2.

    >>> brier(torch.zeros(1, 2), torch.tensor([0]))
    0.5
    """
    errors = logits.double().softmax(dim=1)
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return errors.square().sum(dim=1).mean().item()


@checked
def ece(logits: Logits, labels: Labels, *, bins: Count = CALIBRATION_BINS, binning: Binning = "standard") -> float:
    """Return the expected calibration error: mean over samples of |accuracy - confidence| of their bin of equal width.

    `binning="standard"` puts confidence 1.0 into the last bin [1 - 1/bins, 1]; "published" gives it a bin of its own,
    as the binning does that the authors' tables were made with, where float32 rounds to 1.0.

    >>> ece(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
    0.25
    """
    confidence, prediction = (logits.double() if binning == "standard" else logits.float()).softmax(dim=1).max(dim=1)
    confidence = confidence.double()
    gap = (prediction == labels).double() - confidence  # summed per bin: n_bin (accuracy - confidence)
    index = (confidence * bins).long()  # [0, 1/bins) to 0, ..., exactly 1.0 to `bins`
    index.clamp_(max=bins - 1 if binning == "standard" else bins)
    sums = torch.zeros(bins + 1, dtype=gap.dtype, device=gap.device).index_add_(0, index, gap)
    return (sums.abs().sum() / len(labels)).item()


@checked
def ace(
    logits: Logits, labels: Labels, *, bins: Count = CALIBRATION_BINS, threshold: Fraction = ADAPTIVE_THRESHOLD
) -> float:
    """Return the adaptive calibration error: |frequency - probability|, the mean over bins, then over classes.

    A class's bins share its probabilities above `threshold`, split at order statistics (Nixon et al. 2019); a class
    that has none does not count.

    >>> ace(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]), bins=1)
    0.25
    """
    classes, errors = labels.cpu().numpy(), list[float]()
    for k, column in enumerate(logits.double().softmax(dim=1).cpu().numpy().T):
        values, hits = column[column > threshold], classes[column > threshold] == k
        if values.size:
            edges = np.interp(np.linspace(0, values.size, bins + 1), np.arange(values.size), np.sort(values))
            index = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
            counts = np.bincount(index, minlength=bins)
            gaps = np.bincount(index, weights=hits - values, minlength=bins)
            errors.append(float(np.mean(np.abs(gaps[counts > 0]) / counts[counts > 0])))
    return float(np.mean(errors)) if errors else 0.0


@checked
def evaluate(logits: Logits, labels: Labels) -> dict[str, float]:
    """Return all five metrics by name.

    >>> list(evaluate(torch.zeros(1, 2), torch.tensor([0])))
    ['accuracy', 'nll', 'brier', 'ece', 'ace']
    """
    return {metric.__name__: unchecked(metric)(logits, labels) for metric in (accuracy, nll, brier, ece, ace)}
