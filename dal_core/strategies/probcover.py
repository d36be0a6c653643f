"""ProbCover: balls that cover the most of the pool (Yehuda et al. 2022, arXiv 2205.11320)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Positive, Share, checked
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means


@register("probcover")
@checked
def probcover(
    snapshot: Snapshot, batch_size: BatchSize, generator: torch.Generator,
    *, radius: Positive | None = None, purity: Share = 0.95,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick by `probcover_select`: balls on L2-normalised features cover the most of the pool.

    Without a `radius`, it is the largest with which a share `purity` of the balls holds instances of one k-means
    cluster only, with as many clusters as classes (`pure_radius`).
    """
    unlabelled, labelled = normalize(snapshot.features, dim=1), normalize(snapshot.labelled_features, dim=1)
    if radius is None:
        radius = pure_radius(unlabelled, k_means(unlabelled, snapshot.num_classes, generator), purity)
    return probcover_select(unlabelled, labelled, batch_size, generator, radius=radius)


@checked
def pure_radius(features: Float[Tensor, "n d"], assignment: Int[Tensor, " n"], purity: Share) -> float:
    """Return the largest radius with which a share `purity` of the balls around instances holds one cluster only.

    A ball is pure up to the distance to the nearest instance of another cluster, so that the radius is just below the
    1 - `purity` quantile of these distances. `features` are L2-normalised. O(n^2 d) time, in blocks.

    >>> round(pure_radius(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 1.0), 3)
    1.414
    """
    distances = torch.empty_like(features[:, 0])
    for block in blocks(len(features), len(features) * features.element_size()):
        other = assignment[block].unsqueeze(1) != assignment
        squared = 2 - 2 * (features[block] @ features.mT).masked_fill_(~other, -1)  # 4: none is farther
        distances[block] = squared.amin(dim=1).clamp_min_(0).sqrt_()
    quantile = distances.sort().values[min(len(distances) - 1, int((1 - purity) * len(distances) + 1e-9))]
    return max(1e-3, float(quantile) * (1 - 1e-4))  # off the instance at that distance, where rounding would decide


@checked
def probcover_select(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: BatchSize,
    generator: torch.Generator, *, radius: Positive,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick, one after another, the instance with the most uncovered instances within `radius` (algorithm 1).

    Covered is what lies within `radius` of a labelled or picked instance. Ties go to the lower position; where all is
    covered, the rest is drawn uniformly. Features are L2-normalised. Every instance becomes covered once, so that the
    counts are kept in O(n^2 d) time for any batch size, and in blocks.

    >>> pool = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> probcover_select(pool, pool[:0], 2, torch.Generator(), radius=0.7)
    tensor([1, 0])
    """
    closeness = 1 - radius**2 / 2  # the product of two vectors of length 1 at that distance
    covered = _counts_within(features_u, features_l, closeness) > 0
    counts = _counts_within(features_u, features_u[~covered], closeness)  # of uncovered instances in each ball
    left = torch.ones_like(covered)
    picked: list[int] = []
    while len(picked) < batch_size and (best_count := (counts * left).max(dim=0)).values > 0:
        best = int(best_count.indices)
        picked.append(best)
        left[best] = False
        fresh = ((features_u @ features_u[best]) >= closeness) & ~covered
        fresh[best] = ~covered[best]
        counts -= _counts_within(features_u, features_u[fresh], closeness)
        covered |= fresh
    order = choose(len(left), len(left), generator).to(left.device)
    rest = order[left[order]][: batch_size - len(picked)]
    return torch.cat((torch.tensor(picked, dtype=torch.int64, device=rest.device), rest))


def _counts_within(features: Tensor, centres: Tensor, closeness: float) -> Tensor:
    """Of how many centres each instance is within reach.  [n] int64"""
    counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for block in blocks(len(features), len(centres) * features.element_size()):
        counts[block] = (features[block] @ centres.mT >= closeness).sum(dim=1)
    return counts
