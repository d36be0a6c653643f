"""Random selection, and the strategies that rank instances by the uncertainty of their prediction.

Ties go to the lower position.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Fewest, checked, unchecked
from dal_core.randomness import choose
from dal_core.snapshot import Predictions, Snapshot
from dal_core.strategies.registry import register

BLOCK_ROWS = 65536  # Instances whose probabilities are copied at a time.
ClassScores = Annotated[Float[Tensor, "n k"], Fewest("k", 2, "classes")]  # logits or probabilities


@checked
def margin_scores(probabilities: ClassScores) -> Float[Tensor, " n"]:
    """Return 1 - (p1 - p2) for the two most probable classes: 1 where the head cannot decide between them.

    >>> margin_scores(torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]]))
    tensor([0.5000, 1.0000])
    """
    scores = []
    for block in probabilities.split(BLOCK_ROWS):
        best, place = block.max(dim=1, keepdim=True)
        second = block.scatter(1, place, -1).amax(dim=1, keepdim=True)  # topk takes far longer for dozens of classes
        scores.append(1 - (best - second))
    return torch.cat(scores).squeeze(1)


@checked
def entropy_scores(probabilities: ClassScores) -> Float[Tensor, " n"]:
    """Return the entropy of each prediction, in nats.

    >>> entropy_scores(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    return torch.special.entr(probabilities).sum(dim=1)


@checked
def least_confident_scores(probabilities: ClassScores) -> Float[Tensor, " n"]:
    """Return 1 - p_max.

    >>> least_confident_scores(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    tensor([0.2500, 0.5000])
    """
    return 1 - probabilities.amax(dim=1)


@checked
def highest(scores: Float[Tensor, " n"], batch_size: BatchSize) -> Int[Tensor, " b"]:
    """Return the positions of the `batch_size` highest scores, best first.

    >>> highest(torch.tensor([1.0, 3.0, 3.0]), 2)
    tensor([1, 2])
    """
    # A stable sort, because topk leaves the order of ties open.
    return torch.sort(scores, descending=True, stable=True).indices[:batch_size]


@register("random")
@checked
def random(snapshot: Snapshot, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Draw uniformly without replacement."""
    return choose(len(snapshot.features), batch_size, generator).to(snapshot.features.device)


@register("margin")
@checked
def margin(snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Pick the smallest gaps between the two most probable classes (Scheffer et al. 2001)."""
    return _ranked(margin_scores, snapshot, batch_size)


@register("entropy")
@checked
def entropy(snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Pick the predictions with the largest entropy (Settles 2009)."""
    return _ranked(entropy_scores, snapshot, batch_size)


@register("least_confident")
@checked
def least_confident(snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Pick the lowest probabilities of the predicted class (Lewis & Gale 1994)."""
    return _ranked(least_confident_scores, snapshot, batch_size)


def _ranked(scores: Callable[[Tensor], Tensor], snapshot: Predictions, batch_size: int) -> Tensor:
    """The batch with the highest scores; not checked once more, as the checks take longer than some of the scores."""
    return unchecked(highest)(unchecked(scores)(snapshot.probabilities), batch_size)
