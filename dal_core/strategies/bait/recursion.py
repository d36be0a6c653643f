"""BAIT's picks and removals, with no matrix that changes from step to step.

A pick x turns M into M - M x^T (I + x M x^T)^-1 x M and lowers tr(M F) by tr(x M F M x^T (I + x M x^T)^-1). Here M_0
and N_0 = M_0 F M_0 stay as they are (`spaces.py`), and the changes are kept as rows,

    M = M_0 - T^T T,        M F M = N_0 - T^T W - W^T T,

so that a step costs x M_0 and x N_0 of one instance, products with the rows so far, and one pass over the features.

Axes: n candidates, p picks, c rows x of a candidate, s side of M, u = p c rows X of the picks.
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.bait.spaces import Space


@dataclasses.dataclass(frozen=True, eq=False)
class Recursion:
    """`bait_select` with M and F in a space."""

    space: Space

    def first_scores(self) -> Float[Tensor, " n"]:
        covered, gained = self.space.curvatures()
        return _quotients(gained, covered + _identity_of(covered))

    def select(self, batch_size: int) -> Int[Tensor, " b"]:
        return backward(*forward(self.space, 2 * batch_size), batch_size)


def forward(space: Space, count: int) -> tuple[Int[Tensor, " p"], Float[Tensor, "u u"], Float[Tensor, "u u"]]:
    """Pick `count` candidates greedily, all if there are fewer; return them, and X M X^T and X M F M X^T afterwards."""
    inner, gained = space.curvatures()  # I + x M x^T and x M F M x^T of each candidate
    count, c, s = min(count, len(inner)), inner.shape[1], space.side
    identity = _identity_of(inner)
    inner += identity
    positions = torch.empty(count, dtype=torch.int64, device=inner.device)
    pickable = torch.zeros_like(inner[:, 0, 0])  # minus infinity where picked
    starts, changes = inner.new_empty(2, count, 2, c, s)  # x M_0 and x N_0 of each pick; its T and W
    for step in range(count):
        best = (_quotients(gained, inner) + pickable).argmax().view(1)
        positions[step : step + 1] = best
        pickable.index_fill_(0, best, -torch.inf)
        x, earlier = space.rows(best), changes[:step].view(-1, s)
        starts[step] = space.columns(best)

        # (x M; x M F M) = (x M_0; x N_0) - (x T^T, 0; x W^T, x T^T) (T; W)
        by_rows = x(earlier).view(c, step, 2, c)
        weights = by_rows.new_zeros(2, c, step, 2, c)
        weights[0, :, :, 0], weights[1] = by_rows[:, :, 0], by_rows.flip(2)
        now = torch.addmm(starts[step].view(-1, s), weights.view(2 * c, -1), earlier, alpha=-1)
        own_covered, own_gained = x(now)[0].chunk(2, dim=1)
        changes[step, 0], changes[step, 1] = _change(identity + own_covered, now[:c], now[c:], own_gained)

        by_t, by_w = space.products(changes[step].view(-1, s)).chunk(2, dim=2)  # [n, c, c]
        _add_products(inner, by_t, by_t, -1)
        _add_products(gained, by_t, by_w, -2)  # the trace knows no more than the symmetric part
    X = space.rows(positions)
    (XM, XN), (XT, XW) = (
        X(each.view(-1, s)).flatten(0, 1).view(-1, count, 2, c).movedim(2, 0).flatten(2) for each in (starts, changes)
    )
    mixed = XT @ XW.mT
    return positions, XM - XT @ XT.mT, XN - mixed - mixed.mT


def backward(
    positions: Int[Tensor, " p"], covered: Float[Tensor, "u u"], gained: Float[Tensor, "u u"], batch_size: int
) -> Int[Tensor, " b"]:
    """Remove picks until `batch_size` remain; their own rows in I - X M X^T and X M F M X^T are all that takes part.

    I - X M X^T is the inverse of I + X M_0 X^T: leaving out rows there is a Schur complement here.
    """
    count, c = len(positions), len(covered) // len(positions)
    identity = _identity_of(covered)
    uncovered, kept = identity - covered, torch.zeros_like(covered[:count, 0])  # infinity where removed
    own_uncovered, own_gained = (
        each.view(count, c, count, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1) for each in (uncovered, gained)
    )
    for _ in range(count - batch_size):
        worst = (_quotients(own_gained, own_uncovered) + kept).argmin().view(1)
        kept.index_fill_(0, worst, torch.inf)
        rows = worst * c + torch.arange(c, device=worst.device)
        x_uncovered, x_gained = uncovered[rows], gained[rows]
        t, w = _change(x_uncovered[:, rows], x_uncovered, x_gained, x_gained[:, rows])
        uncovered.addmm_(t.mT, t, alpha=-1)
        gained.addmm_(t.mT, w, alpha=-1).addmm_(w.mT, t, alpha=-1)
        own_uncovered[worst] = identity[:c, :c]  # of zeros: for finite quotients
    return positions[kept == 0]


def _change(inner: Tensor, covered: Tensor, gained: Tensor, own_gained: Tensor) -> tuple[Tensor, Tensor]:
    """Return t and w with which a pick or a removal changes its matrices by -t^T t and -(t^T w + w^T t).

    With the Cholesky factor R of `inner`: t = R^-1 covered and w = R^-1 gained - (R^-1 own_gained R^-T) t / 2.
    """
    if len(inner) == 1:
        root = inner.rsqrt()
    else:  # R^-1 is explicit, because it is small and applied four times
        factor = torch.linalg.cholesky_ex(inner, check_errors=inner.is_cpu).L
        root = torch.linalg.solve_triangular(factor, _identity_of(inner), upper=False)
    t = root @ covered
    return t, torch.addmm(root @ gained, root @ own_gained @ root.mT, t, alpha=-0.5)


def _quotients(gained: Float[Tensor, "n c c"], matrices: Float[Tensor, "n c c"]) -> Float[Tensor, " n"]:
    """tr(gained matrices^-1)."""
    if gained.shape[1] == 1:
        return (gained / matrices).flatten()
    # Elsewhere than on a CPU a check would make the host wait in each step.
    solved = torch.linalg.solve_ex(matrices, gained, check_errors=matrices.is_cpu).result
    return solved.diagonal(dim1=1, dim2=2).sum(dim=1)


def _add_products(matrices: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """matrices += scale left right^T, all [n, c, c], in place."""
    if left.shape[2] == 1:
        matrices.addcmul_(left, right.mT, value=scale)
    else:
        matrices.baddbmm_(left, right.mT, alpha=scale)


def _identity_of(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
