"""k-means for the strategies that cluster the pool, and what they pick from the clusters."""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Count, Fewest, checked, unchecked
from dal_core.parallel import fixed_threads
from dal_core.strategies.shared.drawing import drawn_in_proportion

ITERATIONS = 25  # Steps of Lloyd at most; MiniLM features of 5000 texts in 427 clusters come to rest after 12.
RESOLUTION = 1e-6  # Up to this squared distance, relative to the squared norms, float32 cannot tell points apart.
TIE = 1e-7  # Distances in float64 that differ by no more, relative to the largest norm, count as equal.
Instances = Annotated[Float[Tensor, "n d"], Fewest("n", 1, "instances")]


@checked
def k_means(features: Instances, num_clusters: Count, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Return the cluster, 0 to c - 1, of each instance: at most `num_clusters` clusters, none of them empty.

    There are fewer clusters than `num_clusters` where there are fewer distinct instances. Each seed is the best of a
    few that are drawn in proportion to the squared distance (greedy k-means++; Arthur & Vassilvitskii 2007), which is
    what makes good clusters: TypiClust learns slower from plain ones. At most `ITERATIONS` steps of Lloyd move them, by
    scikit-learn. All is done on the CPU, wherever the features lie, and on one thread whatever the caller's setting,
    because sums differ with their number. Works in float32 on centred features. O(n c d log c) time.

    >>> k_means(torch.tensor([[0.0], [9.0], [0.1]]), 2, torch.Generator().manual_seed(0)).unique(return_counts=True)[1]
    tensor([2, 1])
    """
    with fixed_threads(1):
        there = features.cpu()
        centred = (there - there.mean(dim=0)).float()
        centres = centred[_seeds(centred, min(num_clusters, len(centred)), generator)].numpy()
        lloyd = KMeans(len(centres), init=centres, n_init=1, max_iter=ITERATIONS, tol=0, random_state=0)
        found = torch.as_tensor(lloyd.fit_predict(centred.numpy()), dtype=torch.int64)
    return found.unique(return_inverse=True)[1].to(features.device)


def _seeds(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of greedy k-means++ seeds, as many as there are distinct instances if these are fewer than `count`."""
    squared_norms = torch.linalg.vecdot(features, features)
    trials = 2 + int(math.log(count))  # as in scikit-learn and in Arthur and Vassilvitskii's own experiments
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64)
    seeds = [int(draws[0, 0] * len(features))]
    distances = _squared_distances(features, squared_norms, torch.tensor(seeds)).squeeze(0)  # to the nearest seed
    for uniforms in draws[1:]:
        if not distances.any():
            break
        drawn = drawn_in_proportion(distances, uniforms)
        candidates = torch.minimum(_squared_distances(features, squared_norms, drawn), distances)  # [trials, n]
        best = int(candidates.sum(dim=1).argmin())
        seeds.append(int(drawn[best]))
        distances = candidates[best]
    return torch.tensor(seeds)


def _squared_distances(features: Tensor, squared_norms: Tensor, centres: Tensor) -> Tensor:
    """From each of the positions `centres` to all instances, 0 where float32 cannot tell them apart.  [c, n]"""
    norms = squared_norms[centres].unsqueeze(1) + squared_norms
    squared = torch.addmm(norms, features[centres], features.mT, alpha=-2)
    return squared.masked_fill_(squared <= RESOLUTION * norms, 0)


@checked
def nearest_to_means(features: Float[Tensor, "n d"], assignment: Int[Tensor, " n"]) -> Int[Tensor, " c"]:
    """Return of each cluster the instance nearest to the mean of the cluster; ties go to the lower position.

    `assignment` holds the clusters 0 to c - 1, none empty. In float64, because the two instances of a cluster of two
    are always equally far from their mean.

    >>> nearest_to_means(torch.tensor([[0.0], [7.0], [1.0], [2.0]]), torch.tensor([0, 1, 0, 0]))
    tensor([2, 1])
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


@checked
def most_typical(features: Instances, num_neighbours: Count) -> Int[Tensor, ""]:
    """Return the position with the smallest mean distance to its nearest others (`neighbour_distances`).

    Ties go to the lower position.

    >>> most_typical(torch.tensor([[0.0], [1.0], [2.0], [2.9], [3.9]]), num_neighbours=20)
    tensor(2)
    """
    means = unchecked(neighbour_distances)(features, num_neighbours)
    centred = features.double() - features.double().mean(dim=0)
    return first_of_smallest(means, TIE * torch.linalg.vector_norm(centred, dim=1).max())


@checked
def typicality(
    features: Float[Tensor, "n d"], groups: Int[Tensor, " n"], num_neighbours: Count, *, by_differences: bool = False
) -> Float[Tensor, " n"]:
    """Return 1 / `neighbour_distances` of each instance within its group, 0 for the only one of a group.

    >>> typicality(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]), num_neighbours=20)
    tensor([0.5000, 0.5000, 0.0000], dtype=torch.float64)
    """
    found = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    for group in groups.unique():
        members = (groups == group).nonzero().squeeze(1)
        if len(members) > 1:
            distances = unchecked(neighbour_distances)(features[members], num_neighbours, by_differences=by_differences)
            found[members] = 1 / distances.clamp_min(1e-12)
    return found


@checked
def neighbour_distances(
    features: Float[Tensor, "n d"], num_neighbours: Count, *, by_differences: bool = False
) -> Float[Tensor, " n"]:
    """Return the mean distance of each instance to its `num_neighbours` nearest others: the inverse of its typicality.

    No more than half of the instances count as neighbours (Hacohen et al. 2022, section 3); 0 for a single one.
    O(n^2 d) time, in float64 and in blocks. Distances of many instances follow from products of centred features;
    `by_differences` is slower, and for any two the same in both directions to the last bit.

    >>> neighbour_distances(torch.tensor([[0.0], [1.0], [3.0]]), num_neighbours=20)
    tensor([1., 1., 2.], dtype=torch.float64)
    """
    x = features.double()
    x = x if by_differences else x - x.mean(dim=0)
    mode = "donot_use_mm_for_euclid_dist" if by_differences else "use_mm_for_euclid_dist_if_necessary"
    means = torch.zeros_like(x[:, 0])
    everyone = torch.arange(len(x), device=x.device)
    for block in blocks(len(x), 8 * len(x)) if len(x) > 1 else ():
        distances = torch.cdist(x[block], x, compute_mode=mode)  # [r, n]
        distances.scatter_(1, everyone[block].unsqueeze(1), torch.inf)
        means[block] = distances.topk(min(num_neighbours, len(x) // 2), largest=False).values.mean(dim=1)
    return means


def first_of_smallest(values: Float[Tensor, " n"], tolerance: Float[Tensor, ""] | float) -> Int[Tensor, ""]:
    """Return the lowest position whose value is within `tolerance` of the smallest.

    >>> first_of_smallest(torch.tensor([3.0, 1.01, 1.0]), 0.1)
    tensor(1)
    """
    return (values <= values.min() + tolerance).int().argmax()
