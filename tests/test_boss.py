"""BoSS: who proposes what, which proposal is bought, and what is told about it."""

import dataclasses
import functools
from collections.abc import Sequence

import pytest
import torch

from dal_core import strategies
from dal_core.context import Context
from dal_core.models.training import Training
from dal_core.oracles import boss as module
from dal_core.oracles.boss import CLASS_AWARE, STRATEGIES, boss, draw_candidates
from dal_core.oracles.judging import Judgement, current_loss, judge
from dal_core.snapshot import LastLayer, Truth
from dal_core.strategies import registry
from tests.samples import oracle_snapshot_of, seeded

N, M, B, K, D, N_TEST = 41, 7, 4, 3, 5, 13
CHEAP = ("random", "margin", "typiclass")
BRIEF = {"retraining_epochs": 3, "loss": "cross_entropy"}


def snapshot(n: int = N, **changes) -> Truth:
    training = Training("sgd", learning_rate=0.1, weight_decay=0.01, batch_size=4)
    return oracle_snapshot_of(n, M, K, D, N_TEST, 0, **{"training": training, "validation": None} | changes)


def bought(taken: Truth, seed: int = 0, batch_size: int = B, record: dict | None = None, **options) -> list[int]:
    context = None if record is None else Context(record=record)
    strategy = functools.partial(boss, **(BRIEF | options))
    return strategies.query(strategy, taken, batch_size, seeded(seed), context).tolist()


@pytest.fixture
def add(monkeypatch):
    """Registers a strategy for the length of a test."""
    return functools.partial(monkeypatch.setitem, registry._STRATEGIES)


def test_options_and_what_it_asks_for():
    assert strategies.needs_oracle("boss")
    assert strategies.option_names("boss") == [
        "num_candidates", "strategies", "loss", "look_ahead", "retraining", "performance_on", "retraining_epochs",
        "label_draws", "gamma", "prior_precision", "strategy_options",
    ]  # fmt: skip


def test_the_strategies_of_the_paper_exist():
    assert len(STRATEGIES) == len(set(STRATEGIES)) == 10
    assert set(STRATEGIES) - set(strategies.names(oracle=False)) == set(CLASS_AWARE)
    assert all(strategies.needs_oracle(name) for name in CLASS_AWARE)


# --- the choice


@pytest.mark.parametrize("look_ahead", ["true", "monte_carlo"])
@pytest.mark.parametrize("num_candidates", [None, 9])
def test_buys_the_candidate_with_the_smallest_loss(num_candidates, look_ahead):
    taken = snapshot()
    candidates, judging = draw_candidates(taken, B, seeded(3), num_candidates, CHEAP)
    assert len(candidates.batches) == (num_candidates or 3)
    losses = judge(taken, candidates.batches, Judgement(look_ahead=look_ahead, **BRIEF), judging)
    assert (losses == losses.min()).sum() == 1
    found = bought(taken, 3, num_candidates=num_candidates, strategies=CHEAP, look_ahead=look_ahead)
    assert found == candidates.batches[losses.argmin()].tolist()


def test_the_generator_decides_between_equal_candidates():
    # Nothing is learned in no epochs: all heads are the initial one, and all losses are equal.
    suppliers = set()
    for seed in range(30):
        record: dict = {}
        bought(snapshot(), seed, num_candidates=None, strategies=CHEAP, retraining_epochs=0, record=record)
        assert len(set(record["losses"])) == 1
        suppliers.add(record["supplier"])
    assert suppliers == set(CHEAP)


def test_options_of_the_judgement_arrive(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "judge", lambda taken, candidates, judgement, generator: seen.append(judgement) or torch.zeros(3)
    )
    options = {
        "loss": "brier", "look_ahead": "pseudo", "retraining": "laplace_update", "performance_on": "unlabelled",
        "retraining_epochs": 7, "label_draws": 5, "gamma": 2.0, "prior_precision": 0.5,
    }  # fmt: skip
    bought(snapshot(), num_candidates=None, strategies=CHEAP, **options)
    assert seen == [Judgement(**options)]


# --- candidates


def proposed(taken: Truth, names: Sequence[str], batch_size: int = B) -> torch.Tensor:
    """A batch of each.  [t, b]"""
    return draw_candidates(taken, batch_size, seeded(), None, names)[0].batches


def test_without_a_number_each_strategy_proposes_once():
    record: dict = {}
    bought(snapshot(), num_candidates=None, record=record)
    assert record["strategies"] == list(STRATEGIES)


def test_with_a_number_strategies_are_drawn_uniformly(add):
    for name in ("one", "two", "three"):
        add(name, lambda snapshot, batch_size, generator: torch.arange(batch_size))
    drawn = draw_candidates(snapshot(), B, seeded(), 3000, ["one", "two", "three"])[0].strategies
    assert len(drawn) == 3000
    for name in ("one", "two", "three"):
        assert drawn.count(name) / 3000 == pytest.approx(1 / 3, abs=0.035)  # 4 deviations


