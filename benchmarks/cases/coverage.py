"""Strategies that spread their picks, and the k-means below some of them."""

import math

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from benchmarks import textbook_coverage
from benchmarks.case import Case, Goal
from benchmarks.data import NUM_CLASSES, NUM_FEATURES, clustered, in_float64, size_of, snapshot
from benchmarks.timing import check_picks
from dal_core import strategies
from dal_core.pool import Snapshot
from dal_core.randomness import generator_for
from dal_core.strategies.calibration import held_out_temperature
from dal_core.strategies.clustering import k_means
from dal_core.strategies.coverage import nearest_pair_gamma
from dal_core.strategies.uncertainty import margin_scores

CHECKED, CHECKED_BATCH = 500, 20  # samples on which both ways have to pick the same, in float64
WORSE = 1.05  # how much larger than scikit-learn's the sum of squares within clusters may be


def pick(name: str, at: Snapshot, batch_size: int) -> Tensor:
    return strategies.get(name)(at, batch_size, generator_for(0, "strategy"))


def unc_herding() -> Case:
    """`unc_herding`, which finds a temperature first, against the gains from the whole kernel in every step."""
    batch_size, steps = NUM_CLASSES, 2
    at = snapshot(5000, 100)

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        unit = torch.nn.functional.normalize
        unlabelled, labelled = unit(at.features, dim=1), unit(at.labelled_features, dim=1)
        uncertainty = margin_scores((at.logits / temperatures[at.logits.dtype]).softmax(dim=1))
        gamma = nearest_pair_gamma(at.labelled_features)
        return textbook_coverage.herding(
            unlabelled, labelled, batch_size, gamma=gamma, uncertainty=uncertainty, form="rowwise"
        )

    small = in_float64(at, CHECKED)
    temperatures = {each.logits.dtype: held_out_temperature(each, generator_for(0, "strategy")) for each in (at, small)}
    check_picks("unc_herding", pick("unc_herding", small, CHECKED_BATCH), plain(small, CHECKED_BATCH))
    note = f"whole kernel, {steps} of {batch_size} steps, scaled; temperature given"
    return Case(
        size_of(at, batch_size),
        lambda: pick("unc_herding", at, batch_size),
        lambda: plain(at, steps),
        Goal(seconds=0.6),
        batch_size / steps,
        note,
    )


def badge() -> Case:
    """`badge`, against k-means++ on gradient vectors of length k d."""
    batch_size = NUM_CLASSES
    at = snapshot(2500, 100)

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook_coverage.badge(at.features, at.logits, batch_size, generator_for(0, "strategy"))

    small = in_float64(at, CHECKED)
    check_picks("badge", pick("badge", small, CHECKED_BATCH), plain(small, CHECKED_BATCH))
    return Case(
        size_of(at, batch_size),
        lambda: pick("badge", at, batch_size),
        lambda: plain(at, batch_size),
        Goal(seconds=0.3),
        note="vectors of length k d",
    )


def core_set() -> Case:
    """`coreset`, against the distances to all centres in every step."""
    batch_size, steps = 100, 5
    at = snapshot(10_000, 100)

    def plain(at: Snapshot, batch_size: int) -> Tensor:
        return textbook_coverage.core_set(at.features, at.labelled_features, batch_size)

    small = in_float64(at, CHECKED)
    check_picks("coreset", pick("coreset", small, CHECKED_BATCH), plain(small, CHECKED_BATCH))
    note = f"all distances anew, first {steps} of {batch_size} steps, scaled: later ones take longer"
    return Case(
        size_of(at, batch_size),
        lambda: pick("coreset", at, batch_size),
        lambda: plain(at, steps),
        Goal(seconds=1),
        batch_size / steps,
        note,
    )


def clustering(num_samples: int, num_clusters: int) -> Case:
    """`k_means`, which runs on one thread whatever the setting, against scikit-learn's with its own seeds."""
    features = clustered(num_samples, generator_for(0, "features"), dtype=torch.float32)[0]

    def ours() -> Tensor:
        return k_means(features, num_clusters, generator_for(0, "k-means"))

    def theirs() -> Tensor:
        return torch.from_numpy(KMeans(num_clusters, n_init=1, random_state=0).fit_predict(features.numpy())).long()

    found, expected = (_sum_of_squares(features, way()) for way in (ours, theirs))
    if found > WORSE * expected:
        raise RuntimeError(f"k-means: a sum of squares of {found:.4g}, but scikit-learn reaches {expected:.4g}")
    size = f"n={num_samples:,}, {num_clusters} clusters, d={NUM_FEATURES}, float32"
    note = f"scikit-learn's KMeans; sum of squares {found / expected:.3f} of its"
    return Case(size, ours, theirs, note=note)


def _sum_of_squares(features: Tensor, assignment: Tensor) -> float:
    """Squared distances to the means of the clusters."""
    count = int(assignment.max()) + 1
    means = features.new_zeros(count, features.shape[1]).index_add_(0, assignment, features)
    means /= torch.bincount(assignment, minlength=count).unsqueeze(1)
    return math.fsum((features - means[assignment]).square().sum(dim=1).tolist())


CASES = {
    "unc_herding": unc_herding,
    "badge": badge,
    "coreset": core_set,
    "k-means-many": lambda: clustering(5000, 427),
    "k-means-few": lambda: clustering(2500, 77),
}
