"""DropQuery: predictions that change under dropout of the features (Gupte et al. 2024, arXiv 2401.14555)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_generator, check_number, check_whole
from dal_core.snapshot import Snapshot
from dal_core.strategies.alfamix import check_last_layer, diverse_picks
from dal_core.strategies.registry import register

BLOCK_BYTES = 64 * 2**20  # of changed features held at a time
CANDIDATES_A_PICK = 25  # before the threshold is lowered


@register("dropquery")
def dropquery(
    snapshot: Snapshot, batch_size: int, generator: torch.Generator, *, num_passes: int = 3, dropout: float = 0.75
) -> Int[Tensor, " b"]:
    """Diverse instances whose prediction changes under dropout of the features (Gupte et al. 2024, arXiv 2401.14555).

    The candidates are `dropquery_candidates`, the picks `diverse_picks` among them.
    """
    check_batch_size(batch_size, len(snapshot.features))
    enough = CANDIDATES_A_PICK * batch_size
    candidates = dropquery_candidates(snapshot, enough, generator, num_passes=num_passes, dropout=dropout)
    return diverse_picks(snapshot.features, candidates, batch_size, generator)


def dropquery_candidates(
    snapshot: Snapshot, enough: int, generator: torch.Generator, *, num_passes: int = 3, dropout: float = 0.75
) -> Int[Tensor, " c"]:
    """Positions, ascending, of the instances that disagree with their prediction in more than half of the passes.

    Where these are fewer than `enough`, the threshold is lowered pass by pass, down to those that disagree at least
    once.
    """
    disagreements = dropout_disagreements(
        snapshot.features, snapshot.logits, snapshot.weight, snapshot.bias, generator,
        num_passes=num_passes, dropout=dropout,
    )  # fmt: skip
    thresholds = torch.arange(num_passes // 2 + 1, device=disagreements.device)
    sizes = (disagreements.unsqueeze(1) > thresholds).sum(dim=0).tolist()  # descending
    threshold = max(t for t, size in enumerate(sizes) if t == 0 or size >= enough)
    return (disagreements > threshold).nonzero().squeeze(1)


def dropout_disagreements(
    features: Float[Tensor, "n d"],
    logits: Float[Tensor, "n k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None,
    generator: torch.Generator,
    *,
    num_passes: int = 3,
    dropout: float = 0.75,
) -> Int[Tensor, " n"]:
    """In how many passes with dropout of the features the predicted class differs from that of `logits`.

    A feature is dropped with probability `dropout`, and what is left divided by 1 - `dropout`. The masks come from the
    (CPU) generator, so that they are the same on every device. O(num_passes n d k) time, in blocks.

    Raises:
        ValueError: if `num_passes` is below 1, `dropout` is not in [0, 1), or arguments do not fit each other or hold
            NaN or infinite values.
    """
    check_last_layer(weight, bias, features=features, logits=logits)
    check_generator("generator", generator)
    check_whole("num_passes", num_passes, 1)
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; a number of at least 0 and below 1 was expected")
    prediction = logits.argmax(dim=1)
    disagreements = torch.zeros_like(prediction)
    rows = max(1, BLOCK_BYTES // (features.element_size() * (features.shape[1] + len(weight))))
    for _ in range(num_passes):
        for start in range(0, len(features), rows):
            block = slice(start, start + rows)
            kept = torch.rand(features[block].shape, generator=generator) >= dropout
            dropped = features[block] * kept.to(features.device) / (1 - dropout)
            outputs = dropped @ weight.mT if bias is None else dropped @ weight.mT + bias
            disagreements[block] += outputs.argmax(dim=1) != prediction[block]
    return disagreements
