"""The look-ahead oracle: what its candidates are, and that it keeps the best one."""

import dataclasses
from typing import get_args

import pytest
import torch

from dal_core import strategies, textbook
from dal_core.data import FeatureData, Labelled
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.models.heads import Head
from dal_core.models.learners import HeadModel
from dal_core.oracles import judging
from dal_core.oracles.judging import Loss, mean_losses
from dal_core.oracles.lookahead import candidate_batches
from dal_core.snapshot import Truth
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.uncertainty import margin_scores
from tests.samples import seeded, snapshot_from

N, M, N_TEST, K, D = 23, 7, 13, 3, 5


def snapshot(with_bias: bool = True) -> Truth:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    features, labelled, weight, test = normal(N, D), normal(M, D), normal(K, D), normal(N_TEST, D)
    bias = normal(K) if with_bias else None
    offset = 0 if bias is None else bias
    true_weight = normal(D, K)
    return snapshot_from(
        features=features,
        logits=features @ weight.mT + offset,
        labelled_features=labelled,
        labelled_logits=labelled @ weight.mT + offset,
        labels=(labelled @ true_weight).argmax(dim=1),
        weight=weight,
        bias=bias,
        hidden_labels=(features @ true_weight).argmax(dim=1),
        test=(test, (test @ true_weight).argmax(dim=1)),
    )


def test_needs_the_oracle_snapshot():
    assert strategies.needs_oracle("lookahead")
    assert strategies.option_names("lookahead") == ["num_candidates", "gamma", "prior_precision", "loss"]


# --- candidates


def test_every_candidate_is_a_batch_of_distinct_positions():
    candidates = candidate_batches(snapshot(), 4, 31, seeded())
    assert candidates.shape == (31, 4)
    assert all(len(set(batch) & set(range(N))) == 4 for batch in candidates.tolist())


def test_first_third_is_random_over_the_whole_pool():
    candidates = candidate_batches(snapshot(), 4, 6000, seeded())[:2000]
    shares = torch.bincount(candidates.flatten(), minlength=N) / 2000  # 4 deviations are 0.034
    torch.testing.assert_close(shares, torch.full((N,), 4 / N), atol=0.04, rtol=0)


def test_second_third_has_one_instance_of_each_cluster():
    taken, generator = snapshot(), seeded()
    candidates = candidate_batches(taken, 4, 60, generator)[20:40]
    replay = seeded()
    torch.rand(60, N, generator=replay)
    clusters = k_means(taken.features, 4, replay)
    assert all(sorted(clusters[batch]) == [0, 1, 2, 3] for batch in candidates.tolist())
    assert len({tuple(sorted(batch)) for batch in candidates.tolist()}) > 10


def test_last_third_holds_instances_of_above_average_margin_score():
    taken = snapshot()
    scores = margin_scores(taken.probabilities)
    candidates = candidate_batches(taken, 4, 61, seeded())[40:]
    assert len(candidates) == 21  # what does not divide by three goes here
    assert (scores[candidates] > scores.mean()).all()


def test_random_instances_fill_up_where_uncertain_ones_are_too_few():
    taken = snapshot()
    scores = margin_scores(taken.probabilities)
    uncertain = set((scores > scores.mean()).nonzero().flatten().tolist())
    batch_size = len(uncertain) + 2
    fillers = set()
    for batch in candidate_batches(taken, batch_size, 30, seeded())[20:].tolist():
        assert set(batch[: len(uncertain)]) == uncertain
        fillers |= set(batch[len(uncertain) :])
    assert len(fillers) > 4


