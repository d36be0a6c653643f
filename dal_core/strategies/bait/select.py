"""BAIT and its approximations (Ash et al. 2021; Huseljic et al. 2024, arXiv 2404.08981, "Fast Fishing").

With x the factor of an instance's Fisher information F_i = x^T x (`factors.py`), F that of all instances and M the
inverse of that of the labelled ones, BAIT picks what lowers tr(M F) most, by tr(x M F M x^T (I + x M x^T)^-1); the pick
turns M into M - M x^T (I + x M x^T)^-1 x M. `dal_core.textbook.bait` does just that. Here M_0 and N_0 = M_0 F M_0 stay
as they are (`spaces.py`), and the changes are kept as rows,

    M = M_0 - T^T T,        M F M = N_0 - T^T W - W^T T,

so that a step costs x M_0 and x N_0 of one instance, products with the rows so far, and one pass over the features.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Count, Positive, checked
from dal_core.snapshot import Predictions
from dal_core.strategies.bait import single
from dal_core.strategies.bait.diagonal import DiagonalProblem
from dal_core.strategies.bait.factors import factors
from dal_core.strategies.bait.spaces import Space, Weights, cheaper_space
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import highest

Approximation = Literal["exact", "top", "binary", "diagonal"]
Fisher = Literal["sum", "mean", "batch_means"]
Selection = Literal["forward_backward", "topk"]
BLOCK_BYTES = 128 * 2**20
FISHER_BATCH = 32
CACHED_PICKS = 1000  # Up to so many, a removal corrects matrices that stay in a processor's cache.


class Options(NamedTuple):
    """What `bait_select` can be asked for."""

    approximation: Approximation  # "diagonal": that of the exact Fisher information
    top_classes: int | None  # how many of the most probable classes "top" takes
    renormalise: bool  # whether their probabilities, as weights of their rows, are made to sum to 1
    fisher: Fisher  # over instances; "batch_means": the sum of the means over each 32, in the order that they have
    prior_precision: Positive  # lambda, the multiple of the identity in M^-1
    selection: Selection  # "topk": the b best scores of the first step, factors left unscaled
    block_bytes: Count = BLOCK_BYTES  # of intermediate results held at a time, beside the matrices


@register("bait")
@checked
def bait(
    snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator, *,  # noqa: ARG001
    approximation: Approximation = "binary", top_classes: int | None = None, renormalise: bool = True,
    fisher: Fisher = "sum", prior_precision: Positive = 1.0, selection: Selection = "forward_backward",
) -> Int[Tensor, " b"]:  # fmt: skip
    """Return the batch that lowers the trace of (Fisher information of the labelled)^-1 (that of all) most."""
    return bait_select(
        snapshot.features, snapshot.logits, snapshot.labelled_features, snapshot.labelled_logits, batch_size,
        approximation=approximation, top_classes=top_classes, renormalise=renormalise, fisher=fisher,
        prior_precision=prior_precision, selection=selection,
    )  # fmt: skip


@checked
def bait_select(
    features_u: Float[Tensor, "n d"], logits_u: Float[Tensor, "n k"], features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"], batch_size: BatchSize, *,
    approximation: Approximation = "binary", top_classes: int | None = None, renormalise: bool = True,
    fisher: Fisher = "sum", prior_precision: Positive = 1.0, selection: Selection = "forward_backward",
    block_bytes: Count = BLOCK_BYTES,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Return positions in the order of picking, those that were removed again left out; `Options` explains the options.

    Forward: 2 b times the instance with the largest tr(x M F M x^T (I + x M x^T)^-1); backward: until b remain, the
    picked instance with the smallest -tr(x M F M x^T (-I + x M x^T)^-1) is removed. Ties go to the lower position.

    Set-up O((n + m) s^2 + s^3) with s = k d (d for "binary"), then O(n k c d) a step. Where all factors together have
    fewer rows than s, or not many more, the same runs in their Gram matrix. Memory: four dense matrices of that side,
    refused above 20,000 or where they do not fit, and blocks. "diagonal" needs no matrix at all.

    >>> bait_select(torch.eye(3), 2 * torch.eye(3), torch.eye(3)[:1], torch.eye(3)[:1], batch_size=2)
    tensor([0, 1])
    """
    options = Options(approximation, top_classes, renormalise, fisher, prior_precision, selection, block_bytes)
    with torch.inference_mode():  # Without the bookkeeping for gradients, a fifth of the time of small operations.
        problem = _problem((features_u, logits_u, features_l, logits_l), batch_size, options)
        if selection == "topk":
            picked = highest(_first_scores(problem), batch_size)
        elif isinstance(problem, DiagonalProblem):
            picked = problem.select(batch_size)
        else:
            picked = _recursion(problem, batch_size)
    return picked.clone()  # an ordinary tensor again


