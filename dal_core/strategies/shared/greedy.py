"""Lazy greedy selection (Minoux 1978): the picks of a full evaluation, from a fraction of the work.

Where the gain of an instance can only shrink as more is picked, a gain computed earlier bounds today's from above.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TIE = 64  # Gains count as equal within so many units of the last place, relative to the best one.
CHECKED_AT_ONCE = 64  # Candidates whose gain is brought up to date together.


def lazy_argmax(
    bounds: Float[Tensor, " n"],
    fresh: Bool[Tensor, " n"],
    gains: Callable[[Int[Tensor, " r"]], Float[Tensor, " r"]],
) -> Int[Tensor, ""]:
    """Return the position of the largest gain; only instances whose bound reaches the best gain are evaluated.

    `bounds` and `fresh`, whether a bound is today's gain, are brought up to date in place. Ties, up to rounding, go
    to the lower position: otherwise the order of summation, and with it the size of blocks and the number of threads,
    would choose between instances that gain the same.

    >>> bounds, fresh = torch.tensor([3.0, 5.0, 1.0]), torch.tensor([True, False, False])
    >>> lazy_argmax(bounds, fresh, gains=lambda rows: 2.0 * torch.ones(len(rows)))
    tensor(0)
    >>> bounds
    tensor([3., 2., 1.])
    """
    tolerance = TIE * torch.finfo(bounds.dtype).eps
    while True:
        best = float(torch.where(fresh, bounds, -torch.inf).max())
        ties = bounds >= best - tolerance * abs(best)
        waiting = ties & ~fresh
        count = int(waiting.sum())
        if not count:
            return ties.int().argmax()
        rows = torch.where(waiting, bounds, -torch.inf).topk(min(CHECKED_AT_ONCE, count)).indices
        bounds[rows] = gains(rows)
        fresh[rows] = True
