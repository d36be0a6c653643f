"""TCM, SelectAL, TAILOR and AutoAL: whom they ask, and what they learn about whom to ask."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch

from dal_core import strategies
from dal_core.context import Context
from dal_core.ensembles import autoal as autoal_module
from dal_core.ensembles import selectal as selectal_module
from dal_core.ensembles.autoal import autoal, simulated_cycle, train_search_net
from dal_core.ensembles.selectal import REGIMES, selectal
from dal_core.ensembles.tailor import class_rewards, tailor
from dal_core.ensembles.tcm import tcm
from dal_core.models.heads import Head
from dal_core.models.training import Training, train_head
from dal_core.randomness import choose, generators_from, integer_seed
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from dal_core.strategies.shared.clustering import typicality
from tests.samples import seeded, snapshot_of, with_hidden_layer

N, M, B, K, D = 31, 13, 4, 3, 5
FEW = ("margin", "typiclust", "random")
BRIEF = Training("sgd", learning_rate=0.1, weight_decay=0.01, batch_size=4, epochs=6)


def taken(**changes) -> Snapshot:
    return snapshot_of(**{"training": BRIEF} | changes)


def with_labels(*labels: int, k: int = K) -> Snapshot:
    """A snapshot in which exactly these labels are known."""
    return taken(m=len(labels), k=k, labels=torch.tensor(labels, dtype=torch.int64))


def hidden_layer() -> Snapshot:
    return with_hidden_layer(taken())


def batch_of(name: str, snapshot: Snapshot, generator: torch.Generator, batch_size: int = B) -> list[int]:
    return strategies.get(name)(snapshot, batch_size, generator).tolist()


@pytest.fixture
def add(monkeypatch):
    """Registers a strategy for the length of a test."""
    return functools.partial(monkeypatch.setitem, registry._STRATEGIES)


@pytest.mark.parametrize("ensemble", [selectal, tailor, autoal])
def test_a_batch_that_the_pool_cannot_give_is_refused_before_anything_is_computed(ensemble, monkeypatch):
    monkeypatch.setattr(strategies.registry, "get", lambda *_: pytest.fail("a strategy was asked"))
    monkeypatch.setattr(selectal_module, "_accuracies_without", lambda *_: pytest.fail("heads were trained"))
    with pytest.raises(ValueError, match=f"^batch_size is {N + 1}; 1 to {N}"):
        ensemble(taken(), N + 1, seeded())


@pytest.mark.parametrize("ensemble", [tailor, autoal])
def test_a_failing_strategy_is_named(ensemble, add):
    def broken(snapshot, batch_size, generator):
        raise KeyError("no such luck")

    add("broken", broken)
    with pytest.raises(RuntimeError, match=r"^strategy 'broken' failed on the pool: KeyError: 'no such luck'"):
        ensemble(taken(), B, seeded(), strategies=["margin", "broken"])


# --- TCM


@pytest.mark.parametrize("options", [{}, {"typiclust_acquisitions": 1}, {"typiclust_acquisitions": 0}], ids=str)
def test_tcm_is_typiclust_at_first_and_then_margin(options):
    expected = {name: batch_of(name, taken(), seeded()) for name in ("typiclust", "margin")}
    assert expected["typiclust"] != expected["margin"]
    first = options.get("typiclust_acquisitions", 3)
    for cycle in range(6):
        found = tcm(taken(cycle=cycle), B, seeded(), **options).tolist()
        assert found == expected["typiclust" if cycle < first else "margin"], cycle


# --- SelectAL


def typicality_of(i: int, features: torch.Tensor, labels: list[int], neighbours: int) -> float:
    others = [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]
    distances = sorted(float((features[i] - features[j]).norm()) for j in others)
    nearest = distances[: min(neighbours, (len(others) + 1) // 2)]
    return len(nearest) / sum(nearest) if nearest else 0.0


def test_typicality_is_that_of_the_textbook():
    labels = [0] * 9 + [1] * 4 + [2] * 2 + [4]  # 3 neighbours, 2, 1 and none
    features = torch.randn(16, D, generator=seeded(), dtype=torch.float64)
    found = typicality(features, torch.tensor(labels), 3, by_differences=True)
    assert found.tolist() == pytest.approx([typicality_of(i, features, labels, 3) for i in range(16)], abs=1e-12)


def test_two_that_are_nearest_to_each_other_are_equally_typical_far_from_the_origin_too():
    first = torch.randn(30, D, generator=seeded(), dtype=torch.float64) * 100 + 1e5
    second = first + torch.randn(30, D, generator=seeded(1), dtype=torch.float64)
    both, one_class = torch.cat((first, second)), torch.zeros(60, dtype=torch.int64)
    found = typicality(both, one_class, 1, by_differences=True)
    assert torch.equal(found[:30], found[30:])
    assert found[:30].tolist() == pytest.approx((1 / (first - second).norm(dim=1)).tolist(), rel=1e-12)


@pytest.mark.parametrize("regime", ["low", "high"])
def test_extremes_of_the_classes_are_removed_in_turn_the_largest_class_first(regime):
    snapshot = with_labels(1, 0, 2, 1, 0, 1, 1, 2, 1, 0, 1)
    positions = choose(11, 10, seeded(1))  # one is held out, and must not matter
    features, labels = snapshot.labelled_features[positions], snapshot.labels[positions].tolist()
    assert [labels.count(label) for label in range(K)] == [3, 5, 2]
    sign = 1 if regime == "low" else -1
    removed: list[int] = []
    for label in (1, 0, 2, 1, 0, 2, 1):
        left = [i for i in range(10) if labels[i] == label and i not in removed]
        removed.append(max(left, key=lambda i: sign * typicality_of(i, features, labels, 20)))
    for count in range(1, 8):
        found = selectal_module._without(snapshot, positions, count, regime)
        assert found.tolist() == [int(place) for i, place in enumerate(positions) if i not in removed[:count]]


def test_every_regime_takes_equally_many_from_each_class():
    snapshot = with_labels(*[0, 1, 2, 3] * 4, k=4)
    left = set()
    for seed in range(12):
        positions = choose(16, 16, seeded(seed))
        kept = [selectal_module._without(snapshot, positions, 6, regime) for regime in REGIMES]
        counts = [snapshot.labels[each].bincount(minlength=4).tolist() for each in kept]
        assert sorted(counts[0]) == [2, 2, 3, 3]
        assert counts[0] == counts[1] == counts[2]
        assert len({tuple(each.tolist()) for each in kept}) == 3
        left.add(tuple(counts[0]))
    assert len(left) > 3  # which of equally large classes come first is random


@pytest.mark.parametrize("make", [taken, hidden_layer])
def test_accuracies_are_those_of_heads_trained_one_by_one(make):
    snapshot, replay = make(), seeded(1)
    splits = generators_from(replay, 2)
    inputs = snapshot.data.inputs(snapshot.labelled)
    initial = snapshot.learner.initial(inputs, K, snapshot.draw)
    hits = dict.fromkeys(REGIMES, 0)
    for own in splits:
        order = choose(M, M, own)
        seed = integer_seed(own)
        for regime in REGIMES:
            left = selectal_module._without(snapshot, order, K, regime)  # a share of 0.2: 3, one of each class
            held_out, kept = left[:2], left[2:]
            head = train_head(initial, inputs, snapshot.labels, kept, BRIEF, seeded(seed))
            hits[regime] += sum(int(head.logits(inputs)[i].argmax() == snapshot.labels[i]) for i in held_out.tolist())
    found = selectal_module._accuracies_without(snapshot, 0.2, 2, BRIEF.epochs, seeded(1))
    assert found.tolist() == pytest.approx([count / 4 for count in hits.values()], abs=1e-12)
    assert 0 < sum(hits.values()) < 12


@pytest.mark.parametrize(("labels", "removed"), [([0, 1, 2, 3] * 5, 4), ([0, 1, 2, 3, 3], 3), ([0, 1, 2], 1)])
def test_of_every_class_at_least_one_is_removed_before_the_split(labels, removed, monkeypatch):
    """Of 20 labels a share of 0.05 would be one; two always remain, to train on and to hold out."""
    asked, original = [], selectal_module._without

    def spying(snapshot, positions, count, regime):
        asked.append((len(positions), count))
        return original(snapshot, positions, count, regime)

    monkeypatch.setattr(selectal_module, "_without", spying)
    snapshot = with_labels(*labels, k=4)
    selectal_module._accuracies_without(snapshot, 0.05, 2, 1, seeded())
    assert asked == [(len(labels), removed)] * 6


@pytest.mark.parametrize("regime", REGIMES)
def test_selectal_is_the_strategy_of_the_regime_whose_removal_hurts_most(regime, monkeypatch):
    accuracies = torch.tensor([0.3 if name == regime else 0.4 for name in REGIMES], dtype=torch.float64)
    monkeypatch.setattr(selectal_module, "_accuracies_without", lambda *_: accuracies)
    record, replay = {}, seeded()
    torch.randint(1, (), generator=replay)  # between equal accuracies
    expected = batch_of({"random": "random", "low": "typiclust", "high": "badge"}[regime], taken(), replay)
    assert selectal(taken(), B, seeded(), context=Context(record=record)).tolist() == expected
    assert record == {"regime": regime, "accuracies": dict(zip(REGIMES, accuracies.tolist(), strict=True))}


def test_the_generator_decides_between_equal_accuracies(monkeypatch):
    monkeypatch.setattr(selectal_module, "_accuracies_without", lambda *_: torch.tensor([0.2, 0.5, 0.2]).double())
    chosen = []
    for seed in range(30):
        record: dict = {}
        selectal(taken(), B, seeded(seed), context=Context(record=record))
        chosen.append(record["regime"])
    assert set(chosen) == {"random", "high"}
    assert min(chosen.count("random"), chosen.count("high")) > 5


@pytest.mark.parametrize("m", [0, 2])
def test_selectal_needs_three_labels(m):
    with pytest.raises(ValueError, match=f"^snapshot.labels has {m} entries; selectal needs at least 3$"):
        selectal(taken(m=m), B, seeded())
    assert len(selectal(taken(m=3), B, seeded(), share=1 / 3)) == B


# --- TAILOR


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], [1, 1, 1, 1]),
        ([3, 1, 3, 0, 3], [1, 1, 1, -1 / 3]),
        ([2, 0, 2, 0], [1 / 2, 1, 1 / 2, 1]),  # half of the labels is no majority
        ([1], [1, -1, 1, 1]),
    ],
)
def test_rewards_are_inverse_class_frequencies_negated_for_a_majority(labels, expected):
    assert class_rewards(torch.tensor(labels, dtype=torch.int64), 4).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", FEW)
def test_a_bandit_with_one_strategy_returns_its_batch(name):
    replay = seeded()
    integer_seed(replay)
    (own,) = generators_from(replay, 1)
    record: dict = {}
    found = tailor(taken(), B, seeded(), strategies=[name], context=Context(record=record))
    assert found.tolist() == batch_of(name, taken(), own)
    assert record == {name: B}


def test_what_was_picked_is_passed_over():
    record: dict = {}
    found = tailor(taken(), B, seeded(), strategies=["margin", "margin"], context=Context(record=record)).tolist()
    assert found == batch_of("margin", taken(), seeded())
    assert record == {"margin": B}
    whole = tailor(taken(), N, seeded(), strategies=FEW).tolist()
    assert sorted(whole) == list(range(N))


def test_thompson_sampling_draws_the_strategy_of_each_pick():
    snapshot, replay = with_labels(0, 0, 0, 0, 1, 1, 2), seeded(4)
    counts = np.array([[3.0, 2, 2], [2, 1, 3.5], [3, 4, 1]])
    memory = {"counts": torch.from_numpy(counts), "suppliers": [2, 1]}  # whose labels are 1 and 2
    counts = 1 + 0.9 * (counts - 1) + np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    rewards = np.array([-1 / 4, 1 / 2, 1])
    draws, each = np.random.default_rng(integer_seed(replay)), generators_from(replay, 3)
    queues = [batch_of(name, snapshot, own, 7) for name, own in zip(FEW, each, strict=True)]
    expected, suppliers = [], []
    for _ in range(7):
        values = [draws.dirichlet(row) @ rewards for row in counts]
        suppliers.append(int(np.argmax(values)))
        expected.append(next(place for place in queues[suppliers[-1]] if place not in expected))
    context = Context(memory=memory)
    assert tailor(snapshot, 7, seeded(4), strategies=FEW, context=context).tolist() == expected
    assert memory["suppliers"] == suppliers
    assert memory["counts"].numpy() == pytest.approx(counts)
    assert context.record == {name: suppliers.count(i) for i, name in enumerate(FEW)}
    assert len(set(suppliers)) > 1


def test_counts_of_labels_decay_from_acquisition_to_acquisition():
    memory: dict = {}
    known, expected = [0, 1, 2, 0], np.ones((3, K))
    for bought in ([1, 1, 2, 0], [2, 2, 1, 2], [0, 1, 0, 0]):
        tailor(with_labels(*known), B, seeded(len(known)), strategies=FEW, decay=0.7, context=Context(memory=memory))
        assert memory["counts"].numpy() == pytest.approx(expected)
        expected = 1 + 0.7 * (expected - 1)
        for supplier, label in zip(memory["suppliers"], bought, strict=True):
            expected[supplier, label] += 1
        known += bought


def test_who_brought_the_rare_class_is_asked_more_often():
    snapshot, shares = with_labels(*[0] * 9, 1, 2, 1, 2), []
    for rare in range(3):
        counts = torch.tensor([[30.0, 1, 1]] * 3).double()
        counts[rare] = torch.tensor([1.0, 20, 20])
        memory, record = {"counts": counts, "suppliers": [rare]}, {}
        tailor(snapshot, 20, seeded(rare), strategies=FEW, context=Context(memory=memory, record=record))
        shares.append(record[FEW[rare]] / 20)
    assert min(shares) > 0.9


# --- AutoAL


@pytest.mark.parametrize("make", [taken, hidden_layer])
def test_a_simulated_cycle_hides_a_random_half(make):
    snapshot, replay = dataclasses.replace(make(), cycle=2), seeded(5)
    cycle, labels = simulated_cycle(snapshot, seeded(5))
    order = choose(M, M, replay)
    hidden, seen = order[:6], order[6:]
    assert torch.equal(cycle.features, snapshot.labelled_features[hidden])
    assert torch.equal(labels, snapshot.labels[hidden])
    assert torch.equal(cycle.labelled_features, snapshot.labelled_features[seen])
    assert torch.equal(cycle.labels, snapshot.labels[seen])
    start = snapshot.learner.initial(snapshot.labelled_features, K, snapshot.draw)
    if make is hidden_layer:  # A last layer alone starts from new weights.
        start = Head.initial("linear", snapshot.features.shape[1], K, replay, dtype=torch.float64)
    head = train_head(start, cycle.labelled_features, cycle.labels, torch.arange(7), BRIEF, replay)
    for found, features in ((cycle.logits, cycle.features), (cycle.labelled_logits, cycle.labelled_features)):
        torch.testing.assert_close(found, head.logits(features), rtol=0, atol=1e-12)
    torch.testing.assert_close(cycle.weight, head.weight, rtol=0, atol=1e-12)
    assert cycle.learner.training == snapshot.learner.training
    assert cycle.cycle == 2


def made_up(h: int, a: int):
    """Features, logits and labels of hidden instances, and who chose which; nobody chose the last one."""
    draw = seeded(8)
    features, logits = (torch.randn(h, width, generator=draw, dtype=torch.float64) for width in (D, K))
    labels = torch.randint(K, (h,), generator=draw)
    chosen_by = torch.rand(h, a, generator=draw) < 0.5
    chosen_by[: h - 1, 0] |= ~chosen_by[: h - 1].any(dim=1)
    chosen_by[-1] = False
    return features, logits, labels, chosen_by


def test_a_step_of_both_networks_is_that_of_the_textbook():
    (features, logits, labels, chosen_by), rate = made_up(11, 4), 1e-2
    start = Head.initial("mlp", D, 4, seeded(6), dtype=torch.float64)
    found = train_search_net(features, logits, labels, chosen_by, 1, rate, seeded(6))
    # The first step of rectified Adam is one along the gradient.
    hidden = torch.relu(features @ start.hidden_weight.T + start.hidden_bias)
    weights, z = (hidden @ start.weight.T).softmax(dim=1), chosen_by.double()
    scores = (weights * z).sum(dim=1)
    shares = scores / scores.sum()
    errors = (logits.softmax(dim=1) - torch.nn.functional.one_hot(labels, K)) * shares.unsqueeze(1)
    moved = logits - rate * (features @ features.T @ errors + errors.sum(dim=0))  # by FitNet, from weights of 0
    losses = -moved.log_softmax(dim=1)[torch.arange(11), labels]
    # d sum_i w_i loss_i / d s_i = (loss_i - sum_j w_j loss_j) / sum_j s_j, and d s_i / d logit_ia = p_ia (z_ia - s_i)
    by_logit = ((losses - shares @ losses) / scores.sum()).unsqueeze(1) * weights * (z - scores.unsqueeze(1))
    by_hidden = by_logit @ start.weight * (hidden > 0)
    torch.testing.assert_close(found.weight, start.weight + rate * by_logit.T @ hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.hidden_bias, start.hidden_bias + rate * by_hidden.sum(dim=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.hidden_weight, start.hidden_weight + rate * by_hidden.T @ features, rtol=0, atol=1e-12
    )
    assert float((found.weight - start.weight).abs().max()) > 1e-5
    assert not any(part.requires_grad for part in vars(found).values() if part is not None)


def weights_after(features, logits, labels, chosen_by, steps=100, rate=2e-2):
    """Of the strategies, at each instance.  [h, a]"""
    search_net = train_search_net(features, logits, labels, chosen_by, steps, rate, seeded())
    return search_net.logits(features).softmax(dim=1)


def sure_of(labels: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Logits of a head that is sure of the label, or, where `wrong`, of the next class."""
    return 6 * torch.nn.functional.one_hot((labels + wrong) % K, K).double()


