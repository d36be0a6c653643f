"""Sequential batches: update the head after every few picks of a batch (Huseljic et al. 2025, section 6)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.context import Context, Question
from dal_core.contracts import Count, Positive, check_fields
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.models.heads import Head
from dal_core.models.learners import HeadModel
from dal_core.snapshot import LastLayer
from dal_core.strategies.registry import Strategy, query


@dataclasses.dataclass(frozen=True)
class Updates:
    """How the head is updated within a batch: after every `every` picks, with the second-order update."""

    every: Count = 1
    gamma: Positive = 10.0
    likelihood: Literal["gaussian", "categorical"] = "gaussian"
    prior_precision: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


def select_sequentially(
    strategy: Strategy,
    snapshot: LastLayer,
    batch_size: int,
    generator: torch.Generator,
    hidden_labels: Int[Tensor, " n"],
    updates: Updates,
    context: Context | None = None,
    watch: Callable[[Question], None] | None = None,
) -> Int[Tensor, " b"]:
    """A batch that `strategy` picks `updates.every` instances at a time, each time on a head that knows the last picks.

    `hidden_labels` are those of the unlabelled instances: the annotator, asked within the batch instead of at its end,
    and only about what was picked. Covariance and weight are carried on from pick to pick, and the bias takes part in
    the probabilities; released code starts each update from the first covariance, without the bias.
    """
    likelihood, prior = updates.likelihood, updates.prior_precision
    covariance = covariance_matrix(
        precision_matrix(
            snapshot.labelled_features, snapshot.labelled_logits, likelihood=likelihood, prior_precision=prior
        )
    )
    remaining = torch.arange(len(snapshot.features), device=snapshot.features.device)
    picked = remaining[:0]
    while True:
        count = min(updates.every, batch_size - len(picked))
        # Memory, record and trace are those of the whole batch.
        part = dataclasses.replace(context or Context(), remaining=(count,))
        positions = query(strategy, snapshot, count, generator, part, watch)
        if context is not None:
            context.virtual = part.virtual
        picked = torch.cat((picked, chosen := remaining[positions]))
        if len(picked) == batch_size:
            return picked
        features, labels = snapshot.features[positions], hidden_labels[chosen]
        weight, covariance = second_order_update(
            snapshot.weight,
            covariance,
            features,
            labels,
            gamma=updates.gamma,
            likelihood=likelihood,
            bias=snapshot.bias,
        )
        rest = torch.ones_like(remaining, dtype=torch.bool).index_fill_(0, positions, False).nonzero().squeeze(1)
        remaining = remaining[rest]
        snapshot = _observed(snapshot, positions, rest, labels, weight)


def _observed(snapshot: LastLayer, positions: Tensor, rest: Tensor, labels: Tensor, weight: Tensor) -> LastLayer:
    """The snapshot after the instances at `positions` got their `labels` and the last layer became `weight`."""
    head, features = Head(weight, snapshot.bias), snapshot.features[rest]
    labelled = torch.cat((snapshot.labelled_features, snapshot.features[positions]))
    changes: dict[str, Any] = {
        "features": features, "logits": head.last_layer(features), "instances": snapshot.instances[rest],
        "labelled_features": labelled, "labelled_logits": head.last_layer(labelled), "weight": weight,
        "labels": torch.cat((snapshot.labels, labels)),
    }  # fmt: skip
    if isinstance(model := getattr(snapshot, "model", None), HeadModel):
        changes["model"] = HeadModel(Head.stack([dataclasses.replace(model.head, weight=weight)]))
    if hasattr(snapshot, "labelled"):
        changes["labelled"] = torch.cat((snapshot.labelled, snapshot.instances[positions]))
    return dataclasses.replace(snapshot, **changes)
