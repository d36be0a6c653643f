"""FALCUN: uncertain instances with diverse predictions (Gilhuber et al. 2024, ECML PKDD)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_finite, check_number
from dal_core.snapshot import Snapshot
from dal_core.strategies.badge import draw_in_proportion
from dal_core.strategies.registry import register
from dal_core.strategies.shared.positions import index_of
from dal_core.strategies.uncertainty import margin_scores


@register("falcun")
def falcun(
    snapshot: Snapshot, batch_size: int, generator: torch.Generator, *, gamma: float = 10.0
) -> Int[Tensor, " b"]:
    """Instances drawn in proportion to relevance^gamma, uncertainty plus diversity (`falcun_select`)."""
    return falcun_select(snapshot.probabilities, batch_size, generator, gamma=gamma)


def falcun_select(
    probabilities: Float[Tensor, "n k"], batch_size: int, generator: torch.Generator, *, gamma: float = 10.0
) -> Int[Tensor, " b"]:
    """Draw, one after another, an instance in proportion to (u + s)^gamma (algorithm 1).

    u is the margin uncertainty 1 - (p1 - p2). The diversity s starts as u; after each pick q it becomes the smaller
    one of s and |p - p_q|_1, and is then stretched to 0..1 over the pool. O(b n k) time, O(n k) memory. `gamma` 0 draws
    uniformly, a large one picks the most relevant. Where nothing is relevant, the draw is uniform.

    Raises:
        ValueError: if `gamma` is negative or not finite, `batch_size` is not in 1..n, or probabilities are not finite.
    """
    check_number("gamma", gamma)
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}; a finite number of at least 0 was expected")
    check_finite(probabilities=probabilities)
    check_batch_size(batch_size, len(probabilities))
    uncertainty = margin_scores(probabilities).double()
    diversity = uncertainty
    left = torch.ones_like(uncertainty, dtype=torch.bool)
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64).to(probabilities.device)
    picked = torch.empty(batch_size, dtype=torch.int64, device=probabilities.device)
    for i in range(batch_size):
        relevance = (uncertainty + diversity) * left
        weights = (relevance / relevance.max().clamp_min(1e-300)).pow(gamma) * left  # at most 1, whatever gamma
        picked[i] = draw_in_proportion(weights, left, draws[i])
        last = index_of(picked[i])
        left[last] = False
        to_picked = (probabilities - probabilities[last]).abs_().sum(dim=1).double()
        diversity = torch.minimum(diversity, to_picked)
        diversity = diversity / diversity.max().clamp_min(1e-300)  # the smallest is 0, that of the pick itself
    return picked