@pytest.mark.parametrize("hard", [0, 1])
def test_the_search_network_prefers_the_strategy_whose_picks_are_hard(hard):
    features, _, labels, _ = made_up(20, 2)
    first = torch.arange(20) < 10
    chosen_by = torch.stack((first, ~first), dim=1)
    weights = weights_after(features, sure_of(labels, chosen_by[:, hard]), labels, chosen_by)
    assert float(weights[:, hard].mean()) > 0.8


def test_which_strategy_is_preferred_depends_on_the_instance():
    features, _, labels, _ = made_up(40, 2)
    left, first = features[:, 0] < 0, torch.arange(40) % 2 == 0
    chosen_by = torch.stack((first, ~first), dim=1)
    weights = weights_after(features, sure_of(labels, left == first), labels, chosen_by)
    assert float(weights[left, 0].mean()) > 0.7
    assert float(weights[~left, 1].mean()) > 0.7


def test_what_fit_net_learns_is_not_hard():
    """Strategy 0 picks what is wrong, but easy to learn; strategy 1 what no linear layer can learn."""
    features, _, labels, _ = made_up(20, 2)
    first = torch.arange(20) < 10
    features[first, 0] += 4
    labels[first], labels[~first] = 1, torch.arange(10) % K
    features[~first] = features[~first].mean(dim=0)
    logits = torch.where(first.unsqueeze(1), sure_of(labels, first), 0)
    at_first = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert at_first[first].min() > at_first[~first].max()
    chosen_by = torch.stack((first, ~first), dim=1)
    assert float(weights_after(features, logits, labels, chosen_by, 20, 2e-2)[:, 0].mean()) > 0.5
    assert float(weights_after(features, logits, labels, chosen_by, 300, 5e-2)[:, 1].mean()) > 0.8


