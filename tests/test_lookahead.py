"""The look-ahead oracle: what its candidates are, and that it keeps the best one."""

import dataclasses

import pytest
import torch

from dal_core import strategies
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.oracles import lookahead as module
from dal_core.oracles.lookahead import candidate_batches, candidate_losses
from dal_core.pool import OracleSnapshot
from dal_core.strategies.clustering import k_means
from dal_core.strategies.uncertainty import margin_scores

N, M, N_TEST, K, D = 23, 7, 13, 3, 5


def snapshot(with_bias: bool = True) -> OracleSnapshot:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    features, labelled, weight, test = normal(N, D), normal(M, D), normal(K, D), normal(N_TEST, D)
    bias = normal(K) if with_bias else None
    offset = 0 if bias is None else bias
    true_weight = normal(D, K)
    return OracleSnapshot(
        features=features,
        logits=features @ weight.mT + offset,
        labelled_features=labelled,
        labelled_logits=labelled @ weight.mT + offset,
        labels=(labelled @ true_weight).argmax(dim=1),
        weight=weight,
        bias=bias,
        hidden_labels=(features @ true_weight).argmax(dim=1),
        test_features=test,
        test_labels=(test @ true_weight).argmax(dim=1),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    with pytest.raises(ValueError, match="num_candidates is 2; at least 3 was expected, one of each kind"):
        candidate_batches(snapshot(), 4, 2, seeded())


# --- losses


def textbook_loss(taken: OracleSnapshot, weight: torch.Tensor, loss: str) -> float:
    total = 0.0
    for x, y in zip(taken.test_features, taken.test_labels, strict=True):
        logits = weight @ x + (0 if taken.bias is None else taken.bias)
        if loss == "zero_one":
            total += float(logits.argmax() != y)
        else:
            total -= torch.softmax(logits, dim=0)[y].log().item()
    return total / N_TEST


@pytest.mark.parametrize("block_bytes", [1, 2 * N_TEST * K * 8, 2**26], ids=["1 a block", "2 a block", "one block"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("loss", module.LOSSES)
def test_losses_equal_their_loop_whatever_the_block(monkeypatch, loss, with_bias, block_bytes):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    taken = snapshot(with_bias)
    weights = torch.randn(5, K, D, generator=seeded(), dtype=torch.float64)
    expected = torch.tensor([textbook_loss(taken, weight, loss) for weight in weights], dtype=torch.float64)
    torch.testing.assert_close(candidate_losses(taken, weights, loss), expected, atol=1e-12, rtol=0)


# --- the choice


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("loss", module.LOSSES)
def test_keeps_the_candidate_with_the_smallest_loss_after_the_update(loss, with_bias):
    taken, options = snapshot(with_bias), {"num_candidates": 30, "gamma": 2.0, "prior_precision": 0.5, "loss": loss}
    covariance = covariance_matrix(precision_matrix(taken.labelled_features, prior_precision=0.5))
    losses, candidates = [], candidate_batches(taken, 4, 30, seeded())
    for batch in candidates:
        weight, _ = second_order_update(
            taken.weight, covariance, taken.features[batch], taken.hidden_labels[batch], gamma=2.0, bias=taken.bias
        )
        losses.append(textbook_loss(taken, weight, loss))
    best = losses.index(min(losses))  # the earliest, should several be best
    picked = strategies.query(strategies.get("lookahead", options), taken, 4, seeded())
    assert picked.tolist() == candidates[best].tolist()


def test_ties_go_to_the_earlier_candidate():
    taken = snapshot()
    # Test labels that no update reaches: every candidate has the same loss, 1.
    hopeless = dataclasses.replace(taken, test_features=torch.zeros(N_TEST, D).double(),
                                   test_labels=torch.full((N_TEST,), int(taken.bias.argmin())))  # fmt: skip
    picked = strategies.get("lookahead", {"num_candidates": 30, "loss": "zero_one"})(hopeless, 4, seeded())
    assert picked.tolist() == candidate_batches(hopeless, 4, 30, seeded())[0].tolist()


def test_looks_at_the_hidden_labels():
    taken = snapshot()
    other = dataclasses.replace(taken, hidden_labels=(taken.hidden_labels + 1) % K)
    pick = strategies.get("lookahead", {"num_candidates": 60})
    assert pick(taken, 4, seeded()).tolist() != pick(other, 4, seeded()).tolist()


def test_unknown_loss_lists_what_exists():
    with pytest.raises(ValueError, match="loss is 'brier'; it has to be one of 'cross_entropy', 'zero_one'"):
        strategies.get("lookahead", {"loss": "brier"})(snapshot(), 4, seeded())
