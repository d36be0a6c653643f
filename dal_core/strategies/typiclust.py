"""TypiClust: typical instances of clusters without labels (Hacohen et al. 2022, arXiv 2202.02794)."""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_batch_size, check_finite, check_whole
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means, most_typical
from dal_core.strategies.shared.positions import taken_out


@register("typiclust")
def typiclust(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    num_neighbours: int = 20,
    max_clusters: int = 500,
    min_cluster_size: int = 5,
) -> Int[Tensor, " b"]:
    """The most typical instance of each cluster without labels, largest first (`typiclust_select`)."""
    return typiclust_select(
        snapshot.features, snapshot.labelled_features, batch_size, generator,
        num_neighbours=num_neighbours, max_clusters=max_clusters, min_cluster_size=min_cluster_size,
    )  # fmt: skip


def typiclust_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    generator: torch.Generator,
    *,
    num_neighbours: int = 20,
    max_clusters: int = 500,
    min_cluster_size: int = 5,
) -> Int[Tensor, " b"]:
    """Typical instances of k-means clusters, from the cluster with the fewest labels first (Hacohen et al. 2022).

    The labelled and the unlabelled instances together are clustered into min(m + b, `max_clusters`) clusters. Then,
    one after another, the cluster with the fewest labelled or picked instances (the largest one of several) gives its
    most typical unlabelled instance, the one with the smallest mean distance to its nearest neighbours among the
    cluster's unlabelled ones (`most_typical`). Clusters of fewer than `min_cluster_size` instances are asked when no
    other has any left. O((n + m) (m + b) d) time for a step of k-means.

    Raises:
        ValueError: if an option is below 1, `batch_size` is not in 1..n, the two differ in dtype or device, or hold
            NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_batch_size(batch_size, len(features_u))
    options = {"num_neighbours": num_neighbours, "max_clusters": max_clusters, "min_cluster_size": min_cluster_size}
    for name, value in options.items():
        check_whole(name, value, 1)
    num_clusters = min(len(features_l) + batch_size, max_clusters)
    assignment = k_means(torch.cat((features_u, features_l)), num_clusters, generator)
    of_unlabelled, of_labelled = assignment[: len(features_u)], assignment[len(features_u) :]
    num_clusters = int(assignment.max()) + 1
    unlabelled = torch.bincount(of_unlabelled, minlength=num_clusters).tolist()
    labelled = torch.bincount(of_labelled, minlength=num_clusters).tolist()
    members = list(of_unlabelled.argsort(stable=True).split(unlabelled))

    queue: list[tuple[bool, int, int, int]] = []  # smallest first
    for cluster in range(num_clusters):
        size = unlabelled[cluster] + labelled[cluster]
        if unlabelled[cluster]:
            heapq.heappush(queue, (size < min_cluster_size, labelled[cluster], -size, cluster))
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        small, seen, order, cluster = heapq.heappop(queue)
        best = most_typical(features_u[members[cluster]], num_neighbours)
        picked[i], members[cluster] = taken_out(members[cluster], best)
        if len(members[cluster]):
            heapq.heappush(queue, (small, seen + 1, order, cluster))
    return picked
