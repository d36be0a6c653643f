"""BADGE: diverse gradients of the last layer (Ash et al. 2020, arXiv 1906.03671)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_batch_size, check_finite, check_generator, check_shape
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.shared.positions import index_of


@register("badge")
def badge(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """k-means++ seeding on the gradients that the last layer would get from the predicted labels (`badge_select`)."""
    return badge_select(snapshot.features, snapshot.logits, batch_size, generator)


def badge_embedding_norm(features: Float[Tensor, "n d"], logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Length of the gradient embedding g = e (x) phi, with e = onehot(argmax p) - p: |e| |phi|, O(n (k + d)).

    Raises:
        ValueError: if the two differ in length, dtype or device, or hold NaN or infinite values.
    """
    _check(features, logits)
    return _squared_norms(features, _errors(logits)).sqrt()


def badge_select(
    features: Float[Tensor, "n d"], logits: Float[Tensor, "n k"], batch_size: int, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """k-means++ seeding on g = e (x) phi: the longest first, then in proportion to the squared distance.

    The vectors of length k d are never formed, since <g, g'> = <e, e'> <phi, phi'>: O(b n (k + d)) time and O(n k)
    memory. Ties of the longest go to the lower position; where all that is left coincides with what was
    picked, the next one is drawn uniformly.

    Raises:
        ValueError: as `badge_embedding_norm`, or if `batch_size` is not in 1..n.
    """
    _check(features, logits)
    check_batch_size(batch_size, len(features))
    check_generator("generator", generator)
    errors = _errors(logits)
    squared_norms = _squared_norms(features, errors)
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    distances = torch.full_like(squared_norms, torch.inf)  # to the nearest picked instance, squared
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64).to(features.device)
    picked = torch.empty(batch_size, dtype=torch.int64, device=features.device)
    picked[0] = squared_norms.argmax()
    for i in range(1, batch_size):
        last = index_of(picked[i - 1])
        products = (errors @ errors[last].view(-1)) * (features @ features[last].view(-1))  # <g, g'>
        to_last = (squared_norms + squared_norms[last] - 2 * products).clamp_min_(0)  # rounding may leave less
        torch.minimum(distances, to_last, out=distances)
        left[last] = False
        picked[i] = draw_in_proportion(distances * left, left, draws[i])
    return picked


def draw_in_proportion(
    weights: Float[Tensor, " n"], left: Bool[Tensor, " n"], uniform: Float[Tensor, ""]
) -> Int[Tensor, ""]:
    """A position drawn in proportion to `weights`, by inversion of `uniform`; among those `left` if all are zero."""
    weights = torch.where(weights.any(), weights, left.to(weights.dtype))
    cumulated = weights.cumsum(dim=0, dtype=torch.float64)
    # Strictly below the total, so that the position found always has a positive weight.
    return torch.searchsorted(cumulated, uniform * cumulated[-1] * (1 - 1e-12), right=True)


def _errors(logits: Tensor) -> Tensor:
    """onehot(argmax p) - p.  [n, k]"""
    probabilities = logits.softmax(dim=1)
    highest = probabilities.argmax(dim=1, keepdim=True)
    return probabilities.neg_().scatter_add_(1, highest, torch.ones_like(probabilities[:, :1]))


def _squared_norms(features: Tensor, errors: Tensor) -> Tensor:
    return errors.square().sum(dim=1) * torch.linalg.vecdot(features, features)


def _check(features: Tensor, logits: Tensor) -> None:
    check_alike(features=features, logits=logits)
    check_shape("features", features, (None, None))
    check_shape("logits", logits, (len(features), None))
    check_finite(features=features, logits=logits)
