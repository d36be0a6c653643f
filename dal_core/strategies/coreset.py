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
    lower position. On a CPU products of features say which instances can be the farthest; where these are several,
    their distances decide.

    >>> k_center_greedy(torch.tensor([[1.0], [9.0], [4.0]]), torch.tensor([[0.0]]), 2)
    tensor([1, 2])
    """
    if features_u.device.type != "cpu":
        return _by_distances(features_u, features_l, batch_size)
    m, picked = len(features_l), list[int]()
    centres = torch.cat((features_l, features_u.new_empty(batch_size, features_u.shape[1])))
    norms = torch.linalg.vecdot(features_u, features_u)
    norms_l = torch.linalg.vecdot(features_l, features_l)
    # Rounding of a product of d features, at most, as a part of the largest squared distance.
    rounding = 4 * features_u.shape[1] * torch.finfo(features_u.dtype).eps * torch.max(norms.max(), norms_l.max())
    squared = torch.empty_like(norms)  # to the nearest centre, up to rounding
    for block in blocks(len(features_u), m * features_u.element_size()):
        squared[block] = torch.addmm(norms_l, features_u[block], features_l.mT, alpha=-2).amin(dim=1) + norms[block]
    exact, known = torch.full_like(norms, torch.inf), torch.zeros_like(norms, dtype=torch.int64)
    for end in range(m, m + batch_size):
        possible = (squared >= squared.max() - 2 * rounding).nonzero().squeeze(1)
        if len(possible) > 1:
            new = centres[int(known[possible].min()) : end]  # to those before, distances are known
            for block in blocks(len(possible), max(new.nbytes, 1)):
                some = possible[block]
                exact[some] = torch.minimum(exact[some], _distances(features_u[some], new).amin(dim=1))
            known[possible] = end
            possible = possible[exact[possible].argmax()]
        best = int(possible)
        picked.append(best)
        centres[end] = features_u[best]
        to_picked = torch.addmv(norms, features_u, features_u[best], alpha=-2).add_(norms[best])
        torch.minimum(squared, to_picked, out=squared)
        squared[best] = -torch.inf  # below all others, duplicates of centres included
    return torch.tensor(picked, device=features_u.device)


def _by_distances(features_u: Tensor, features_l: Tensor, batch_size: int) -> Tensor:
    """`k_center_greedy` by all distances: an accelerator computes them in less time than a host waits for products."""
    distances = torch.empty_like(features_u[:, 0])  # to the nearest centre
    for block in blocks(len(features_u), len(features_l) * features_l.element_size()):
        distances[block] = _distances(features_u[block], features_l).amin(dim=1)
    picked = []
    for _ in range(batch_size):
        picked.append(best := int(distances.argmax()))
        to_picked = _distances(features_u, features_u[best].view(1, -1)).squeeze(1)
        torch.minimum(distances, to_picked, out=distances)
        distances[best] = -1  # below all others, duplicates of centres included
    return torch.tensor(picked, device=features_u.device)


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Euclidean distances.  [n, m]"""
    # From differences, not from |x|^2 - 2 x c + |c|^2, which loses small distances in float32.
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")
