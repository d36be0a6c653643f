"""k-means (Arthur & Vassilvitskii 2007), TypiClust (Hacohen et al. 2022, arXiv 2202.02794), and TypiClass, with the
classes in place of clusters (Huseljic et al., arXiv 2603.13109).
"""

import math

import torch
from torch import Tensor


def k_means_seeds(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return greedy k-means++ seeds: of a few draws, the one that leaves the least sum of squared distances."""
    trials = 2 + int(math.log(count))
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64)
    seeds = [int(draws[0, 0] * len(features))]
    for uniforms in draws[1:]:
        nearest = torch.stack([(features - features[seed]).square().sum(dim=1) for seed in seeds]).amin(dim=0)
        sums = nearest.cumsum(dim=0)
        drawn = [int(torch.searchsorted(sums, uniform * sums[-1])) for uniform in uniforms]
        left = [float(torch.minimum(nearest, (features - features[i]).square().sum(dim=1)).sum()) for i in drawn]
        seeds.append(drawn[left.index(min(left))])
    return torch.tensor(seeds)


def lloyd(features: Tensor, centres: Tensor, steps: int) -> Tensor:
    """Return the nearest centre of each instance after `steps` moves of the centres to the means of what is theirs."""
    for _ in range(steps):
        nearest = torch.cdist(features, centres).argmin(dim=1)
        centres = torch.stack([features[nearest == cluster].mean(dim=0) for cluster in range(len(centres))])
    return torch.cdist(features, centres).argmin(dim=1)


def most_typical(features: Tensor, num_neighbours: int = 20) -> int:
    """Return the position with the smallest mean distance to its nearest others, at most half of all (section 3)."""
    count = max(1, min(num_neighbours, len(features) // 2))
    distances = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf)
    return int(distances.sort(dim=1).values[:, :count].mean(dim=1).argmin())


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


def class_balanced_select(features: Tensor, labels: Tensor, counts: Tensor, batch_size: int) -> Tensor:
    """Pick, of the class with the fewest labels, the instance with the smallest summed squared distance to the others.

    All distances anew in every step; O(b n_c^2 d). Ties go to the lower number.
    """
    known, classes, picked = counts.tolist(), labels.tolist(), []
    for _ in range(batch_size):
        left = [i for i in range(len(classes)) if i not in picked]
        label = min(sorted({classes[i] for i in left}), key=known.__getitem__)
        members = [i for i in left if classes[i] == label]
        sums = torch.cdist(features[members].double(), features[members].double()).square().sum(dim=1)
        picked.append(members[int((sums <= sums.min() * (1 + 1e-9)).int().argmax())])
        known[label] += 1
    return torch.tensor(picked)
