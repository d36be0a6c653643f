"""The registry, the contract that all strategies keep, rankings by uncertainty, and sequential batches."""

import dataclasses
import math

import pytest
import torch

from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.laplace import LIKELIHOODS, covariance_matrix, precision_matrix, second_order_update
from dal_core.snapshot import LastLayer, Snapshot, Truth
from dal_core.strategies import registry, uncertainty
from dal_core.strategies.uncertainty import entropy_scores, highest, least_confident_scores, margin_scores
from dal_core.updates import Updates, select_sequentially
from tests.samples import seeded, snapshot_from

N, M, K, D = 11, 7, 3, 5
UNCERTAINTY = ("margin", "entropy", "least_confident")


def snapshot(with_bias: bool = True, seed: int = 0) -> Snapshot:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    features, labelled, weight = normal(N, D), normal(M, D), normal(K, D)
    bias = normal(K) if with_bias else None
    offset = 0 if bias is None else bias
    logits, labelled_logits = features @ weight.mT + offset, labelled @ weight.mT + offset
    return snapshot_from(features, logits, labelled, labelled_logits, torch.arange(M) % K, weight, bias)


def pick(name: str, batch_size: int, taken: Snapshot | None = None, seed: int = 0) -> list[int]:
    return strategies.query(strategies.get(name), taken or snapshot(), batch_size, seeded(seed)).tolist()


# --- the registry


@pytest.fixture
def scratch(monkeypatch):
    """A copy of the registry, which a test can add to."""
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))


@pytest.mark.usefixtures("scratch")
def test_registered_strategy_is_found_with_its_options():
    @strategies.register("last")
    def last(snapshot, batch_size, generator, *, skipped=0, reverse=False):
        positions = torch.arange(len(snapshot.features) - skipped)[-batch_size:]
        return positions.flip(0) if reverse else positions

    assert "last" in strategies.names()
    assert strategies.option_names("last") == ["skipped", "reverse"]
    assert strategies.get("last") is last
    assert strategies.query(strategies.get("last"), snapshot(), 3, seeded()).tolist() == [8, 9, 10]
    bound = strategies.get("last", {"skipped": 2, "reverse": True})
    assert strategies.query(bound, snapshot(), 3, seeded()).tolist() == [8, 7, 6]


@pytest.mark.usefixtures("scratch")
def test_strategy_that_asks_for_an_oracle_snapshot_is_told_apart():
    @strategies.register("clairvoyant")
    def clairvoyant(snapshot: Truth, batch_size, generator):
        return snapshot.hidden_labels.argsort()[:batch_size]

    assert strategies.needs_oracle("clairvoyant")
    assert "clairvoyant" in strategies.names(oracle=True)
    assert "clairvoyant" not in strategies.names(oracle=False)
    assert not strategies.needs_oracle("margin")
    assert strategies.names() == sorted(strategies.names(oracle=True) + strategies.names(oracle=False))


@pytest.mark.usefixtures("scratch")
def test_a_context_is_no_option_and_is_passed_to_who_asks_for_it():
    @strategies.register("planner")
    def planner(snapshot, batch_size, generator, *, depth=1, context=None):
        context.record["cycle"] = context.cycle
        return torch.arange(sum(context.remaining))

    assert strategies.option_names("planner") == ["depth"]
    with pytest.raises(ValueError, match="strategy 'planner' has no option 'context'; it has depth"):
        strategies.get("planner", {"context": {}})
    for name, planned in {"planner": 5, "margin": 3}.items():
        context = Context(cycle=2, remaining=(3, 2))
        assert len(strategies.query(strategies.get(name), snapshot(), 3, seeded(), context)) == planned
        assert context.record == ({"cycle": 2} if name == "planner" else {})


@pytest.mark.usefixtures("scratch")
def test_register_refuses_a_name_that_is_taken_and_other_arguments():
    with pytest.raises(ValueError, match=r"strategy 'margin' is registered already, by dal_core\.strategies\.uncert"):
        strategies.register("margin")(lambda snapshot, batch_size, generator: None)
    with pytest.raises(ValueError, match=r"strategy 'odd' takes \['pool', 'batch_size'\]; snapshot, batch_size, gen"):
        strategies.register("odd")(lambda pool, batch_size: None)
    assert "odd" not in strategies.names()


def test_unknown_names_and_options_list_what_exists():
    with pytest.raises(
        ValueError, match=r"strategy is 'margn'; it has to be one of .*'entropy', .*'margin', .*'random'"
    ):
        strategies.get("margn")
    with pytest.raises(ValueError, match="strategy 'margin' has no option 'gamma'; it has none"):
        strategies.get("margin", {"gamma": 1.0})
    with pytest.raises(ValueError, match="strategy 'lookahead' has no option 'gama'; it has num_candidates, gamma, "):
        strategies.get("lookahead", {"gama": 1.0})
    with pytest.raises(ValueError, match="has no option 'batch_size'"):
        strategies.get("margin", {"batch_size": 3})


