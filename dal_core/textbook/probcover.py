"""ProbCover (Yehuda et al. 2022, arXiv 2205.11320)."""

import torch
from torch import Tensor


def probcover_select(features_u: Tensor, features_l: Tensor, batch_size: int, *, radius: float) -> Tensor:
    """Pick the most uncovered neighbours, from all pairs in every step, until all is covered (algorithm 1); O(b n^2 d).

    Features are L2-normalised.
    """
    picked: list[int] = []
    for _ in range(batch_size):
        centres = torch.cat((features_l, features_u[picked]))
        covered = (torch.cdist(features_u, centres) <= radius).any(dim=1)
        counts = ((torch.cdist(features_u, features_u) <= radius) & ~covered).sum(dim=1)
        counts[picked] = 0
        if not counts.any():
            break
        picked.append(int(counts.argmax()))
    return torch.tensor(picked)