def test_candidates_are_batches_of_distinct_positions():
    candidates, _ = draw_candidates(snapshot(), B, seeded(), None, STRATEGIES * 2)
    assert candidates.batches.shape == (20, B)
    assert candidates.strategies == [*STRATEGIES, *STRATEGIES]
    assert all(len(set(batch) & set(range(N))) == B for batch in candidates.batches.tolist())


def test_a_candidate_does_not_depend_on_what_the_others_draw(add):
    def greedy(snapshot, batch_size, generator):
        torch.rand(100, generator=generator)
        return torch.arange(batch_size)

    add("greedy", greedy)
    plain = proposed(snapshot(), ["margin", "random", "random"])
    other = proposed(snapshot(), ["greedy", "random", "random"])
    assert plain[1:].tolist() == other[1:].tolist()
    assert plain[1].tolist() != plain[2].tolist()


def test_the_candidates_of_fewer_are_among_those_of_more():
    few: dict = {}
    many: dict = {}
    for count, record in ((5, few), (12, many)):
        bought(snapshot(), num_candidates=count, strategies=CHEAP, retraining="laplace_update", record=record)
    assert many["strategies"][:5] == few["strategies"]
    assert many["losses"][:5] == pytest.approx(few["losses"], abs=1e-12)
    assert many["loss_after"] <= few["loss_after"]


@pytest.mark.parametrize(("n", "batch_size"), [(N, B), (N, 15), (N, N), (5003, 3)])
def test_parts_of_the_pool_have_four_batches_at_least_and_5000_instances_at_most(add, n, batch_size):
    sizes, starts = [], []

    def spy(snapshot, batch_size, generator):
        sizes.append(len(snapshot.features))
        starts.append(float(snapshot.features[0, 0]))
        return torch.arange(batch_size)

    add("spy", spy)
    taken = snapshot(n)
    batches = proposed(taken, ["spy"] * 300, batch_size)
    lowest, highest = min(4 * batch_size, n), min(n, 5000)
    assert set(sizes) <= set(range(lowest, highest + 1))
    if n == N and lowest < highest:
        assert set(sizes) == set(range(lowest, highest + 1))  # both ends included
    assert taken.features[batches[:, 0], 0].tolist() == starts  # positions in the part became positions in the pool


@pytest.mark.parametrize(("n", "expected"), [(50, 40), (30, 30)])
def test_a_batch_above_the_limit_on_parts_still_fits_into_them(monkeypatch, add, n, expected):
    monkeypatch.setattr(module, "LARGEST_SUBSET", 11)
    sizes = []

    def spy(snapshot, batch_size, generator):
        sizes.append(len(snapshot.features))
        return torch.arange(batch_size)

    add("spy", spy)
    proposed(snapshot(n), ["spy"] * 20, expected)
    assert set(sizes) == {expected}


def test_ordinary_strategies_see_no_truth_and_class_aware_ones_do(add):
    seen = {}

    def spy(snapshot, batch_size, generator):
        seen["spy"] = snapshot
        return torch.arange(batch_size)

    def clairvoyant(snapshot: Truth, batch_size, generator):
        seen["typiclass"] = snapshot
        return torch.arange(batch_size)

    add("spy", spy)
    add("typiclass", clairvoyant)
    taken = snapshot()
    batches = proposed(taken, ["spy", "typiclass"])
    assert isinstance(seen["spy"], LastLayer)
    assert not isinstance(seen["spy"], Truth)
    assert not {"hidden_labels", "test", "validation"} & set(vars(seen["spy"]))
    assert isinstance(seen["typiclass"], Truth)
    assert torch.equal(seen["typiclass"].hidden_labels[:B], taken.hidden_labels[batches[1]])
    for name, batch in zip(("spy", "typiclass"), batches, strict=True):
        assert torch.equal(seen[name].features[:B], taken.features[batch])
        assert torch.equal(seen[name].logits[:B], taken.logits[batch])
        assert torch.equal(seen[name].labels, taken.labels)


def test_without_ground_truth_true_labels_and_test_set_change_nothing():
    ordinary = [name for name in STRATEGIES if name not in CLASS_AWARE]
    options = {"strategies": ordinary, "look_ahead": "pseudo", "performance_on": "unlabelled", "num_candidates": None}
    taken = snapshot()
    poisoned = snapshot(hidden_labels=(taken.hidden_labels + 1) % K, test=None)
    assert bought(poisoned, **options) == bought(taken, **options)


@pytest.mark.parametrize("changes", [{"look_ahead": "true"}, {"strategies": CLASS_AWARE}], ids=str)
def test_with_ground_truth_true_labels_make_a_difference(changes):
    options = {"look_ahead": "pseudo", "performance_on": "unlabelled", "num_candidates": 20, "strategies": CHEAP[:2]}
    honest: dict = {}
    poisoned: dict = {}
    bought(snapshot(), record=honest, **options | changes)
    bought(snapshot(hidden_labels=snapshot().hidden_labels.roll(5)), record=poisoned, **options | changes)
    assert poisoned["losses"] != honest["losses"]


