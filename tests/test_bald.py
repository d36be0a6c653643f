import dataclasses

import pytest
import torch
from samples import seeded, snapshot_from, work_in_blocks

from dal_core import strategies, textbook
from dal_core.laplace import covariance_matrix, precision_matrix, predictive_variance, sample_weights
from dal_core.strategies import bald
from dal_core.strategies.bald import mutual_information

N, M, K, D, E = 29, 11, 3, 5, 7


def snapshot_of(bias=None):
    draw = seeded(1)
    features, labelled, weight = (torch.randn(size, D, generator=draw, dtype=torch.float64) for size in (N, M, K))
    offset = 0 if bias is None else bias
    labels = torch.arange(M) % K
    return snapshot_from(
        features, features @ weight.T + offset, labelled, labelled @ weight.T + offset, labels, weight, bias
    )


def inputs():
    taken, variance = snapshot_of(), torch.rand(N, generator=seeded(2), dtype=torch.float64)
    return taken.logits, variance, torch.randn(E, K, generator=seeded(3), dtype=torch.float64)


@pytest.mark.parametrize("block_bytes", [1, 8 * E * K * 4, 2**26], ids=["1 a block", "4 a block", "one block"])
def test_information_is_that_of_the_loop(block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, bald, block_bytes)
    logits, variance, noise = inputs()
    sampled = [logits + variance.sqrt().unsqueeze(1) * each for each in noise]
    expected = textbook.mutual_information(each.softmax(dim=1) for each in sampled)
    torch.testing.assert_close(mutual_information(logits, variance, noise), expected, atol=1e-12, rtol=0)


def test_noise_on_the_logits_stands_for_samples_of_the_last_layer():
    taken = snapshot_of()
    covariance = covariance_matrix(precision_matrix(taken.labelled_features))
    hypotheses = sample_weights(taken.weight, covariance, 40_000, seeded())
    expected = textbook.mutual_information((taken.features @ hypotheses.mT).softmax(dim=-1))
    noise = torch.randn(40_000, K, generator=seeded(1), dtype=torch.float64)
    found = mutual_information(taken.logits, predictive_variance(taken.features, covariance), noise)
    torch.testing.assert_close(found, expected, atol=0.004, rtol=0)  # values from 0.01 to 0.25


def test_what_is_certain_tells_nothing():
    logits, variance, noise = inputs()
    assert mutual_information(logits, torch.zeros_like(variance), noise).abs().max() < 1e-12
    certain = torch.tensor([[1e8, 0, 0]], dtype=torch.float64)
    assert mutual_information(certain, variance[:1], noise).tolist() == [0]


@pytest.mark.parametrize("options", [{}, {"likelihood": "categorical", "prior_precision": 0.1, "draws": 50}])
@pytest.mark.parametrize("with_bias", [False, True])
def test_bald_picks_what_tells_most(options, with_bias):
    taken = snapshot_of(torch.arange(3).double() if with_bias else None)
    full = {"likelihood": "gaussian", "prior_precision": 1.0, "draws": 100} | options
    precision = precision_matrix(
        taken.labelled_features, taken.labelled_logits,
        likelihood=full["likelihood"], prior_precision=full["prior_precision"],
    )  # fmt: skip
    variance = predictive_variance(taken.features, torch.linalg.inv(precision))
    noise = torch.randn(full["draws"], K, generator=seeded(4), dtype=torch.float64)
    scores = mutual_information(taken.logits, variance, noise)
    picked = strategies.get("bald", options)(taken, 9, seeded(4)).tolist()
    assert picked == sorted(range(N), key=lambda i: -scores[i])[:9]


def test_bald_prefers_what_is_far_from_the_labelled():
    taken = snapshot_of()
    features = taken.features / taken.features.norm(dim=1, keepdim=True)
    features[17] *= 6
    equal = dataclasses.replace(taken, features=features, logits=torch.zeros_like(taken.logits))
    assert strategies.get("bald")(equal, 1, seeded()).tolist() == [17]


def test_faults_name_the_argument():
    logits, variance, noise = inputs()
    with pytest.raises(ValueError, match=r"noise has dtype torch\.float32, but logits has torch\.float64"):
        mutual_information(logits, variance, noise.float())
    variance[3] = torch.nan
    with pytest.raises(ValueError, match=r"variance holds 1 values that are NaN or infinite, the first at \(3,\)"):
        mutual_information(logits, variance, noise)
