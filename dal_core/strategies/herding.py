"""MaxHerding and UncertaintyHerding: greedy coverage of the pool with a kernel (Bae et al. 2024, 2025)."""

import functools
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Positive, checked
from dal_core.snapshot import Predictions, Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.greedy import lazy_argmax
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

DUPLICATE = 1e-12  # Vectors of length 1 are the same up to this squared distance.
Form = Literal["rowwise", "coverage"]


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
    `textbook.herding_select`. Ties, up to rounding, go to the lower position. O(n^2 d) time for the first pick, in
    blocks of the kernel; O(n) memory beside them.

    >>> pool = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    >>> herding_select(pool, pool[:0], 2, gamma=1.0, form="coverage")
    tensor([1, 2])
    """
    n = len(features_u)
    u = torch.ones_like(features_u[:, 0]) if uncertainty is None else uncertainty
    if float(u.min()) < 0:
        raise ValueError(f"uncertainty holds values down to {float(u.min())}; none below 0 was expected")
    covered = _coverage(features_u, features_l, gamma)  # c; it changes in place, so that `gains` are always today's
    gains = functools.partial(_gains, features_u, covered, u, gamma, form)
    pool = torch.arange(n, device=features_u.device)
    bounds = torch.cat([gains(pool[block]) for block in blocks(n, n * features_u.element_size())])
    fresh = torch.ones_like(pool, dtype=torch.bool)  # whether a bound is the gain of this step
    picked = []
    for _ in range(batch_size):
        best = int(lazy_argmax(bounds, fresh, gains))
        picked.append(best)
        by_best = _kernel(features_u, features_u[best].view(1, -1), gamma).squeeze(1)
        # A rowwise gain changes with the coverage of its own instance only.
        fresh = fresh & (by_best <= covered) if form == "rowwise" else torch.zeros_like(fresh)
        torch.maximum(covered, by_best, out=covered)
        bounds[best] = -torch.inf
        fresh |= bounds <= 0  # what is picked, and what cannot gain any more
    return torch.tensor(picked, device=features_u.device)


def _gains(features: Tensor, covered: Tensor, u: Tensor, gamma: float, form: Form, rows: Tensor) -> Tensor:
    """Gain of each instance in `rows`.  [r]"""
    kernel = _kernel(features[rows], features, gamma)  # [r, n]
    if form == "rowwise":
        return u[rows] * kernel.sub_(covered[rows].unsqueeze(1)).clamp_min_(0).mean(dim=1)
    return kernel.sub_(covered).clamp_min_(0) @ u / len(features)


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
