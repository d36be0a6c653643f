"""Prediction metrics against the textbook's loops, and on logits whose metrics are known."""

import math

import pytest
import torch

from dal_core import metrics, textbook

N, K = 53, 4


@pytest.fixture
def predictions(generator):
    """Logits [n, k] with all grades of confidence, and labels that they get right more often than not."""
    logits = 2 * torch.randn(N, K, generator=generator, dtype=torch.float64)
    labels = (logits + torch.randn(N, K, generator=generator, dtype=torch.float64)).argmax(dim=1)
    return logits, labels


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier"])
def test_prediction_metrics_equal_their_loops(predictions, name):
    assert getattr(metrics, name)(*predictions) == pytest.approx(getattr(textbook, name)(*predictions), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 6, 15])
def test_ece_equals_its_loop(predictions, bins):
    expected = textbook.ece(*predictions, bins=bins)
    assert metrics.ece(*predictions, bins=bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gap", [1000.0, 20.0])  # with 20 it is 1.0 in float32 alone, which the authors' tables are of
def test_ece_gives_certainty_a_bin_of_its_own_as_published(gap):
    # Confidences 1.0 (wrong) and 0.99 (right) share the last bin, where they make up for each other in part.
    logits = torch.tensor([[gap, 0.0], [math.log(99.0), 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    assert metrics.ece(logits, labels) == pytest.approx(0.995 - 0.5, abs=1e-8)
    assert metrics.ece(logits, labels, binning="published") == pytest.approx((1.0 + 0.01) / 2, abs=1e-7)


@pytest.mark.parametrize("borders", [[0, 20], [0, 6, 11, 16, 20]], ids=["1 bin", "4 bins"])
def test_ace_equals_slices_of_the_ranked_probabilities(generator, borders):
    # 20 distinct probabilities a class: the edge between two bins is a sample, which belongs to the bin below it.
    logits = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (20,), generator=generator)
    found = metrics.ace(logits, labels, bins=len(borders) - 1, threshold=0.0)
    assert found == pytest.approx(textbook.ace(logits, labels, borders), abs=1e-12)


def test_ace_gives_each_class_the_same_weight_however_many_bins_it_fills():
    # Above the threshold class 0 is 0.3 off in one bin and 0.05 in the other, class 1 is 0.6 off in its only one.
    p = torch.tensor([[0.4, 0.6], [0.6, 0.4], [0.8, 0.2], [0.95, 0.05]], dtype=torch.float64)
    found = metrics.ace(p.log(), torch.zeros(4, dtype=torch.int64), bins=2, threshold=0.5)
    assert found == pytest.approx(((0.3 + 0.05) / 2 + 0.6) / 2, abs=1e-12)


def test_ace_leaves_out_probabilities_up_to_the_threshold():
    # Class 1 has probability 0.001 everywhere; class 0 is right in 3 of 4 cases.
    logits = torch.tensor([[math.log(999.0), 0.0]] * 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1])
    assert metrics.ace(logits, labels) == pytest.approx(0.999 - 0.75, abs=1e-12)
    assert metrics.ace(logits, labels, threshold=1.0) == 0.0
    both = (0.999 - 0.75 + 0.25 - 0.001) / 2
    assert metrics.ace(logits, labels, threshold=0.0001) == pytest.approx(both, abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier"])
def test_golden(golden, name):
    found = getattr(metrics, name)(golden["logits_test"], golden["y_test"].long())
    assert found == pytest.approx(golden[f"metric/{name}"].item(), rel=1e-8)


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_worst():
    logits = 1000 * torch.eye(3)
    right = metrics.evaluate(logits, torch.tensor([0, 1, 2]))
    assert right == {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0, "ace": 0.0}
    wrong = metrics.evaluate(logits, torch.tensor([1, 2, 0]))
    assert (wrong["accuracy"], wrong["nll"], wrong["brier"], wrong["ece"]) == (0.0, 1000.0, 2.0, 1.0)


def test_metrics_do_not_depend_on_the_order_of_samples_and_leave_inputs_alone(predictions):
    logits, labels = predictions
    before = logits.clone()
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert metrics.evaluate(logits[shuffled], labels[shuffled]) == pytest.approx(metrics.evaluate(logits, labels))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier", "ece", "ace"])
def test_metrics_refuse_labels_out_of_range_and_no_samples(name):
    metric = getattr(metrics, name)
    with pytest.raises(ValueError, match="labels holds labels from 0 to 4; 0 to 3 was expected"):
        metric(torch.zeros(2, K), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"logits has shape \(0, 4\); 1 or more samples were expected"):
        metric(torch.zeros(0, K), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier", "ece", "ace", "evaluate"])
def test_metrics_refuse_logits_of_a_model_with_one_output(name):
    with pytest.raises(ValueError, match=r"logits has shape \(5, 1\); 2 or more classes were expected"):
        getattr(metrics, name)(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64))


def test_evaluate_is_every_metric_whatever_the_callers_autocast_and_gradients(predictions):
    logits, labels = predictions
    expected = {name: getattr(metrics, name)(logits, labels) for name in ("accuracy", "nll", "brier", "ece", "ace")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert metrics.evaluate(logits.clone().requires_grad_(), labels) == expected


def test_ece_lists_the_binnings():
    with pytest.raises(ValueError, match="binning is 'equal'; it has to be one of 'standard', 'published'"):
        metrics.ece(torch.zeros(2, K), torch.tensor([0, 1]), binning="equal")
