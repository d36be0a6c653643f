"""Look-ahead upper baseline (Huseljic et al. 2025, section 6): of many candidate batches keep the best one.

Each candidate batch is judged by what the head would be after a second-order update with its true labels.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_memory, check_whole
from dal_core.oracles.judging import Judgement, best_of, judge
from dal_core.snapshot import OracleSnapshot, Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.uncertainty import margin_scores


@register("lookahead")
def lookahead(
    snapshot: OracleSnapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    num_candidates: int = 300,
    gamma: float = 10.0,
    prior_precision: float = 1.0,
    loss: str = "cross_entropy",
) -> Int[Tensor, " b"]:
    """The candidate batch with the smallest test loss after the update; the generator decides between equal ones.

    Raises:
        ValueError: if `num_candidates` is below 3, `loss` is unknown, or the snapshot has no test set.
    """
    judgement = Judgement(loss=loss, retraining="laplace_update", gamma=gamma, prior_precision=prior_precision)
    candidates = candidate_batches(snapshot, batch_size, num_candidates, generator)
    return candidates[best_of(judge(snapshot, candidates, judgement, generator), generator)]


def candidate_batches(
    snapshot: Snapshot, batch_size: int, num_candidates: int, generator: torch.Generator
) -> Int[Tensor, "t b"]:
    """A third random batches, a third with one instance from each of b clusters, a third from the uncertain instances.

    Uncertain is whatever has a margin score above the mean. Where clusters or uncertain instances are too few
    for a batch, random instances fill it up.
    """
    check_whole("num_candidates", num_candidates, 3)  # one of each kind
    size, third = len(snapshot.features), num_candidates // 3
    check_memory("the draw of candidates", (num_candidates, size), torch.empty(0), "use fewer candidates")
    keys = torch.rand(num_candidates, size, generator=generator)  # the smallest keys of a row are its batch

    assignment = k_means(snapshot.features, batch_size, generator).cpu()
    clustered = slice(third, 2 * third)
    keys[clustered] += (~_is_smallest_of_its_cluster(keys[clustered], assignment)).to(keys.dtype)

    scores = margin_scores(snapshot.probabilities).cpu()
    keys[2 * third :] += (scores <= scores.mean()).to(keys.dtype)
    return keys.argsort(dim=1)[:, :batch_size].to(snapshot.features.device)


def _is_smallest_of_its_cluster(keys: Tensor, assignment: Tensor) -> Tensor:
    """keys [t, n], assignment [n]: whether a key is the smallest in its row and cluster.  [t, n] bool"""
    index = assignment.expand_as(keys)
    smallest = keys.new_full((len(keys), int(assignment.max()) + 1), torch.inf).scatter_reduce(1, index, keys, "amin")
    return keys == smallest.gather(1, index)
