"""Look-ahead upper baseline (Huseljic et al. 2025, section 6): of many candidate batches keep the best one.

Each candidate batch is judged by what the head would be after a second-order update with its true labels.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_choice, check_memory
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_weights
from dal_core.pool import OracleSnapshot, Snapshot
from dal_core.strategies.clustering import k_means
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import margin_scores

LOSSES = ("cross_entropy", "zero_one")
BLOCK_BYTES = 64 * 2**20  # of test logits judged at a time


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
    """The candidate batch with the smallest test loss after the update; ties go to the earlier candidate.

    Raises:
        ValueError: if `num_candidates` is below 3 or `loss` is unknown.
    """
    check_choice("loss", loss, LOSSES)
    candidates = candidate_batches(snapshot, batch_size, num_candidates, generator)
    covariance = covariance_matrix(precision_matrix(snapshot.labelled_features, prior_precision=prior_precision))
    weights = second_order_weights(
        snapshot.weight, covariance, snapshot.features[candidates], snapshot.hidden_labels[candidates],
        gamma=gamma, bias=snapshot.bias,
    )  # [t, k, d]  # fmt: skip
    return candidates[candidate_losses(snapshot, weights, loss).argmin()]


def candidate_batches(
    snapshot: Snapshot, batch_size: int, num_candidates: int, generator: torch.Generator
) -> Int[Tensor, "t b"]:
    """A third random batches, a third with one instance from each of b clusters, a third from the uncertain instances.

    Uncertain is whatever has a margin score above the mean. Where clusters or uncertain instances are too few
    for a batch, random instances fill it up.
    """
    if num_candidates < 3:
        raise ValueError(f"num_candidates is {num_candidates}; at least 3 was expected, one of each kind")
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


def candidate_losses(snapshot: OracleSnapshot, weights: Float[Tensor, "t k d"], loss: str) -> Float[Tensor, " t"]:
    """Mean test loss of t last layers, a block of them at a time."""
    features, labels = snapshot.test_features, snapshot.test_labels
    rows = max(1, BLOCK_BYTES // (len(features) * weights.shape[1] * features.element_size()))
    losses = weights.new_empty(len(weights))
    for start in range(0, len(weights), rows):
        logits = features @ weights[start : start + rows].mT  # [block, n_test, k]
        if snapshot.bias is not None:
            logits = logits + snapshot.bias
        if loss == "zero_one":
            values = (logits.argmax(dim=-1) != labels).to(weights.dtype)
        else:
            values = -logits.log_softmax(dim=-1).gather(-1, labels.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
        losses[start : start + rows] = values.mean(dim=1)
    return losses
