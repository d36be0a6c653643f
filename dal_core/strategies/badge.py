"""BADGE: diverse gradients of the last layer (Ash et al. 2020, arXiv 1906.03671)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, checked
from dal_core.snapshot import Predictions
from dal_core.strategies.registry import register
from dal_core.strategies.shared.drawing import drawn_in_proportion
from dal_core.strategies.uncertainty import ClassScores

CACHED = 2**20  # Up to so many numbers, reading all features is faster than choosing those that matter.


@register("badge")
@checked
def badge(snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Pick by `badge_select`: k-means++ on the gradients that the last layer would get from the predicted labels."""
    return badge_select(snapshot.features, snapshot.logits, batch_size, generator)


@checked
def badge_embedding_norm(features: Float[Tensor, "n d"], logits: ClassScores) -> Float[Tensor, " n"]:
    """Return the length of the gradient embedding g = e (x) phi, with e = onehot(argmax p) - p: |e| |phi|.

    O(n (k + d)) time.

    >>> badge_embedding_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([3.5355])
    """
    return _squared_norms(features, _errors(logits)).sqrt()


@checked
def badge_select(
    features: Float[Tensor, "n d"], logits: ClassScores, batch_size: BatchSize, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """Pick k-means++ seeds of g = e (x) phi: the longest first, then in proportion to the squared distance.

    The vectors of length k d are never formed, since <g, g'> = <e, e'> <phi, phi'>: O(b n (k + d)) time and O(n k)
    memory; of a large pool, features are read only where an instance may have come nearer. Ties of the longest go to
    the lower position; where all that is left coincides with what was picked, the next one is drawn uniformly.

    >>> features = torch.tensor([[1.0], [2.0], [1.0]])
    >>> badge_select(features, torch.zeros(3, 2), 1, torch.Generator())
    tensor([1])
    """
    errors = _errors(logits)
    squared_norms = _squared_norms(features, errors)
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    distances = torch.full_like(squared_norms, torch.inf)  # to the nearest picked instance, squared
    lengths = torch.linalg.vector_norm(features, dim=1)
    near: slice | Tensor
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64).to(features.device)
    last = int(squared_norms.argmax())
    picked = [last]
    for uniform in draws[1:].unbind():
        by_errors, near = torch.mv(errors, errors[last]), slice(None)  # <e, e'>
        if features.numel() > CACHED:  # <g, g'> is at most |<e, e'>| |phi| |phi'|, which keeps most of them away.
            nearest = squared_norms + squared_norms[last] - 2 * lengths[last] * lengths * by_errors.abs()
            near = (nearest < distances).nonzero().squeeze(1)
        product = by_errors[near] * (features[near] @ features[last])  # <g, g'>
        to_last = squared_norms[near] + squared_norms[last] - 2 * product
        distances[near] = torch.minimum(distances[near], to_last.clamp_min_(0))  # Rounding may leave less than 0.
        distances[last], left[last] = 0, False
        last = int(drawn_in_proportion(distances, uniform, otherwise=left))
        picked.append(last)
    return torch.tensor(picked, device=features.device)


def _errors(logits: Tensor) -> Tensor:
    """onehot(argmax p) - p.  [n, k]"""
    probabilities = logits.softmax(dim=1)
    highest = probabilities.argmax(dim=1, keepdim=True)
    return probabilities.neg_().scatter_add_(1, highest, torch.ones_like(probabilities[:, :1]))


def _squared_norms(features: Tensor, errors: Tensor) -> Tensor:
    return errors.square().sum(dim=1) * torch.linalg.vecdot(features, features)
