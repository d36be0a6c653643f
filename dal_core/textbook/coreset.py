"""Core-set (Sener & Savarese 2018, arXiv 1708.00489)."""

import torch
from torch import Tensor


def k_center_greedy(features_u: Tensor, features_l: Tensor, batch_size: int) -> Tensor:
    """Pick the instance farthest from all centres, all distances anew in every step (algorithm 1); O(b n (m + b) d)."""
    picked: list[int] = []
    for _ in range(batch_size):
        centres = torch.cat((features_l, features_u[picked]))
        nearest = torch.cdist(features_u, centres).amin(dim=1)
        nearest[picked] = -1
        picked.append(int(nearest.argmax()))
    return torch.tensor(picked)
