"""The last layer's posterior beside laplace-torch's, where the two are the same; no goals, as for scikit-activeml.

`benchmarks/laplacetorch.py` says what is the same and what is not. Values are compared in float64 first.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import laplacetorch
from benchmarks.case import Case
from benchmarks.data import Size, clustered
from benchmarks.timing import check_agreement
from dal_core.laplace import covariance_matrix, mean_field_logits, precision_matrix, predictive_variance
from dal_core.models.heads import Head
from dal_core.randomness import generator_for

TOLERANCE = 1e-9  # relative to the largest entry, in float64
ONE_OUTPUT = Size(n=2000, m=0, b=0, k=1)
CLASSES = Size(n=1000, m=0, b=0, k=10, d=64)
CHECKED = 50  # samples

Ways = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def data(size: Size, dtype: torch.dtype, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Features [n, d] and the weight of an untrained last layer [k, d]."""
    features, _ = clustered(n or size.n, generator_for(0, "features"), num_classes=5, num_features=size.d, dtype=dtype)
    weight = Head.initial("linear", size.d, size.k, generator_for(0, "head"), dtype=dtype).weight
    return features, weight * 20  # so that the head is neither certain nor clueless


def case(size: Size, both: Callable[[Tensor, Tensor], Ways], note: str, reads: dict[str, float]) -> Case:
    """Checked on a few samples in float64, and measured in float32."""
    found, expected = both(*data(size, torch.float64, min(CHECKED, size.n)))
    check_agreement(note, [found()], [expected()], TOLERANCE)
    words = f"n={size.n:,}, d={size.d}, k={size.k}, float32"
    return Case(words, *both(*data(size, torch.float32)), note=f"laplace-torch, {note}", reads=reads)


def read(size: Size, *names: str) -> dict[str, float]:
    entries = {"X": size.n * size.d, "S": size.d**2, "W": size.k * size.d, "Z": size.n * size.k}
    return {name: 4.0 * entries[name] for name in names}


def fit_full(*, small: bool) -> Case:
    """One output: its full precision is P."""
    size = ONE_OUTPUT.fitted(small=small)

    def both(features: Tensor, weight: Tensor) -> Ways:
        return (
            lambda: precision_matrix(features),
            lambda: laplacetorch.precision(laplacetorch.fitted(features, weight, "full")),
        )

    return case(size, both, "one output, full; same precision", read(size, "X"))


def fit_kron(*, small: bool) -> Case:
    """All classes, as the factors I and P; compared by the variances that follow, whose cost is counted in neither."""
    size = Size(n=2000, m=0, b=0).fitted(small=small)
    features, weight = data(size, torch.float64, min(CHECKED, size.n))
    posterior = laplacetorch.fitted(features, weight, "kron")
    expected = predictive_variance(features, covariance_matrix(precision_matrix(features)))
    found = laplacetorch.variance(posterior, features[:5])
    check_agreement("kron", [expected[:5].unsqueeze(1).expand_as(found)], [found], TOLERANCE)
    features, weight = data(size, torch.float32)
    return Case(
        f"n={size.n:,}, d={size.d}, k={size.k}, float32",
        lambda: covariance_matrix(precision_matrix(features)),
        lambda: laplacetorch.fitted(features, weight, "kron"),
        note="laplace-torch, k outputs, Kronecker factors decomposed; same variances",
        reads=read(size, "X"),
    )


def variance(*, small: bool) -> Case:
    """One output, with the posterior given."""
    size = ONE_OUTPUT.fitted(small=small)

    def both(features: Tensor, weight: Tensor) -> Ways:
        covariance = covariance_matrix(precision_matrix(features))
        posterior = laplacetorch.fitted(features, weight, "full")
        return (
            lambda: predictive_variance(features, covariance),
            lambda: laplacetorch.variance(posterior, features).squeeze(1),
        )

    return case(size, both, "variance of one output; same values", read(size, "X", "S"))


def predictions(structure: str, *, small: bool) -> Case:
    """A classifier's probabilities, with the posterior given; theirs keeps a Jacobian [n, k, k d]."""
    size = CLASSES.fitted(small=small)

    def both(features: Tensor, weight: Tensor) -> Ways:
        covariance = covariance_matrix(precision_matrix(features))
        posterior = laplacetorch.fitted(features, weight, structure)

        def ours() -> Tensor:
            logits = features @ weight.mT
            spread = predictive_variance(features, covariance)
            return mean_field_logits(logits, spread, laplacetorch.FACTOR).softmax(dim=1)

        return ours, lambda: laplacetorch.probabilities(posterior, features)

    return case(size, both, f"GLM predictive, probit, {structure}; same probabilities", read(size, "X", "S", "W"))


CASES = {
    "laplace-fit-full": fit_full,
    "laplace-fit-kron": fit_kron,
    "laplace-variance": variance,
    "laplace-probit-full": functools.partial(predictions, "full"),
    "laplace-probit-kron": functools.partial(predictions, "kron"),
}
