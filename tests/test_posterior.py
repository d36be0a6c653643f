"""Paper 1 in stages: the posterior is that of the functions, and further curvatures pass through the same stages."""

import dataclasses
import math

import pytest
import torch

from dal_core import laplace, posterior
from dal_core.laplace import covariance_matrix, mean_field_logits, precision_matrix, second_order_update
from dal_core.posterior import Curvature, Posterior, fit, predict, update

N, B, K, D = 11, 4, 3, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FEATURES, WEIGHT, BIAS, NEW, POOL = normal(N, D), normal(K, D, seed=1), normal(K, seed=2), normal(B, D), normal(7, D)
TARGETS = torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
@pytest.mark.parametrize("likelihood", laplace.LIKELIHOODS)
def test_each_stage_is_its_function(likelihood, bias):
    def logits(features, weight):
        return features @ weight.mT + (0 if bias is None else bias)

    start = fit(FEATURES, WEIGHT, bias, likelihood=likelihood, prior_precision=0.5)
    precision = precision_matrix(FEATURES, logits(FEATURES, WEIGHT), likelihood=likelihood, prior_precision=0.5)
    assert torch.equal(start.covariance, covariance_matrix(precision))
    after = update(start, NEW, TARGETS, gamma=3.0, passes=2)
    weight, covariance = second_order_update(
        WEIGHT, start.covariance, NEW, TARGETS, likelihood=likelihood, gamma=3.0, passes=2, bias=bias
    )
    assert torch.equal(after.weight, weight)
    assert torch.equal(after.covariance, covariance)
    assert (after.likelihood, after.bias) == (likelihood, start.bias)
    variance = laplace.predictive_variance(POOL, covariance)
    expected = mean_field_logits(logits(POOL, weight), variance, math.pi / 8).softmax(dim=1)
    assert torch.equal(predict(after, POOL), expected)
    assert torch.equal(predict(after, POOL, factor=0.0), logits(POOL, weight).softmax(dim=1))


def test_a_posterior_stays_as_it_is():
    start = fit(FEATURES, WEIGHT)
    weight, covariance = start.weight.clone(), start.covariance.clone()
    update(start, NEW, TARGETS)
    assert torch.equal(start.weight, weight)
    assert torch.equal(start.covariance, covariance)
    with pytest.raises(dataclasses.FrozenInstanceError):
        start.weight = WEIGHT


def test_a_layer_of_a_network_gives_a_posterior_without_gradients():
    layer = torch.nn.Linear(D, K, dtype=torch.float64)
    after = update(fit(FEATURES, layer.weight, layer.bias), NEW, TARGETS)
    assert not any(each.requires_grad for each in (after.weight, after.covariance, after.bias))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(FEATURES, WEIGHT, likelihood="probit"), "likelihood is 'probit'; it has to be one of 'gaussian'"),
        (lambda: Posterior(WEIGHT, torch.eye(D).double(), "probit"), "likelihood is 'probit'; it has to be one of"),
        (lambda: fit(FEATURES[:, 1:], WEIGHT), r"weight has shape \(3, 5\); \(k, d\) with d = 4 as in features"),
        (lambda: fit(FEATURES, WEIGHT[:1]), r"weight has shape \(1, 5\); 2 or more classes were expected"),
        (lambda: fit(FEATURES, WEIGHT.float()), r"weight has dtype torch\.float32, but features has torch\.float64"),
        (lambda: update(fit(FEATURES, WEIGHT), NEW, TARGETS + 1), "targets holds labels from 1 to 3; 0 to 2"),
        (lambda: update(fit(FEATURES, WEIGHT), NEW[:, 1:], TARGETS), r"features has shape \(4, 4\)"),
        (lambda: predict(fit(FEATURES, WEIGHT), POOL, factor=-1.0), r"factor is -1\.0; a finite number of at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- further curvatures


def gini(probabilities):
    """1 - sum_k p_k^2, the trace of the softmax' curvature diag(p) - p p^T."""
    return 1 - probabilities.square().sum(dim=-1)


def test_a_further_likelihood_is_one_function(monkeypatch):
    monkeypatch.setitem(laplace.LIKELIHOODS, "gini", gini)
    start = fit(FEATURES, WEIGHT, BIAS, likelihood="gini")
    curvature = gini((FEATURES @ WEIGHT.mT + BIAS).softmax(dim=1))
    precision = torch.eye(D) + sum(c * torch.outer(phi, phi) for c, phi in zip(curvature, FEATURES, strict=True))
    torch.testing.assert_close(start.covariance, torch.linalg.inv(precision))
    after = update(start, NEW, TARGETS, gamma=0.5)
    W, S = WEIGHT, start.covariance
    for phi, y in zip(NEW, TARGETS, strict=True):  # the textbook's recursion, with this curvature
        p, t = (W @ phi + BIAS).softmax(dim=0), S @ phi
        error = torch.nn.functional.one_hot(y, K) - p
        W = W + 0.5 * torch.outer(error, (S - gini(p) / (1 + phi @ t) * torch.outer(t, t)) @ phi)
        a = gini((W @ phi + BIAS).softmax(dim=0))
        S = S - a / (1 + a * (phi @ t)) * torch.outer(t, t)
    torch.testing.assert_close(after.weight, W)
    torch.testing.assert_close(after.covariance, S)


class Diagonal(Curvature):
    """The gaussian likelihood with a variance a feature [d] and no covariances."""

    def precision(self, features, logits, prior_precision):
        return prior_precision + features.square().sum(dim=0)

    def covariance(self, precision):
        return 1 / precision

    def update(self, state, features, targets, gamma, passes):
        weight, variance = state.weight, state.covariance
        for phi, y in zip(features.repeat(passes, 1), targets.repeat(passes), strict=True):
            error = torch.nn.functional.one_hot(y, K) - (weight @ phi + state.bias).softmax(dim=0)
            variance = 1 / (1 / variance + phi.square())
            weight = weight + gamma * torch.outer(error, variance * phi)
        return weight, variance

    def predictive_logits(self, state, features, factor):
        return mean_field_logits(features @ state.weight.mT + state.bias, features.square() @ state.covariance, factor)


def test_another_form_of_covariance_passes_through_the_same_stages(monkeypatch):
    monkeypatch.setitem(posterior.CURVATURES, "diagonal", Diagonal("diagonal"))
    # Where each sample has one feature, the covariance is diagonal anyway, and the paper's form is the same.
    old, new, pool = (torch.eye(D).double().repeat(2, 1)[:rows] * (rows + 1) for rows in (N, B, 7))
    found, expected = (fit(old, WEIGHT, BIAS, likelihood=each) for each in ("diagonal", "gaussian"))
    assert found.covariance.shape == (D,)
    found, expected = (update(each, new, TARGETS, gamma=2.0, passes=2) for each in (found, expected))
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.covariance, expected.covariance.diagonal())
    torch.testing.assert_close(predict(found, pool), predict(expected, pool))
