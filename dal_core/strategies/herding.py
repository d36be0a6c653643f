"""MaxHerding and UncertaintyHerding: greedy coverage of the pool with a kernel (Bae et al. 2024, 2025)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_batch_size,
    check_choice,
    check_finite,
    check_positive,
    check_shape,
)
from dal_core.snapshot import Snapshot
from dal_core.strategies.coreset import _check_features
from dal_core.strategies.registry import register
from dal_core.strategies.shared.greedy import Argmax, lazy_picks
from dal_core.strategies.shared.positions import index_of
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

BLOCK_BYTES = 64 * 2**20  # of distances or kernel values held at a time
HERDING_FORMS = ("rowwise", "coverage")
DUPLICATE = 1e-12  # squared distance between vectors of length 1 up to which they are the same


@register("max_herding")
def max_herding(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,  # noqa: ARG001
    *,
    gamma: float = 1.0,
    form: str = "rowwise",
) -> Int[Tensor, " b"]:
    """Greedy coverage of the pool with a Gaussian kernel on L2-normalised features (Bae et al. 2024)."""
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, form=form)


def herding_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    *,
    gamma: float,
    uncertainty: Float[Tensor, " n"] | None = None,
    form: str = "rowwise",
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance with the largest gain in coverage.

    With the kernel K_ij = exp(-gamma |x_i - x_j|^2) on L2-normalised features, u the uncertainty (1 if None) and
    c_j the largest kernel value of j with what is labelled or picked, the gain of instance i is

        coverage:  mean_j u_j max(K_ij - c_j, 0)     the definition (Bae et al. 2024)
        rowwise:   u_i mean_j max(K_ij - c_i, 0)     what the Kassel papers' code computes, and their results rest on

    Neither can grow as c grows. A gain computed earlier therefore bounds today's from above, and only candidates
    whose bound reaches the best gain are evaluated again (lazy greedy; Minoux 1978); the picks are those of the full
    evaluation. Ties, up to rounding, go to the lower position. O(n^2 d) time for the first pick, in blocks of the
    kernel; O(n) memory beside them.

    Raises:
        ValueError: if `gamma` is not positive, `form` is unknown, `batch_size` is not in 1..n, uncertainties are
            negative, or arguments do not fit each other or hold NaN or infinite values.
    """
    _check_features(features_u, features_l)
    check_positive(gamma=gamma)
    check_choice("form", form, HERDING_FORMS)
    check_batch_size(batch_size, len(features_u))
    if uncertainty is None:
        uncertainty = torch.ones_like(features_u[:, 0])
    check_alike(features_u=features_u, uncertainty=uncertainty)
    check_shape("uncertainty", uncertainty, (len(features_u),))
    check_finite(uncertainty=uncertainty)
    if len(uncertainty) and float(uncertainty.min()) < 0:
        raise ValueError(f"uncertainty holds values down to {float(uncertainty.min())}; none below 0 was expected")

    covered_at_first = _coverage(features_u, features_l, gamma)

    def gains(rows: Tensor, covered: Tensor) -> Tensor:
        return _herding_gains(features_u, rows, covered, uncertainty, gamma, form)

    size = max(1, BLOCK_BYTES // (len(features_u) * features_u.element_size()))
    everything = torch.arange(len(features_u), device=features_u.device)
    first_gains = torch.cat([gains(rows, covered_at_first) for rows in everything.split(size)])

    def pick(argmax: Argmax) -> Tensor:
        bounds, covered = first_gains.clone(), covered_at_first.clone()
        picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
        fresh = torch.ones_like(covered, dtype=torch.bool)  # whether a bound is the gain of this step
        for i in range(batch_size):
            best = index_of(argmax(bounds, fresh, lambda rows: gains(rows, covered)))
            picked[i] = best
            by_best = _kernel(features_u, features_u[best].view(1, -1), gamma).squeeze(1)
            # A rowwise gain changes with the coverage of its own instance only.
            fresh = fresh & (by_best <= covered) if form == "rowwise" else torch.zeros_like(fresh)
            torch.maximum(covered, by_best, out=covered)
            bounds[best] = -torch.inf
            fresh |= bounds <= 0  # what is picked, and what cannot gain any more
        return picked

    return lazy_picks(pick, features_u.device, at_once=size)


def _herding_gains(
    features: Tensor, rows: Tensor, covered: Tensor, uncertainty: Tensor, gamma: float, form: str
) -> Tensor:
    """Gain of each instance in `rows`.  [r]"""
    kernel = _kernel(features[rows], features, gamma)  # [r, n]
    if form == "rowwise":
        return uncertainty[rows] * kernel.sub_(covered[rows].unsqueeze(1)).clamp_min_(0).mean(dim=1)
    return kernel.sub_(covered).clamp_min_(0) @ uncertainty / len(features)


def _coverage(features: Tensor, centres: Tensor, gamma: float) -> Tensor:
    """Largest kernel value of each instance with a centre, 0 without centres.  [n]"""
    if len(centres) == 0:
        return torch.zeros_like(features[:, 0])
    covered = torch.empty_like(features[:, 0])
    rows = max(1, BLOCK_BYTES // (len(centres) * features.element_size()))
    for start in range(0, len(features), rows):
        covered[start : start + rows] = _kernel(features[start : start + rows], centres, gamma).amax(dim=1)
    return covered


def _kernel(rows: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |x - y|^2) for vectors of length 1, whose squared distance is 2 - 2 x y.  [r, c]"""
    return (rows @ columns.mT).sub_(1).clamp_max_(0).mul_(2 * gamma).exp_()


@register("unc_herding")
def unc_herding(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    form: str = "rowwise",
    temperature: float | None = None,
    gamma: float | None = None,
) -> Int[Tensor, " b"]:
    """Herding weighted by the margin uncertainty of calibrated predictions (Bae et al. 2025).

    Args:
        form: of the gain, see `herding_select`.
        temperature: divides the logits; None: the one that `held_out_temperature` finds.
        gamma: of the kernel; None: `nearest_pair_gamma` of the labelled instances.
    """
    temperature = held_out_temperature(snapshot, generator) if temperature is None else temperature
    gamma = nearest_pair_gamma(snapshot.labelled_features) if gamma is None else gamma
    check_positive(temperature=temperature)
    uncertainty = margin_scores((snapshot.logits / temperature).softmax(dim=1))
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, uncertainty=uncertainty, form=form)


def nearest_pair_gamma(features_l: Float[Tensor, "m d"]) -> float:
    """1 / (smallest distance between two L2-normalised instances)^2, duplicates left out; 1 without two distinct ones.

    O(m^2 d) time, in float64 and in blocks: a product of vectors of length 1 tells distances down to 1e-7.
    """
    unit = torch.nn.functional.normalize(features_l.double(), dim=1)
    smallest = unit.new_full((), torch.inf)
    rows = max(1, BLOCK_BYTES // (8 * max(1, len(unit))))
    for start in range(0, len(unit), rows):
        squared = 2 - 2 * unit[start : start + rows] @ unit.mT
        smallest = torch.minimum(smallest, squared.masked_fill_(squared <= DUPLICATE, torch.inf).min())
    return 1 / float(smallest) if smallest < torch.inf else 1.0
