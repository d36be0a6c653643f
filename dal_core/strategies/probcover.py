"""ProbCover: balls that cover the most of the pool (Yehuda et al. 2022, arXiv 2205.11320)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_batch_size, check_finite, check_number, check_positive
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means

BLOCK_BYTES = 64 * 2**20  # of products held at a time


@register("probcover")
def probcover(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    radius: float | None = None,
    purity: float = 0.95,
) -> Int[Tensor, " b"]:
    """Balls of a fixed radius on L2-normalised features that cover the most of the pool (Yehuda et al. 2022).

    Args:
        radius: of the balls; None: the largest with which a share `purity` of them holds instances of one k-means
            cluster only, with as many clusters as classes (`pure_radius`).
        purity: see `radius`.
    """
    check_number("purity", purity)
    if not 0 < purity <= 1:
        raise ValueError(f"purity is {purity}; a number above 0 and at most 1 was expected")
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    if radius is None:
        radius = pure_radius(unlabelled, k_means(unlabelled, snapshot.num_classes, generator), purity)
    return probcover_select(unlabelled, labelled, batch_size, generator, radius=radius)


def pure_radius(features: Float[Tensor, "n d"], assignment: Int[Tensor, " n"], purity: float) -> float:
    """The largest radius with which a share `purity` of the balls around instances holds one cluster only.

    A ball is pure up to the distance to the nearest instance of another cluster, so that the radius is just below the
    1 - `purity` quantile of these distances. `features` are L2-normalised. O(n^2 d) time, in blocks.
    """
    distances = torch.empty_like(features[:, 0])
    rows = max(1, BLOCK_BYTES // (len(features) * features.element_size()))
    for start in range(0, len(features), rows):
        block = slice(start, start + rows)
        other = assignment[block].unsqueeze(1) != assignment
        squared = 2 - 2 * (features[block] @ features.mT).masked_fill_(~other, -1)  # 4: none is farther
        distances[block] = squared.amin(dim=1).clamp_min_(0).sqrt_()
    quantile = distances.sort().values[min(len(distances) - 1, int((1 - purity) * len(distances) + 1e-9))]
    return max(
        1e-3, float(quantile) * (1 - 1e-4)
    )  # off the instance at that distance, so that rounding decides nothing


def probcover_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    generator: torch.Generator,
    *,
    radius: float,
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance with the most uncovered instances within `radius` (algorithm 1).

    Covered is what lies within `radius` of a labelled or picked instance. Ties go to the lower position; where all is
    covered, the rest is drawn uniformly. Features are L2-normalised. Every instance becomes covered once, so that the
    counts are kept in O(n^2 d) time for any batch size, and in blocks.

    Raises:
        ValueError: if `radius` is not positive, `batch_size` is not in 1..n, the two differ in dtype or device, or
            hold NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_positive(radius=radius)
    check_batch_size(batch_size, len(features_u))
    closeness = 1 - radius**2 / 2  # the product of two vectors of length 1 at that distance
    covered = _counts_within(features_u, features_l, closeness) > 0
    counts = _counts_within(features_u, features_u[~covered], closeness)
    greedily = _picks if features_u.device.type == "cpu" else _picks_without_waiting
    picked = greedily(features_u, covered, counts, batch_size, closeness)
    left = torch.ones_like(covered).index_fill_(0, picked, False)
    order = choose(len(left), len(left), generator).to(left.device)
    return torch.cat((picked, order[left[order]][: batch_size - len(picked)]))


def _picks(features: Tensor, covered: Tensor, counts: Tensor, batch_size: int, closeness: float) -> Tensor:
    """Instances that cover something new, at most `batch_size`; `covered` and `counts` are brought up to date."""
    left = torch.ones_like(covered)
    picked: list[int] = []
    while len(picked) < batch_size and int((counts * left).max()) > 0:
        best = int((counts * left).argmax())
        picked.append(best)
        left[best] = False
        fresh = ((features @ features[best]) >= closeness).logical_and_(~covered)
        fresh[best] = ~covered[best]
        counts -= _counts_within(features, features[fresh], closeness)
        covered |= fresh
    return torch.tensor(picked, dtype=torch.int64)


def _picks_without_waiting(
    features: Tensor, covered: Tensor, counts: Tensor, batch_size: int, closeness: float
) -> Tensor:
    """As `_picks`, where the host would have to wait to learn what was picked, or how many instances it covers.

    No later pick covers more than the first one, so that a step has room for as many; what a step does not need of it
    does not count, nor does a step after all is covered.
    """
    room = min(len(features), int(counts.max()) + 1)  # the pick itself counts as covered even if its length is 0
    left, goes_on = torch.ones_like(covered), torch.empty(batch_size, dtype=torch.bool, device=covered.device)
    picked = torch.empty(batch_size, dtype=torch.int64, device=covered.device)
    for i in range(batch_size):
        open_counts = counts * left
        picked[i] = best = open_counts.argmax(dim=0, keepdim=True)
        goes_on[i] = useful = open_counts.index_select(0, best) > 0
        left.index_fill_(0, best, False)  # where nothing is useful any more, that changes nothing
        fresh = ((features @ features.index_select(0, best).squeeze(0)) >= closeness).logical_and_(~covered)
        fresh.index_copy_(0, best, ~covered.index_select(0, best)).logical_and_(useful)
        first = fresh.int().topk(room).indices
        counts -= _counts_within(features, features[first], closeness, counted=fresh[first])
        covered[first] |= fresh[first]
    return picked[goes_on]


def _counts_within(features: Tensor, centres: Tensor, closeness: float, counted: Tensor | None = None) -> Tensor:
    """Of how many centres, or of those that are counted, each instance is within reach.  [n] int64"""
    counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    rows = max(1, BLOCK_BYTES // (max(1, len(centres)) * features.element_size()))
    for start in range(0, len(features), rows):
        within = features[start : start + rows] @ centres.mT >= closeness
        counts[start : start + rows] = (within if counted is None else within & counted).sum(dim=1)
    return counts