@pytest.mark.filterwarnings("error")
def test_random_instances_fill_up_where_clusters_are_too_few():
    taken = dataclasses.replace(snapshot(), features=torch.ones(N, D).double().cumsum(0) // 12)  # 2 distinct points
    clusters = taken.features[:, 0].unique(return_inverse=True)[1]
    for batch in candidate_batches(taken, 4, 30, seeded())[10:20].tolist():
        assert set(clusters[batch[:2]].tolist()) == {0, 1}
        assert len(set(batch)) == 4


def test_candidates_of_the_whole_pool():
    assert all(sorted(batch) == list(range(N)) for batch in candidate_batches(snapshot(), N, 6, seeded()).tolist())


def test_candidates_follow_from_the_generator():
    assert torch.equal(candidate_batches(snapshot(), 4, 9, seeded()), candidate_batches(snapshot(), 4, 9, seeded()))
    assert not torch.equal(
        candidate_batches(snapshot(), 4, 9, seeded()), candidate_batches(snapshot(), 4, 9, seeded(1))
    )


def test_two_candidates_are_too_few():
    with pytest.raises(ValueError, match="num_candidates is 2; a whole number of at least 3 was expected"):
        candidate_batches(snapshot(), 4, 2, seeded())


# --- losses


def textbook_loss(taken: Truth, weight: torch.Tensor, loss: str) -> float:
    logits = taken.test.inputs() @ weight.T + (0 if taken.bias is None else taken.bias)
    return float(textbook.mean_loss(logits, taken.test.labels, loss))


@pytest.mark.parametrize("block_bytes", [1, 2 * N_TEST * K * 8, 2**26], ids=["1 a block", "2 a block", "one block"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("loss", get_args(Loss))
def test_losses_equal_their_loop_whatever_the_block(monkeypatch, loss, with_bias, block_bytes):
    monkeypatch.setattr(judging, "BLOCK_BYTES", block_bytes)
    taken = snapshot(with_bias)
    weights = torch.randn(5, K, D, generator=seeded(), dtype=torch.float64)
    heads = Head(weights, None if taken.bias is None else taken.bias.expand(5, -1))
    models = [HeadModel(heads, i) for i in range(5)]
    expected = torch.tensor([textbook_loss(taken, weight, loss) for weight in weights], dtype=torch.float64)
    losses = mean_losses(models, taken.test.inputs(), taken.test.labels, loss)
    torch.testing.assert_close(losses, expected, atol=1e-12, rtol=0)


# --- the choice


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("loss", get_args(Loss))
def test_keeps_the_candidate_with_the_smallest_loss_after_the_update(loss, with_bias):
    taken, options = snapshot(with_bias), {"num_candidates": 30, "gamma": 2.0, "prior_precision": 0.5, "loss": loss}
    covariance = covariance_matrix(precision_matrix(taken.labelled_features, prior_precision=0.5))
    losses, candidates = [], candidate_batches(taken, 4, 30, seeded())
    for batch in candidates:
        weight, _ = second_order_update(
            taken.weight, covariance, taken.features[batch], taken.hidden_labels[batch], gamma=2.0, bias=taken.bias
        )
        losses.append(textbook_loss(taken, weight, loss))
    smallest = [batch.tolist() for batch, found in zip(candidates, losses, strict=True) if found <= min(losses) + 1e-12]
    assert len(smallest) == 1 or loss == "zero_one"
    picked = strategies.query(strategies.get("lookahead", options), taken, 4, seeded())
    assert picked.tolist() in smallest


def test_the_generator_decides_between_equal_candidates():
    taken = snapshot()
    # Test labels that no update reaches: every candidate has the same loss, 1.
    unreached = Labelled(FeatureData(torch.zeros(N_TEST, D).double()), torch.full((N_TEST,), int(taken.bias.argmin())))
    hopeless, places = dataclasses.replace(taken, test=unreached), set()
    for seed in range(20):
        replay = seeded(seed)
        candidates = candidate_batches(hopeless, 4, 30, replay)
        place = int(torch.randint(30, (), generator=replay))
        picked = strategies.get("lookahead", {"num_candidates": 30, "loss": "zero_one"})(hopeless, 4, seeded(seed))
        assert picked.tolist() == candidates[place].tolist()
        places.add(place)
    assert len(places) > 5


def test_looks_at_the_hidden_labels():
    taken = snapshot()
    other = dataclasses.replace(taken, hidden_labels=(taken.hidden_labels + 1) % K)
    pick = strategies.get("lookahead", {"num_candidates": 60})
    assert pick(taken, 4, seeded()).tolist() != pick(other, 4, seeded()).tolist()


def test_unknown_loss_lists_what_exists():
    with pytest.raises(ValueError, match="loss is 'hinge'; it has to be one of 'zero_one', 'cross_entropy', 'brier'"):
        strategies.get("lookahead", {"loss": "hinge"})(snapshot(), 4, seeded())


@pytest.mark.parametrize(
    ("test", "found"),
    [(None, "None"), (Labelled(FeatureData(torch.empty(0, D).double()), torch.empty(0).long()), "empty")],
)
def test_a_test_set_that_is_not_there_is_named(test, found):
    with pytest.raises(ValueError, match=f"snapshot.test is {found}; instances to judge models by were expected"):
        strategies.get("lookahead")(dataclasses.replace(snapshot(), test=test), 4, seeded())
