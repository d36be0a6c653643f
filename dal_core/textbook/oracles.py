"""Oracles, which know the true labels, with one head trained after another: BoSS (Huseljic et al., arXiv 2603.13109),
simulated annealing search (Zhou et al. 2021, section 3), and CDO of CDALBench (Werner et al. 2024).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dal_core.randomness import choose, integer_seed
from dal_core.snapshot import Truth
from dal_core.textbook.training import retrain


def judge(snapshot: Truth, candidates: Tensor, epochs: int, seed: int, loss: str = "zero_one") -> Tensor:
    """Return the test loss after each candidate batch, a head after another, each trained on its true labels.  [t]"""
    assert snapshot.test is not None
    losses = []
    for batch in candidates:
        weight, bias = retrain(snapshot, batch, epochs, seed)
        losses.append(mean_loss(snapshot.test.inputs() @ weight.T + bias, snapshot.test.labels, loss))
    return torch.stack(losses)


def mean_loss(logits: Tensor, labels: Tensor | None, loss: str) -> Tensor:
    """Return the mean loss; without labels with each class as probable as the logits have it."""
    p, classes = logits.softmax(dim=1), torch.eye(logits.shape[1], dtype=logits.dtype)
    if loss == "zero_one":
        of_class = 1 - classes[p.argmax(dim=1)]  # [n, k], the loss of an instance if it were of the class
    elif loss == "cross_entropy":
        of_class = -logits.log_softmax(dim=1)
    else:  # Brier
        of_class = torch.stack([(p - true).square().sum(dim=1) for true in classes], dim=1)
    shares = p if labels is None else classes[labels]
    return (shares * of_class).sum(dim=1).mean()


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


def cdo(
    snapshot: Truth, batch_size: int, generator: torch.Generator,
    *, num_candidates: int = 20, retraining_epochs: int = 50, performance_on: str = "test",
) -> tuple[list[int], list[float], list[bool]]:  # fmt: skip
    """Pick the best of some random instances if it improves the head, else the margin strategy's; one head at a time.

    Beside the picks: the losses before the first and after each of them, and which were random ones.
    """
    judged, orders = getattr(snapshot, performance_on), torch.Generator().manual_seed(integer_seed(generator))

    def after(picked: list[int]) -> tuple[float, Tensor]:
        """The loss, and the gap between the two most probable classes of each instance."""
        weight, bias = retrain(snapshot, picked, retraining_epochs, integer_seed(orders))
        first, second = (snapshot.features @ weight.T + bias).softmax(dim=1).topk(2).values.unbind(dim=1)
        return float(mean_loss(judged.inputs() @ weight.T + bias, judged.labels, "cross_entropy")), first - second

    picked: list[int] = []
    loss, gaps = after(picked)
    losses, improved = [loss], []
    for _ in range(batch_size):
        free = [i for i in range(len(snapshot.features)) if i not in picked]
        tried = [free[i] for i in choose(len(free), min(num_candidates, len(free)), generator).tolist()]
        tried.append(free[int(gaps[free].argmin())])
        heads = [after([*picked, i]) for i in tried]
        best = min(range(len(tried) - 1), key=[each[0] for each in heads].__getitem__)
        torch.randint(1, (), generator=generator)  # Chance decides between equal ones, of which there is one.
        improved.append(heads[best][0] < losses[-1])
        best = best if improved[-1] else -1
        picked.append(tried[best])
        loss, gaps = heads[best]
        losses.append(loss)
    return picked, losses, improved
