"""BALD on the Laplace posterior of the last layer (Houlsby et al. 2011; Huseljic et al. 2025)."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Count, Positive, checked
from dal_core.laplace import covariance_matrix, precision_matrix, predictive_variance
from dal_core.snapshot import Predictions
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import ClassScores, highest


@register("bald")
@checked
def bald(
    snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator,
    *, draws: Count = 100, likelihood: Literal["gaussian", "categorical"] = "gaussian", prior_precision: Positive = 1.0,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick the instances whose labels tell most about the last layer, each taken by itself (`mutual_information`).

    `draws` is the number of samples from the posterior, the other options are the Laplace approximation's.
    """
    precision = precision_matrix(
        snapshot.labelled_features, snapshot.labelled_logits, likelihood=likelihood, prior_precision=prior_precision
    )
    variance = predictive_variance(snapshot.features, covariance_matrix(precision))
    noise = torch.randn(draws, snapshot.num_classes, generator=generator, dtype=torch.float64)
    return highest(mutual_information(snapshot.logits, variance, noise.to(snapshot.logits)), batch_size)


@checked
def mutual_information(
    logits: ClassScores, variance: Float[Tensor, " n"], noise: Float[Tensor, "e k"]
) -> Float[Tensor, " n"]:
    """Return the entropy of the mean prediction minus the mean entropy of the predictions, in nats.

    The predictions are softmax(logits + sqrt(v) noise_e). With W ~ N(mean, S), rows sharing S, the logits of an
    instance are distributed as N(logits, v I), v = phi^T S phi, so that no layer has to be sampled: O(n e k) instead of
    O(n e k d). All instances see the same noise, which makes their values comparable. In blocks.

    >>> logits, noise = torch.zeros(2, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> mutual_information(logits, torch.tensor([0.0, 100.0]), noise)
    tensor([0.0000, 0.6931])
    """
    information = torch.empty_like(variance)
    for block in blocks(len(logits), noise.numel() * logits.element_size()):
        sampled = logits[block].unsqueeze(1) + variance[block].clamp_min(0).sqrt().view(-1, 1, 1) * noise  # [r, e, k]
        probabilities = sampled.softmax(dim=-1)
        conditional = torch.special.entr(probabilities).sum(dim=-1).mean(dim=1)
        information[block] = torch.special.entr(probabilities.mean(dim=1)).sum(dim=-1) - conditional
    return information