def test_every_strategy_queries_half_of_the_hidden_instances_and_a_batch_of_the_pool(add):
    asked = []

    def spy(snapshot, batch_size, generator):
        asked.append((len(snapshot.features), len(snapshot.labels), batch_size))
        return torch.arange(batch_size)

    add("spy", spy)
    autoal(taken(), B, seeded(), strategies=["spy", "margin"], steps=1)
    assert sorted(asked) == [(6, 7, 3), (N, M, B)]


def test_the_batch_has_the_highest_scores_of_the_union(monkeypatch):
    search_net = Head(torch.randn(3, D, generator=seeded(9)).double(), torch.tensor([0.3, -0.2, 0.5]).double())
    monkeypatch.setattr(autoal_module, "_searched", lambda *_: search_net)
    snapshot, replay, record = taken(), seeded(), {}
    integer_seed(replay)
    each = generators_from(replay, 3)
    batches = [batch_of(name, snapshot, own) for name, own in zip(FEW, each, strict=True)]
    union = sorted(set(itertools.chain(*batches)))
    assert len(union) > B
    mean = snapshot.labelled_features.mean(dim=0)
    scale = (snapshot.labelled_features - mean).square().mean().sqrt()
    weights = {i: search_net.logits((snapshot.features[i : i + 1] - mean) / scale).softmax(dim=1)[0] for i in union}
    scores = {i: sum(float(weights[i][a]) for a in range(3) if i in batches[a]) for i in union}
    expected = sorted(union, key=lambda i: -scores[i])[:B]
    assert autoal(snapshot, B, seeded(), strategies=FEW, context=Context(record=record)).tolist() == expected
    means = torch.stack([weights[i] for i in expected]).mean(dim=0)
    assert list(record) == list(FEW)
    assert list(record.values()) == pytest.approx(means.tolist(), abs=1e-12)


