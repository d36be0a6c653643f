"""BALD on the Laplace posterior of the last layer (Houlsby et al. 2011; Huseljic et al. 2025)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_batch_size, check_finite, check_shape, check_whole
from dal_core.laplace import covariance_matrix, precision_matrix, predictive_variance
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import highest

BLOCK_BYTES = 64 * 2**20  # of sampled logits held at a time


@register("bald")
def bald(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    draws: int = 100,
    likelihood: str = "gaussian",
    prior_precision: float = 1.0,
) -> Int[Tensor, " b"]:
    """The instances whose labels tell most about the last layer, each taken by itself (`mutual_information`).

    Args:
        draws: samples from the posterior.
        likelihood, prior_precision: of the Laplace approximation.
    """
    check_whole("draws", draws, 1)
    check_batch_size(batch_size, len(snapshot.features))
    precision = precision_matrix(
        snapshot.labelled_features, snapshot.labelled_logits, likelihood=likelihood, prior_precision=prior_precision
    )
    variance = predictive_variance(snapshot.features, covariance_matrix(precision))
    noise = torch.randn(draws, snapshot.num_classes, generator=generator, dtype=torch.float64)
    return highest(mutual_information(snapshot.logits, variance, noise.to(snapshot.logits)), batch_size)


def mutual_information(
    logits: Float[Tensor, "n k"], variance: Float[Tensor, " n"], noise: Float[Tensor, "e k"]
) -> Float[Tensor, " n"]:
    """Entropy of the mean prediction minus mean entropy of the predictions, in nats.

    The predictions are softmax(logits + sqrt(v) noise_e). With W ~ N(mean, S), rows sharing S, the logits of an
    instance are distributed as N(logits, v I), v = phi^T S phi, so that no layer has to be sampled: O(n e k) instead of
    O(n e k d). All instances see the same noise, which makes their values comparable. In blocks.

    Raises:
        ValueError: if arguments do not fit each other or hold NaN or infinite values.
    """
    check_alike(logits=logits, variance=variance, noise=noise)
    check_shape("variance", variance, (len(logits),))
    check_shape("noise", noise, (None, logits.shape[1]))
    check_finite(logits=logits, variance=variance, noise=noise)
    information = torch.empty_like(variance)
    rows = max(1, BLOCK_BYTES // (noise.numel() * logits.element_size()))
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        sampled = logits[block].unsqueeze(1) + variance[block].clamp_min(0).sqrt().view(-1, 1, 1) * noise  # [r, e, k]
        probabilities = sampled.softmax(dim=-1)
        conditional = torch.special.entr(probabilities).sum(dim=-1).mean(dim=1)
        information[block] = torch.special.entr(probabilities.mean(dim=1)).sum(dim=-1) - conditional
    return information
