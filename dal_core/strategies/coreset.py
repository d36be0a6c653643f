"""Core-set: k-center greedy (Sener & Savarese 2018, arXiv 1708.00489)."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Fewest, checked
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register


@register("coreset")
@checked
def coreset(snapshot: Snapshot, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Pick by `k_center_greedy` with the labelled instances as initial centres; without any, the first is drawn."""
    features, labelled = snapshot.features, snapshot.labelled_features
    if len(labelled):
        return k_center_greedy(features, labelled, batch_size)
    order = choose(len(features), len(features), generator).to(features.device)
    first, rest = order[:1], order[1:].sort().values
    if batch_size == 1:
        return first
    return torch.cat((first, rest[k_center_greedy(features[rest], features[first], batch_size - 1)]))


@checked
def k_center_greedy(
    features_u: Float[Tensor, "n d"], features_l: Annotated[Float[Tensor, "m d"], Fewest("m", 1, "labelled instances")],
    batch_size: BatchSize,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick, one after another, the instance farthest from all centres; what is picked becomes a centre (algorithm 1).

    The first centres are `features_l`. O(n (m + b) d) time; O(n) memory beside a block of distances. Ties go to the
    lower position.

    >>> k_center_greedy(torch.tensor([[1.0], [9.0], [4.0]]), torch.tensor([[0.0]]), 2)
    tensor([1, 2])
    """
    distances = torch.empty_like(features_u[:, 0])  # to the nearest centre
    for block in blocks(len(features_u), len(features_l) * features_l.element_size()):
        distances[block] = _distances(features_u[block], features_l).amin(dim=1)
    picked = []
    for _ in range(batch_size):
        best = int(distances.argmax())
        picked.append(best)
        to_picked = _distances(features_u, features_u[best].view(1, -1)).squeeze(1)
        torch.minimum(distances, to_picked, out=distances)
        distances[best] = -1  # below all others, duplicates of centres included
    return torch.tensor(picked, device=features_u.device)


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Euclidean distances.  [n, m]"""
    # From differences, not from |x|^2 - 2 x c + |c|^2, which loses small distances in float32.
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")
