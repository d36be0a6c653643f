"""SAS, simulated annealing search (Zhou et al. 2021, section 3)."""

import math
from collections.abc import Callable, Sequence

import torch

from dal_core.snapshot import Truth
from dal_core.textbook.training import retrain


def mean_accuracy(
    snapshot: Truth, plan: Sequence[int], seed: int, acquisition_size: int, epochs: int, judged: str = "test"
) -> float:
    """Return the mean over the acquisitions of the accuracy after each; what is bought by then counts as a set."""
    held, accuracies = getattr(snapshot, judged), []
    for end in [*range(acquisition_size, len(plan), acquisition_size), len(plan)]:
        weight, bias = retrain(snapshot, sorted(plan[:end]), epochs, seed)
        misses = (held.inputs() @ weight.T + bias).argmax(dim=1) != held.labels
        accuracies.append(1 - misses.double().mean())
    return float(torch.stack(accuracies).mean())  # by torch: a difference in the last digit decides


def sas(
    quality_of: Callable[[list[int]], float], order: list[int], exchanges: Sequence[Sequence[int]],
    chances: Sequence[float], steps: int, factor: float,
) -> tuple[list[int], list[float], int]:  # fmt: skip
    """Return the best order, the qualities step by step, and how many exchanges were kept: better ones, or by chance.

    Of the first `steps` step t keeps a change of quality from q to q' with probability exp(factor t (q' - q)).
    """
    qualities = [quality_of(order)]
    best, best_order, kept = qualities[0], order, 0
    for t, ((i, j), chance) in enumerate(zip(exchanges, chances, strict=True), 1):
        other = order.copy()
        other[i], other[j] = order[j], order[i]
        new, quality = quality_of(other), qualities[-1]
        if new > quality or (t <= steps and chance < math.exp(factor * t * (new - quality))):
            order, quality, kept = other, new, kept + 1
        if quality > best:
            best, best_order = quality, order
        qualities.append(quality)
    return best_order, qualities, kept
