"""DropQueryClass: DropQuery that knows the classes, an upper baseline (BoSS; Huseljic et al., arXiv 2603.13109)."""

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import BatchSize, Count, checked
from dal_core.oracles.typiclass import class_balanced_select
from dal_core.snapshot import Truth
from dal_core.strategies.dropquery import CANDIDATES_A_PICK, Dropout, dropquery_candidates
from dal_core.strategies.registry import register


@register("dropqueryclass", version=2)
@checked
def dropqueryclass(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    num_passes: Count = 3,
    dropout: Dropout = 0.75,
) -> Int[Tensor, " b"]:
    """Pick as `typiclass` does, among the instances whose prediction changes under dropout (`dropquery_candidates`).

    Features are L2-normalised first, as DropQuery's are. Where candidates are too few for a batch, the others follow by
    the same rule.
    """
    enough = CANDIDATES_A_PICK * batch_size
    candidates = dropquery_candidates(snapshot, enough, generator, num_passes=num_passes, dropout=dropout)
    unit = torch.nn.functional.normalize(snapshot.features, dim=1)
    counts = torch.bincount(snapshot.labels, minlength=snapshot.num_classes)
    picked = candidates[:0]
    others = torch.ones_like(snapshot.hidden_labels, dtype=torch.bool).index_fill(0, candidates, False)
    for positions in (candidates, others.nonzero().squeeze(1)):
        size = min(batch_size - len(picked), len(positions))
        if size:
            labels = snapshot.hidden_labels[positions]
            chosen = class_balanced_select(unit[positions], labels, counts, size)
            picked = torch.cat((picked, positions[chosen]))
            counts = counts + torch.bincount(labels[chosen], minlength=len(counts))
    return picked
