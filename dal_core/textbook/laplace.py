"""The last layer's posterior and its updates (Huseljic et al. 2025, arXiv 2210.06112, sections 3 to 5).

W weight [k, d], S covariance [d, d], phi features of a sample [d], y its class, gamma the step of an update.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Bias = Tensor | None


def precision_matrix(
    features: Tensor, logits: Tensor | None = None, *, likelihood: str = "gaussian", prior_precision: float = 1.0
) -> Tensor:
    """P = lambda I + sum_n c_n phi_n phi_n^T with c_n = 1 (gaussian) or p_max (1 - p_max) (categorical)."""
    precision = prior_precision * torch.eye(features.shape[1], dtype=features.dtype)
    for i, phi in enumerate(features):
        c = 1 if logits is None or likelihood == "gaussian" else _curvature(logits[i].softmax(dim=0))
        precision = precision + c * torch.outer(phi, phi)
    return precision


def covariance_matrix(precision: Tensor) -> Tensor:
    """S = P^-1."""
    return torch.linalg.inv(precision)


def predictive_variance(features: Tensor, covariance: Tensor) -> Tensor:
    """v = phi^T S phi, the diagonal of Phi S Phi^T."""
    return (features @ covariance @ features.mT).diagonal()


def mean_field_logits(logits: Tensor, variance: Tensor, factor: float) -> Tensor:
    """logits / sqrt(1 + factor v)."""
    return logits / torch.sqrt(1 + factor * variance).unsqueeze(1)


def second_order_update(
    weight: Tensor, covariance: Tensor, features: Tensor, targets: Tensor, *,
    likelihood: str = "gaussian", gamma: float = 10.0, passes: int = 1, bias: Bias = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return W and S after a Newton step on each sample, by the formulas of `laplace.second_order_update`."""
    W, S, labels = weight, covariance, one_hot(targets, len(weight))
    for phi, label in zip(features.repeat(passes, 1), labels.repeat(passes, 1), strict=True):
        p, t = _probabilities(W, phi, bias), S @ phi
        v = phi @ t
        if likelihood == "gaussian":
            S = S - torch.outer(t, t) / (1 + v)
            W = W + gamma * torch.outer(label - p, S @ phi)
        else:
            provisional = S - _curvature(p) / (1 + v) * torch.outer(t, t)
            W = W + gamma * torch.outer(label - p, provisional @ phi)
            a = _curvature(_probabilities(W, phi, bias))
            S = S - a / (1 + a * v) * torch.outer(t, t)
    return W, S


def first_order_update(
    weight: Tensor, features: Tensor, targets: Tensor, *, gamma: float, passes: int = 1, bias: Bias = None
) -> Tensor:
    """W <- W + gamma (onehot(y) - p) phi^T, sample by sample."""
    for phi, label in zip(features.repeat(passes, 1), one_hot(targets, len(weight)).repeat(passes, 1), strict=True):
        weight = weight + gamma * torch.outer(label - _probabilities(weight, phi, bias), phi)
    return weight


def monte_carlo_weights(
    hypotheses: Tensor, features: Tensor, targets: Tensor, *, gamma: float, bias: Bias = None
) -> Tensor:
    """softmax over the hypotheses of gamma sum_i log p(y_i | phi_i, hypothesis)."""
    scores = []
    for W in hypotheses:
        samples = zip(features, targets, strict=True)
        scores.append(torch.stack([_probabilities(W, phi, bias)[y].log() for phi, y in samples]).sum())
    return torch.softmax(gamma * torch.stack(scores), dim=0)


def monte_carlo_probabilities(
    hypotheses: Tensor, hypothesis_weights: Tensor, features: Tensor, *, bias: Bias = None
) -> Tensor:
    """The weighted mean over hypotheses of their softmax outputs [n, k]."""
    mean = torch.zeros(len(features), hypotheses.shape[1], dtype=features.dtype)
    for W, share in zip(hypotheses, hypothesis_weights, strict=True):
        mean = mean + share * (features @ W.mT + (0 if bias is None else bias)).softmax(dim=1)
    return mean


def _probabilities(weight: Tensor, phi: Tensor, bias: Bias) -> Tensor:
    return torch.softmax(weight @ phi if bias is None else weight @ phi + bias, dim=0)


def _curvature(probabilities: Tensor) -> Tensor:
    """p_max (1 - p_max)."""
    return probabilities.max() * (1 - probabilities.max())
