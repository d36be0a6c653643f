"""DropQuery: predictions that change under dropout of the features (Gupte et al. 2024, arXiv 2401.14555)."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Between, Count, checked
from dal_core.laplace import last_layer
from dal_core.snapshot import LastLayer, Snapshot
from dal_core.strategies.alfamix import diverse_picks
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import ClassScores

CANDIDATES_A_PICK = 25  # So many make the threshold of disagreement stay as high as it is.
Dropout = Annotated[float, Between(0, 1, "low")]


@register("dropquery")
@checked
def dropquery(
    snapshot: LastLayer, batch_size: BatchSize, generator: torch.Generator,
    *, num_passes: Count = 3, dropout: Dropout = 0.75,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick diverse instances (`diverse_picks`) whose prediction changes under dropout (`dropquery_candidates`)."""
    enough = CANDIDATES_A_PICK * batch_size
    candidates = dropquery_candidates(snapshot, enough, generator, num_passes=num_passes, dropout=dropout)
    return diverse_picks(snapshot.features, candidates, batch_size, generator)


@checked
def dropquery_candidates(
    snapshot: Snapshot, enough: Count, generator: torch.Generator, *, num_passes: Count = 3, dropout: Dropout = 0.75
) -> Int[Tensor, " c"]:
    """Return the positions, ascending, that disagree with their prediction in more than half of the passes.

    Where these are fewer than `enough`, the threshold is lowered pass by pass, down to a single disagreement.
    """
    disagreements = dropout_disagreements(
        snapshot.features, snapshot.logits, snapshot.weight, snapshot.bias, generator,
        num_passes=num_passes, dropout=dropout,
    )  # fmt: skip
    thresholds = torch.arange(num_passes // 2 + 1, device=disagreements.device)
    sizes = (disagreements.unsqueeze(1) > thresholds).sum(dim=0).tolist()  # descending
    threshold = max(t for t, size in enumerate(sizes) if t == 0 or size >= enough)
    return (disagreements > threshold).nonzero().squeeze(1)


@checked
def dropout_disagreements(
    features: Float[Tensor, "n d"], logits: ClassScores, weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None, generator: torch.Generator,
    *, num_passes: Count = 3, dropout: Dropout = 0.75,
) -> Int[Tensor, " n"]:  # fmt: skip
    """Count the passes with dropout of the features in which the predicted class differs from that of `logits`.

    A feature is dropped with probability `dropout`, and what is left divided by 1 - `dropout`. The masks come from the
    (CPU) generator, so that they are the same on every device. O(num_passes n d k) time, in blocks.

    >>> features, weight = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.9]])
    >>> dropout_disagreements(features, features @ weight.T, weight, None, torch.Generator().manual_seed(0), dropout=0)
    tensor([0])
    """
    prediction = logits.argmax(dim=1)
    disagreements = torch.zeros_like(prediction)
    for _ in range(num_passes):
        for block in blocks(len(features), features.element_size() * (features.shape[1] + len(weight))):
            kept = torch.rand(features[block].shape, generator=generator, dtype=torch.float32) >= dropout
            dropped = features[block] * kept.to(features.device) / (1 - dropout)
            disagreements[block] += last_layer(dropped, weight, bias).argmax(dim=1) != prediction[block]
    return disagreements