def test_equal_scores_go_to_the_lower_position():
    found = autoal(taken(), 17, seeded(), strategies=["margin"] * 7, steps=20)  # all score 1, up to rounding
    assert found.tolist() == sorted(batch_of("margin", taken(), seeded(), 17))


def test_with_few_labels_all_strategies_count_the_same(monkeypatch):
    monkeypatch.setattr(autoal_module, "_searched", lambda *_: pytest.fail("there is nothing to learn from"))
    snapshot, replay, record = taken(m=3), seeded(), {}
    integer_seed(replay)
    each = generators_from(replay, 3)
    batches = [batch_of(name, snapshot, own, 9) for name, own in zip(FEW, each, strict=True)]
    votes = {i: sum(i in batch for batch in batches) for i in range(N)}
    assert set(votes.values()) == {0, 1, 2}
    expected = sorted(range(N), key=lambda i: (-votes[i], i))[:9]
    assert autoal(snapshot, 9, seeded(), strategies=FEW, context=Context(record=record)).tolist() == expected
    assert record == pytest.approx(dict.fromkeys(FEW, 1 / 3))


def test_four_labels_are_enough_for_all_strategies():
    snapshot, record = with_labels(2, 0, 0, 1), {}
    assert len(set(autoal(snapshot, B, seeded(), steps=20, context=Context(record=record)).tolist())) == B
    assert sum(record.values()) == pytest.approx(1)
    assert len(set(record.values())) == 9


def test_a_strategy_that_fails_in_the_simulated_cycle_is_named(add):
    def needs_a_large_pool(snapshot, batch_size, generator):
        if len(snapshot.features) < N:
            raise ValueError("too small")
        return torch.arange(batch_size)

    add("needy", needs_a_large_pool)
    with pytest.raises(ValueError, match=r"^strategy 'needy' failed in the simulated cycle: too small"):
        autoal(taken(), B, seeded(), strategies=["margin", "needy"])


def test_gradients_are_found_where_the_caller_switched_them_off():
    expected = autoal(taken(), B, seeded(), strategies=FEW, steps=3)
    with torch.no_grad():
        assert torch.equal(autoal(taken(), B, seeded(), strategies=FEW, steps=3), expected)
