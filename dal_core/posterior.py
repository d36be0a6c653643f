"""Paper 1 in stages: curvature -> precision -> posterior -> update -> predict (Huseljic et al. 2025, sections 3 to 5).

A likelihood whose classes share a covariance [d, d] is one function of the probabilities, what phi phi^T of a sample
counts in the precision: `laplace.LIKELIHOODS["name"] = function`. Another form of curvature (diagonal, a covariance a
class) is a subclass of `Curvature`: `CURVATURES["name"] = Mine("name")`. Both names are likelihoods from then on.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dal_core import laplace
from dal_core.checks import check_choice
from dal_core.contracts import Count, NonNegative, Positive, check_fields, checked
from dal_core.laplace import Bias, Features, NewFeatures, Targets, Weight


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """N(weight, covariance) of a last layer, with the covariance as the likelihood's curvature forms it."""

    weight: Weight
    covariance: Float[Tensor, "..."]
    likelihood: str = "gaussian"
    bias: Bias = None

    def __post_init__(self) -> None:
        check_fields(self)
        _curvature_of(self.likelihood)


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The paper's, with one covariance [d, d] for all classes; a subclass takes some of the four steps otherwise."""

    likelihood: str

    def precision(self, features: Tensor, logits: Tensor, prior_precision: float) -> Tensor:
        return laplace.precision_matrix(features, logits, likelihood=self.likelihood, prior_precision=prior_precision)

    def covariance(self, precision: Tensor) -> Tensor:
        return laplace.covariance_matrix(precision)

    def update(self, state: Posterior, features: Tensor, targets: Tensor, **steps: Any) -> tuple[Tensor, Tensor]:
        """Return the new weight and covariance; `steps` are gamma and passes."""
        steps |= {"likelihood": self.likelihood, "bias": state.bias}
        return laplace.second_order_update(state.weight, state.covariance, features, targets, **steps)

    def predictive_logits(self, state: Posterior, features: Tensor, factor: float) -> Tensor:
        variance = laplace.predictive_variance(features, state.covariance)
        return laplace.mean_field_logits(laplace.last_layer(features, state.weight, state.bias), variance, factor)


CURVATURES: dict[str, Curvature] = {}  # What differs from the paper's form, by the name of its likelihood.


def _curvature_of(likelihood: str) -> Curvature:
    check_choice("likelihood", likelihood, [*laplace.LIKELIHOODS, *CURVATURES])
    return CURVATURES.get(likelihood) or Curvature(likelihood)


@checked
def fit(
    features: Features, weight: Weight, bias: Bias = None, *,
    likelihood: str = "gaussian", prior_precision: Positive = 1.0,
) -> Posterior:  # fmt: skip
    """Return the posterior of a trained last layer, from the features [n, d] of its labelled samples.

    >>> fit(torch.ones(3, 1), torch.zeros(2, 1)).covariance.tolist()
    [[0.25]]
    """
    curvature = _curvature_of(likelihood)
    precision = curvature.precision(features, laplace.last_layer(features, weight, bias), prior_precision)
    return Posterior(weight, curvature.covariance(precision), likelihood, bias)


@checked
def update(
    state: Posterior, features: NewFeatures, targets: Targets, *, gamma: Positive = 10.0, passes: Count = 1
) -> Posterior:
    """Return the posterior after new samples, with a Newton step on each (`laplace.second_order_update`).

    >>> update(Posterior(torch.zeros(2, 1), torch.eye(1)), torch.ones(1, 1), torch.tensor([1])).weight.tolist()
    [[-2.5], [2.5]]
    """
    weight, covariance = _curvature_of(state.likelihood).update(state, features, targets, gamma=gamma, passes=passes)
    return dataclasses.replace(state, weight=weight, covariance=covariance)


@checked
def predict(state: Posterior, features: Features, *, factor: NonNegative = torch.pi / 8) -> laplace.Logits:
    """Return the probabilities of the classes [n, k] by mean field: the larger the variance, the nearer to uniform.

    >>> predict(Posterior(torch.tensor([[1.0], [-1.0]]), torch.eye(1)), torch.zeros(1, 1)).tolist()
    [[0.5, 0.5]]
    """
    return _curvature_of(state.likelihood).predictive_logits(state, features, factor).softmax(dim=-1)
