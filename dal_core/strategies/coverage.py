"""Strategies that cover the pool: core-set (Sener & Savarese 2018), herding (Bae et al. 2024, 2025), TypiClust
(Hacohen et al. 2022) and ProbCover (Yehuda et al. 2022).
"""

import heapq

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_batch_size,
    check_choice,
    check_finite,
    check_labels,
    check_number,
    check_positive,
    check_shape,
    check_whole,
)
from dal_core.heads import Head, train_head
from dal_core.metrics import CALIBRATION_BINS
from dal_core.pool import Snapshot
from dal_core.randomness import choose
from dal_core.strategies.clustering import first_of_smallest, k_means, most_typical
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import margin_scores

BLOCK_BYTES = 64 * 2**20  # of distances or kernel values held at a time
HERDING_FORMS = ("rowwise", "coverage")
TIE = 64  # units of the last place, relative to the best gain, within which gains count as equal
CHECKED_AT_ONCE = 64  # candidates whose gain is brought up to date together
TEMPERATURES = torch.arange(10, 201, dtype=torch.float64) / 10  # 1.0, 1.1, ..., 20.0
DUPLICATE = 1e-12  # squared distance between vectors of length 1 up to which they are the same


@register("coreset")
def coreset(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Int[Tensor, " b"]:  # noqa: ARG001
    """k-center greedy in feature space with the labelled instances as initial centres (`k_center_greedy`)."""
    return k_center_greedy(snapshot.features, snapshot.labelled_features, batch_size)


def k_center_greedy(
    features_u: Float[Tensor, "n d"], features_l: Float[Tensor, "m d"], batch_size: int
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance farthest from all centres; what is picked becomes a centre (algorithm 1).

    O(n (m + b) d) time; O(n) memory beside a block of distances. Ties go to the lower position.

    Args:
        features_u: what to pick from.
        features_l: the initial centres.

    Raises:
        ValueError: if `features_l` is empty, `batch_size` is not in 1..n, the two differ in dtype or device, or
            hold NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_batch_size(batch_size, len(features_u))
    if len(features_l) == 0:
        raise ValueError("features_l is empty; k_center_greedy needs at least one labelled instance as initial centre")
    distances = _distances_to_nearest(features_u, features_l)
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        picked[i] = distances.argmax()
        to_picked = _distances(features_u, features_u[picked[i]].unsqueeze(0)).squeeze(1)
        torch.minimum(distances, to_picked, out=distances)
        distances[picked[i]] = -1  # below all others, duplicates of centres included
    return picked


def _distances_to_nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Distance of each instance to the nearest centre, in blocks.  [n]"""
    rows = max(1, BLOCK_BYTES // (len(centres) * features.element_size()))
    nearest = features.new_empty(len(features))
    for start in range(0, len(features), rows):
        nearest[start : start + rows] = _distances(features[start : start + rows], centres).amin(dim=1)
    return nearest


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Euclidean distances.  [n, m]"""
    # From differences, not from |x|^2 - 2 x c + |c|^2, which loses small distances in float32.
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")


@register("max_herding")
def max_herding(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,  # noqa: ARG001
    *,
    gamma: float = 1.0,
    form: str = "rowwise",
) -> Int[Tensor, " b"]:
    """Greedy coverage of the pool with a Gaussian kernel on L2-normalised features (Bae et al. 2024)."""
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, form=form)


def herding_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    *,
    gamma: float,
    uncertainty: Float[Tensor, " n"] | None = None,
    form: str = "rowwise",
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance with the largest gain in coverage.

    With the kernel K_ij = exp(-gamma |x_i - x_j|^2) on L2-normalised features, u the uncertainty (1 if None) and
    c_j the largest kernel value of j with what is labelled or picked, the gain of instance i is

        coverage:  mean_j u_j max(K_ij - c_j, 0)     the definition (Bae et al. 2024)
        rowwise:   u_i mean_j max(K_ij - c_i, 0)     what the Kassel papers' code computes, and their results rest on

    Neither can grow as c grows. A gain computed earlier therefore bounds today's from above, and only candidates
    whose bound reaches the best gain are evaluated again (lazy greedy; Minoux 1978); the picks are those of the full
    evaluation. Ties, up to rounding, go to the lower position. O(n^2 d) time for the first pick, in blocks of the
    kernel; O(n) memory beside them.

    Raises:
        ValueError: if `gamma` is not positive, `form` is unknown, `batch_size` is not in 1..n, uncertainties are
            negative, or arguments do not fit each other or hold NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_positive(gamma=gamma)
    check_choice("form", form, HERDING_FORMS)
    check_batch_size(batch_size, len(features_u))
    if uncertainty is None:
        uncertainty = torch.ones_like(features_u[:, 0])
    check_alike(features_u=features_u, uncertainty=uncertainty)
    check_shape("uncertainty", uncertainty, (len(features_u),))
    check_finite(uncertainty=uncertainty)
    if len(uncertainty) and float(uncertainty.min()) < 0:
        raise ValueError(f"uncertainty holds values down to {float(uncertainty.min())}; none below 0 was expected")

    covered = _coverage(features_u, features_l, gamma)
    bounds = torch.empty_like(covered)
    size = max(1, BLOCK_BYTES // (len(features_u) * features_u.element_size()))
    everything = torch.arange(len(features_u), device=features_u.device)
    for rows in everything.split(size):
        bounds[rows] = _herding_gains(features_u, rows, covered, uncertainty, gamma, form)
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    fresh = torch.ones_like(covered, dtype=torch.bool)  # whether a bound is the gain of this step
    for i in range(batch_size):
        picked[i] = best = _lazy_argmax(features_u, bounds, fresh, covered, uncertainty, gamma, form)
        torch.maximum(covered, _kernel(features_u, features_u[best].unsqueeze(0), gamma).squeeze(1), out=covered)
        bounds[best] = -torch.inf
        fresh = bounds <= 0  # what is picked, and what cannot gain any more
    return picked


def _lazy_argmax(
    features: Tensor, bounds: Tensor, fresh: Tensor, covered: Tensor, uncertainty: Tensor, gamma: float, form: str
) -> Tensor:
    """Position of the largest gain; brings `bounds` and `fresh` up to date where that is needed to know it."""
    while True:
        stale = bounds.masked_fill(fresh, -torch.inf)
        best = bounds.masked_fill(~fresh, -torch.inf).max()
        # In the coverage form two instances that cover each other often gain the same: without a tolerance the rounding
        # of sums would choose between them, and with it the size of blocks and the number of threads.
        threshold = best - TIE * torch.finfo(best.dtype).eps * best.abs()
        waiting = (stale >= threshold).logical_and_(~fresh)
        if not waiting.any():
            positions = torch.arange(len(bounds), device=bounds.device)
            return torch.where(bounds >= threshold, positions, len(bounds)).min()
        rows = stale.masked_fill(~waiting, -torch.inf).topk(min(CHECKED_AT_ONCE, int(waiting.sum()))).indices
        bounds[rows] = _herding_gains(features, rows, covered, uncertainty, gamma, form)
        fresh[rows] = True


def _herding_gains(
    features: Tensor, rows: Tensor, covered: Tensor, uncertainty: Tensor, gamma: float, form: str
) -> Tensor:
    """Gain of each instance in `rows`.  [r]"""
    kernel = _kernel(features[rows], features, gamma)  # [r, n]
    if form == "rowwise":
        return uncertainty[rows] * kernel.sub_(covered[rows].unsqueeze(1)).clamp_min_(0).mean(dim=1)
    return kernel.sub_(covered).clamp_min_(0) @ uncertainty / len(features)


def _coverage(features: Tensor, centres: Tensor, gamma: float) -> Tensor:
    """Largest kernel value of each instance with a centre, 0 without centres.  [n]"""
    if len(centres) == 0:
        return torch.zeros_like(features[:, 0])
    covered = torch.empty_like(features[:, 0])
    rows = max(1, BLOCK_BYTES // (len(centres) * features.element_size()))
    for start in range(0, len(features), rows):
        covered[start : start + rows] = _kernel(features[start : start + rows], centres, gamma).amax(dim=1)
    return covered


def _kernel(rows: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """exp(-gamma |x - y|^2) for vectors of length 1, whose squared distance is 2 - 2 x y.  [r, c]"""
    return (rows @ columns.mT).sub_(1).clamp_max_(0).mul_(2 * gamma).exp_()


@register("unc_herding")
def unc_herding(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    form: str = "rowwise",
    temperature: float | None = None,
    gamma: float | None = None,
) -> Int[Tensor, " b"]:
    """Herding weighted by the margin uncertainty of calibrated predictions (Bae et al. 2025).

    Args:
        form: of the gain, see `herding_select`.
        temperature: divides the logits; None: the one that `held_out_temperature` finds.
        gamma: of the kernel; None: `nearest_pair_gamma` of the labelled instances.
    """
    temperature = held_out_temperature(snapshot, generator) if temperature is None else temperature
    gamma = nearest_pair_gamma(snapshot.labelled_features) if gamma is None else gamma
    check_positive(temperature=temperature)
    uncertainty = margin_scores((snapshot.logits / temperature).softmax(dim=1))
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    return herding_select(unlabelled, labelled, batch_size, gamma=gamma, uncertainty=uncertainty, form=form)


def held_out_temperature(snapshot: Snapshot, generator: torch.Generator) -> float:
    """The temperature that calibrates a last layer on a fifth of the labelled instances that it was not trained on.

    The layer starts from new weights and is trained on the other four fifths as the head was. 1 where fewer than 5
    instances are labelled.
    """
    features, labels = snapshot.labelled_features, snapshot.labels
    if len(labels) < 5:
        return 1.0
    order = choose(len(labels), len(labels), generator).to(features.device)
    held_out, rest = order[: len(labels) // 5], order[len(labels) // 5 :]
    initial = Head.initial(
        "linear", features.shape[1], snapshot.num_classes, generator, dtype=features.dtype, device=features.device
    )
    head = train_head(initial, features, labels, rest, snapshot.training, generator)
    return calibrating_temperature(head.logits(features[held_out]), labels[held_out])


def calibrating_temperature(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], temperatures: Float[Tensor, " t"] = TEMPERATURES
) -> float:
    """Of `temperatures` the one with the smallest expected calibration error of softmax(logits / T).

    The error is `metrics.ece`'s, here for all temperatures at once: the predicted class does not depend on T, and its
    confidence is 1 / sum_k exp((logit_k - logit_max) / T). O(n k t) time, in float64 and in blocks. Ties go to the
    temperature named first.

    Raises:
        ValueError: if there are no samples, or the arguments do not fit each other.
    """
    check_shape("labels", labels, (len(logits),))
    check_labels("labels", labels, logits.shape[1])
    check_finite(logits=logits)
    if len(logits) == 0:
        raise ValueError("logits is empty; at least one sample was expected")
    highest, prediction = logits.double().max(dim=1, keepdim=True)
    below = logits.double() - highest  # [n, k]
    right = (prediction.squeeze(1) == labels).double()
    inverse = 1 / temperatures.double().to(logits.device).view(-1, 1, 1)
    gaps = below.new_zeros(len(temperatures), CALIBRATION_BINS)  # n_bin (accuracy - confidence)
    rows = max(1, BLOCK_BYTES // (8 * len(temperatures) * logits.shape[1]))
    for start in range(0, len(logits), rows):
        confidence = 1 / (below[start : start + rows] * inverse).exp_().sum(dim=-1)  # [t, r]
        index = (confidence * CALIBRATION_BINS).long().clamp_(max=CALIBRATION_BINS - 1)
        gaps.scatter_add_(1, index, right[start : start + rows] - confidence)
    errors = gaps.abs().sum(dim=1) / len(logits)
    return float(temperatures[int(first_of_smallest(errors, errors.new_tensor(1e-12)))])


def nearest_pair_gamma(features_l: Float[Tensor, "m d"]) -> float:
    """1 / (smallest distance between two L2-normalised instances)^2, duplicates left out; 1 without two distinct ones.

    O(m^2 d) time, in float64 and in blocks: a product of vectors of length 1 tells distances down to 1e-7.
    """
    unit = torch.nn.functional.normalize(features_l.double(), dim=1)
    smallest = unit.new_full((), torch.inf)
    rows = max(1, BLOCK_BYTES // (8 * max(1, len(unit))))
    for start in range(0, len(unit), rows):
        squared = 2 - 2 * unit[start : start + rows] @ unit.mT
        smallest = torch.minimum(smallest, squared.masked_fill_(squared <= DUPLICATE, torch.inf).min())
    return 1 / float(smallest) if smallest < torch.inf else 1.0


@register("typiclust")
def typiclust(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    num_neighbours: int = 20,
    max_clusters: int = 500,
    min_cluster_size: int = 5,
) -> Int[Tensor, " b"]:
    """The most typical instance of each cluster without labels, largest first (`typiclust_select`)."""
    return typiclust_select(
        snapshot.features, snapshot.labelled_features, batch_size, generator,
        num_neighbours=num_neighbours, max_clusters=max_clusters, min_cluster_size=min_cluster_size,
    )  # fmt: skip


def typiclust_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    generator: torch.Generator,
    *,
    num_neighbours: int = 20,
    max_clusters: int = 500,
    min_cluster_size: int = 5,
) -> Int[Tensor, " b"]:
    """Typical instances of k-means clusters, from the cluster with the fewest labels first (Hacohen et al. 2022).

    The labelled and the unlabelled instances together are clustered into min(m + b, `max_clusters`) clusters. Then,
    one after another, the cluster with the fewest labelled or picked instances (the largest one of several) gives its
    most typical unlabelled instance, the one with the smallest mean distance to its nearest neighbours among the
    cluster's unlabelled ones (`most_typical`). Clusters of fewer than `min_cluster_size` instances are asked when no
    other has any left. O((n + m) (m + b) d) time for a step of k-means.

    Raises:
        ValueError: if an option is below 1, `batch_size` is not in 1..n, the two differ in dtype or device, or hold
            NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_batch_size(batch_size, len(features_u))
    options = {"num_neighbours": num_neighbours, "max_clusters": max_clusters, "min_cluster_size": min_cluster_size}
    for name, value in options.items():
        check_whole(name, value, 1)
    num_clusters = min(len(features_l) + batch_size, max_clusters)
    assignment = k_means(torch.cat((features_u, features_l)), num_clusters, generator)
    of_unlabelled, of_labelled = assignment[: len(features_u)], assignment[len(features_u) :]
    num_clusters = int(assignment.max()) + 1
    unlabelled = torch.bincount(of_unlabelled, minlength=num_clusters).tolist()
    labelled = torch.bincount(of_labelled, minlength=num_clusters).tolist()
    members = list(of_unlabelled.argsort(stable=True).split(unlabelled))

    queue: list[tuple[bool, int, int, int]] = []  # smallest first
    for cluster in range(num_clusters):
        size = unlabelled[cluster] + labelled[cluster]
        if unlabelled[cluster]:
            heapq.heappush(queue, (size < min_cluster_size, labelled[cluster], -size, cluster))
    picked = torch.empty(batch_size, dtype=torch.int64, device=features_u.device)
    for i in range(batch_size):
        small, seen, order, cluster = heapq.heappop(queue)
        picked[i] = members[cluster][most_typical(features_u[members[cluster]], num_neighbours)]
        members[cluster] = members[cluster][members[cluster] != picked[i]]
        if len(members[cluster]):
            heapq.heappush(queue, (small, seen + 1, order, cluster))
    return picked


@register("probcover")
def probcover(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    radius: float | None = None,
    purity: float = 0.95,
) -> Int[Tensor, " b"]:
    """Balls of a fixed radius on L2-normalised features that cover the most of the pool (Yehuda et al. 2022).

    Args:
        radius: of the balls; None: the largest with which a share `purity` of them holds instances of one k-means
            cluster only, with as many clusters as classes (`pure_radius`).
        purity: see `radius`.
    """
    check_number("purity", purity)
    if not 0 < purity <= 1:
        raise ValueError(f"purity is {purity}; a number above 0 and at most 1 was expected")
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(snapshot.features, dim=1), unit(snapshot.labelled_features, dim=1)
    if radius is None:
        radius = pure_radius(unlabelled, k_means(unlabelled, snapshot.num_classes, generator), purity)
    return probcover_select(unlabelled, labelled, batch_size, generator, radius=radius)


def pure_radius(features: Float[Tensor, "n d"], assignment: Int[Tensor, " n"], purity: float) -> float:
    """The largest radius with which a share `purity` of the balls around instances holds one cluster only.

    A ball is pure up to the distance to the nearest instance of another cluster, so that the radius is just below the
    1 - `purity` quantile of these distances. `features` are L2-normalised. O(n^2 d) time, in blocks.
    """
    distances = torch.empty_like(features[:, 0])
    rows = max(1, BLOCK_BYTES // (len(features) * features.element_size()))
    for start in range(0, len(features), rows):
        block = slice(start, start + rows)
        other = assignment[block].unsqueeze(1) != assignment
        squared = 2 - 2 * (features[block] @ features.mT).masked_fill_(~other, -1)  # 4: none is farther
        distances[block] = squared.amin(dim=1).clamp_min_(0).sqrt_()
    quantile = distances.sort().values[min(len(distances) - 1, int((1 - purity) * len(distances) + 1e-9))]
    return max(
        1e-3, float(quantile) * (1 - 1e-4)
    )  # off the instance at that distance, so that rounding decides nothing


def probcover_select(
    features_u: Float[Tensor, "n d"],
    features_l: Float[Tensor, "m d"],
    batch_size: int,
    generator: torch.Generator,
    *,
    radius: float,
) -> Int[Tensor, " b"]:
    """Pick, one after another, the instance with the most uncovered instances within `radius` (algorithm 1).

    Covered is what lies within `radius` of a labelled or picked instance. Ties go to the lower position; where all is
    covered, the rest is drawn uniformly. Features are L2-normalised. Every instance becomes covered once, so that the
    counts are kept in O(n^2 d) time for any batch size, and in blocks.

    Raises:
        ValueError: if `radius` is not positive, `batch_size` is not in 1..n, the two differ in dtype or device, or
            hold NaN or infinite values.
    """
    check_alike(features_u=features_u, features_l=features_l)
    check_finite(features_u=features_u, features_l=features_l)
    check_positive(radius=radius)
    check_batch_size(batch_size, len(features_u))
    closeness = 1 - radius**2 / 2  # the product of two vectors of length 1 at that distance
    covered = _counts_within(features_u, features_l, closeness) > 0
    counts = _counts_within(features_u, features_u[~covered], closeness)
    left = torch.ones_like(covered)
    picked: list[int] = []
    while len(picked) < batch_size and int((counts * left).max()) > 0:
        best = int((counts * left).argmax())
        picked.append(best)
        left[best] = False
        fresh = ((features_u @ features_u[best]) >= closeness).logical_and_(~covered)
        fresh[best] = ~covered[best]
        counts -= _counts_within(features_u, features_u[fresh], closeness)
        covered |= fresh
    order = choose(len(left), len(left), generator).to(left.device)
    rest = order[left[order]][: batch_size - len(picked)]
    return torch.cat((torch.tensor(picked, dtype=torch.int64, device=left.device), rest))


def _counts_within(features: Tensor, centres: Tensor, closeness: float) -> Tensor:
    """Of how many centres each instance is within reach.  [n] int64"""
    counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    rows = max(1, BLOCK_BYTES // (max(1, len(centres)) * features.element_size()))
    for start in range(0, len(features), rows):
        counts[start : start + rows] = (features[start : start + rows] @ centres.mT >= closeness).sum(dim=1)
    return counts
