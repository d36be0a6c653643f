"""ALFA-Mix: predictions that flip on the way to an anchor (Parvaneh et al. 2022, arXiv 2203.07034)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_batch_size,
    check_choice,
    check_finite,
    check_labels,
    check_shape,
)
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.clustering import k_means, nearest_to_means

BLOCK_BYTES = 64 * 2**20  # of changed features held at a time
UNDEFINED = ("published", "limit")


@register("alfamix")
def alfamix(
    snapshot: Snapshot, batch_size: int, generator: torch.Generator, *, undefined: str = "published"
) -> Int[Tensor, " b"]:
    """Diverse instances whose prediction flips on the way to an anchor (Parvaneh et al. 2022, arXiv 2203.07034).

    The candidates are `alfamix_candidates`, the picks `diverse_picks` among them.

    Raises:
        ValueError: if nothing is labelled, or `undefined` is unknown.
    """
    check_batch_size(batch_size, len(snapshot.features))
    candidates = alfamix_candidates(
        snapshot.features, snapshot.logits, snapshot.weight, snapshot.bias, snapshot.labelled_features, snapshot.labels,
        undefined=undefined,
    )  # fmt: skip
    return diverse_picks(snapshot.features, candidates, batch_size, generator)


def alfamix_candidates(
    features_u: Float[Tensor, "n d"],
    logits_u: Float[Tensor, "n k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None,
    features_l: Float[Tensor, "m d"],
    labels_l: Int[Tensor, " m"],
    *,
    undefined: str = "published",
) -> Int[Tensor, " c"]:
    """Positions, ascending, of the instances whose prediction flips on the way to at least one anchor (equation 5).

    Anchors z* are the means of the labelled classes. With g = W^T (p - onehot(argmax p)), the gradient of the loss at
    the pseudo-label with respect to the features, and eps = 0.2 / sqrt(d), an instance z moves to z + alpha (z* - z),

        alpha = eps |z* - z| g / (|g| (z* - z)),    which is    z + eps |z* - z| g / |g|:

    the anchor sets the length of the move alone. The logits move along a line then, on which a prediction that has
    flipped stays so, and an instance is a candidate if it flips at its farthest anchor. O(n d (k + a)) time for a
    anchors, in blocks.

    Where z and z* agree in a coordinate (0/0 in alpha), the published results rest on code that makes NaN of all logits
    and reads class 0 from them. `undefined="published"` takes that over: such an anchor flips every prediction but
    class 0. "limit" leaves it to the formula on the right. It matters for features with many zeros, as pixels and
    hidden ReLU units are.

    Raises:
        ValueError: if nothing is labelled, `undefined` is unknown, or arguments do not fit each other or hold NaN or
            infinite values.
    """
    check_choice("undefined", undefined, UNDEFINED)
    check_last_layer(weight, bias, features_u=features_u, logits_u=logits_u)
    check_alike(features_u=features_u, features_l=features_l)
    check_shape("labels_l", labels_l, (None,))
    check_shape("features_l", features_l, (len(labels_l), features_u.shape[1]))
    check_labels("labels_l", labels_l, len(weight))
    check_finite(features_l=features_l)
    if len(labels_l) == 0:
        raise ValueError("labels_l is empty; alfamix needs at least one labelled instance as anchor")
    by_class = features_l[labels_l.argsort(stable=True)].split(torch.bincount(labels_l).tolist())
    anchors = torch.stack([members.mean(dim=0) for members in by_class if len(members)])  # [a, d]
    flips = torch.empty(len(features_u), dtype=torch.bool, device=features_u.device)
    rows = max(1, BLOCK_BYTES // (features_u.element_size() * (features_u.shape[1] + len(weight))))
    for start in range(0, len(features_u), rows):
        block = slice(start, start + rows)
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
    if undefined == "published":
        shared = torch.stack([(features == anchor).any(dim=1) for anchor in anchors], dim=1)
        distances.masked_fill_(shared, 0)
        always = shared.any(dim=1, keepdim=True) & (prediction != 0)
    reach = distances.amax(dim=1, keepdim=True)
    moved = logits + 0.2 / math.sqrt(features.shape[1]) * reach * (directions @ weight.mT)
    return (always | (moved.argmax(dim=1, keepdim=True) != prediction)).squeeze(1)


def diverse_picks(
    features: Float[Tensor, "n d"], candidates: Int[Tensor, " c"], batch_size: int, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """Of `batch_size` k-means clusters of the L2-normalised candidates the instance nearest to each mean.

    Where candidates, or distinct ones, are too few, instances drawn uniformly from the rest fill the batch up.
    """
    picked = candidates
    if len(candidates) > batch_size:
        unit = torch.nn.functional.normalize(features[candidates], dim=1)
        picked = candidates[nearest_to_means(unit, k_means(unit, batch_size, generator))]
    order = choose(len(features), len(features), generator).to(features.device)
    left = torch.ones_like(order, dtype=torch.bool).index_fill_(0, picked, False)
    rest = order[left[order]]
    return torch.cat((picked, rest[: batch_size - len(picked)]))


def check_last_layer(weight: Tensor, bias: Tensor | None, **features_and_logits: Tensor) -> None:
    """A last layer, and the features and logits of a pool by what the caller calls them."""
    (features_name, features), (logits_name, logits) = features_and_logits.items()
    check_alike(**features_and_logits, weight=weight)
    check_shape(features_name, features, (None, None))
    check_shape("weight", weight, (None, features.shape[1]))
    check_shape(logits_name, logits, (len(features), len(weight)))
    check_finite(**features_and_logits, weight=weight)
    if bias is not None:
        check_alike(weight=weight, bias=bias)
        check_shape("bias", bias, (len(weight),))
        check_finite(bias=bias)
