"""Metrics of predictions as sums over samples, and calibration errors as loops over bins (Nixon et al. 2019)."""

import itertools

from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose most probable class is the true one."""
    return sum(int(z.argmax()) == y for z, y in zip(logits, labels.tolist(), strict=True)) / len(labels)


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean of -log p_y."""
    return -sum(float(p[y].log()) for p, y in _samples(logits, labels)) / len(labels)


def brier(logits: Tensor, labels: Tensor) -> float:
    """Mean of sum_k (p_k - [y = k])^2."""
    return sum((float(p[k]) - (k == y)) ** 2 for p, y in _samples(logits, labels) for k in range(len(p))) / len(labels)


def ece(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Sum over bins of equal width of n_bin / n |accuracy - confidence|; confidence 1 belongs to the last bin."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, y in _samples(logits, labels):
        confidence = float(p.max())
        members[min(int(confidence * bins), bins - 1)].append((confidence, int(p.argmax()) == y))
    return sum(abs(sum(hit - confidence for confidence, hit in each)) for each in members) / len(labels)


def ace(logits: Tensor, labels: Tensor, borders: list[int]) -> float:
    """Mean over classes of the mean over bins of |frequency - probability|, from border to border of ranked samples."""
    errors = []
    for k in range(logits.shape[1]):
        ranked = sorted((float(p[k]), y == k) for p, y in _samples(logits, labels))
        gaps = [sum(hit - p for p, hit in ranked[a:b]) / (b - a) for a, b in itertools.pairwise(borders)]
        errors.append(sum(map(abs, gaps)) / len(gaps))
    return sum(errors) / len(errors)


def _samples(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, int]]:  # probabilities [k] and class of each
    return list(zip(logits.double().softmax(dim=1), labels.tolist(), strict=True))
