"""Strategies that cover the pool, all distances anew in every step.

Core-set (Sener & Savarese 2018, arXiv 1708.00489), ProbCover (Yehuda et al. 2022, arXiv 2205.11320), MaxHerding and
UncertaintyHerding (Bae et al. 2024, 2025).
"""

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


def herding_select(
    features_u: Tensor, features_l: Tensor, batch_size: int,
    *, gamma: float, uncertainty: Tensor | None = None, form: str = "rowwise",
) -> Tensor:  # fmt: skip
    """Pick the largest gain in coverage, from the whole kernel [n, n] in every step; O(b n^2 d).

    "coverage" is the papers' gain; "rowwise" is what the Kassel papers' code computes instead.
    """
    u = torch.ones_like(features_u[:, 0]) if uncertainty is None else uncertainty
    picked: list[int] = []
    for _ in range(batch_size):
        kernel = torch.exp(-gamma * torch.cdist(features_u, features_u).square())
        centres = torch.cat((features_l, features_u[picked]))
        covered = torch.exp(-gamma * torch.cdist(features_u, centres).square()).amax(dim=1)
        if form == "rowwise":
            gains = u * (kernel - covered.unsqueeze(1)).clamp(min=0).mean(dim=1)
        else:
            gains = (u * (kernel - covered).clamp(min=0)).mean(dim=1)
        gains[picked] = -1
        picked.append(int(gains.argmax()))
    return torch.tensor(picked)
