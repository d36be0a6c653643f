"""ALFA-Mix: predictions that flip on the way to an anchor (Parvaneh et al. 2022, arXiv 2203.07034)."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import BatchSize, Below, Fewest, checked
from dal_core.randomness import choose
from dal_core.snapshot import LastLayer
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means, nearest_to_means
from dal_core.strategies.uncertainty import ClassScores

Undefined = Literal["limit", "published", "released"]


@register("alfamix", version=2)
@checked
def alfamix(
    snapshot: LastLayer, batch_size: BatchSize, generator: torch.Generator, *, undefined: Undefined = "limit"
) -> Int[Tensor, " b"]:
    """Pick diverse instances (`diverse_picks`) among those whose prediction flips (`alfamix_candidates`)."""
    candidates = alfamix_candidates(
        snapshot.features, snapshot.logits, snapshot.weight, snapshot.bias, snapshot.labelled_features, snapshot.labels,
        undefined=undefined,
    )  # fmt: skip
    return diverse_picks(snapshot.features, candidates, batch_size, generator)


@checked
def alfamix_candidates(
    features_u: Float[Tensor, "n d"], logits_u: ClassScores, weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None,  # noqa: ARG001  # The logits have it already.
    features_l: Float[Tensor, "m d"],
    labels_l: Annotated[Int[Tensor, " m"], Below("k"), Fewest("m", 1, "labelled instances")],
    *, undefined: Undefined = "limit",
) -> Int[Tensor, " c"]:  # fmt: skip
    """Return the positions, ascending, whose prediction flips on the way to at least one anchor (equation 5).

    Anchors z* are the means of the labelled classes. With g = W^T (p - onehot(argmax p)), the gradient of the loss at
    the pseudo-label with respect to the features, and eps = 0.2 / sqrt(d), an instance z moves to z + alpha (z* - z),

        alpha = eps |z* - z| g / (|g| (z* - z)),    which is    z + eps |z* - z| g / |g|:

    the anchor sets the length of the move alone. The logits move along a line then, on which a prediction that has
    flipped stays so, and an instance is a candidate if it flips at its farthest anchor. O(n d (k + a)) time for a
    anchors, in blocks.

    Where z and z* agree in a coordinate, alpha is 0/0, and `undefined` says what becomes of it: "limit" is the formula
    on the right. For comparisons only, "published" makes NaN of all logits and reads class 0 from them, so that such an
    anchor flips every prediction but class 0; one dead coordinate makes nearly the whole pool candidates. "released"
    does so, too, and has an anchor for each of the ids 0 to a - 1: those without labels flip every prediction but class
    0, and later classes have none.

    >>> features, weight = torch.tensor([[0.1, 0.2], [3.0, 0.5]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> alfamix_candidates(features, features @ weight.T, weight, None, torch.tensor([[-2.0, 1.0]]), torch.tensor([1]))
    tensor([0])
    """
    by_class = features_l[labels_l.argsort(stable=True)].split(torch.bincount(labels_l).tolist())
    seen = [members for members in by_class if len(members)]
    anchors = torch.stack([each.mean(dim=0) for each in (by_class[: len(seen)] if undefined == "released" else seen)])
    flips = torch.empty(len(features_u), dtype=torch.bool, device=features_u.device)
    for block in blocks(len(features_u), features_u.element_size() * (features_u.shape[1] + len(weight))):
        flips[block] = _flips(features_u[block], logits_u[block], weight, anchors, undefined)
    return flips.nonzero().squeeze(1)


def _flips(features: Tensor, logits: Tensor, weight: Tensor, anchors: Tensor, undefined: str) -> Tensor:
    prediction = logits.argmax(dim=1, keepdim=True)
    # (p - onehot) / (1 - p_max): only the direction counts, and this one does not vanish where p_max rounds to 1.
    errors = logits.scatter(1, prediction, -torch.inf).softmax(dim=1).scatter_(1, prediction, -1)
    gradients = errors @ weight
    lengths = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    directions = torch.where(lengths > 0, gradients / lengths, 0)
    distances = torch.cdist(features, anchors)  # [r, a]
    always = torch.zeros_like(prediction, dtype=torch.bool)
    if undefined != "limit":
        shared = torch.stack([((features == each) | each.isnan()).any(dim=1) for each in anchors], dim=1)
        distances.masked_fill_(shared, 0)
        always = shared.any(dim=1, keepdim=True) & (prediction != 0)
    reach = distances.amax(dim=1, keepdim=True)
    moved = logits + 0.2 / math.sqrt(features.shape[1]) * reach * (directions @ weight.mT)
    return (always | (moved.argmax(dim=1, keepdim=True) != prediction)).squeeze(1)


@checked
def diverse_picks(
    features: Float[Tensor, "n d"], candidates: Annotated[Int[Tensor, " c"], Below("n")], batch_size: BatchSize,
    generator: torch.Generator,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Pick of `batch_size` k-means clusters of the L2-normalised candidates the instance nearest to each mean.

    Where candidates, or distinct ones, are too few, instances drawn uniformly from the rest fill the batch up.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> diverse_picks(features, torch.tensor([0, 2]), 2, torch.Generator())
    tensor([0, 2])
    """
    picked = candidates
    if len(candidates) > batch_size:
        unit = torch.nn.functional.normalize(features[candidates], dim=1)
        picked = candidates[nearest_to_means(unit, k_means(unit, batch_size, generator))]
    order = choose(len(features), len(features), generator).to(features.device)
    left = torch.ones_like(order, dtype=torch.bool).index_fill_(0, picked, False)
    return torch.cat((picked, order[left[order]]))[:batch_size]
