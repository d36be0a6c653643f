"""The obvious ways of the strategies that spread their picks: everything anew in every step.

All but TypiClust are greedy, so that their first picks are the batch of a smaller size.
"""

import torch
from torch import Tensor


def herding(
    features_u: Tensor, features_l: Tensor, batch_size: int, *, gamma: float, uncertainty: Tensor, form: str
) -> Tensor:
    """The largest gain in coverage, from the whole kernel [n, n] in every step; O(b n^2 d)."""
    picked: list[int] = []
    for _ in range(batch_size):
        kernel = torch.exp(-gamma * torch.cdist(features_u, features_u).square())
        seen = torch.cat((features_l, features_u[picked]))
        covered = torch.exp(-gamma * torch.cdist(features_u, seen).square()).amax(dim=1)
        if form == "rowwise":
            gains = uncertainty * (kernel - covered.unsqueeze(1)).clamp(min=0).mean(dim=1)
        else:
            gains = (uncertainty * (kernel - covered).clamp(min=0)).mean(dim=1)
        gains[picked] = -1
        picked.append(int(gains.argmax()))
    return torch.tensor(picked)


def core_set(features_u: Tensor, features_l: Tensor, batch_size: int) -> Tensor:
    """The instance farthest from all centres, from the distances to all of them in every step; O(b n (m + b) d)."""
    picked: list[int] = []
    for _ in range(batch_size):
        centres = torch.cat((features_l, features_u[picked]))
        nearest = torch.cdist(features_u, centres).amin(dim=1)
        nearest[picked] = -1
        picked.append(int(nearest.argmax()))
    return torch.tensor(picked)


def badge(features: Tensor, logits: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """k-means++ on the vectors (onehot(argmax p) - p) (x) phi of length k d, written out; O(b n k d)."""
    p = logits.softmax(dim=1)
    errors = torch.nn.functional.one_hot(p.argmax(dim=1), p.shape[1]) - p
    vectors = (errors.unsqueeze(2) * features.unsqueeze(1)).flatten(1)  # [n, k d]
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    squares = torch.linalg.vecdot(vectors, vectors)
    picked = [int(squares.argmax())]
    distances = torch.full_like(squares, torch.inf)
    while len(picked) < batch_size:
        last = picked[-1]
        to_last = squares + squares[last] - 2 * (vectors @ vectors[last])
        distances = torch.minimum(distances, to_last.clamp(min=0))
        distances[last] = 0
        cumulated = distances.cumsum(dim=0, dtype=torch.float64)
        picked.append(int(torch.searchsorted(cumulated, draws[len(picked)] * cumulated[-1], right=True)))
    return torch.tensor(picked)


def prob_cover(features_u: Tensor, features_l: Tensor, batch_size: int, radius: float) -> Tensor:
    """The most uncovered neighbours, from all pairs in every step, until all is covered; O(b n^2 d)."""
    unlabelled, labelled = (torch.nn.functional.normalize(each, dim=1) for each in (features_u, features_l))
    picked: list[int] = []
    for _ in range(batch_size):
        centres = torch.cat((labelled, unlabelled[picked]))
        covered = (torch.cdist(unlabelled, centres) <= radius).any(dim=1)
        counts = ((torch.cdist(unlabelled, unlabelled) <= radius) & ~covered).sum(dim=1)
        counts[picked] = 0
        if not counts.any():
            break
        picked.append(int(counts.argmax()))
    return torch.tensor(picked)


def typi_clust(features: Tensor, clusters: Tensor, batch_size: int) -> Tensor:
    """The most typical instance of the cluster with the fewest labels, of several the largest one, pick after pick.

    `clusters` are those of the unlabelled and, after them, of the labelled instances.
    """
    of_unlabelled, of_labelled = clusters[: len(features)], clusters[len(features) :]
    every = clusters.unique().tolist()
    seen = {cluster: int((of_labelled == cluster).sum()) for cluster in every}
    sizes = {cluster: int((clusters == cluster).sum()) for cluster in every}
    left = {cluster: (of_unlabelled == cluster).nonzero().flatten().tolist() for cluster in every}
    picked: list[int] = []
    for _ in range(batch_size):
        open_clusters = [cluster for cluster in every if left[cluster]]
        chosen = min(open_clusters, key=lambda cluster: (sizes[cluster] < 5, seen[cluster], -sizes[cluster], cluster))
        members = left[chosen]
        distances = torch.cdist(features[members].double(), features[members].double()).fill_diagonal_(torch.inf)
        nearest = distances.sort(dim=1).values[:, : max(1, min(20, len(members) // 2))]
        picked.append(members.pop(int(nearest.mean(dim=1).argmin())))
        seen[chosen] += 1
    return torch.tensor(picked)


def class_balanced(features: Tensor, labels: Tensor, counts: Tensor, batch_size: int) -> Tensor:
    """From the class with the fewest labels the instance with the smallest summed squared distance to the others."""
    seen, picked = counts.tolist(), []
    for _ in range(batch_size):
        left = {label: [] for label in range(len(seen))}
        for i, label in enumerate(labels.tolist()):
            if i not in picked:
                left[label].append(i)
        label = min((label for label in left if left[label]), key=lambda label: seen[label])
        members = features[left[label]].double()
        picked.append(left[label][int(torch.cdist(members, members).square().sum(dim=1).argmin())])
        seen[label] += 1
    return torch.tensor(picked)
