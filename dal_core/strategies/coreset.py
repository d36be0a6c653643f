"""Core-set: k-center greedy (Sener & Savarese 2018, arXiv 1708.00489)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_batch_size, check_finite, check_shape
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.positions import index_of

BLOCK_BYTES = 64 * 2**20  # of distances held at a time


@register("coreset")
def coreset(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:  # noqa: ARG001
    """k-center greedy in feature space with the labelled instances as initial centres (`k_center_greedy`)."""
    return k_center_greedy(snapshot.features, snapshot.labelled_features, batch_size)


def k_center_greedy(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: int
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance farthest from all centres; what is picked becomes a centre (algorithm 1).

    O(n (m + b) d) time; O(n) memory beside a block of distances. Ties go to the lower position.

    Args:
        features_u: what to pick from.
        features_l: the initial centres.

    Raises:
        ValueError: if `features_l` is empty, `batch_size` is not in 1..n, the two differ in dtype or device, or
            hold NaN or infinite values.
    """
    _check_features(features_u, features_l)
    check_batch_size(batch_size, len(features_u))
    if len(features_l) == 0:
        raise ValueError("features_l is empty; k_center_greedy needs at least one labelled instance as initial centre")
    distances = _distances_to_nearest(features_u, features_l)
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        best = index_of(distances.argmax())
        picked[i] = best
        to_picked = _distances(features_u, features_u[best].view(1, -1)).squeeze(1)
        torch.minimum(distances, to_picked, out=distances)
        distances[best] = -1  # below all others, duplicates of centres included
    return picked


def _distances_to_nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Distance of each instance to the nearest centre, in blocks.  [n]"""
    rows = max(1, BLOCK_BYTES // (len(centres) * features.element_size()))
    nearest = features.new_empty(len(features))
    for start in range(0, len(features), rows):
        nearest[start : start + rows] = _distances(features[start : start + rows], centres).amin(dim=1)
    return nearest


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Euclidean distances.  [n, m]"""
    # From differences, not from |x|^2 - 2 x c + |c|^2, which loses small distances in float32.
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")


def _check_features(features_u: Tensor, features_l: Tensor) -> None:
    check_alike(features_u=features_u, features_l=features_l)
    check_shape("features_u", features_u, (None, None))
    check_shape("features_l", features_l, (None, features_u.shape[1]))
    check_finite(features_u=features_u, features_l=features_l)
