"""BAIT's recursion where a sample has one row, as in "binary": the matrices of `select` [c, c] are numbers here."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.bait.spaces import Space


def forward(space: Space, count: int) -> tuple[Int[Tensor, " p"], Float[Tensor, "p p"], Float[Tensor, "p p"]]:
    """Pick `count` candidates greedily, all if there are fewer; return them, and X M X^T and X M F M X^T afterwards.

    With a = x t and b = x w of the last change, 1 + x M x^T of each candidate falls by a^2, and x M F M x^T by 2 a b.
    """
    covered, gained = (each.flatten() for each in space.curvatures())
    inner, count, s = covered + 1, min(count, len(covered)), space.side
    candidates = space.rows()
    starts, changes = gained.new_empty(2, count, 2, s)  # x M_0 and x N_0 of each pick; its t and w
    weights = gained.new_zeros(2, count, 2)  # of t and w of earlier picks in what has changed of x M and x M F M
    positions = torch.empty(count, dtype=torch.int64, device=gained.device)
    for step in range(count):
        best = positions[step : step + 1].copy_(torch.div(gained, inner).argmax())
        x, now = space.rows(best), space.columns(best).view(2, s)
        starts[step] = now
        if step:
            earlier = changes[:step].view(-1, s)
            by_rows = x(earlier).view(step, 2)
            weights[0, :step, 0], weights[1, :step] = by_rows[:, 0], by_rows.flip(1)
            now = torch.addmm(now, weights.view(2, -1)[:, : 2 * step], earlier, alpha=-1)
        own_covered, own_gained = x(now).view(2, 1).unbind()
        change = _change(1 + own_covered, now, own_gained, out=changes[step])
        a, b = candidates(change).view(-1, 2).unbind(1)
        inner.addcmul_(a, a, value=-1)
        gained.addcmul_(a, b, value=-2).index_fill_(0, best, -torch.inf)  # which stays so
    X = space.rows(positions)
    (XM, XN), (XT, XW) = (X(each.view(-1, s)).view(count, count, 2).unbind(2) for each in (starts, changes))
    mixed = XT @ XW.mT
    return positions, XM - XT @ XT.mT, XN - mixed - mixed.mT


def backward(
    positions: Int[Tensor, " p"], covered: Float[Tensor, "p p"], gained: Float[Tensor, "p p"], batch_size: int
) -> Int[Tensor, " b"]:
    """Remove picks until `batch_size` remain, each by a change of I - X M X^T and X M F M X^T of all picks."""
    count = len(positions)
    both = torch.stack((covered.neg(), gained))  # [2, p, p]
    uncovered, gained = both.diagonal(dim1=1, dim2=2)
    uncovered += 1
    kept = torch.ones(count, dtype=torch.bool, device=positions.device)
    left = both.new_zeros(2, 2, count)  # The change is left^T (t; w).
    for _ in range(count - batch_size):
        worst = torch.div(gained, uncovered).argmin().view(1)
        kept.index_fill_(0, worst, False)
        rows = both.index_select(1, worst).squeeze(1)
        own_uncovered, own_gained = rows.index_select(1, worst).unbind()
        change = _change(own_uncovered, rows, own_gained, out=left[0])
        left[1, 1] = change[0]
        both.view(2 * count, count).addmm_(left.view(2, -1).mT, change, alpha=-1)
        uncovered.index_fill_(0, worst, 1.0)  # What is removed is no candidate any more.
        gained.index_fill_(0, worst, torch.inf)
    return positions[kept]


def _change(inner: Tensor, both: Float[Tensor, "2 s"], own_gained: Tensor, out: Tensor) -> Float[Tensor, "2 s"]:
    """Return t and w (`select._change`)."""
    root = inner.rsqrt()
    t, w = torch.mul(both, root, out=out)
    w.addcmul_(t, own_gained * root * root, value=-0.5)
    return out
