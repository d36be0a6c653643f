"""Strategies that spread their picks, and the k-means below some of them."""

import functools
import math

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks.case import Case, Goal
from benchmarks.data import NUM_CLASSES, Size, clustered, in_float64, size_of
from benchmarks.timing import check_picks
from dal_core import strategies, textbook
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot
from dal_core.strategies.herding import nearest_pair_gamma
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

CHECKED, CHECKED_BATCH = 500, 20  # samples on which both ways have to pick the same, in float64
RADIUS = 1.25  # of ProbCover: a ball holds much of a class and little of others
WORSE = 1.05  # how much larger than scikit-learn's the sum of squares within clusters may be


def pick(name: str, at: Snapshot, batch_size: int) -> Tensor:
    return strategies.get(name)(at, batch_size, generator_for(0, "strategy"))


def read(at: Snapshot, *names: str) -> dict[str, float]:
    """Bytes of the pool's features X and logits Z, and of the labelled features L."""
    tensors = {"X": at.features, "Z": at.logits, "L": at.labelled_features}
    return {name: float(tensors[name].nbytes) for name in names}


def unc_herding(*, small: bool) -> Case:
    """`unc_herding`, which finds a temperature first, against the gains from the whole kernel in every step."""
    size, steps = Size(5000, 100, NUM_CLASSES).fitted(small=small), 2
    at, batch_size = size.snapshot(), size.b

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        unit = torch.nn.functional.normalize
        unlabelled, labelled = unit(at.features, dim=1), unit(at.labelled_features, dim=1)
        uncertainty = margin_scores((at.logits / temperatures[at.logits.dtype]).softmax(dim=1))
        gamma = nearest_pair_gamma(at.labelled_features)
        return textbook.herding_select(unlabelled, labelled, batch_size, gamma=gamma, uncertainty=uncertainty)

    part, few = in_float64(at, CHECKED), min(CHECKED_BATCH, batch_size)
    temperatures = {each.logits.dtype: held_out_temperature(each, generator_for(0, "strategy")) for each in (at, part)}
    check_picks("unc_herding", pick("unc_herding", part, few), plain(part, few))
    note = f"whole kernel, {steps} of {batch_size} steps, scaled; temperature given"
    return Case(
        size_of(at, batch_size),
        lambda: pick("unc_herding", at, batch_size),
        lambda: plain(at, steps),
        Goal(seconds=0.6),
        batch_size / steps,
        note,
        reads=read(at, "X", "Z", "L"),
    )


def max_herding(*, small: bool) -> Case:
    """`max_herding`, against the gains from the whole kernel in every step."""
    size, steps = Size(5000, 100, NUM_CLASSES).fitted(small=small), 2
    at = size.snapshot()

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        unlabelled, labelled = (
            torch.nn.functional.normalize(each, dim=1) for each in (at.features, at.labelled_features)
        )
        return textbook.herding_select(unlabelled, labelled, batch_size, gamma=1.0)

    part, batch_size = in_float64(at, CHECKED), min(CHECKED_BATCH, size.b)
    check_picks("max_herding", pick("max_herding", part, batch_size), plain(part, batch_size))
    return Case(
        size_of(at, size.b),
        lambda: pick("max_herding", at, size.b),
        lambda: plain(at, steps),
        scale=size.b / steps,
        note=f"whole kernel, {steps} of {size.b} steps, scaled",
        reads=read(at, "X", "L"),
    )


def herding_large(*, small: bool) -> Case:
    """`max_herding` on a pool whose kernel does not fit into the memory; `max_herding` above checks the picks."""
    size = Size(50_000, 100, 100).fitted(small=small)
    at = size.snapshot()
    goal = Goal(seconds=60, memory=1e9)
    return Case(
        size_of(at, size.b), lambda: pick("max_herding", at, size.b), goal=goal, note="none", reads=read(at, "X", "L")
    )


def probcover(*, small: bool) -> Case:
    """`probcover` with a given radius, against the whole graph of neighbours and all counts anew in every step."""
    size, steps = Size(5000, 100, NUM_CLASSES).fitted(small=small), 5
    at = size.snapshot()

    def ours(at: Snapshot, batch_size: int) -> Tensor:
        return strategies.get("probcover", {"radius": RADIUS})(at, batch_size, generator_for(0, "strategy"))

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        unit = (torch.nn.functional.normalize(each, dim=1) for each in (at.features, at.labelled_features))
        return textbook.probcover_select(*unit, batch_size, radius=RADIUS)

    part, batch_size = in_float64(at, CHECKED), min(CHECKED_BATCH, size.b)
    expected = plain(part, batch_size)  # fewer than the batch where all is covered; ours goes on at random
    check_picks("probcover", ours(part, batch_size)[: len(expected)], expected)
    return Case(
        size_of(at, size.b),
        lambda: ours(at, size.b),
        lambda: plain(at, steps),
        scale=size.b / steps,
        note=f"the graph once a step, {steps} of {size.b} steps, scaled",
        reads=read(at, "X", "L"),
    )