@checked
def bait_first_scores(
    features_u: Float[Tensor, "n d"], logits_u: Float[Tensor, "n k"], features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"], batch_size: BatchSize, *,
    approximation: Approximation = "binary", top_classes: int | None = None, renormalise: bool = True,
    fisher: Fisher = "sum", prior_precision: Positive = 1.0, selection: Selection = "forward_backward",
) -> Float[Tensor, " n"]:  # fmt: skip
    """Return what `bait_select` sees in its first step: the drop of tr(M F) that each instance alone would bring.

    >>> bait_first_scores(torch.eye(2), torch.eye(2), torch.eye(2)[:1], torch.eye(2)[:1], batch_size=1)
    tensor([0.0294, 0.0176], dtype=torch.float64)
    """
    options = Options(approximation, top_classes, renormalise, fisher, prior_precision, selection)
    with torch.inference_mode():
        scores = _first_scores(_problem((features_u, logits_u, features_l, logits_l), batch_size, options))
    return scores.clone()


def _problem(pool: tuple[Tensor, Tensor, Tensor, Tensor], batch_size: int, options: Options) -> Space | DiagonalProblem:
    approximation, top_classes, renormalise, fisher, prior_precision, selection, block_bytes = options
    features_u, logits_u, features_l, logits_l = pool
    (n, k), m, b = logits_u.shape, len(logits_l), batch_size
    if k < 2:
        raise ValueError(f"logits_u has shape ({n}, {k}); at least two classes were expected, a sigmoid's as (0, z)")
    if approximation != "top" and top_classes is not None:
        raise ValueError(f"top_classes is {top_classes}, but it belongs to 'top'; approximation is {approximation!r}")
    if approximation == "top" and not 1 <= (top_classes or 0) <= k:
        raise ValueError(f"top_classes is {top_classes}; 1 to {k}, the number of classes, was expected")
    labelled, everything = (m / (m + b) / max(m, 1), 1 / (n + m)) if fisher == "mean" else (m / (m + b), 1.0)
    candidate = 1.0 if selection == "topk" else (b / (m + b)) ** 0.5
    each = [_of_batch_means(size, features_u) if fisher == "batch_means" else None for size in (m, n + m)]
    weights = Weights(prior_precision, labelled, everything, candidate, *each)
    if approximation == "diagonal":
        return DiagonalProblem.of(pool, weights, block_bytes)
    how = (approximation, top_classes, renormalise, block_bytes)
    return cheaper_space(factors(features_u, logits_u, *how), factors(features_l, logits_l, *how), weights, b)


def _of_batch_means(count: int, like: Tensor) -> Float[Tensor, " count"]:
    """1 / (size of the batch) of each of `count` instances; the last batch may be smaller."""
    start = torch.arange(count, device=like.device) // FISHER_BATCH * FISHER_BATCH
    return 1 / (count - start).clamp_max(FISHER_BATCH).to(like)


def _first_scores(problem: Space | DiagonalProblem) -> Float[Tensor, " n"]:
    if isinstance(problem, DiagonalProblem):
        return problem.gains(problem.pool, problem.precision, 1)
    covered, gained = problem.curvatures()
    return _quotients(gained, covered + covered.new_ones(covered.shape[1]).diag())


def _recursion(space: Space, batch_size: int) -> Int[Tensor, " b"]:
    """Pick forward, then remove backward; one row a sample, and few picks, are simpler and faster."""
    if space.rows_a_sample > 1:
        return _backward(*_forward(space, 2 * batch_size), batch_size)
    picks = single.forward(space, 2 * batch_size)
    return (single.backward if len(picks[0]) <= CACHED_PICKS else _backward)(*picks, batch_size)


