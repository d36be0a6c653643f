"""Random selection, and the strategies that rank instances by the uncertainty of their prediction.

Ties go to the lower position.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register

BLOCK_ROWS = 65536  # instances whose probabilities are copied at a time


def margin_scores(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """1 - (p1 - p2) for the two most probable classes: 1 where the head cannot decide between them."""
    scores = []
    for block in probabilities.split(BLOCK_ROWS):
        best, place = block.max(dim=1, keepdim=True)
        second = block.scatter(1, place, -1).amax(dim=1, keepdim=True)  # topk takes far longer for dozens of classes
        scores.append(1 - (best - second))
    return torch.cat(scores).squeeze(1)


def entropy_scores(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Entropy of the prediction, in nats."""
    return torch.special.entr(probabilities).sum(dim=1)


def least_confident_scores(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """1 - p_max."""
    return 1 - probabilities.amax(dim=1)


def highest(scores: Float[Tensor, " n"], batch_size: int) -> Int[Tensor, " b"]:
    """Positions of the `batch_size` highest scores, best first."""
    # A stable sort, because topk leaves the order of ties open.
    return torch.sort(scores, descending=True, stable=True).indices[:batch_size]


@register("random")
def random(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Uniform without replacement."""
    return choose(len(snapshot.features), batch_size, generator).to(snapshot.features.device)


@register("margin")
def margin(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Smallest gap between the two most probable classes (Scheffer et al. 2001)."""
    return highest(margin_scores(snapshot.probabilities), batch_size)


@register("entropy")
def entropy(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Largest entropy of the prediction (Settles 2009)."""
    return highest(entropy_scores(snapshot.probabilities), batch_size)


@register("least_confident")
def least_confident(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Lowest probability of the predicted class (Lewis & Gale 1994)."""
    return highest(least_confident_scores(snapshot.probabilities), batch_size)
