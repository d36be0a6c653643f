"""FALCUN (Gilhuber et al. 2024, ECML PKDD)."""

import torch
from torch import Tensor


def falcun_select(probabilities: Tensor, batch_size: int, generator: torch.Generator, *, gamma: float = 10.0) -> Tensor:
    """Draw in proportion to (u + s)^gamma, all distances to all picks anew in every step (algorithm 1); O(b^2 n k)."""
    top = probabilities.topk(2, dim=1).values
    u = (1 - (top[:, 0] - top[:, 1])).double()
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    picked: list[int] = []
    for i in range(batch_size):
        s = u
        for pick in picked:
            s = torch.minimum(s, (probabilities - probabilities[pick]).abs().sum(dim=1).double())
            s = (s - s.min()) / (s.max() - s.min())
        relevance = u + s
        weights = (relevance / relevance.max()).pow(gamma)
        weights[picked] = 0
        sums = weights.cumsum(dim=0)
        picked.append(int(torch.searchsorted(sums, draws[i] * sums[-1], right=True)))
    return torch.tensor(picked)
