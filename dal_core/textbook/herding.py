"""MaxHerding and UncertaintyHerding (Bae et al. 2024, 2025)."""

import torch
from torch import Tensor


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