@pytest.mark.parametrize("batch_size", [0, -1, N + 1])
def test_query_refuses_a_batch_that_the_pool_cannot_fill(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; 1 to 11, the number of unlabelled instances"):
        strategies.query(strategies.get("margin"), snapshot(), batch_size, seeded())


@pytest.mark.parametrize("answer", [[0, 1], [0, 1, 1], [0, 1, N], [-1, 0, 1], [[0, 1, 2]]])
def test_query_refuses_what_is_no_batch(answer):
    with pytest.raises(ValueError, match=r"the strategy returned .*; 3 distinct positions below 11 were expected"):
        strategies.query(lambda *_: torch.tensor(answer), snapshot(), 3, seeded())


@pytest.mark.parametrize("name", strategies.names(oracle=False))
def test_a_head_without_a_bias_is_no_obstacle(name):
    quick = {"refine": {"num_batches": 2}, "autoal": {"steps": 2}}
    strategy = strategies.get(name, quick.get(name))
    picked = strategies.query(strategy, snapshot(with_bias=False), 4, seeded()).tolist()
    assert len(set(picked) & set(range(N))) == 4


def assert_equal(taken, untouched):
    for name, expected in vars(untouched).items():
        if isinstance(expected, torch.Tensor):
            assert torch.equal(getattr(taken, name), expected), name


# --- random and uncertainty


def test_random_draws_every_position_with_the_same_probability(generator):
    strategy, taken = strategies.get("random"), snapshot()
    drawn = torch.cat([strategies.query(strategy, taken, 4, generator) for _ in range(3000)])
    shares = torch.bincount(drawn, minlength=N) / 3000  # 4 deviations are 0.035
    torch.testing.assert_close(shares, torch.full((N,), 4 / N), atol=0.04, rtol=0)


@pytest.mark.parametrize("scores", [margin_scores, entropy_scores, least_confident_scores])
def test_scores_equal_their_loops(scores):
    probabilities = snapshot().probabilities
    expected = getattr(textbook, scores.__name__)(probabilities)
    torch.testing.assert_close(scores(probabilities), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scores", [margin_scores, entropy_scores, least_confident_scores])
def test_scores_refuse_a_single_class(scores):
    with pytest.raises(ValueError, match=r"probabilities has shape \(11, 1\); 2 or more classes were expected"):
        scores(torch.ones(11, 1))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_margins_are_those_of_a_sort_bit_by_bit_in_blocks_and_with_ties(monkeypatch, generator, rows):
    monkeypatch.setattr(uncertainty, "BLOCK_ROWS", rows)
    probabilities = torch.randint(0, 3, (10, 4), generator=generator).float().softmax(dim=1)
    first, second, *_ = probabilities.sort(dim=1, descending=True).values.unbind(dim=1)
    assert (first == second).any()
    torch.testing.assert_close(margin_scores(probabilities), 1 - (first - second), rtol=0, atol=0)


def test_golden_scores(golden):
    probabilities = golden["logits_unlabeled"].softmax(dim=1)
    for name, scores in (("margin_scores", margin_scores), ("least_confident_scores", least_confident_scores)):
        torch.testing.assert_close(scores(probabilities), golden[name], atol=1e-12, rtol=1e-8)


def test_scores_of_certain_and_undecided_predictions():
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(margin_scores(probabilities), torch.tensor([0.0, 1.0, 1.0]).double())
    torch.testing.assert_close(entropy_scores(probabilities), torch.tensor([0.0, math.log(2), math.log(3)]).double())
    torch.testing.assert_close(least_confident_scores(probabilities), torch.tensor([0.0, 0.5, 2 / 3]).double())


def test_highest_first_and_ties_to_the_lower_position():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 3.0])
    assert highest(scores, 4).tolist() == [1, 3, 5, 2]
    assert highest(torch.zeros(100), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "scores"),
    [("margin", margin_scores), ("entropy", entropy_scores), ("least_confident", least_confident_scores)],
)
def test_batch_is_the_ranking_by_score(name, scores):
    values = scores(snapshot().probabilities).tolist()
    assert pick(name, 4) == sorted(range(N), key=lambda i: -values[i])[:4]


@pytest.mark.parametrize("name", UNCERTAINTY)
def test_permuting_the_pool_permutes_the_picks(name):
    taken, order = snapshot(), torch.randperm(N, generator=seeded(3))
    permuted = dataclasses.replace(taken, features=taken.features[order], logits=taken.logits[order])
    assert order[pick(name, 4, permuted)].tolist() == pick(name, 4, taken)


