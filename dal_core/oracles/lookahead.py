"""Look-ahead upper baseline (Huseljic et al. 2025, section 6): of many candidate batches keep the best one.

Each candidate batch is judged by what the head would be after a second-order update with its true labels.

Axes: t candidates, b batch, n unlabelled.
"""

from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_memory
from dal_core.contracts import AtLeast, BatchSize, Positive, checked
from dal_core.oracles.judging import Judgement, Loss, best_of, judge
from dal_core.snapshot import Snapshot, Truth
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.uncertainty import margin_scores

Candidates = Annotated[int, AtLeast(3)]  # one of each kind


@register("lookahead")
@checked
def lookahead(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    num_candidates: Candidates = 300,
    gamma: Positive = 10.0,
    prior_precision: Positive = 1.0,
    loss: Loss = "cross_entropy",
) -> Int[Tensor, " b"]:
    """Pick the candidate batch with the smallest test loss after the update; chance decides between equal ones."""
    judgement = Judgement(loss=loss, retraining="laplace_update", gamma=gamma, prior_precision=prior_precision)
    candidates = candidate_batches(snapshot, batch_size, num_candidates, generator)
    return candidates[best_of(judge(snapshot, candidates, judgement, generator), generator)]


@checked
def candidate_batches(
    snapshot: Snapshot, batch_size: BatchSize, num_candidates: Candidates, generator: torch.Generator
) -> Int[Tensor, "t b"]:
    """Return a third random batches, a third with one instance of each of b clusters, a third of uncertain instances.

    Uncertain is what has a margin score above the mean. Where clusters or uncertain instances are too few for a batch,
    random instances fill it up.
    """
    size, third, single = len(snapshot.features), num_candidates // 3, torch.float32
    check_memory(
        "the draw of candidates", (6, num_candidates, size), torch.empty(0, dtype=single), "use fewer candidates"
    )
    # The smallest keys of a row are its batch.
    keys = torch.rand(num_candidates, size, generator=generator, dtype=single)

    assignment = k_means(snapshot.features, batch_size, generator).cpu()
    clustered = slice(third, 2 * third)
    keys[clustered] += (~_is_smallest_of_its_cluster(keys[clustered], assignment)).to(keys.dtype)

    scores = margin_scores(snapshot.probabilities).cpu()
    keys[2 * third :] += (scores <= scores.mean()).to(keys.dtype)
    return keys.argsort(dim=1)[:, :batch_size].to(snapshot.features.device)


def _is_smallest_of_its_cluster(keys: Tensor, assignment: Tensor) -> Tensor:
    """Whether a key [t, n] is the smallest in its row and cluster.  [t, n] bool"""
    index = assignment.expand_as(keys)
    smallest = keys.new_full((len(keys), int(assignment.max()) + 1), torch.inf).scatter_reduce(1, index, keys, "amin")
    return keys == smallest.gather(1, index)
