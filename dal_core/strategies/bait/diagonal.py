"""BAIT where all Fisher information is reduced to its diagonal (Huseljic et al. 2024, section 4).

Axes: n samples, b batch, k classes, d features.
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.bait.spaces import Weights
from dal_core.strategies.shared.greedy import lazy_argmax


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalProblem:
    """`bait_select` with the diagonals f = h (x) phi^2 [k, d] of F_i, h = p (1 - p): a pick adds f to 1 / M."""

    h: Float[Tensor, "n k"]  # of the candidates, weighted
    squares: Float[Tensor, "n d"]  # phi^2
    everything: Float[Tensor, "k d"]  # F
    precision: Float[Tensor, "k d"]  # 1 / M before anything is picked
    block: int  # samples

    @classmethod
    def of(
        cls, unlabelled: tuple[Tensor, Tensor], labelled: tuple[Tensor, Tensor], weights: Weights, block_bytes: int
    ) -> "DiagonalProblem":
        (h, squares), (h_l, squares_l) = (
            (p * (1 - p), features.square())
            for features, p in ((x, z.softmax(dim=1)) for x, z in (unlabelled, labelled))
        )
        known = h_l.mT @ squares_l
        everything = (h.mT @ squares + known) * weights.everything
        block = max(1, block_bytes // (3 * everything.nbytes))
        return cls(h * weights.candidate**2, squares, everything, known * weights.labelled + weights.prior, block)

    def gains(self, samples: Int[Tensor, " r"], precision: Float[Tensor, "k d"], sign: int) -> Float[Tensor, " r"]:
        """sum(F M^2 f / (sign + M f)): the gain of a pick (sign 1), minus the loss of a removal (-1)."""
        weights, parts = (self.everything / precision).flatten(), []
        for block in samples.split(self.block):
            ratio = (self.h[block].unsqueeze(2) * self.squares[block].unsqueeze(1)).div_(precision)  # M f
            parts.append(ratio.div_(1 + sign * ratio).flatten(1) @ weights)
        return sign * torch.cat(parts)

    def first_scores(self) -> Float[Tensor, " n"]:
        return self.gains(torch.arange(len(self.h), device=self.h.device), self.precision, 1)

    def select(self, batch_size: int) -> Int[Tensor, " b"]:
        """tr(M F) is supermodular in the picks: gains shrink, losses grow, and lazy evaluation gives the same picks."""
        pool, precision = torch.arange(len(self.h), device=self.h.device), self.precision.clone()

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

        picked = greedy(pool, min(2 * batch_size, len(pool)), 1)
        return picked[~torch.isin(picked, greedy(picked, len(picked) - batch_size, -1))]
