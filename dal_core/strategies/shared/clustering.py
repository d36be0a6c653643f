"""k-means for the strategies that cluster the pool, and what they pick from the clusters."""

import math

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from dal_core.checks import check_finite, check_whole
from dal_core.randomness import fixed_threads
from dal_core.strategies.shared.positions import index_of

BLOCK_BYTES = 64 * 2**20  # of distances held at a time
ITERATIONS = 25  # of Lloyd; MiniLM features of 5000 texts in 427 clusters come to rest after 12
RESOLUTION = 1e-6  # squared distance, relative to the squared norms, up to which float32 cannot tell points apart
TIE = 1e-7  # relative to the largest norm: distances in float64 that differ by no more count as equal


def k_means(features: Float[Tensor, "n d"], num_clusters: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """The cluster, 0 to c - 1, of each instance after k-means with at most `num_clusters` clusters, none of them empty.

    There are fewer clusters than `num_clusters` where there are fewer distinct instances. Each seed is the best of a
    few that are drawn in proportion to the squared distance (greedy k-means++; Arthur & Vassilvitskii 2007), which is
    what makes good clusters: TypiClust learns slower from plain ones. At most `ITERATIONS` steps of Lloyd move them, by
    scikit-learn on a CPU, on one thread whatever the caller's setting, because its sums differ with their number;
    elsewhere by the same steps in torch, so that the features stay on their device. Works in float32 on centred
    features. O(n c d log c) time.

    Raises:
        ValueError: if `num_clusters` is below 1, or `features` is empty or holds NaN or infinite values.
    """
    check_whole("num_clusters", num_clusters, 1)
    check_finite(features=features)
    if len(features) == 0:
        raise ValueError("features is empty; k_means needs at least one instance")
    if features.device.type != "cpu":
        return _k_means(features, num_clusters, generator)
    with fixed_threads(1):
        return _k_means(features, num_clusters, generator)


def _k_means(features: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    centred = (features - features.mean(dim=0)).float()
    centres = centred[_seeds(centred, min(num_clusters, len(features)), generator)]
    lloyd = _scikit_lloyd if features.device.type == "cpu" else _torch_lloyd
    return lloyd(centred, centres).unique(return_inverse=True)[1]


def _seeds(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of greedy k-means++ seeds, as many as there are distinct instances if these are fewer than `count`."""
    squared_norms = torch.linalg.vecdot(features, features)
    trials = 2 + int(math.log(count))  # as in scikit-learn and in Arthur and Vassilvitskii's own experiments
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64).to(features.device)
    seeds = (draws[:, 0] * len(features)).long()  # right for the first one, which is drawn uniformly
    distances = _squared_distances(features, squared_norms, seeds[:1]).squeeze(0)  # to the nearest seed
    totals = torch.ones_like(draws[:, 0])
    for i in range(1, count):
        cumulated = distances.cumsum(dim=0, dtype=torch.float64)
        totals[i] = cumulated[-1]
        # Strictly below the total, so that a seed has a positive weight; clamped for totals of 0, dropped below.
        drawn = torch.searchsorted(cumulated, draws[i] * cumulated[-1] * (1 - 1e-12), right=True)
        drawn.clamp_(max=len(features) - 1)
        candidates = torch.minimum(_squared_distances(features, squared_norms, drawn), distances)  # [trials, n]
        best = index_of(candidates.sum(dim=1).argmin())
        seeds[i], distances = drawn[best], candidates[best].view(-1)
    return seeds[totals > 0]


def _squared_distances(features: Tensor, squared_norms: Tensor, centres: Tensor) -> Tensor:
    """From each of the positions `centres` to all instances, 0 where float32 cannot tell them apart.  [c, n]"""
    norms = squared_norms[centres].unsqueeze(1) + squared_norms
    squared = torch.addmm(norms, features[centres], features.mT, alpha=-2)
    return squared.masked_fill_(squared <= RESOLUTION * norms, 0)


def _scikit_lloyd(features: Tensor, centres: Tensor) -> Tensor:
    clusters = KMeans(len(centres), init=centres.numpy(), n_init=1, max_iter=ITERATIONS, tol=0, random_state=0)
    return torch.as_tensor(clusters.fit_predict(features.numpy()), dtype=torch.int64)


def _torch_lloyd(features: Tensor, centres: Tensor) -> Tensor:
    """Lloyd's steps; a cluster that loses its last instance keeps its centre.

    All of them, although they come to rest earlier: to find that out, the host would have to wait for every step.
    """
    rows = max(1, BLOCK_BYTES // (len(centres) * features.element_size()))
    assignment = torch.empty_like(features[:, 0], dtype=torch.int64)
    for _ in range(ITERATIONS + 1):  # the last one assigns after the last move
        half_norms = torch.linalg.vecdot(centres, centres) / 2
        sums, counts = torch.zeros_like(centres), torch.zeros_like(half_norms)
        for start in range(0, len(features), rows):
            block = features[start : start + rows]
            nearest = (half_norms - block @ centres.mT).argmin(dim=1, keepdim=True)  # [r, 1]
            # A product, since adding rows by index has no fixed order on CUDA.
            members = block.new_zeros(len(block), len(centres)).scatter_(1, nearest, 1)  # [r, c]
            sums.addmm_(members.mT, block)
            counts += members.sum(dim=0)
            assignment[start : start + rows] = nearest.squeeze(1)
        centres = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp_min(1).unsqueeze(1), centres)
    return assignment


def nearest_to_means(features: Float[Tensor, "n d"], assignment: Int[Tensor, " n"]) -> Int[Tensor, " c"]:
    """Of each cluster the instance nearest to the mean of the cluster; ties go to the lower position.

    `assignment` holds the clusters 0 to c - 1, none empty. In float64, because the two instances of a cluster of two
    are always equally far from their mean.
    """
    features = features.double()
    count = int(assignment.max()) + 1
    sizes = torch.bincount(assignment, minlength=count).unsqueeze(1)
    means = features.new_zeros(count, features.shape[1]).index_add_(0, assignment, features) / sizes
    distances = torch.linalg.vector_norm(features - means[assignment], dim=1)
    smallest = distances.new_full((count,), torch.inf).scatter_reduce_(0, assignment, distances, "amin")
    tied = distances <= smallest[assignment] + TIE * torch.linalg.vector_norm(features, dim=1).max()
    positions = torch.arange(len(features), device=features.device).masked_fill_(~tied, len(features))
    return positions.new_full((count,), len(features)).scatter_reduce_(0, assignment, positions, "amin")


def most_typical(features: Float[Tensor, "n d"], num_neighbours: int) -> Int[Tensor, ""]:
    """Position of the instance with the smallest mean distance to its nearest others (`neighbour_distances`).

    Ties go to the lower position.
    """
    means = neighbour_distances(features, num_neighbours)
    centred = features.double() - features.double().mean(dim=0)
    return first_of_smallest(means, TIE * torch.linalg.vector_norm(centred, dim=1).max())


def neighbour_distances(features: Float[Tensor, "n d"], num_neighbours: int) -> Float[Tensor, " n"]:
    """Mean distance of each instance to its `num_neighbours` nearest others: the inverse of how typical it is.

    No more than half of the instances count as neighbours (Hacohen et al. 2022, section 3); 0 for a single one.
    O(n^2 d) time, in float64 and in blocks.
    """
    centred = features.double()
    centred = centred - centred.mean(dim=0)
    means = torch.zeros_like(centred[:, 0])
    if len(features) == 1:
        return means
    count = min(num_neighbours, len(features) // 2)
    for rows in torch.arange(len(features), device=features.device).split(max(1, BLOCK_BYTES // (8 * len(features)))):
        distances = torch.cdist(centred[rows], centred)  # [r, n]
        distances.scatter_(1, rows.unsqueeze(1), torch.inf)
        means[rows] = distances.topk(count, largest=False).values.mean(dim=1)
    return means


def first_of_smallest(values: Float[Tensor, " n"], tolerance: Float[Tensor, ""]) -> Int[Tensor, ""]:
    """The lowest position whose value is within `tolerance` of the smallest."""
    return (values <= values.min() + tolerance).int().argmax()
