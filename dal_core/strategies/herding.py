"""MaxHerding and UncertaintyHerding: greedy coverage of the pool with a kernel (Bae et al. 2024, 2025)."""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Positive, checked
from dal_core.parallel import fixed_threads, in_parallel
from dal_core.snapshot import Predictions, Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.greedy import TIE, lazy_argmax
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

KEPT_BYTES = 128 * 2**20  # A kernel up to this size, of 5,792 instances in float32, is kept whole.
CACHE_BYTES = 2**20  # A kernel up to this size, of 512 instances in float32, stays in the cache of a core.
TILE = 1024  # Rows and columns of a tile of the kernel; smaller ones are no faster.
DUPLICATE = 1e-12  # Vectors of length 1 are the same up to this squared distance.
Form = Literal["rowwise", "coverage"]
Rows = slice | Tensor


@register("max_herding")
@checked
def max_herding(
    snapshot: Snapshot, batch_size: BatchSize, generator: torch.Generator,  # noqa: ARG001
    *, gamma: Positive = 1.0, form: Form = "rowwise",
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick by `herding_select`: a Gaussian kernel covers the L2-normalised pool (Bae et al. 2024)."""
    unlabelled, labelled = normalize(snapshot.features, dim=1), normalize(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, form=form)


@register("unc_herding", version=2)
@checked
def unc_herding(
    snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator,
    *, form: Form = "rowwise", temperature: Positive | None = None, gamma: Positive | None = None,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick by `herding_select`, weighted by the margin uncertainty of calibrated predictions (Bae et al. 2025).

    `temperature` divides the logits, None takes the one that `held_out_temperature` finds; `gamma` is the kernel's,
    None takes `nearest_pair_gamma` of the labelled instances.
    """
    temperature = held_out_temperature(snapshot, generator) if temperature is None else temperature
    gamma = nearest_pair_gamma(snapshot.labelled_features) if gamma is None else gamma
    uncertainty = margin_scores((snapshot.logits / temperature).softmax(dim=1))
    unlabelled, labelled = normalize(snapshot.features, dim=1), normalize(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, uncertainty=uncertainty, form=form)


@checked
def herding_select(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: BatchSize,
    *, gamma: Positive, uncertainty: Float[Tensor, " n"] | None = None, form: Form = "rowwise",
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick, one after another, the instance with the largest gain in coverage.

    With the kernel K_ij = exp(-gamma |x_i - x_j|^2) on L2-normalised features, u the uncertainty (1 if None) and
    c_j the largest kernel value of j with what is labelled or picked, the gain of instance i is

        coverage:  mean_j u_j max(K_ij - c_j, 0)     the definition (Bae et al. 2024)
        rowwise:   u_i mean_j max(K_ij - c_i, 0)     what the Kassel papers' code computes, and their results rest on

    Neither can grow as c grows. A gain computed earlier therefore bounds today's from above, and only candidates
    whose bound reaches the best gain are evaluated again (`lazy_argmax`); the picks are those of the full evaluation,
    `textbook.herding_select`. Ties, up to rounding, go to the lower position. O(n^2 d) time for the first pick, half of
    it saved by symmetry. A kernel of at most `KEPT_BYTES` is kept; of a larger one, tiles and rows are computed when
    they are needed, and memory is O(n) beside them.

    >>> pool = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    >>> herding_select(pool, pool[:0], 2, gamma=1.0, form="coverage")
    tensor([1, 2])
    """
    u = torch.ones_like(features_u[:, 0]) if uncertainty is None else uncertainty
    if float(u.min()) < 0:
        raise ValueError(f"uncertainty holds values down to {float(u.min())}; none below 0 was expected")
    pick = _picks_of_few if features_u.element_size() * len(u) ** 2 <= CACHE_BYTES else _picks_of_many
    with fixed_threads():
        covered = _coverage(features_u, features_l, gamma)  # c; it changes in place, so that gains are always today's
        picked = pick(features_u, covered, u, gamma, form, batch_size)
    return torch.tensor(picked, device=features_u.device)


def _picks_of_few(features: Tensor, covered: Tensor, u: Tensor, gamma: float, form: Form, batch_size: int) -> list[int]:
    """Positions of the largest gains, all anew in every step: among few, that is less work than to tell which."""
    kernel, everyone, picked = _kernel(features, features, gamma), slice(None), list[int]()
    threshold = 1 - TIE * torch.finfo(u.dtype).eps
    gone = torch.zeros_like(u)
    for _ in range(batch_size):
        gains = _gains(kernel, covered, u, form, everyone, everyone).add_(gone)
        best = int((gains >= gains.max() * threshold).view(torch.uint8).argmax())
        picked.append(best)
        gone[best] = -torch.inf
        torch.maximum(covered, kernel[best], out=covered)
    return picked


def _picks_of_many(
    features: Tensor, covered: Tensor, u: Tensor, gamma: float, form: Form, batch_size: int
) -> list[int]:
    """Positions of the largest gains, of which only those are computed anew that could be the largest."""
    bounds, kernel_rows = _first_gains(features, covered, u, gamma, form)
    everyone, picked = slice(None), list[int]()
    fresh = torch.ones_like(bounds, dtype=torch.bool)  # whether a bound is the gain of this step

    def gains(rows: Tensor) -> Tensor:
        return _gains(kernel_rows(rows), covered, u, form, rows, everyone)

    for _ in range(batch_size):
        best = int(lazy_argmax(bounds, fresh, gains))
        picked.append(best)
        by_best = kernel_rows(slice(best, best + 1)).squeeze(0)
        # A rowwise gain changes with the coverage of its own instance only.
        fresh = fresh & (by_best <= covered) if form == "rowwise" else torch.zeros_like(fresh)
        torch.maximum(covered, by_best, out=covered)
        bounds[best] = -torch.inf
        fresh |= bounds <= 0  # what is picked, and what cannot gain any more
    return picked


def _first_gains(
    features: Tensor, covered: Tensor, u: Tensor, gamma: float, form: Form
) -> tuple[Tensor, Callable[[Rows], Tensor]]:
    """Gain of each instance before the first pick, and what returns rows of the kernel.  [n], [r] -> [r, n]

    The kernel is symmetric: each of its square tiles stands for the one on the other side of the diagonal, too.
    """
    n = len(features)
    kept = features.new_empty(n, n) if n * n * features.element_size() <= KEPT_BYTES else None
    parts = [slice(start, min(start + TILE, n)) for start in range(0, n, TILE)]

    def of_tile(rows: slice, columns: slice) -> tuple[Tensor, Tensor | None]:
        tile = _kernel(features[rows], features[columns], gamma)
        if kept is not None:
            kept[rows, columns] = tile
        own = _gains(tile, covered, u, form, rows, columns)
        if rows == columns:
            return own, None
        if kept is not None:
            kept[columns, rows] = tile.mT
        return own, _gains(tile.mT, covered, u, form, columns, rows)

    pairs = list(itertools.combinations_with_replacement(parts, 2))
    sums = torch.zeros_like(u)
    for (rows, columns), (own, mirrored) in zip(pairs, in_parallel(of_tile, *zip(*pairs, strict=True)), strict=True):
        sums[rows] += own
        if mirrored is not None:
            sums[columns] += mirrored

    def kernel_rows(rows: Rows) -> Tensor:
        if kept is not None:
            return kept[rows]
        return torch.cat(in_parallel(lambda part: _kernel(features[rows], features[part], gamma), parts), dim=1)

    return sums, kernel_rows


def _gains(kernel: Tensor, covered: Tensor, u: Tensor, form: Form, rows: Rows, columns: slice) -> Tensor:
    """n times what instances `rows` gain in `columns`, for which `kernel` is theirs.  [r]"""
    if form == "rowwise":
        return u[rows] * (kernel - covered[rows].unsqueeze(1)).clamp_min_(0).sum(dim=1)
    return (kernel - covered[columns]).clamp_min_(0) @ u[columns]


def _coverage(features: Tensor, centres: Tensor, gamma: float) -> Tensor:
    """Largest kernel value of each instance with a centre, 0 without centres.  [n]"""
    covered = torch.zeros_like(features[:, 0])
    for block in blocks(len(features), len(centres) * features.element_size()) if len(centres) else ():
        covered[block] = _kernel(features[block], centres, gamma).amax(dim=1)
    return covered


def _kernel(rows: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |x - y|^2) for vectors of length 1, whose squared distance is 2 - 2 x y.  [r, c]"""
    return (rows @ columns.mT).sub_(1).clamp_max_(0).mul_(2 * gamma).exp_()


@checked
def nearest_pair_gamma(features_l: Float[Tensor, "m d"]) -> float:
    """Return 1 / (smallest distance of two L2-normalised instances)^2, duplicates left out; 1 without distinct ones.

    O(m^2 d) time, in float64 and in blocks: a product of vectors of length 1 tells distances down to 1e-7.

    >>> nearest_pair_gamma(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    0.5
    """
    unit = normalize(features_l.double(), dim=1)
    smallest = torch.inf
    for block in blocks(len(unit), 8 * len(unit)):
        squared = 2 - 2 * unit[block] @ unit.mT
        smallest = min(smallest, float(squared.masked_fill_(squared <= DUPLICATE, torch.inf).min()))
    return 1 / smallest if smallest < torch.inf else 1.0
