"""TypiClass: TypiClust that knows the classes, an upper baseline (BoSS; Huseljic et al., arXiv 2603.13109).

It stands for what a diversity strategy could do if it knew the classes.
"""

import heapq
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Below, checked
from dal_core.snapshot import Truth
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import first_of_smallest

TIE = 1e-12  # Relative to the largest squared norm: squared distances in float64 that differ by no more are equal.


@register("typiclass")
@checked
def typiclass(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,  # noqa: ARG001
) -> Int[Tensor, " b"]:
    """Pick the most central instances of all classes in turn (`class_balanced_select` on the whole pool)."""
    counts = torch.bincount(snapshot.labels, minlength=snapshot.num_classes)
    return class_balanced_select(snapshot.features, snapshot.hidden_labels, counts, batch_size)


@checked
def class_balanced_select(
    features: Float[Tensor, "n d"],
    labels: Annotated[Int[Tensor, " n"], Below("k")],
    counts: Int[Tensor, " k"],
    batch_size: BatchSize,
) -> Int[Tensor, " b"]:
    """Pick, one after another, from the class with the fewest labels so far its most central instance.

    Central is what has the smallest summed squared distance to the instances of the class that are not picked yet.
    With their mean mu that sum is n_c |x - mu|^2 plus a constant, so that the most central instance is the one nearest
    to the mean, O(n_c d) a pick; from all distances: `textbook.class_balanced_select`. In float64. Ties, among classes
    and among instances, go to the lower number.

    Args:
        labels: true labels of what to pick from.
        counts: how many labels each class has at the start.

    >>> features, labels = torch.tensor([[0.0], [3.0], [4.0], [9.0]]), torch.tensor([0, 0, 0, 1])
    >>> class_balanced_select(features, labels, counts=torch.tensor([0, 1]), batch_size=3)
    tensor([1, 0, 3])
    """
    sizes = torch.bincount(labels, minlength=len(counts)).tolist()
    members = list(labels.argsort(stable=True).split(sizes))
    waiting = [(count, label) for label, count in enumerate(counts.tolist()) if sizes[label]]
    heapq.heapify(waiting)  # Where there are 1,000, a search through all classes takes longer than the pick.
    picked = []
    for _ in range(batch_size):
        count, label = heapq.heappop(waiting)
        left = members[label]
        best = int(_most_central(features[left].double()))
        picked.append(left[best])
        members[label] = torch.cat((left[:best], left[best + 1 :]))
        if len(left) > 1:
            heapq.heappush(waiting, (count + 1, label))
    return torch.stack(picked)


def _most_central(features: Tensor) -> Tensor:
    squared = (features - features.mean(dim=0)).square().sum(dim=1)
    return first_of_smallest(squared, TIE * features.square().sum(dim=1).max())
