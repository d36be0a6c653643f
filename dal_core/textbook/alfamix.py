"""ALFA-Mix (Parvaneh et al. 2022, arXiv 2203.07034)."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def alfamix_candidates(
    features_u: Tensor, logits_u: Tensor, weight: Tensor, bias: Tensor | None, features_l: Tensor, labels_l: Tensor
) -> Tensor:
    """Return the positions that flip on the way to an anchor, interpolated to each in turn (equation 5); O(n a d k).

    alpha = eps |z* - z| g / (|g| (z* - z)) with g the gradient of the loss at the pseudo-label. Where it divides 0 by
    0 all logits are NaN, and argmax reads class 0 from them, as in the published code.
    """
    predictions = logits_u.argmax(dim=1)
    gradients = (logits_u.softmax(dim=1) - one_hot(predictions, len(weight))) @ weight
    lengths = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    flips = torch.zeros(len(features_u), dtype=torch.bool)
    for label in labels_l.unique():
        anchor = features_l[labels_l == label].mean(dim=0)
        way = anchor - features_u
        distances = torch.linalg.vector_norm(way, dim=1, keepdim=True)
        alpha = 0.2 / features_u.shape[1] ** 0.5 * distances * gradients / (lengths * way)
        moved = alpha * anchor + (1 - alpha) * features_u
        flips |= (moved @ weight.mT + (0 if bias is None else bias)).argmax(dim=1) != predictions
    return flips.nonzero().flatten()
