"""BADGE (Ash et al. 2020, arXiv 1906.03671)."""

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