@pytest.mark.parametrize("name", UNCERTAINTY)
def test_uncertainty_does_not_look_at_the_generator(name):
    assert pick(name, 4, seed=0) == pick(name, 4, seed=1)


def test_the_three_uncertainties_are_not_the_same():
    taken = snapshot(seed=3)
    assert len({tuple(pick(name, N, taken)) for name in UNCERTAINTY}) == 3


# --- sequential batches


def truth() -> torch.Tensor:
    """Labels that the head finds surprising."""
    return snapshot().logits.argmin(dim=1)


def sequential(batch_size: int, updates: Updates, strategy=None, labels=None, taken=None) -> list[int]:
    strategy, labels = strategy or strategies.get("margin"), truth() if labels is None else labels
    return select_sequentially(strategy, taken or snapshot(), batch_size, seeded(), labels, updates).tolist()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_sequential_margin_equals_the_textbook(every, likelihood):
    taken, gamma, prior = snapshot(), 3.0, 0.5
    precision = precision_matrix(
        taken.labelled_features, taken.labelled_logits, likelihood=likelihood, prior_precision=prior
    )
    weight, covariance, expected = taken.weight, covariance_matrix(precision), []
    while len(expected) < 7:
        scores = margin_scores((taken.features @ weight.mT + taken.bias).softmax(dim=1)).tolist()
        ranking = sorted(set(range(N)) - set(expected), key=lambda i: -scores[i])
        group = ranking[: min(every, 7 - len(expected))]
        expected += group
        weight, covariance = second_order_update(
            weight, covariance, taken.features[group], truth()[group],
            gamma=gamma, likelihood=likelihood, bias=taken.bias,
        )  # fmt: skip
    assert sequential(7, Updates(every, gamma, likelihood, prior)) == expected
    assert expected != pick("margin", 7)  # the updates matter


def test_without_a_bias_it_stays_away():
    taken = snapshot(with_bias=False)
    seen: list[Snapshot] = []

    def spy(current, batch_size, generator):
        seen.append(current)
        return torch.arange(batch_size)

    sequential(4, Updates(every=2), strategy=spy, taken=taken)
    assert [each.bias for each in seen] == [None, None]
    torch.testing.assert_close(seen[1].logits, seen[1].features @ seen[1].weight.mT, atol=1e-12, rtol=0)


@pytest.mark.parametrize("every", [4, 5, 100])
def test_updates_as_rare_as_batches_give_the_plain_batch(every):
    assert sequential(4, Updates(every)) == pick("margin", 4)


def test_labels_of_what_is_not_picked_and_of_the_last_picks_do_not_matter():
    picked = sequential(5, Updates(every=2))
    others = (truth() + 1) % K
    others[picked[:4]] = truth()[picked[:4]]
    assert sequential(5, Updates(every=2), labels=others) == picked


def test_each_group_sees_what_is_left_and_a_head_that_fits_its_logits():
    taken, seen = snapshot(), []

    def spy(current, batch_size, generator):
        seen.append(current)
        return torch.tensor([0, len(current.features) - 1])[:batch_size]

    assert sequential(5, Updates(every=2), strategy=spy) == [0, 10, 1, 9, 2]
    for group, left in zip(seen, (range(11), range(1, 10), range(2, 9)), strict=True):
        assert isinstance(group, LastLayer)
        assert torch.equal(group.features, taken.features[list(left)])
        for inputs, logits in ((group.features, group.logits), (group.labelled_features, group.labelled_logits)):
            torch.testing.assert_close(logits, inputs @ group.weight.mT + group.bias, atol=1e-12, rtol=0)
    bought = torch.tensor([0, 10, 1, 9])
    assert torch.equal(seen[2].labelled_features, torch.cat((taken.labelled_features, taken.features[bought])))
    assert torch.equal(seen[2].labels, torch.cat((taken.labels, truth()[bought])))


def test_sequential_batch_can_be_the_whole_pool():
    assert sorted(sequential(N, Updates(every=3))) == list(range(N))


def test_sequential_leaves_the_snapshot_alone():
    taken, untouched = snapshot(), snapshot()
    sequential(6, Updates(every=1), taken=taken)
    assert_equal(taken, untouched)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; a whole number of at least 1 was expected"),
        ({"every": 1, "gamma": -1.0}, r"gamma is -1\.0; a finite number above 0"),
        ({"every": 1, "prior_precision": 0.0}, r"prior_precision is 0\.0; a finite number above 0"),
        ({"every": 1, "likelihood": "probit"}, "likelihood is 'probit'; it has to be one of 'gaussian', 'cat"),
    ],
)
def test_updates_refuse_what_is_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Updates(**options)
