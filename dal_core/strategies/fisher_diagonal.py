"""BAIT where all Fisher information is reduced to its diagonal (Huseljic et al. 2024, section 4).

Axes: n samples, b batch, k classes, d features.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.fisher_spaces import Weighting
from dal_core.strategies.lazy import lazy_argmax
from dal_core.strategies.uncertainty import highest


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonals:
    """Diagonals f = h (x) phi^2 [k, d] of the exact Fisher information of n samples, with h = p (1 - p)."""

    classes: Float[Tensor, "n k"]  # h
    squares: Float[Tensor, "n d"]  # phi^2

    @classmethod
    def of(cls, features: Tensor, logits: Tensor) -> "Diagonals":
        probabilities = logits.softmax(dim=1)
        return cls(probabilities * (1 - probabilities), features.square())

    def scaled(self, scale: float) -> "Diagonals":
        """scale * f."""
        return dataclasses.replace(self, classes=self.classes * scale)

    def of_samples(self, samples: Int[Tensor, " r"]) -> Float[Tensor, "r k d"]:
        """The diagonals of some samples."""
        return self.classes[samples].unsqueeze(2) * self.squares[samples].unsqueeze(1)

    def total(self) -> Float[Tensor, "k d"]:
        """Their sum over all samples."""
        return self.classes.mT @ self.squares


def select_diagonal(
    unlabelled: Diagonals,
    labelled: Diagonals,
    batch_size: int,
    weighting: Weighting,
    *,
    backward: bool,
    block_bytes: int,
) -> Int[Tensor, " b"]:
    """`bait_select` with diagonal M and F: a pick adds its f to the precision 1 / M.

    The forward gain is sum(F M^2 f / (1 + M f)), the backward loss sum(F M^2 f / (1 - M f)). tr(M F) is supermodular in
    the set of picks here, so that gains shrink and losses grow, and lazy evaluation gives the same picks.
    """
    everything = (unlabelled.total() + labelled.total()) * weighting.everything  # F
    precision = labelled.total() * weighting.labelled + weighting.prior
    candidates = unlabelled.scaled(weighting.candidate**2)

    def changes(samples: Tensor, sign: int) -> Tensor:
        size = max(1, block_bytes // (3 * precision.numel() * precision.element_size()))
        parts = []
        for block in samples.split(size):
            ratio = candidates.of_samples(block).div_(precision)  # M f
            parts.append(ratio.div_(1 + sign * ratio).flatten(1) @ (everything / precision).flatten())
        return torch.cat(parts)

    n = len(unlabelled.classes)
    pool = torch.arange(n, device=precision.device)
    if not backward:
        return highest(changes(pool, 1), batch_size)

    def add(best: Tensor, sign: int) -> None:
        precision.add_(candidates.of_samples(best.unsqueeze(0))[0], alpha=sign)

    picked = _greedy(pool, min(2 * batch_size, n), lambda rows: changes(rows, 1), lambda best: add(best, 1))
    removed = _greedy(
        picked, len(picked) - batch_size, lambda samples: -changes(samples, -1), lambda worst: add(worst, -1)
    )
    return picked[~torch.isin(picked, removed)]


def _greedy(
    samples: Int[Tensor, " n"], count: int, gains: Callable[[Tensor], Tensor], commit: Callable[[Tensor], None]
) -> Int[Tensor, " count"]:
    """`count` times the sample with the largest gain, which `commit` takes in."""
    bounds = gains(samples)
    fresh = torch.ones_like(bounds, dtype=torch.bool)
    chosen = samples.new_empty(count)
    for step in range(count):
        best = lazy_argmax(bounds, fresh, lambda rows: gains(samples[rows]))
        chosen[step] = samples[best]
        commit(samples[best])
        bounds[best] = -torch.inf
        fresh = torch.isneginf(bounds)
    return chosen
