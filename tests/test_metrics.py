"""Prediction metrics against the loops that their docstrings describe, and learning curves on hand-made frames."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from dal_core import metrics

N, K = 53, 4


@pytest.fixture
def predictions(generator):
    """Logits [n, k] with all grades of confidence, and labels that they get right more often than not."""
    logits = 2 * torch.randn(N, K, generator=generator, dtype=torch.float64)
    labels = (logits + torch.randn(N, K, generator=generator, dtype=torch.float64)).argmax(dim=1)
    return logits, labels


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [each / sum(exponentials) for each in exponentials]


def test_prediction_metrics_equal_their_loops(predictions):
    logits, labels = predictions
    right, surprise, distance = 0, 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        right += p.index(max(p)) == label
        surprise -= math.log(p[label])
        distance += sum((p[k] - (k == label)) ** 2 for k in range(K))
    assert metrics.accuracy(logits, labels) == pytest.approx(right / N, abs=1e-12)
    assert metrics.nll(logits, labels) == pytest.approx(surprise / N, abs=1e-12)
    assert metrics.brier(logits, labels) == pytest.approx(distance / N, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 6, 15])
def test_ece_equals_its_loop(predictions, bins):
    logits, labels = predictions
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        members.setdefault(min(int(max(p) * bins), bins - 1), []).append((max(p), p.index(max(p)) == label))
    expected = 0.0
    for samples in members.values():
        confidence = sum(each for each, _ in samples) / len(samples)
        accuracy = sum(hit for _, hit in samples) / len(samples)
        expected += len(samples) / N * abs(accuracy - confidence)
    assert metrics.ece(logits, labels, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_ece_gives_certainty_a_bin_of_its_own_as_published():
    # Confidences 1.0 (wrong) and 0.99 (right) share the last bin, where they make up for each other in part.
    logits = torch.tensor([[1000.0, 0.0], [math.log(99.0), 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    assert metrics.ece(logits, labels) == pytest.approx(0.995 - 0.5, abs=1e-12)
    assert metrics.ece(logits, labels, binning="published") == pytest.approx((1.0 + 0.01) / 2, abs=1e-12)


@pytest.mark.parametrize("borders", [[0, 20], [0, 6, 11, 16, 20]], ids=["1 bin", "4 bins"])
def test_ace_equals_slices_of_the_ranked_probabilities(generator, borders):
    # 20 distinct probabilities a class: the edge between two bins is a sample, which belongs to the bin below it.
    logits = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (20,), generator=generator).tolist()
    gaps = []
    for k in range(3):
        ranked = sorted((softmax(row)[k], label == k) for row, label in zip(logits.tolist(), labels, strict=True))
        for start, end in itertools.pairwise(borders):
            samples = ranked[start:end]
            gaps.append(abs(sum(hit - p for p, hit in samples)) / len(samples))
    found = metrics.ace(logits, torch.tensor(labels), bins=len(borders) - 1, threshold=0.0)
    assert found == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)


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
    with pytest.raises(ValueError, match="logits is empty"):
        metric(torch.zeros(0, K), torch.zeros(0, dtype=torch.int64))


def test_ece_lists_the_binnings():
    with pytest.raises(ValueError, match="binning is 'equal'; it has to be one of 'standard', 'published'"):
        metrics.ece(torch.zeros(2, K), torch.tensor([0, 1]), binning="equal")


def test_aulc_is_the_mean_over_cycles_of_each_run():
    curves = pd.DataFrame(
        {"run": ["b", "a", "b", "a", "a"], "cycle": [0, 0, 1, 1, 2], "nll": [4.0, 1.0, 2.0, 2.0, 6.0]}
    )
    assert metrics.aulc(curves, "nll").to_dict() == {"a": 3.0, "b": 3.0}


def test_aulc_names_missing_columns():
    with pytest.raises(ValueError, match=r"curves lacks the columns \['accuracy', 'cycle'\]; it has \['run'\]"):
        metrics.aulc(pd.DataFrame({"run": ["a"]}))


def duels() -> pd.DataFrame:
    accuracies = {"margin": [0.5, 0.6, 0.7, 0.8], "random": [0.5, 0.5, 0.75, 0.6], "bait": [0.9, 0.9, 0.9, 0.1]}
    return pd.DataFrame(
        [
            {"dataset": "digits", "seed": seed, "strategy": name, "accuracy": value}
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ]
    )


def test_win_rates_count_wins_of_the_row_over_the_column():
    rates = metrics.win_rates(duels())
    assert rates.loc["margin", "random"] == 2 / 4  # one draw, one loss
    assert rates.loc["random", "margin"] == 1 / 4
    assert rates.loc["bait", "random"] == 3 / 4
    assert np.diag(rates).tolist() == [0.0, 0.0, 0.0]


def test_win_rates_with_a_margin_ask_for_more():
    rates = metrics.win_rates(duels(), margin=0.15)
    assert rates.loc["margin", "random"] == 1 / 4
    assert rates.loc["random", "margin"] == 0


def test_win_rates_do_not_depend_on_the_order_of_rows():
    shuffled = duels().sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(metrics.win_rates(shuffled), metrics.win_rates(duels()))


def test_win_rates_name_a_duel_that_lacks_a_contestant_or_has_one_twice():
    rows = duels()
    with pytest.raises(ValueError, match=r"scores lacks \['random'\] in the duel \{.*'digits', .*: 2\}"):
        metrics.win_rates(rows.drop(index=6))
    with pytest.raises(ValueError, match=r"scores holds \{.*'digits', .*'random'\} more than once"):
        metrics.win_rates(pd.concat([rows, rows.loc[[6]]]))
