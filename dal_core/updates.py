"""Sequential batches: update the head after every few picks of a batch (Huseljic et al. 2025, section 6)."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import Count, Positive, check_fields
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.models.heads import Head
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import Strategy, query

Annotator = Callable[[Int[Tensor, " b"]], Int[Tensor, " b"]]


@dataclasses.dataclass(frozen=True)
class Updates:
    """How the head is updated within a batch: after every `every` picks, with the second-order update."""

    every: Count
    gamma: Positive = 10.0
    likelihood: Literal["gaussian", "categorical"] = "gaussian"
    prior_precision: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


def select_sequentially(
    strategy: Strategy,
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    annotate: Annotator,
    updates: Updates,
) -> Int[Tensor, " b"]:
    """A batch that `strategy` picks `updates.every` instances at a time, each time on a head that knows the last picks.

    `annotate` gives the labels of the positions that it is asked for: the annotator, asked within the batch instead
    of at its end, and only about what was picked.
    """
    covariance = covariance_matrix(
        precision_matrix(
            snapshot.labelled_features,
            snapshot.labelled_logits,
            likelihood=updates.likelihood,
            prior_precision=updates.prior_precision,
        )
    )
    current, remaining = snapshot, torch.arange(len(snapshot.features), device=snapshot.features.device)
    picked = remaining[:0]
    while len(picked) < batch_size:
        count = min(updates.every, batch_size - len(picked))
        positions = query(strategy, current, count, generator)
        chosen = remaining[positions]
        picked = torch.cat((picked, chosen))
        if len(picked) == batch_size:
            break
        features, labels = current.features[positions], annotate(chosen)
        weight, covariance = second_order_update(
            current.weight,
            covariance,
            features,
            labels,
            gamma=updates.gamma,
            likelihood=updates.likelihood,
            bias=snapshot.bias,
        )
        rest = torch.ones_like(remaining, dtype=torch.bool).index_fill_(0, positions, False).nonzero().squeeze(1)
        remaining = remaining[rest]
        current = _observed(current, rest, features, labels, weight)
    return picked


def _observed(snapshot: Snapshot, rest: Tensor, features: Tensor, labels: Tensor, weight: Tensor) -> Snapshot:
    """The snapshot after `features` got their `labels` and the head's last layer became `weight`."""
    head = Head(weight, snapshot.bias)
    unlabelled = snapshot.features[rest]
    labelled = torch.cat((snapshot.labelled_features, features))
    return Snapshot(
        features=unlabelled,
        logits=head.last_layer(unlabelled),
        labelled_features=labelled,
        labelled_logits=head.last_layer(labelled),
        labels=torch.cat((snapshot.labels, labels)),
        weight=weight,
        bias=snapshot.bias,
        training=snapshot.training,
        cycle=snapshot.cycle,
    )
