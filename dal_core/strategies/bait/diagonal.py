"""BAIT where all Fisher information is reduced to its diagonal (Huseljic et al. 2024, section 4).

Axes: n samples, b batch, k classes, d features.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.strategies.bait.spaces import Weighting
from dal_core.strategies.shared.greedy import lazy_argmax
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


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalProblem:
    """`bait_select` with diagonal M and F: a pick adds its f to the precision 1 / M."""

    candidates: Diagonals
    everything: Float[Tensor, "k d"]  # F
    labelled_precision: Float[Tensor, "k d"]
    size: int  # of the blocks of samples

    @classmethod
    def of(
        cls, unlabelled: Diagonals, labelled: Diagonals, weighting: Weighting, block_bytes: int
    ) -> "DiagonalProblem":
        everything = (unlabelled.total() + labelled.total()) * weighting.everything
        labelled_precision = labelled.total() * weighting.labelled + weighting.prior
        size = max(1, block_bytes // (3 * everything.numel() * everything.element_size()))
        return cls(unlabelled.scaled(weighting.candidate**2), everything, labelled_precision, size)

    @property
    def pool(self) -> Int[Tensor, " n"]:
        """Positions of all candidates."""
        return torch.arange(len(self.candidates.classes), device=self.everything.device)

    def changes(self, samples: Int[Tensor, " r"], precision: Float[Tensor, "k d"], sign: int) -> Float[Tensor, " r"]:
        """sum(F M^2 f / (1 +- M f)) of each sample: the gain of a pick (sign 1), the loss of a removal (-1)."""
        parts = []
        for block in samples.split(self.size):
            ratio = self.candidates.of_samples(block).div_(precision)  # M f
            parts.append(ratio.div_(1 + sign * ratio).flatten(1) @ (self.everything / precision).flatten())
        return torch.cat(parts)


def first_gains(problem: DiagonalProblem) -> Float[Tensor, " n"]:
    """The gain of each candidate before anything is picked."""
    return problem.changes(problem.pool, problem.labelled_precision, 1)


def select_diagonal(problem: DiagonalProblem, batch_size: int, *, backward: bool) -> Int[Tensor, " b"]:
    """The best candidates of the first step, or those of the forward steps that the `backward` ones leave.

    tr(M F) is supermodular in the set of picks here, so that gains shrink and losses grow, and lazy evaluation gives
    the same picks.
    """
    if not backward:
        return highest(first_gains(problem), batch_size)
    pool, candidates = problem.pool, problem.candidates

    precision = problem.labelled_precision.clone()

    def add(best: Tensor, sign: int) -> None:
        precision.add_(candidates.of_samples(best)[0], alpha=sign)

    gains, losses = (
        (lambda rows: problem.changes(rows, precision, 1)),
        (lambda rows: -problem.changes(rows, precision, -1)),
    )
    picked = _greedy(pool, min(2 * batch_size, len(pool)), gains, lambda best: add(best, 1))
    removed = _greedy(picked, len(picked) - batch_size, losses, lambda worst: add(worst, -1))
    kept = torch.ones_like(pool, dtype=torch.bool).index_fill_(0, removed, False)
    return picked[kept[picked]]


def _greedy(
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
        best = lazy_argmax(bounds, fresh, lambda rows: gains(samples[rows])).view(1)
        chosen[step] = sample = samples.index_select(0, best)
        commit(sample)
        bounds.index_fill_(0, best, -torch.inf)
        fresh = torch.isneginf(bounds)
    return chosen
