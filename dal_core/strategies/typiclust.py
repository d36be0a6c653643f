"""TypiClust: typical instances of clusters without labels (Hacohen et al. 2022, arXiv 2202.02794)."""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Count, checked, unchecked
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means, most_typical


@register("typiclust")
@checked
def typiclust(
    snapshot: Snapshot, batch_size: BatchSize, generator: torch.Generator,
    *, num_neighbours: Count = 20, max_clusters: Count = 500, min_cluster_size: Count = 5,
    context: Context | None = None,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick the most typical instance of each cluster without labels, largest first (`typiclust_select`)."""
    num_clusters = min(len(snapshot.labelled_features) + batch_size, max_clusters)
    clusters = _clusters(snapshot.features, snapshot.labelled_features, num_clusters, generator)
    if context is not None:
        context.trace["clusters"] = clusters
    return _typical(snapshot.features, *clusters, batch_size, num_neighbours, min_cluster_size)


@checked
def typiclust_select(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: BatchSize,
    generator: torch.Generator,
    *, num_neighbours: Count = 20, max_clusters: Count = 500, min_cluster_size: Count = 5,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick typical instances of k-means clusters, from the cluster with the fewest labels first.

    The labelled and the unlabelled instances together are clustered into min(m + b, `max_clusters`) clusters. Then,
    one after another, the cluster with the fewest labelled or picked instances (the largest one of several) gives its
    most typical unlabelled instance, the one with the smallest mean distance to its nearest neighbours among the
    cluster's unlabelled ones (`most_typical`). Clusters of fewer than `min_cluster_size` instances are asked when no
    other has any left, as the paper's own code does; the later toolbox of Huseljic et al. does not set them back, and
    squares the distances. O((n + m) (m + b) d) time for a step of k-means.

    >>> line = torch.tensor([[0.0], [1.0], [2.0], [2.9], [3.9]])
    >>> typiclust_select(line, line[:0], 1, torch.Generator().manual_seed(0))
    tensor([2])
    """
    num_clusters = min(len(features_l) + batch_size, max_clusters)
    clusters = _clusters(features_u, features_l, num_clusters, generator)
    return _typical(features_u, *clusters, batch_size, num_neighbours, min_cluster_size)


def _clusters(features_u: Tensor, features_l: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The clusters of the unlabelled and of the labelled instances.  [n], [m]"""
    assignment = k_means(torch.cat((features_u, features_l)), count, generator)
    return assignment[: len(features_u)], assignment[len(features_u) :]


def _typical(
    features_u: Tensor, of_unlabelled: Tensor, of_labelled: Tensor, batch_size: int, num_neighbours: int, smallest: int
) -> Tensor:
    """Typical instances, cluster after cluster; those of fewer than `smallest` instances last.  [b]"""
    sizes = torch.bincount(torch.cat((of_unlabelled, of_labelled)))
    unlabelled = torch.bincount(of_unlabelled, minlength=len(sizes))
    members = list(of_unlabelled.argsort(stable=True).split(unlabelled.tolist()))
    labels = (sizes - unlabelled).tolist()
    queue = [(n < smallest, labels[i], -n, i) for i, n in enumerate(sizes.tolist()) if len(members[i])]
    heapq.heapify(queue)  # smallest first
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        small, known, order, cluster = heapq.heappop(queue)
        left = members[cluster]
        best = int(unchecked(most_typical)(features_u[left], num_neighbours))
        picked[i] = left[best]
        members[cluster] = torch.cat((left[:best], left[best + 1 :]))
        if len(left) > 1:
            heapq.heappush(queue, (small, known + 1, order, cluster))
    return picked
