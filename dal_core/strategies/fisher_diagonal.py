"""BAIT where all Fisher information is reduced to its diagonal (Huseljic et al. 2024, section 4).

Axes: n samples, b batch, k classes, d features.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.fisher_spaces import Weighting
from dal_core.strategies.lazy import CHECKED_AT_ONCE, Argmax, lazy_picks
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
    labelled_precision = labelled.total() * weighting.labelled + weighting.prior
    candidates = unlabelled.scaled(weighting.candidate**2)
    size = max(1, block_bytes // (3 * everything.numel() * everything.element_size()))

    def changes(samples: Tensor, precision: Tensor, sign: int) -> Tensor:
        parts = []
        for block in samples.split(size):
            ratio = candidates.of_samples(block).div_(precision)  # M f
            parts.append(ratio.div_(1 + sign * ratio).flatten(1) @ (everything / precision).flatten())
        return torch.cat(parts)

    n = len(unlabelled.classes)
    pool = torch.arange(n, device=everything.device)
    if not backward:
        return highest(changes(pool, labelled_precision, 1), batch_size)

    def pick(argmax: Argmax) -> Tensor:
        precision = labelled_precision.clone()

        def add(best: Tensor, sign: int) -> None:
            precision.add_(candidates.of_samples(best)[0], alpha=sign)

        gains, losses = (lambda rows: changes(rows, precision, 1)), (lambda rows: -changes(rows, precision, -1))
        picked = _greedy(argmax, pool, min(2 * batch_size, n), gains, lambda best: add(best, 1))
        removed = _greedy(argmax, picked, len(picked) - batch_size, losses, lambda worst: add(worst, -1))
        kept = torch.ones_like(pool, dtype=torch.bool).index_fill_(0, removed, False)
        return picked[kept[picked]]

    return lazy_picks(pick, pool.device, at_once=max(size, CHECKED_AT_ONCE))


def _greedy(
    argmax: Argmax,
    samples: Int[Tensor, " n"],
    count: int,
    gains: Callable[[Tensor], Tensor],
    commit: Callable[[Tensor], None],
) -> Int[Tensor, " count"]:
    """`count` times the sample with the largest gain, which `commit` takes in, as a tensor of one position."""
    bounds = gains(samples)
    fresh = torch.ones_like(bounds, dtype=torch.bool)
    chosen = samples.new_empty(count)
    for step in range(count):
        best = argmax(bounds, fresh, lambda rows: gains(samples[rows])).view(1)
        chosen[step] = sample = samples.index_select(0, best)
        commit(sample)
        bounds.index_fill_(0, best, -torch.inf)
        fresh = torch.isneginf(bounds)
    return chosen