def _forward(space: Space, count: int) -> tuple[Int[Tensor, " p"], Float[Tensor, "u u"], Float[Tensor, "u u"]]:
    """Pick `count` candidates greedily, all if there are fewer; return them, and X M X^T and X M F M X^T afterwards."""
    inner, gained = space.curvatures()  # I + x M x^T and x M F M x^T of each candidate
    count, c, s = min(count, len(inner)), inner.shape[1], space.side
    identity = inner.new_ones(c).diag()
    inner += identity
    positions = torch.empty(count, dtype=torch.int64, device=inner.device)
    pickable = torch.zeros_like(inner[:, 0, 0])  # minus infinity where picked
    candidates = space.rows()
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
        by_t, by_w = candidates(changes[step].view(-1, s)).chunk(2, dim=2)  # [n, c, c]
        _add_products(inner, by_t, by_t, -1)
        _add_products(gained, by_t, by_w, -2)  # the trace knows no more than the symmetric part
    X = space.rows(positions)
    (XM, XN), (XT, XW) = (
        X(each.view(-1, s)).flatten(0, 1).view(-1, count, 2, c).movedim(2, 0).flatten(2) for each in (starts, changes)
    )
    mixed = XT @ XW.mT
    return positions, XM - XT @ XT.mT, XN - mixed - mixed.mT


def _backward(positions: Tensor, covered: Tensor, gained: Tensor, batch_size: int) -> Int[Tensor, " b"]:
    """Remove picks until `batch_size` remain; their own rows in I - X M X^T and X M F M X^T are all that takes part.

    I - X M X^T is the inverse of I + X M_0 X^T: leaving out rows there is a Schur complement here. Both matrices are
    corrected for a block of removals by one product, and until then what is read of them by the rows of its changes.
    """
    count, c = len(positions), len(covered) // len(positions)
    identity = covered.new_ones(len(covered)).diag()
    uncovered, kept = identity - covered, torch.zeros_like(covered[:count, 0])  # infinity where removed
    together = 1 if count <= CACHED_PICKS else 64
    for start in range(batch_size, count, together):
        own_uncovered, own_gained = (
            each.view(count, c, count, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
            for each in (uncovered, gained)
        )
        changes = uncovered.new_empty(2, min(together, count - start), c, count * c)  # t and w of each removal
        for step in range(changes.shape[1]):
            if step:
                t, w = changes[:, step - 1].view(2, c, count, c).permute(0, 2, 3, 1)
                _add_products(own_uncovered, t, t, -1)
                _add_products(own_gained, t, w, -2)
            matrices = torch.where(kept.view(-1, 1, 1) > 0, identity[:c, :c], own_uncovered)  # for finite quotients
            worst = (_quotients(own_gained, matrices) + kept).argmin().view(1)
            kept.index_fill_(0, worst, torch.inf)
            rows = worst * c + torch.arange(c, device=worst.device)
            x_uncovered, x_gained = uncovered[rows], gained[rows]
            if step:
                t, w = changes[:, :step].flatten(1, 2)
                x_uncovered -= t[:, rows].mT @ t
                x_gained -= t[:, rows].mT @ w + w[:, rows].mT @ t
            changes[:, step] = torch.stack(_change(x_uncovered[:, rows], x_uncovered, x_gained, x_gained[:, rows]))
        t, w = changes.flatten(1, 2)
        uncovered.addmm_(t.mT, t, alpha=-1)
        gained.addmm_(t.mT, w, alpha=-1).addmm_(w.mT, t, alpha=-1)
    return positions[kept == 0]


def _change(inner: Tensor, covered: Tensor, gained: Tensor, own_gained: Tensor) -> tuple[Tensor, Tensor]:
    """Return t and w with which a pick or a removal changes its matrices by -t^T t and -(t^T w + w^T t).

    With the Cholesky factor R of `inner`: t = R^-1 covered and w = R^-1 gained - (R^-1 own_gained R^-T) t / 2.
    """
    if len(inner) == 1:
        root = inner.rsqrt()
    else:  # R^-1 is explicit, because it is small and applied four times
        factor = torch.linalg.cholesky_ex(inner, check_errors=inner.is_cpu).L
        root = torch.linalg.solve_triangular(factor, inner.new_ones(len(inner)).diag(), upper=False)
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
