"""Draws in proportion to weights, from uniform numbers that the generator gave before."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def drawn_in_proportion(
    weights: Float[Tensor, " n"], uniforms: Float[Tensor, "*u"], otherwise: Bool[Tensor, " n"] | None = None
) -> Int[Tensor, "*u"]:
    """Return a position for each of `uniforms`, drawn in proportion to `weights` by inversion of their sums.

    Where all weights are zero, the draw is uniform among those of `otherwise`.

    >>> drawn_in_proportion(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([0.7, 0.8]))
    tensor([0, 2])
    """
    sums = weights.cumsum(dim=0, dtype=torch.float64)
    if otherwise is not None and not sums[-1]:
        sums = otherwise.cumsum(dim=0, dtype=torch.float64)
    # Strictly below the total, so that the position found always has a positive weight.
    return torch.searchsorted(sums, uniforms * sums[-1] * (1 - 1e-12), right=True)