# --- what is told


def test_the_record_says_who_supplied_the_batch_and_what_every_candidate_was_worth():
    taken, record = snapshot(), {}
    picked = bought(taken, num_candidates=9, strategies=CHEAP, record=record)
    assert set(record) == {"supplier", "loss_before", "loss_after", "strategies", "losses"}
    assert len(record["strategies"]) == len(record["losses"]) == 9
    assert record["loss_after"] == min(record["losses"])
    assert record["strategies"][record["losses"].index(min(record["losses"]))] == record["supplier"]
    assert record["loss_before"] == current_loss(taken, Judgement(**BRIEF))
    assert picked == bought(taken, num_candidates=9, strategies=CHEAP)  # whether there is a record or not


def fail(snapshot, batch_size, generator):
    raise RuntimeError("no such luck")


@pytest.mark.parametrize("num_candidates", [None, 12])
def test_a_strategy_that_fails_is_named_and_the_others_are_judged(add, num_candidates):
    add("broken", fail)
    record: dict = {}
    message = "candidate strategy 'broken' failed and is left out: RuntimeError: no such luck"
    with pytest.warns(UserWarning, match=message) as warned:
        bought(snapshot(), num_candidates=num_candidates, strategies=["broken", *CHEAP], record=record)
    assert len(warned) == 1  # however often it was drawn
    assert record["failures"] == {"broken": "RuntimeError: no such luck"}
    assert set(record["strategies"]) == set(CHEAP)
    assert len(record["strategies"]) == len(record["losses"])
    assert record["supplier"] in CHEAP


def test_an_answer_that_is_no_batch_is_a_failure(add):
    add("repeating", lambda snapshot, batch_size, generator: torch.zeros(batch_size, dtype=torch.int64))
    with pytest.warns(UserWarning, match="'repeating' failed and is left out: ValueError: the strategy returned"):
        candidates, _ = draw_candidates(snapshot(), B, seeded(), None, ["repeating", "random"])
    assert candidates.strategies == ["random"]
    assert list(candidates.failures) == ["repeating"]


@pytest.mark.filterwarnings("ignore:candidate strategy")
def test_all_strategies_failing_names_them(add):
    add("broken", fail)
    add("faulty", fail)
    with pytest.raises(RuntimeError, match=r"every candidate strategy failed: \{'broken': 'Runt.*'faulty': 'RuntimeEr"):
        bought(snapshot(), num_candidates=None, strategies=["broken", "faulty"])


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "num_candidates is 0; a whole number of at least 1 was expected"),
        ({"strategies": ["margin", "margn"]}, "strategies is 'margn'; it has to be one of .*'margin'.*'typiclass'"),
        ({"strategies": ["boss"]}, "strategies is 'boss'; it has to be one of 'alfamix'"),
        ({"strategies": ["margin", "lookahead"]}, "strategies is 'lookahead'; it has to be one of 'alfamix'"),
        ({"strategies": "margin"}, "strategies is 'margin'; a list was expected"),
        ({"strategies": []}, r"strategies is \[\]; a list of at least one name was expected"),
        ({"loss": "hinge"}, "loss is 'hinge'; it has to be one of 'zero_one', 'cross_entropy', 'brier'"),
        ({"performance_on": "validation"}, "snapshot.validation is None; instances to judge models by were expected"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_any_candidate_is_computed(monkeypatch, options, message):
    monkeypatch.setattr(module, "draw_candidates", lambda *_: pytest.fail("candidates were computed"))
    with pytest.raises(ValueError, match=f"^{message}"):
        boss(snapshot(), B, seeded(), **options)


@pytest.mark.parametrize("test", [None, (torch.empty(0, D).double(), torch.empty(0).long())])
def test_a_missing_test_set_is_named_before_any_candidate_is_computed(monkeypatch, test):
    monkeypatch.setattr(module, "draw_candidates", lambda *_: pytest.fail("candidates were computed"))
    found = "None" if test is None else "empty"
    with pytest.raises(ValueError, match=f"^snapshot.test is {found}; instances to judge models by were expected"):
        boss(snapshot(test=test), B, seeded())


@pytest.mark.parametrize("batch_size", [0, N + 1])
def test_a_batch_that_the_pool_cannot_give_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size is {batch_size}; 1 to {N}"):
        boss(snapshot(), batch_size, seeded())


def test_the_whole_pool_can_be_bought():
    assert sorted(bought(snapshot(), batch_size=N, num_candidates=None)) == list(range(N))


def test_inputs_are_left_alone():
    taken = dataclasses.replace(snapshot())
    copies = {name: value.clone() for name, value in vars(taken).items() if isinstance(value, torch.Tensor)}
    bought(taken, num_candidates=None)
    assert all(torch.equal(getattr(taken, name), copy) for name, copy in copies.items())
