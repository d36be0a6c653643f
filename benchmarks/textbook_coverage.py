"""The obvious ways of the strategies that spread their picks: everything anew in every step.

Each is greedy, so that its first picks are the batch of a smaller size.
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
