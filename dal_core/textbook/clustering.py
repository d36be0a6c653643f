"""k-means (Arthur & Vassilvitskii 2007), and what is typical (Hacohen et al. 2022, arXiv 2202.02794)."""

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
