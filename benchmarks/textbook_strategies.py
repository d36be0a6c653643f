"""Strategies as a reader of the papers would first write them: one instance, one anchor or one hypothesis at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from dal_core.snapshot import Snapshot


def ranked(at: Snapshot, batch_size: int, score: Callable[[list[float]], float]) -> Tensor:
    """The instances with the highest scores of their probabilities; ties go to the lower position."""
    scores = [score(row) for row in at.logits.softmax(dim=1).tolist()]
    return torch.tensor(sorted(range(len(scores)), key=lambda i: -scores[i])[:batch_size])


def margin(row: list[float]) -> float:
    """1 - (p1 - p2)."""
    second, first = sorted(row)[-2:]
    return 1 - (first - second)


def entropy(row: list[float]) -> float:
    """Entropy in nats."""
    return float(torch.special.entr(torch.tensor(row, dtype=torch.float64)).sum())


def least_confident(row: list[float]) -> float:
    """1 - p_max."""
    return 1 - max(row)


def alfamix_candidates(at: Snapshot) -> Tensor:
    """Positions of the instances that flip on the way to an anchor, each interpolated towards each anchor; O(n a d k).

    alpha = eps |z* - z| g / (|g| (z* - z)) with g the gradient of the loss at the pseudo-label.
    """
    anchors = [at.labelled_features[at.labels == label].mean(dim=0) for label in at.labels.unique()]
    bias = 0 if at.bias is None else at.bias
    predictions = at.logits.argmax(dim=1)
    errors = at.logits.softmax(dim=1) - torch.nn.functional.one_hot(predictions, at.num_classes)
    gradients = errors @ at.weight
    lengths = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    flips = torch.zeros(len(at.features), dtype=torch.bool)
    for anchor in anchors:
        way = anchor - at.features
        distances = torch.linalg.vector_norm(way, dim=1, keepdim=True)
        alpha = 0.2 / at.features.shape[1] ** 0.5 * distances * gradients / (lengths * way)
        moved = at.features + alpha * way
        flips |= (moved @ at.weight.mT + bias).argmax(dim=1) != predictions
    return flips.nonzero().flatten()


def dropout_disagreements(
    at: Snapshot, generator: torch.Generator, *, num_passes: int = 3, dropout: float = 0.75
) -> Tensor:
    """In how many passes with dropout the prediction of an instance changes, one instance after another."""
    bias = 0 if at.bias is None else at.bias
    counts = torch.zeros(len(at.features), dtype=torch.int64)
    for _ in range(num_passes):
        for i, (features, logits) in enumerate(zip(at.features, at.logits, strict=True)):
            kept = torch.rand(features.shape, generator=generator) >= dropout
            outputs = at.weight @ (features * kept / (1 - dropout)) + bias
            counts[i] += outputs.argmax() != logits.argmax()
    return counts


def mutual_information(at: Snapshot, hypotheses: Tensor) -> Tensor:
    """BALD: entropy of the mean prediction of sampled layers minus the mean of their entropies, in nats; O(n e k d)."""
    bias = 0 if at.bias is None else at.bias
    mean, conditional = torch.zeros_like(at.logits), torch.zeros_like(at.logits[:, 0])
    for weight in hypotheses:
        p = (at.features @ weight.mT + bias).softmax(dim=1)
        mean += p / len(hypotheses)
        conditional += torch.special.entr(p).sum(dim=1) / len(hypotheses)
    return torch.special.entr(mean).sum(dim=1) - conditional


def falcun(at: Snapshot, batch_size: int, generator: torch.Generator, gamma: float = 10.0) -> Tensor:
    """Draws in proportion to (u + s)^gamma, all distances to all picks anew in every step; O(b^2 n k)."""
    p = at.logits.softmax(dim=1)
    top = p.topk(2, dim=1).values
    u = (1 - (top[:, 0] - top[:, 1])).double()
    draws, picked = torch.rand(batch_size, generator=generator, dtype=torch.float64), []
    for i in range(batch_size):
        s = u
        for pick in picked:
            s = torch.minimum(s, (p - p[pick]).abs().sum(dim=1).double())
            s = s / s.max()
        relevance = u + s
        relevance[picked] = 0
        cumulated = (relevance / relevance.max()).pow(gamma).cumsum(dim=0)
        picked.append(int(torch.searchsorted(cumulated, draws[i] * cumulated[-1], right=True)))
    return torch.tensor(picked)


def sequential(at: Snapshot, covariance: Tensor, labels: Tensor, batch_size: int, gamma: float) -> Tensor:
    """The margin strategy with a gaussian update after each pick, all logits anew from the updated weight."""
    weight, bias, picked = at.weight, 0 if at.bias is None else at.bias, []
    for _ in range(batch_size):
        top = (at.features @ weight.mT + bias).softmax(dim=1).topk(2, dim=1).values
        scores = 1 - (top[:, 0] - top[:, 1])
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        phi = at.features[picked[-1]]
        step = covariance @ phi
        covariance = covariance - torch.outer(step, step) / (1 + phi @ step)
        error = torch.nn.functional.one_hot(labels[picked[-1]], len(weight)) - (weight @ phi + bias).softmax(dim=0)
        weight = weight + gamma * torch.outer(error, covariance @ phi)
    return torch.tensor(picked)