def typiclust(num_pool: int, num_labelled: int, batch_size: int, seconds: float | None, *, small: bool) -> Case:
    """`typiclust`, against a plain search through all clusters; the k-means is ours in both, and most of the time."""
    size = Size(num_pool, num_labelled, batch_size).fitted(small=small)
    at = size.snapshot()

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        both = torch.cat((at.features, at.labelled_features))
        clusters = k_means(both, min(len(at.labels) + batch_size, 500), generator_for(0, "strategy"))
        return textbook.typiclust_select(at.features, clusters, batch_size)

    part, batch_size = in_float64(at, CHECKED), min(CHECKED_BATCH, size.b)
    check_picks("typiclust", pick("typiclust", part, batch_size), plain(part, batch_size))
    return Case(
        size_of(at, size.b),
        lambda: pick("typiclust", at, size.b),
        lambda: plain(at, size.b),
        Goal(seconds=seconds),
        note="the same k-means, then all clusters anew for each pick",
        reads=read(at, "X", "L"),
    )


def badge(*, small: bool) -> Case:
    """`badge`, against k-means++ on gradient vectors of length k d."""
    size = Size(2500, 100, NUM_CLASSES).fitted(small=small)
    at, batch_size = size.snapshot(), size.b

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook.badge_select(at.features, at.logits, batch_size, generator_for(0, "strategy"))

    part, few = in_float64(at, CHECKED), min(CHECKED_BATCH, batch_size)
    check_picks("badge", pick("badge", part, few), plain(part, few))
    return Case(
        size_of(at, batch_size),
        lambda: pick("badge", at, batch_size),
        lambda: plain(at, batch_size),
        Goal(seconds=0.3),
        note="vectors of length k d",
        reads={"b X": float(batch_size * at.features.nbytes), "b Z": float(batch_size * at.logits.nbytes)},
    )


def core_set(*, small: bool) -> Case:
    """`coreset`, against the distances to all centres in every step."""
    size, steps = Size(10_000, 100, 100).fitted(small=small), 5
    at, batch_size = size.snapshot(), size.b

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook.k_center_greedy(at.features, at.labelled_features, batch_size)

    part, few = in_float64(at, CHECKED), min(CHECKED_BATCH, batch_size)
    check_picks("coreset", pick("coreset", part, few), plain(part, few))
    note = f"all distances anew, first {steps} of {batch_size} steps, scaled: later ones take longer"
    return Case(
        size_of(at, batch_size),
        lambda: pick("coreset", at, batch_size),
        lambda: plain(at, steps),
        Goal(seconds=1),
        batch_size / steps,
        note,
        reads={"b X": float(batch_size * at.features.nbytes)} | read(at, "L"),
    )


def clustering(num_samples: int, num_clusters: int, *, small: bool) -> Case:
    """`k_means` against scikit-learn's with its own seeds."""
    size = Size(num_samples, 0, num_clusters).fitted(small=small)
    num_samples, num_clusters = size.n, size.b
    features = clustered(
        num_samples, generator_for(0, "features"), num_classes=size.k, num_features=size.d, dtype=torch.float32
    )[0]

    def ours() -> Tensor:
        return k_means(features, num_clusters, generator_for(0, "k-means"))

    def theirs() -> Tensor:
        return torch.from_numpy(KMeans(num_clusters, n_init=1, random_state=0).fit_predict(features.numpy())).long()

    found, expected = (_sum_of_squares(features, way()) for way in (ours, theirs))
    if found > WORSE * expected and not small:  # a few instances are no measure
        raise RuntimeError(f"k-means: a sum of squares of {found:.4g}, but scikit-learn reaches {expected:.4g}")
    note = f"scikit-learn's KMeans; sum of squares {found / expected:.3f} of its"
    words = f"n={num_samples:,}, {num_clusters} clusters, d={size.d}, float32"
    return Case(words, ours, theirs, note=note, foreign=True, reads={"X": float(features.nbytes)})


def _sum_of_squares(features: Tensor, assignment: Tensor) -> float:
    """Squared distances to the means of the clusters."""
    count = int(assignment.max()) + 1
    means = features.new_zeros(count, features.shape[1]).index_add_(0, assignment, features)
    means /= torch.bincount(assignment, minlength=count).unsqueeze(1)
    return math.fsum((features - means[assignment]).square().sum(dim=1).tolist())


CASES = {
    "coreset": core_set,
    "badge": badge,
    "typiclust": functools.partial(typiclust, 5000, 300, 100, None),
    "typiclust-banking77": functools.partial(typiclust, 9249, 377, 77, 0.7),
    "max_herding": max_herding,
    "max_herding-50,000": herding_large,
    "unc_herding": unc_herding,
    "probcover": probcover,
    "k-means-many": functools.partial(clustering, 5000, 427),
    "k-means-few": functools.partial(clustering, 2500, 77),
}
