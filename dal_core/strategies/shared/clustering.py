"""k-means for the strategies that cluster the pool, and what they pick from the clusters."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Count, Fewest, checked, unchecked
from dal_core.parallel import fixed_threads, in_parallel

ITERATIONS = 25  # Steps of Lloyd at most; MiniLM features of 5000 texts in 427 clusters come to rest after 12.
RESOLUTION = 1e-6  # Up to this squared distance, relative to the squared norms, float32 cannot tell points apart.
SEEDED_AT_ONCE, CLUSTERED_AT_ONCE = 2500, 1000  # Instances of a block; smaller ones cost more than they give.
TIE = 1e-7  # Distances in float64 that differ by no more, relative to the largest norm, count as equal.
T = TypeVar("T")
Instances = Annotated[Float[Tensor, "n d"], Fewest("n", 1, "instances")]


@checked
def k_means(features: Instances, num_clusters: Count, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Return the cluster, 0 to c - 1, of each instance: at most `num_clusters` clusters, none of them empty.

    There are fewer clusters than `num_clusters` where there are fewer distinct instances. Each seed is the best of a
    few that are drawn in proportion to the squared distance (greedy k-means++; Arthur & Vassilvitskii 2007), which is
    what makes good clusters: TypiClust learns slower from plain ones. At most `ITERATIONS` steps of Lloyd move them;
    a cluster that loses all its instances on the way is gone. All is done on the CPU, wherever the features lie, in
    blocks that have the same bits on any number of workers. Works in float32 on centred features. O(n c d log c) time.

    >>> k_means(torch.tensor([[0.0], [9.0], [0.1]]), 2, torch.Generator().manual_seed(0)).unique(return_counts=True)[1]
    tensor([2, 1])
    """
    with fixed_threads():
        there = features.cpu()
        centred = (there - there.mean(dim=0)).float()
        found = _lloyd(centred, _seeds(centred, min(num_clusters, len(centred)), generator))
    return found.unique(return_inverse=True)[1].to(features.device)


def _seeds(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of greedy k-means++ seeds, as many as there are distinct instances if these are fewer than `count`.

    In NumPy, whose calls cost a third of torch's: most of the time of a small pool.
    """
    # A product of a row of each is a squared distance.
    norms = torch.linalg.vecdot(features, features).unsqueeze(1)
    ones, rounding = torch.ones_like(norms), (2 * RESOLUTION * norms).squeeze(1).numpy()
    centres = torch.cat((-2 * features, ones, norms), dim=1).numpy()
    instances = torch.cat((features, norms, ones), dim=1).split(SEEDED_AT_ONCE)
    parts = [each.mT.contiguous().numpy() for each in instances]  # [d + 2, r]
    trials = 2 + int(math.log(count))  # as in scikit-learn and in Arthur and Vassilvitskii's own experiments
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64).numpy()
    drawn = np.array([int(draws[0, 0] * len(features))])
    distances = np.full(len(features), np.inf, dtype=np.float32)  # to the nearest seed, squared
    seeds = list[int]()
    for uniforms in draws:
        if seeds:
            sums = distances.cumsum(dtype=np.float64)
            if not sums[-1]:
                break
            # Strictly below the total, so that the position found always has a positive weight.
            drawn = sums.searchsorted(uniforms * (sums[-1] * (1 - 1e-12)), side="right")
        products = _side_by_side(functools.partial(np.matmul, centres[drawn]), parts)
        squared = products[0] if len(parts) == 1 else np.concatenate(products, axis=1)  # [trials, n]
        candidates = np.minimum(np.where(squared > rounding, squared, np.float32(0)), distances)
        best = candidates.sum(axis=1).argmin()
        seeds.append(int(drawn[best]))
        distances = candidates[best]
    return torch.tensor(seeds)


def _lloyd(features: Tensor, seeds: Tensor) -> Tensor:
    """The nearest centre of each instance, the lowest of several, after at most `ITERATIONS` moves of the centres.

    Only products with centres that have moved are computed anew: after a few steps, these are few.
    """
    count, x = len(seeds), features.numpy()
    centres, moved = x[seeds.numpy()], np.arange(count)
    scores = np.empty((len(x), count), dtype=np.float32)
    parts = list(blocks(len(x), 1, CLUSTERED_AT_ONCE))
    for step in range(ITERATIONS + 1):
        # To put many columns in their places costs more than their products do.
        columns = slice(None) if 2 * len(moved) > count else moved
        there = centres[columns]
        halves = np.square(there).sum(axis=1) / 2

        assigned = functools.partial(_assigned, x, scores, there, halves, columns)
        found = np.concatenate(_side_by_side(assigned, parts))
        if step == ITERATIONS:
            break
        sizes = np.bincount(found, minlength=count).astype(np.float32)[:, np.newaxis]
        sums = torch.zeros(centres.shape, dtype=features.dtype).index_add_(0, torch.from_numpy(found), features).numpy()
        means = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
        moved = (means != centres).any(axis=1).nonzero()[0]
        if not len(moved):
            break
        centres = means
    return torch.from_numpy(found)


def _assigned(
    x: np.ndarray, scores: np.ndarray, centres: np.ndarray, halves: np.ndarray, columns: slice | np.ndarray, part: slice
) -> np.ndarray:
    """Write the scores of some centres for a part of the instances, and return the nearest of all centres."""
    products = x[part] @ centres.T
    scores[part, columns] = np.subtract(halves, products, out=products)
    return scores[part].argmin(axis=1)


def _side_by_side(function: Callable[[T], np.ndarray], parts: Sequence[T]) -> list[np.ndarray]:
    """`in_parallel`, without its cost for a single part."""
    return in_parallel(function, parts) if len(parts) > 1 else [function(parts[0])]


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
