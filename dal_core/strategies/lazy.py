"""Lazy greedy selection (Minoux 1978): the picks of a full evaluation, from a fraction of the work.

Where the gain of an instance can only shrink as more is picked, a gain computed earlier bounds today's from above.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TIE = 64  # units of the last place, relative to the best gain, within which gains count as equal
CHECKED_AT_ONCE = 64  # candidates whose gain is brought up to date together


def lazy_argmax(
    bounds: Float[Tensor, " n"], fresh: Bool[Tensor, " n"], gains: Callable[[Int[Tensor, " r"]], Float[Tensor, " r"]]
) -> Int[Tensor, ""]:
    """Position of the largest gain; only instances whose bound reaches the best gain are evaluated.

    `bounds` and `fresh`, whether a bound is today's gain, are brought up to date in place. Ties, up to rounding, go
    to the lower position: otherwise the order of summation, and with it the size of blocks and the number of threads,
    would choose between instances that gain the same.
    """
    while True:
        stale = bounds.masked_fill(fresh, -torch.inf)
        best = bounds.masked_fill(~fresh, -torch.inf).max()
        threshold = best - TIE * torch.finfo(best.dtype).eps * best.abs()
        waiting = (stale >= threshold).logical_and_(~fresh)
        if not waiting.any():
            positions = torch.arange(len(bounds), device=bounds.device)
            return torch.where(bounds >= threshold, positions, len(bounds)).min()
        rows = stale.masked_fill(~waiting, -torch.inf).topk(min(CHECKED_AT_ONCE, int(waiting.sum()))).indices
        bounds[rows] = gains(rows)
        fresh[rows] = True
