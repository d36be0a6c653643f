"""Our posterior of the last layer beside laplace-torch's, where the two are the same (`benchmarks/laplacetorch.py`)."""

import pytest
import torch

pytest.importorskip("laplace", reason="laplace-torch is not installed: a dependency of the tests alone")

from benchmarks import laplacetorch
from dal_core.laplace import covariance_matrix, mean_field_logits, precision_matrix, predictive_variance

N, K, D = 23, 3, 7


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, D, generator=generator, dtype=torch.float64) for rows in (N, K))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_full_precision_is_ours_for_each_output(layer):
    features, weight = layer
    posterior = laplacetorch.fitted(features, weight, "full")
    each = torch.eye(K, dtype=torch.float64)
    close(laplacetorch.precision(posterior), torch.kron(each, precision_matrix(features)))


@pytest.mark.parametrize("structure", ["full", "kron"])
def test_predictions_are_the_same(layer, structure):
    features, weight = layer
    posterior = laplacetorch.fitted(features[:-5], weight, structure)
    variance = predictive_variance(features, covariance_matrix(precision_matrix(features[:-5])))
    close(laplacetorch.variance(posterior, features), variance.unsqueeze(1).expand(N, K))
    ours = mean_field_logits(features @ weight.mT, variance, laplacetorch.FACTOR).softmax(dim=1)
    close(laplacetorch.probabilities(posterior, features), ours)
    assert posterior.likelihood == "regression"


def test_a_softmax_is_not_our_categorical_likelihood(layer):
    features, weight = layer
    theirs = laplacetorch.fitted(features, weight, "full", "classification", torch.zeros(N, dtype=torch.int64))
    logits = features @ weight.mT
    p = logits.softmax(dim=1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.einsum("nij,nd,ne->idje", inner, features, features).reshape(K * D, K * D)
    close(laplacetorch.precision(theirs), expected + torch.eye(K * D, dtype=torch.float64))
    shared = torch.kron(torch.eye(K, dtype=torch.float64), precision_matrix(features, logits, likelihood="categorical"))
    assert (laplacetorch.precision(theirs) - shared).abs().max() > 0.1
