"""TypiClust (Hacohen et al. 2022, arXiv 2202.02794)."""

import torch
from torch import Tensor

from dal_core.textbook.clustering import most_typical


def typiclust_select(features_u: Tensor, clusters: Tensor, batch_size: int, *, min_cluster_size: int = 5) -> Tensor:
    """Pick the most typical instance of the cluster with the fewest labels, of several the largest (algorithm 1).

    `clusters` are those of the unlabelled and, after them, of the labelled instances.
    """
    every, n = range(int(clusters.max()) + 1), len(features_u)
    sizes = [int((clusters == cluster).sum()) for cluster in every]
    labels = [int((clusters[n:] == cluster).sum()) for cluster in every]
    left = [(clusters[:n] == cluster).nonzero().flatten().tolist() for cluster in every]
    picked: list[int] = []
    for _ in range(batch_size):
        candidates = [cluster for cluster in every if left[cluster]]
        chosen = min(candidates, key=lambda c: (sizes[c] < min_cluster_size, labels[c], -sizes[c], c))
        picked.append(left[chosen].pop(most_typical(features_u[left[chosen]])))
        labels[chosen] += 1
    return torch.tensor(picked)
