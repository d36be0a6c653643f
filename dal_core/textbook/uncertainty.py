"""Strategies that go by the uncertainty of predictions, one instance after another.

Uncertainty sampling (Lewis & Gale 1994; Scheffer et al. 2001; Settles 2009), BALD (Houlsby et al. 2011, arXiv
1112.5745), DropQuery (Gupte et al. 2024, arXiv 2401.14555), batches with updates (Huseljic et al. 2025).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def margin_scores(probabilities: Tensor) -> Tensor:
    """Return 1 - (p1 - p2) for the two most probable classes.  [n]"""
    ranked = [sorted(row, reverse=True) for row in probabilities.tolist()]
    return torch.tensor([1 - (row[0] - row[1]) for row in ranked], dtype=torch.float64)


def entropy_scores(probabilities: Tensor) -> Tensor:
    """Return the entropy in nats.  [n]"""
    rows = probabilities.tolist()
    return torch.tensor([-sum(p * math.log(p) for p in row if p > 0) for row in rows], dtype=torch.float64)


def least_confident_scores(probabilities: Tensor) -> Tensor:
    """Return 1 - p_max.  [n]"""
    return torch.tensor([1 - max(row) for row in probabilities.tolist()], dtype=torch.float64)


def highest(scores: Tensor, batch_size: int) -> Tensor:
    """Return the positions of the highest scores, best first; ties go to the lower position."""
    values = scores.tolist()
    return torch.tensor(sorted(range(len(values)), key=lambda i: -values[i])[:batch_size])


def mutual_information(predictions: Iterable[Tensor]) -> Tensor:
    """Return H[E p] - E H[p] in nats (equation 2), of the probabilities [n, k] that each hypothesis gives.  [n]"""
    total, entropies, count = torch.zeros(()), torch.zeros(()), 0
    for p in predictions:
        total, entropies, count = total + p, entropies + torch.special.entr(p).sum(dim=1), count + 1
    return torch.special.entr(total / count).sum(dim=1) - entropies / count


def dropout_disagreements(
    features: Tensor, logits: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator,
    *, num_passes: int = 3, dropout: float = 0.75,
) -> Tensor:  # fmt: skip
    """Count the passes with dropout in which the prediction of an instance changes, one instance after another.  [n]"""
    counts = torch.zeros(len(features), dtype=torch.int64)
    for _ in range(num_passes):
        for i, (x, own) in enumerate(zip(features, logits, strict=True)):
            kept = torch.rand(x.shape, generator=generator, dtype=torch.float32) >= dropout
            outputs = weight @ (x * kept / (1 - dropout)) + (0 if bias is None else bias)
            counts[i] += outputs.argmax() != own.argmax()
    return counts


def margin_with_updates(
    features: Tensor, weight: Tensor, bias: Tensor | None, covariance: Tensor, labels: Tensor, batch_size: int,
    gamma: float,
) -> Tensor:  # fmt: skip
    """Pick by margin with a gaussian update after each pick, all logits anew from the updated weight."""
    picked: list[int] = []
    for _ in range(batch_size):
        top = (features @ weight.mT + (0 if bias is None else bias)).softmax(dim=1).topk(2, dim=1).values
        scores = 1 - (top[:, 0] - top[:, 1])
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        phi = features[picked[-1]]
        step = covariance @ phi
        covariance = covariance - torch.outer(step, step) / (1 + phi @ step)
        p = (weight @ phi + (0 if bias is None else bias)).softmax(dim=0)
        weight = weight + gamma * torch.outer(one_hot(labels[picked[-1]], len(weight)) - p, covariance @ phi)
    return torch.tensor(picked)
