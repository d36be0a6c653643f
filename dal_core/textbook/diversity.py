"""BADGE (Ash et al. 2020, arXiv 1906.03671), ALFA-Mix (Parvaneh et al. 2022, arXiv 2203.07034), FALCUN (Gilhuber et al.
2024, ECML PKDD): uncertainty and diversity together.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def badge_embeddings(features: Tensor, logits: Tensor) -> Tensor:
    """Return (onehot(argmax p) - p) (x) phi, the gradients of the last layer for the predicted labels.  [n, k d]"""
    p = logits.softmax(dim=1)
    errors = one_hot(p.argmax(dim=1), p.shape[1]) - p
    return (errors.unsqueeze(2) * features.unsqueeze(1)).flatten(1)


def badge_embedding_norm(features: Tensor, logits: Tensor) -> Tensor:
    """Return their lengths.  [n]"""
    return torch.linalg.vector_norm(badge_embeddings(features, logits), dim=1)


def badge_select(features: Tensor, logits: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """Pick k-means++ seeds on these vectors, written out (algorithm 1): the longest first; O(b n k d)."""
    vectors = badge_embeddings(features, logits)
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    squares = torch.linalg.vecdot(vectors, vectors)
    picked = [int(squares.argmax())]
    distances = torch.full_like(squares, torch.inf)
    while len(picked) < batch_size:
        last = picked[-1]
        to_last = squares + squares[last] - 2 * (vectors @ vectors[last])
        distances = torch.minimum(distances, to_last.clamp(min=0))
        distances[last] = 0
        sums = distances.cumsum(dim=0, dtype=torch.float64)
        picked.append(int(torch.searchsorted(sums, draws[len(picked)] * sums[-1], right=True)))
    return torch.tensor(picked)


def alfamix_candidates(
    features_u: Tensor, logits_u: Tensor, weight: Tensor, bias: Tensor | None, features_l: Tensor, labels_l: Tensor,
    *, undefined: str = "limit",
) -> Tensor:  # fmt: skip
    """Return the positions that flip on the way to an anchor, interpolated to each in turn (equation 5); O(n a d k).

    alpha = eps |z* - z| g / (|g| (z* - z)) with g the gradient of the loss at the pseudo-label, or in the "limit" what
    that comes to. Otherwise all logits are NaN where 0 is divided by 0, and argmax reads class 0 from them.
    """
    predictions = logits_u.argmax(dim=1)
    gradients = (logits_u.softmax(dim=1) - one_hot(predictions, len(weight))) @ weight
    lengths = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    flips = torch.zeros(len(features_u), dtype=torch.bool)
    seen = labels_l.unique()
    for label in range(len(seen)) if undefined == "released" else seen:
        anchor = features_l[labels_l == label].mean(dim=0)
        way = anchor - features_u
        distances = torch.linalg.vector_norm(way, dim=1, keepdim=True)
        step = 0.2 / features_u.shape[1] ** 0.5 * distances * gradients / lengths
        moved = features_u + step if undefined == "limit" else features_u + step / way * way
        flips |= (moved @ weight.mT + (0 if bias is None else bias)).argmax(dim=1) != predictions
    return flips.nonzero().flatten()


def falcun_select(probabilities: Tensor, batch_size: int, generator: torch.Generator, *, gamma: float = 10.0) -> Tensor:
    """Draw in proportion to (u + s)^gamma, all distances to all picks anew in every step (algorithm 1); O(b^2 n k)."""
    top = probabilities.topk(2, dim=1).values
    u = (1 - (top[:, 0] - top[:, 1])).double()
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    picked: list[int] = []
    for i in range(batch_size):
        s = u
        for pick in picked:
            s = torch.minimum(s, (probabilities - probabilities[pick]).abs().sum(dim=1).double())
            s = (s - s.min()) / (s.max() - s.min())
        relevance = u + s
        weights = (relevance / relevance.max()).pow(gamma)
        weights[picked] = 0
        sums = weights.cumsum(dim=0)
        picked.append(int(torch.searchsorted(sums, draws[i] * sums[-1], right=True)))
    return torch.tensor(picked)
