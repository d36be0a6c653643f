"""Ways to pick without waiting for the card, each for one of the package's that lets the host look at every pick.

The host learns what was picked only at the end, so that it can ask for the next steps meanwhile; for that a step does
more than it needs. Whether that is worth it only a card can tell: each is timed against what the package does, and
picks the same.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.randomness import choose
from dal_core.strategies.herding import herding_select

BLOCK_BYTES = 64 * 2**20  # of products and kernel values held at a time
TIE = 64  # units of the last place, relative to the best gain, within which gains count as equal


def core_set_without_waiting(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: int
) -> Int[Tensor, " b"]:
    """As `k_center_greedy`; positions stay tensors of one entry, because an index without dimensions is waited for."""
    rows = max(1, BLOCK_BYTES // (len(features_l) * features_u.element_size()))
    distances = torch.cat([_distances(block, features_l).amin(dim=1) for block in features_u.split(rows)])
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        best = distances.argmax(dim=0, keepdim=True)
        picked[i : i + 1] = best
        torch.minimum(distances, _distances(features_u, features_u.index_select(0, best)).squeeze(1), out=distances)
        distances.index_fill_(0, best, -1)
    return picked


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")


def badge_without_waiting(
    features: Float[Tensor, "n d"], logits: Float[Tensor, "n k"], batch_size: int, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """As `badge_select`, with positions that stay on the device."""
    probabilities = logits.softmax(dim=1)
    highest = probabilities.argmax(dim=1, keepdim=True)
    errors = probabilities.neg_().scatter_add_(1, highest, torch.ones_like(probabilities[:, :1]))
    squared_norms = errors.square().sum(dim=1) * torch.linalg.vecdot(features, features)
    left, distances = torch.ones_like(squared_norms), torch.full_like(squared_norms, torch.inf)
    draws = torch.rand(batch_size, generator=generator, dtype=torch.float64).to(features.device)
    picked = torch.empty(batch_size, dtype=torch.int64, device=features.device)
    picked[0] = squared_norms.argmax()
    for i in range(1, batch_size):
        last = picked[i - 1 : i]
        products = (errors @ errors[last].view(-1)) * (features @ features[last].view(-1))
        torch.minimum(distances, (squared_norms + squared_norms[last] - 2 * products).clamp_min_(0), out=distances)
        left.index_fill_(0, last, 0)
        weights = distances * left
        cumulated = torch.where(weights.any(), weights, left).cumsum(dim=0, dtype=torch.float64)
        picked[i] = torch.searchsorted(cumulated, draws[i] * cumulated[-1] * (1 - 1e-12), right=True)
    return picked


def herding_with_one_look(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: int, *, gamma: float
) -> Int[Tensor, " b"]:
    """As `herding_select` in its rowwise form: each pick brings a block of gains up to date, needed or not.

    Whether that was enough every time is asked once, at the end; where it was not, `herding_select` is.
    """
    size = max(1, BLOCK_BYTES // (len(features_u) * features_u.element_size()))
    covered = torch.cat([_kernel(block, features_l, gamma).amax(dim=1) for block in features_u.split(size)])
    everything = torch.arange(len(features_u), device=features_u.device)
    bounds = torch.cat([_rowwise_gains(features_u, rows, covered, gamma) for rows in everything.split(size)])
    fresh, sure = torch.ones_like(bounds, dtype=torch.bool), []
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        stale = bounds.masked_fill(fresh, -torch.inf)
        highest = stale.topk(min(size, len(bounds)))
        gains = _rowwise_gains(features_u, highest.indices, covered, gamma)
        waiting = highest.values > -torch.inf  # not what is fresh or picked
        bounds[highest.indices] = torch.where(waiting, gains, bounds[highest.indices])
        fresh.index_fill_(0, highest.indices, True)
        best_gain = bounds.masked_fill(~fresh, -torch.inf).max()
        threshold = best_gain - TIE * torch.finfo(bounds.dtype).eps * best_gain.abs()
        sure.append(((bounds < threshold) | fresh).all())
        best = torch.where(bounds >= threshold, everything, len(bounds)).amin(dim=0, keepdim=True)
        picked[i : i + 1] = best
        by_best = _kernel(features_u, features_u.index_select(0, best), gamma).squeeze(1)
        fresh &= by_best <= covered
        torch.maximum(covered, by_best, out=covered)
        bounds.index_fill_(0, best, -torch.inf)
        fresh |= bounds <= 0
    if torch.stack(sure).all():
        return picked
    return herding_select(features_u, features_l, batch_size, gamma=gamma)


def _rowwise_gains(features: Tensor, rows: Tensor, covered: Tensor, gamma: float) -> Tensor:
    return _kernel(features[rows], features, gamma).sub_(covered[rows].unsqueeze(1)).clamp_min_(0).mean(dim=1)


def _kernel(rows: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |x - y|^2) for vectors of length 1.  [r, c]"""
    return (rows @ columns.mT).sub_(1).clamp_max_(0).mul_(2 * gamma).exp_()


def probcover_without_waiting(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: int, generator: torch.Generator,
    *, radius: float,
) -> Int[Tensor, " b"]:  # fmt: skip
    """As `probcover_select`: no later pick covers more than the first one, so that each step has room for as many."""
    closeness = 1 - radius**2 / 2
    covered = _counts_within(features_u, features_l, closeness) > 0
    counts = _counts_within(features_u, features_u[~covered], closeness)
    room = min(len(features_u), int(counts.max()) + 1)
    left, goes_on = torch.ones_like(covered), torch.empty(batch_size, dtype=torch.bool, device=covered.device)
    picked = torch.empty(batch_size, dtype=torch.int64, device=covered.device)
    for i in range(batch_size):
        open_counts = counts * left
        best = open_counts.argmax(dim=0, keepdim=True)
        useful = open_counts.index_select(0, best) > 0
        picked[i : i + 1], goes_on[i : i + 1] = best, useful
        left.index_fill_(0, best, False)  # where nothing is useful any more, that changes nothing
        fresh = ((features_u @ features_u.index_select(0, best).squeeze(0)) >= closeness).logical_and_(~covered)
        fresh.index_copy_(0, best, ~covered.index_select(0, best)).logical_and_(useful)
        first = fresh.int().topk(room).indices
        counts -= _counts_within(features_u, features_u[first], closeness, counted=fresh[first])
        covered[first] |= fresh[first]
    useful_picks = picked[goes_on]
    left = torch.ones_like(covered).index_fill_(0, useful_picks, False)
    order = choose(len(left), len(left), generator).to(left.device)
    return torch.cat((useful_picks, order[left[order]][: batch_size - len(useful_picks)]))


def _counts_within(features: Tensor, centres: Tensor, closeness: float, counted: Tensor | None = None) -> Tensor:
    """Of how many centres, or of those that are counted, each instance is within reach.  [n] int64"""
    counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    rows = max(1, BLOCK_BYTES // (max(1, len(centres)) * features.element_size()))
    for start in range(0, len(features), rows):
        within = features[start : start + rows] @ centres.mT >= closeness
        counts[start : start + rows] = (within if counted is None else within & counted).sum(dim=1)
    return counts
