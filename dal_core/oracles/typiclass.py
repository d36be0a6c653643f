"""TypiClass: TypiClust that knows the classes, an upper baseline (BoSS; Huseljic et al., arXiv 2603.13109).

It stands for what a diversity strategy could do if it knew the classes.
"""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_finite, check_labels, check_shape
from dal_core.snapshot import OracleSnapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import first_of_smallest

TIE = 1e-12  # relative to the largest squared norm: squared distances in float64 that differ by no more count as equal


@register("typiclass")
def typiclass(
    snapshot: OracleSnapshot,
    batch_size: int,
    generator: torch.Generator,  # noqa: ARG001
) -> Int[Tensor, " b"]:
    """The most central instances of all classes in turn (`class_balanced_select` on the whole pool)."""
    counts = torch.bincount(snapshot.labels, minlength=snapshot.num_classes)
    return class_balanced_select(snapshot.features, snapshot.hidden_labels, counts, batch_size)


def class_balanced_select(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], counts: Int[Tensor, " k"], batch_size: int
) -> Int[Tensor, " b"]:
    """Pick, one after another, from the class with the fewest labels so far its most central instance.

    Central is what has the smallest summed squared distance to the instances of the class that are not picked yet.
    With their mean mu that sum is n_c |x - mu|^2 plus a constant, so that the most central instance is the one nearest
    to the mean, O(n_c d) a pick. In float64. Ties, among classes and among instances, go to the lower number.

    Args:
        labels: true labels of what to pick from.
        counts: how many labels each class has at the start; not modified.

    Raises:
        ValueError: if `batch_size` is not in 1..n, arguments do not fit each other, or features are NaN or infinite.
    """
    check_shape("labels", labels, (len(features),))
    check_labels("labels", labels, len(counts))
    check_finite(features=features)
    check_batch_size(batch_size, len(features))
    sizes = torch.bincount(labels, minlength=len(counts)).tolist()
    members = list(labels.argsort(stable=True).split(sizes))
    seen = [(count, label) for label, count in enumerate(counts.tolist()) if len(members[label])]
    heapq.heapify(seen)  # a search through all classes a pick takes longer than the pick where there are 1,000
    picked = torch.empty(batch_size, dtype=torch.int64, device=features.device)
    for i in range(batch_size):
        count, label = heapq.heappop(seen)
        left = members[label]
        best = int(_most_central(features[left].double()))
        picked[i], members[label] = left[best], torch.cat((left[:best], left[best + 1 :]))
        if len(left) > 1:
            heapq.heappush(seen, (count + 1, label))
    return picked


def _most_central(features: Tensor) -> Tensor:
    squared = (features - features.mean(dim=0)).square().sum(dim=1)
    return first_of_smallest(squared, TIE * features.square().sum(dim=1).max())
