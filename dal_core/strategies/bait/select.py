"""BAIT and its approximations (Ash et al. 2021; Huseljic et al. 2024, arXiv 2404.08981, "Fast Fishing").

With x_i the factor of an instance's Fisher information F_i = x_i^T x_i (`factors.py`), F that of all
instances and M the inverse of that of the labelled ones, BAIT picks what lowers tr(M F) most. The recursion changes
M with each pick by a matrix of rank c. Here M_0 and N_0 = M_0 F M_0 stay as they are, and the changes are kept as rows,

    M = M_0 - T^T T,        M F M = N_0 - T^T W - W^T T,

so that a step costs x M_0 and x N_0 of one instance, products with the rows so far, and one pass over the features.

Axes: n unlabelled, m labelled, b batch, k classes, d features, c rows a sample, s side of M, u rows picked so far.
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_batch_size,
    check_choice,
    check_finite,
    check_flag,
    check_positive,
    check_shape,
    check_whole,
)
from dal_core.snapshot import Snapshot
from dal_core.strategies.bait.diagonal import DiagonalProblem, Diagonals, first_gains, select_diagonal
from dal_core.strategies.bait.factors import Factors
from dal_core.strategies.bait.spaces import Space, Weighting, cheaper_space
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import highest

APPROXIMATIONS = ("exact", "top", "binary", "diagonal")
FISHERS = ("sum", "mean")
SELECTIONS = ("forward_backward", "topk")
BLOCK_BYTES = 128 * 2**20
# Picks up to which each removal corrects the matrices of all picks at once: these stay in a processor's cache.
MANY_PICKS = 1000
REMOVALS_TOGETHER = 64


@register("bait")
def bait(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,  # noqa: ARG001
    *,
    approximation: str = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: str = "sum",
    prior_precision: float = 1.0,
    selection: str = "forward_backward",
) -> Int[Tensor, " b"]:
    """The batch that lowers the trace of (Fisher information of the labelled)^-1 (that of everything) most."""
    return bait_select(
        snapshot.features,
        snapshot.logits,
        snapshot.labelled_features,
        snapshot.labelled_logits,
        batch_size,
        approximation=approximation,
        top_classes=top_classes,
        renormalise=renormalise,
        fisher=fisher,
        prior_precision=prior_precision,
        selection=selection,
    )


def bait_select(
    features_u: Float[Tensor, "n d"],
    logits_u: Float[Tensor, "n k"],
    features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"],
    batch_size: int,
    *,
    approximation: str = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: str = "sum",
    prior_precision: float = 1.0,
    selection: str = "forward_backward",
    block_bytes: int = BLOCK_BYTES,
) -> Int[Tensor, " b"]:
    """Positions in the order of picking, those that were removed again left out.

    Forward: 2 b times the instance with the largest tr(x M F M x^T (I + x M x^T)^-1); backward: until b remain, the
    picked instance with the smallest -tr(x M F M x^T (-I + x M x^T)^-1) is removed. Ties go to the lower position.

    Set-up O((n + m) s^2 + s^3) with s = k d (d for "binary"), then O(n k c d) a step. Where all factors together have
    fewer rows than s, (n + m) c < s, or not many more, the same runs in their Gram matrix, and no s-by-s matrix is
    formed. Memory: four dense matrices of that side at the most, and blocks. "diagonal" needs no matrix at all.

    Args:
        approximation: "exact"; "top", the `top_classes` most probable classes; "binary", p_max against the rest;
            "diagonal", the diagonal of the exact Fisher information.
        renormalise: whether the probabilities of the top classes, as weights of their rows, are made to sum to 1.
        fisher: "sum" or "mean" over instances.
        prior_precision: lambda, the multiple of the identity in M^-1.
        selection: "forward_backward", or "topk": the b best scores of the first step, factors left unscaled.
        block_bytes: size of the intermediate results that are held at a time, beside the matrices.

    Raises:
        ValueError: for a matrix whose side would be above 20,000, or that does not fit into memory, with its bytes;
            and for bad input.
    """
    check_choice("selection", selection, SELECTIONS)
    check_whole("block_bytes", block_bytes, 1)
    scaled = selection == "forward_backward"
    # Without the bookkeeping for gradients, which costs small operations a fifth of their time.
    with torch.inference_mode():
        problem = _problem(
            features_u, logits_u, features_l, logits_l, batch_size, approximation, top_classes, renormalise, fisher,
            prior_precision, scaled, block_bytes,
        )  # fmt: skip
        if isinstance(problem, DiagonalProblem):
            picked = select_diagonal(problem, batch_size, backward=scaled)
        elif scaled:
            picked = _backward(_forward(problem, min(2 * batch_size, len(features_u))), batch_size)
        else:
            picked = highest(_first_scores(problem), batch_size)
    return picked.clone()  # an ordinary tensor again


def bait_first_scores(
    features_u: Float[Tensor, "n d"],
    logits_u: Float[Tensor, "n k"],
    features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"],
    batch_size: int,
    *,
    approximation: str = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: str = "sum",
    prior_precision: float = 1.0,
    selection: str = "forward_backward",
) -> Float[Tensor, " n"]:
    """What `bait_select` sees in its first step: the drop of tr(M F) that each instance alone would bring.

    Arguments, memory and errors as there.
    """
    check_choice("selection", selection, SELECTIONS)
    with torch.inference_mode():
        problem = _problem(
            features_u, logits_u, features_l, logits_l, batch_size, approximation, top_classes, renormalise, fisher,
            prior_precision, selection == "forward_backward", BLOCK_BYTES,
        )  # fmt: skip
        scores = first_gains(problem) if isinstance(problem, DiagonalProblem) else _first_scores(problem)
    return scores.clone()


def _problem(
    features_u: Tensor, logits_u: Tensor, features_l: Tensor, logits_l: Tensor, batch_size: int, approximation: str,
    top_classes: int | None, renormalise: bool, fisher: str, prior_precision: float, scaled: bool, block_bytes: int,
) -> Space | DiagonalProblem:  # fmt: skip
    """Checked, weighted, and where the recursion is cheapest."""
    _check(features_u, logits_u, features_l, logits_l, batch_size)
    check_choice("approximation", approximation, APPROXIMATIONS)
    check_choice("fisher", fisher, FISHERS)
    check_flag("renormalise", renormalise)
    check_positive(prior_precision=prior_precision)
    _check_top_classes(approximation, top_classes, logits_u.shape[1])
    n, m = len(features_u), len(features_l)
    weighting = Weighting(
        prior=prior_precision,
        labelled=m / (m + batch_size) / (m if fisher == "mean" and m else 1),
        everything=1 / (n + m) if fisher == "mean" else 1.0,
        candidate=(batch_size / (m + batch_size)) ** 0.5 if scaled else 1.0,
    )
    if approximation == "diagonal":
        diagonals_u, diagonals_l = Diagonals.of(features_u, logits_u), Diagonals.of(features_l, logits_l)
        return DiagonalProblem.of(diagonals_u, diagonals_l, weighting, block_bytes)
    factors_u, factors_l = (
        _factors(*pair, approximation, top_classes, renormalise, block_bytes)
        for pair in ((features_u, logits_u), (features_l, logits_l))
    )
    return cheaper_space(factors_u, factors_l, weighting, batch_size, block_bytes)


def _factors(
    features: Tensor, logits: Tensor, approximation: str, top_classes: int | None, renormalise: bool, block_bytes: int
) -> Factors:
    if approximation == "binary":
        return Factors.binary(features, logits, block_bytes)
    if top_classes is None:
        return Factors.exact(features, logits)
    return Factors.top(features, logits, top_classes, renormalise=renormalise)


def _quotients(gained: Float[Tensor, "n c c"], matrices: Float[Tensor, "n c c"]) -> Float[Tensor, " n"]:
    """tr(gained matrices^-1)."""
    if gained.shape[1] == 1:
        return (gained / matrices).flatten()
    solved = torch.linalg.solve_ex(matrices, gained, check_errors=_checks(matrices)).result
    return solved.diagonal(dim1=1, dim2=2).sum(dim=1)


def _checks(matrices: Tensor) -> bool:
    """Whether a factorisation says that it failed: elsewhere than on a CPU it would make the host wait in each step.

    These are of the identity and more, and with finite input, which was checked, they do not fail.
    """
    return matrices.device.type == "cpu"


def _add_products(
    matrices: Float[Tensor, "n c c"], left: Float[Tensor, "n c c"], right: Float[Tensor, "n c c"], scale: float
) -> None:
    """matrices += scale left right^T, in place."""
    if left.shape[2] == 1:
        matrices.addcmul_(left, right.mT, value=scale)
    else:
        matrices.baddbmm_(left, right.mT, alpha=scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Picked:
    """What the forward steps leave behind: the picks, and what M and M F M do to their rows X."""

    positions: Int[Tensor, " p"]
    covered: Float[Tensor, "u u"]  # X M X^T
    gained: Float[Tensor, "u u"]  # X M F M X^T


def _forward(space: Space, count: int) -> Picked:
    """Pick `count` candidates greedily; `inner` is I + x M x^T and `gained` is x M F M x^T of every candidate."""
    inner, gained = space.curvatures()
    c, s = inner.shape[1], space.side
    identity = torch.eye(c, dtype=inner.dtype, device=inner.device)
    inner += identity
    positions = torch.empty(count, dtype=torch.int64, device=inner.device)
    pickable = torch.zeros_like(inner[:, 0, 0])  # minus infinity where picked
    starts, changes = inner.new_empty(2, count, 2, c, s)  # x M_0 and x N_0 of each pick; its T and W
    for step in range(count):
        candidate = (_quotients(gained, inner) + pickable).argmax().unsqueeze(0)
        positions[step : step + 1] = candidate
        pickable.index_fill_(0, candidate, -torch.inf)

        rows, earlier = space.rows_of(candidate), changes[:step].view(-1, s)
        starts[step] = rows.columns()
        of_change = rows.products(earlier).view(c, step, 2, c)  # x T^T, x W^T
        weights = of_change.new_zeros(2, c, step, 2, c)
        weights[0, :, :, 0] = of_change[:, :, 0]  # x M = x M_0 - x T^T T
        weights[1] = of_change.flip(2)  # x M F M = x N_0 - x W^T T - x T^T W
        now = torch.addmm(starts[step].view(-1, s), weights.view(2 * c, -1), earlier, alpha=-1)
        own_covered, own_gained = rows.products(now).chunk(2, dim=1)  # [c, c]
        t, w = _change(identity + own_covered, now[:c], now[c:], own_gained)
        changes[step, 0], changes[step, 1] = t, w

        products_t, products_w = space.products(changes[step].view(-1, s)).chunk(2, dim=2)  # [n, c, c]
        _add_products(inner, products_t, products_t, -1)
        _add_products(gained, products_t, products_w, -2)  # the trace knows no more than the symmetric part
    rows = space.rows_of(positions)
    by_start, by_change = (
        rows.products(each.view(-1, s)).view(-1, count, 2, c).movedim(2, 0).flatten(2) for each in (starts, changes)
    )
    mixed = by_change[0] @ by_change[1].mT
    return Picked(positions, by_start[0] - by_change[0] @ by_change[0].mT, by_start[1] - mixed - mixed.mT)


def _change(inner: Tensor, covered: Tensor, gained: Tensor, own_gained: Tensor) -> tuple[Tensor, Tensor]:
    """t and w with which a pick or a removal changes its matrices by -t^T t and -(t^T w + w^T t).

    With the Cholesky factor R of `inner`: t = R^-1 covered and w = R^-1 gained - (R^-1 own_gained R^-T) t / 2.
    """
    if len(inner) == 1:
        root = inner.rsqrt()
    else:  # R^-1 is explicit, because it is small and applied four times
        identity = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        factor = torch.linalg.cholesky_ex(inner, check_errors=_checks(inner)).L
        root = torch.linalg.solve_triangular(factor, identity, upper=False)
    t = root @ covered
    return t, torch.addmm(root @ gained, root @ own_gained @ root.mT, t, alpha=-0.5)


def _backward(picked: Picked, batch_size: int) -> Int[Tensor, " b"]:
    """Remove picks until `batch_size` remain; only their own rows take part, in X M X^T and X M F M X^T.

    With many picks these matrices are corrected for several removals together, by one product; in between the changes
    are kept as rows, as in `_forward`.
    """
    count, size = len(picked.positions), len(picked.covered)
    c = size // count
    identity = torch.eye(size, dtype=picked.covered.dtype, device=picked.covered.device)
    uncovered, gained = identity - picked.covered, picked.gained.clone()
    kept = torch.zeros_like(uncovered[:count, 0])  # infinity where removed
    together = 1 if count <= MANY_PICKS else REMOVALS_TOGETHER
    for start in range(batch_size, count, together):
        removed, changes = _removals(uncovered, gained, kept, min(together, count - start), c)
        t, w = changes.flatten(1, 2)
        uncovered.addmm_(t.mT, t, alpha=-1)
        gained.addmm_(t.mT, w, alpha=-1).addmm_(w.mT, t, alpha=-1)
        uncovered.view(count, c, count, c)[removed, :, removed] = identity[:c, :c]  # of zeros: for finite quotients
    return picked.positions[kept == 0]


def _removals(
    uncovered: Float[Tensor, "u u"], gained: Float[Tensor, "u u"], kept: Float[Tensor, " p"], number: int, c: int
) -> tuple[Int[Tensor, " r"], Float[Tensor, "2 r c u"]]:
    """The next `number` removals, marked in `kept`, and their t and w; the matrices are left as they are."""
    count, size = len(kept), len(uncovered)
    own_uncovered, own_gained = (_diagonal_blocks(each, c).clone() for each in (uncovered, gained))
    every, changes = torch.empty(number, dtype=torch.int64, device=kept.device), uncovered.new_empty(2, number, c, size)
    for step in range(number):
        removed = (_quotients(own_gained, own_uncovered) + kept).argmin().unsqueeze(0)
        kept[removed], every[step : step + 1] = torch.inf, removed
        row_uncovered, row_gained = (each.view(count, c, size)[removed][0] for each in (uncovered, gained))  # [c, u]
        rows = (removed * c + torch.arange(c, device=removed.device)).flatten()
        if step:
            earlier_t, earlier_w = changes[:, :step].flatten(1, 2)
            by_t, by_w = earlier_t[:, rows].mT, earlier_w[:, rows].mT
            row_uncovered = row_uncovered - by_t @ earlier_t
            row_gained = row_gained - by_t @ earlier_w - by_w @ earlier_t
        # I - X M X^T is the inverse of I + X M_0 X^T: leaving out rows there is a Schur complement here.
        changes[0, step], changes[1, step] = _change(
            row_uncovered[:, rows], row_uncovered, row_gained, row_gained[:, rows]
        )
        if step + 1 < number:
            own_t, own_w = changes[:, step].view(2, c, count, c).permute(0, 2, 3, 1)
            _add_products(own_uncovered, own_t, own_t, -1)
            _add_products(own_gained, own_t, own_w, -2)
            own_uncovered[removed] = torch.eye(c, dtype=uncovered.dtype, device=uncovered.device)
    return every, changes


def _diagonal_blocks(matrix: Float[Tensor, "u u"], c: int) -> Float[Tensor, "p c c"]:
    """The blocks of c rows on the diagonal."""
    count = len(matrix) // c
    return matrix.view(count, c, count, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _first_scores(space: Space) -> Float[Tensor, " n"]:
    """Scores before anything is picked."""
    covered, gained = space.curvatures()
    return _quotients(gained, covered + torch.eye(covered.shape[1], dtype=covered.dtype, device=covered.device))


def _check_top_classes(approximation: str, top_classes: int | None, num_classes: int) -> None:
    """`top_classes` belongs to "top", and to nothing else."""
    if approximation != "top":
        if top_classes is not None:
            raise ValueError(
                f"top_classes is {top_classes}, but it belongs to 'top' and approximation is {approximation!r}"
            )
        return
    if isinstance(top_classes, bool) or not isinstance(top_classes, int) or not 1 <= top_classes <= num_classes:
        raise ValueError(f"top_classes is {top_classes}; 1 to {num_classes}, the number of classes, was expected")


def _check(features_u: Tensor, logits_u: Tensor, features_l: Tensor, logits_l: Tensor, batch_size: int) -> None:
    check_alike(features_u=features_u, logits_u=logits_u, features_l=features_l, logits_l=logits_l)
    check_shape("features_u", features_u, (None, None))
    check_shape("logits_u", logits_u, (len(features_u), None))
    check_shape("features_l", features_l, (None, features_u.shape[1]))
    check_shape("logits_l", logits_l, (len(features_l), logits_u.shape[1]))
    check_finite(features_u=features_u, logits_u=logits_u, features_l=features_l, logits_l=logits_l)
    check_batch_size(batch_size, len(features_u))
