"""The yardsticks: the same computations as a reader would first write them, one sample and one head at a time.

Symbols as in `dal_core.laplace`: W weight [k, d], S covariance [d, d], b new samples, m labelled samples.
"""

import torch
from torch import Tensor


def update_gaussian(
    weight: Tensor, covariance: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S <- S - t t^T / (1 + v), then W <- W + gamma (onehot(y) - p) (S phi)^T with the new S; O(b d (d + k))."""
    for phi, target in zip(features, targets, strict=True):
        probabilities = _probabilities(weight, phi, bias)
        step = covariance @ phi  # t
        covariance = covariance - torch.outer(step, step) / (1 + phi @ step)
        weight = weight + gamma * torch.outer(_error(probabilities, target), covariance @ phi)
    return weight, covariance


def update_categorical(
    weight: Tensor, covariance: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `update_gaussian`, with the curvature a = p_max (1 - p_max) taken before and after the step of W.

    W <- W + gamma (onehot(y) - p) (S' phi)^T  with  S' = S - a / (1 + v) t t^T,  then  S <- S - a' / (1 + a' v) t t^T
    """
    for phi, target in zip(features, targets, strict=True):
        probabilities = _probabilities(weight, phi, bias)
        step = covariance @ phi  # t
        variance = phi @ step  # v
        provisional = covariance - _curvature(probabilities) / (1 + variance) * torch.outer(step, step)
        weight = weight + gamma * torch.outer(_error(probabilities, target), provisional @ phi)
        curvature = _curvature(_probabilities(weight, phi, bias))  # a'
        covariance = covariance - curvature / (1 + curvature * variance) * torch.outer(step, step)
    return weight, covariance


def update_first_order(weight: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None) -> Tensor:
    """W <- W + gamma (onehot(y) - p) phi^T."""
    for phi, target in zip(features, targets, strict=True):
        weight = weight + gamma * torch.outer(_error(_probabilities(weight, phi, bias), target), phi)
    return weight


def monte_carlo(
    hypotheses: Tensor, features: Tensor, targets: Tensor, pool: Tensor, gamma: float, bias: Tensor | None
) -> Tensor:
    """Mean over the hypotheses of their predictions for `pool`, weighted by what they say about the new samples."""
    scores = []
    for weight in hypotheses:
        pairs = zip(features, targets, strict=True)
        scores.append(sum(_probabilities(weight, phi, bias)[target].log() for phi, target in pairs))
    shares = torch.softmax(gamma * torch.stack(scores), dim=0)
    mean = torch.zeros(len(pool), hypotheses.shape[1], dtype=pool.dtype)
    for weight, share in zip(hypotheses, shares, strict=True):
        logits = pool @ weight.mT if bias is None else pool @ weight.mT + bias
        mean = mean + share * logits.softmax(dim=1)
    return mean


def precision(features: Tensor, logits: Tensor, likelihood: str) -> Tensor:
    """I + sum_n c_n phi_n phi_n^T with c_n = 1 or p_max (1 - p_max)."""
    precision = torch.eye(features.shape[1], dtype=features.dtype)
    for phi, p in zip(features, logits.softmax(dim=1), strict=True):
        precision = precision + (1 if likelihood == "gaussian" else _curvature(p)) * torch.outer(phi, phi)
    return precision


def mean_field(logits: Tensor, features: Tensor, covariance: Tensor, factor: float) -> Tensor:
    """logits / sqrt(1 + factor v) with v the diagonal of Phi S Phi^T."""
    variance = (features @ covariance @ features.mT).diagonal()
    return logits / torch.sqrt(1 + factor * variance).unsqueeze(1)


def _probabilities(weight: Tensor, phi: Tensor, bias: Tensor | None) -> Tensor:
    logits = weight @ phi if bias is None else weight @ phi + bias
    return logits.softmax(dim=-1)


def _error(probabilities: Tensor, target: Tensor) -> Tensor:
    """onehot(y) - p."""
    return torch.nn.functional.one_hot(target, len(probabilities)) - probabilities


def _curvature(probabilities: Tensor) -> Tensor:
    """p_max (1 - p_max)."""
    return probabilities.max() * (1 - probabilities.max())
