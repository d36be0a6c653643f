"""BAIT where all Fisher information is reduced to its diagonal (Huseljic et al. 2024, section 4)."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.bait.spaces import Weights
from dal_core.strategies.shared.greedy import lazy_argmax


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalProblem:
    """Diagonals f = h (x) phi^2 [k, d] of F_i, with h = p (1 - p), and of F and 1 / M, to which a pick adds its f."""

    h: Float[Tensor, "n k"]  # of the candidates, weighted
    squares: Float[Tensor, "n d"]  # phi^2
    F: Float[Tensor, "k d"]
    precision: Float[Tensor, "k d"]  # 1 / M before anything is picked
    pool: Int[Tensor, " n"]  # 0 to n - 1
    block: int  # samples whose gains are computed at a time

    @classmethod
    def of(cls, pool: tuple[Tensor, ...], weights: Weights, block_bytes: int) -> "DiagonalProblem":
        features_u, logits_u, features_l, logits_l = pool
        p, p_l, squares = logits_u.softmax(dim=1), logits_l.softmax(dim=1), features_u.square()
        h, of_known, squares_l = p * (1 - p), p_l * (1 - p_l), features_l.square()
        of_u, of_l = weights.of_parts(len(h))
        F = (_sum(h, squares, of_u) + _sum(of_known, squares_l, of_l)) * weights.everything
        precision = _sum(of_known, squares_l, weights.of_labelled) * weights.labelled + weights.prior
        every, block = torch.arange(len(h), device=h.device), max(1, block_bytes // (3 * F.nbytes))
        return cls(h * weights.candidate**2, squares, F, precision, every, block)

    def gains(self, samples: Int[Tensor, " r"], precision: Float[Tensor, "k d"], sign: int) -> Float[Tensor, " r"]:
        """Return sum(F M^2 f / (sign + M f)): the gain of a pick (sign 1), minus the loss of a removal (-1)."""
        weights, blocks = (self.F / precision).flatten(), samples.split(self.block)
        ratios = ((self.h[i].unsqueeze(2) * self.squares[i].unsqueeze(1)).div_(precision) for i in blocks)  # M f
        return sign * torch.cat([ratio.div_(1 + sign * ratio).flatten(1) @ weights for ratio in ratios])

    def select(self, batch_size: int) -> Int[Tensor, " b"]:
        """tr(M F) is supermodular in the picks: gains shrink, losses grow, and lazy evaluation gives the same picks."""
        precision = self.precision.clone()

        def greedy(samples: Int[Tensor, " r"], count: int, sign: int) -> Int[Tensor, " count"]:
            bounds, chosen = self.gains(samples, precision, sign), samples.new_empty(count)
            fresh = torch.ones_like(bounds, dtype=torch.bool)
            for step in range(count):
                best = lazy_argmax(bounds, fresh, lambda rows: self.gains(samples[rows], precision, sign))
                chosen[step] = sample = samples[best]
                precision.add_(torch.outer(self.h[sample], self.squares[sample]), alpha=sign)
                bounds[best] = -torch.inf
                fresh = torch.isneginf(bounds)
            return chosen

        picked = greedy(self.pool, min(2 * batch_size, len(self.pool)), 1)
        return picked[~torch.isin(picked, greedy(picked, len(picked) - batch_size, -1))]


def _sum(h: Tensor, squares: Tensor, each: Tensor | None) -> Float[Tensor, "k d"]:
    """The sum of h (x) phi^2 over samples, each times its weight."""
    return (h if each is None else h * each.unsqueeze(1)).mT @ squares
