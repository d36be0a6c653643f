"""FALCUN: uncertain instances with diverse predictions (Gilhuber et al. 2024, ECML PKDD)."""

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import BatchSize, NonNegative, checked
from dal_core.snapshot import Predictions
from dal_core.strategies.registry import register
from dal_core.strategies.shared.drawing import drawn_in_proportion
from dal_core.strategies.uncertainty import ClassScores, margin_scores

TINY = 1e-300  # It stands for a maximum of 0, so that nothing is divided by 0.


@register("falcun")
@checked
def falcun(
    snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator, *, gamma: NonNegative = 10.0
) -> Int[Tensor, " b"]:
    """Draw by `falcun_select`, in proportion to relevance^gamma: uncertainty plus diversity."""
    return falcun_select(snapshot.probabilities, batch_size, generator, gamma=gamma)


@checked
def falcun_select(
    probabilities: ClassScores, batch_size: BatchSize, generator: torch.Generator, *, gamma: NonNegative = 10.0
) -> Int[Tensor, " b"]:
    """Draw, one after another, an instance in proportion to (u + s)^gamma (algorithm 1).

    u is the margin uncertainty 1 - (p1 - p2). The diversity s starts as u; after each pick q it becomes the smaller
    one of s and |p - p_q|_1, and is then stretched to 0..1 over the pool. O(b n k) time, O(n k) memory. `gamma` 0 draws
    uniformly, a large one picks the most relevant. Where nothing is relevant, the draw is uniform.

    >>> probabilities = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]])
    >>> falcun_select(probabilities, 1, torch.Generator().manual_seed(0), gamma=50.0)
    tensor([0])
    """
    uncertainty = margin_scores(probabilities).double()
    diversity = uncertainty
    left = torch.ones_like(uncertainty, dtype=torch.bool)
    picked: list[int] = []
    for uniform in torch.rand(batch_size, generator=generator, dtype=torch.float64).to(probabilities.device):
        relevance = (uncertainty + diversity) * left
        weights = (relevance / relevance.max().clamp_min(TINY)).pow(gamma) * left  # at most 1, whatever gamma
        last = int(drawn_in_proportion(weights, uniform, otherwise=left))
        picked.append(last)
        left[last] = False
        to_picked = (probabilities - probabilities[last]).abs_().sum(dim=1).double()
        diversity = torch.minimum(diversity, to_picked)
        diversity = diversity / diversity.max().clamp_min(TINY)  # the smallest is 0, that of the pick itself
    return torch.tensor(picked, device=probabilities.device)
