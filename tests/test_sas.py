"""SAS: the search, judged several proposals at a time, equals one proposal after another."""

import functools
import itertools
import math

import pytest
import torch

from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.models.training import Training
from dal_core.oracles import sas as module
from dal_core.oracles.judging import retrained
from dal_core.oracles.sas import _Curve, _exchanged, _exchanges, sas
from dal_core.randomness import integer_seed
from dal_core.snapshot import Truth
from tests.samples import oracle_snapshot_of, seeded

N, M, B, A, K, D, N_TEST, N_VALIDATION = 17, 5, 9, 4, 3, 6, 23, 19  # a: 4, 4 and a remainder of 1
EPOCHS = 3
TRAINING = Training("sgd", learning_rate=0.2, weight_decay=0.01, batch_size=4, epochs=EPOCHS, drop_last=True)
BRIEF = {"steps": 24, "greedy_steps": 12, "retraining_epochs": EPOCHS, "annealing_factor": 2.0}


def snapshot(**changes) -> Truth:
    return oracle_snapshot_of(N, M, K, D, N_TEST, N_VALIDATION, **{"training": TRAINING} | changes)


def acquisitions(bought: int, size: int) -> tuple[int, ...]:
    """Sizes of the batches in which so many instances are bought."""
    return tuple(min(size, bought - start) for start in range(0, bought, size))


def ends_of(bought: int, size: int) -> torch.Tensor:
    return torch.tensor(acquisitions(bought, size)).cumsum(dim=0)


def planned(taken: Truth, seed: int = 0, bought: int = B, size: int = A, record: dict | None = None, **options):
    context = Context(remaining=acquisitions(bought, size), record={} if record is None else record)
    strategy = functools.partial(sas, **(BRIEF | options))
    return strategies.query(strategy, taken, min(size, bought), seeded(seed), context).tolist()


def textbook_sas(taken: Truth, generator: torch.Generator, performance_on: str = "test"):
    """The plan, the record, and the quality step by step, from the same draws."""
    seed, order = integer_seed(generator), torch.randperm(N, generator=generator).tolist()
    steps, count = BRIEF["steps"], BRIEF["steps"] + BRIEF["greedy_steps"]
    exchanges = _exchanges(N, ends_of(B, A), count, generator).tolist()
    chances = torch.rand(count, generator=generator, dtype=torch.float64).tolist()

    def quality_of(order: list[int]) -> float:
        return textbook.mean_accuracy(taken, order[:B], seed, A, EPOCHS, performance_on)

    best, qualities, kept = textbook.sas(quality_of, order, exchanges, chances, steps, BRIEF["annealing_factor"])
    record = {"first_accuracy": qualities[0], "best_accuracy": max(qualities), "kept": kept}
    return best[:B], record, qualities


def test_options_and_what_it_asks_for():
    assert strategies.needs_oracle("sas")
    assert strategies.option_names("sas") == [
        "steps", "greedy_steps", "annealing_factor", "retraining_epochs", "performance_on",
    ]  # fmt: skip


# --- the search


@pytest.mark.parametrize(("seed", "performance_on"), [(0, "test"), (2, "validation")])
def test_the_plan_and_the_record_are_those_of_one_proposal_after_another(seed, performance_on):
    taken, record = snapshot(), {}
    plan, expected, qualities = textbook_sas(taken, seeded(seed), performance_on)
    assert planned(taken, seed, performance_on=performance_on, record=record) == plan
    assert record == pytest.approx(expected, abs=1e-12)
    steps = BRIEF["steps"]
    assert any(after < before for before, after in itertools.pairwise(qualities[: steps + 1]))
    greedy = qualities[steps:]
    assert all(after >= before for before, after in itertools.pairwise(greedy))


@pytest.mark.parametrize("at_once", [1, 7])
def test_how_many_proposals_are_judged_at_once_makes_no_difference(monkeypatch, at_once):
    results = []
    for size in (module.MOST_AT_ONCE, at_once):
        monkeypatch.setattr(module, "MOST_AT_ONCE", size)
        record: dict = {}
        plan = planned(snapshot(), 4, record=record)
        results.append((plan, record))
    assert results[0] == results[1]


def test_proposals_are_judged_together_where_few_are_kept(monkeypatch):
    sizes, original = [], _Curve.of

    def spying(self, orders, wanted):
        sizes.append(len(orders))
        return original(self, orders, wanted)

    monkeypatch.setattr(_Curve, "of", spying)
    planned(snapshot(), steps=0, greedy_steps=400)
    assert max(sizes) == module.MOST_AT_ONCE
    assert len(sizes) < 100


def test_greedy_steps_never_worsen_the_curve():
    taken, qualities = snapshot(), []
    for greedy_steps in (0, 10, 30):
        record: dict = {}
        planned(taken, 2, steps=0, greedy_steps=greedy_steps, record=record)
        assert record["kept"] <= greedy_steps
        qualities.append(record["best_accuracy"])
    # All draws but the first order's depend on the number of steps: each search is another one, none gets worse.
    assert all(quality >= qualities[0] for quality in qualities)
    assert qualities[-1] > qualities[0]


def test_the_best_order_seen_is_returned_even_if_the_search_went_on_to_a_worse_one():
    # Nearly every change is kept, so that the last order is a random one.
    taken, seed = snapshot(), integer_seed(seeded(5))
    record: dict = {}
    plan = planned(taken, 5, steps=40, greedy_steps=0, annealing_factor=1e-9, record=record)
    assert record["kept"] > 35
    accuracy = textbook.mean_accuracy(taken, plan, seed, A, EPOCHS)
    assert accuracy == pytest.approx(record["best_accuracy"], abs=1e-12)
    assert record["best_accuracy"] > record["first_accuracy"]


def test_no_steps_return_the_first_order():
    record: dict = {}
    replay = seeded(3)
    integer_seed(replay)
    plan = planned(snapshot(), 3, steps=0, greedy_steps=0, record=record)
    assert plan == torch.randperm(N, generator=replay)[:B].tolist()
    assert record["first_accuracy"] == record["best_accuracy"]
    assert record["kept"] == 0


# --- the curve


def curve_of(taken: Truth, acquisition_size: int = A) -> _Curve:
    sizes, inputs = acquisitions(B, acquisition_size), taken.test.inputs()
    return _Curve(sizes, inputs, taken.test.labels, lambda sets: retrained(taken, sets, [1], EPOCHS))


def test_the_order_within_what_is_bought_makes_no_difference():
    """Otherwise accuracies that an exchange does not affect would not be those of the new order."""
    curve = curve_of(snapshot())
    orders = torch.stack([torch.randperm(N, generator=seeded(seed)) for seed in range(6)])
    shuffled = orders.clone()
    shuffled[:, :4], shuffled[:, 4:8] = orders[:, :4].flip(1), orders[:, 4:8].roll(1, dims=1)
    wanted = torch.ones(6, 3, dtype=torch.bool)
    assert torch.equal(curve.of(orders, wanted), curve.of(shuffled, wanted))


@pytest.mark.parametrize("acquisition_size", [1, 3, 4, B, 20])
def test_accuracies_after_each_acquisition_equal_heads_trained_one_by_one(acquisition_size):
    taken = snapshot()
    curve = curve_of(taken, acquisition_size)
    orders = torch.stack([torch.randperm(N, generator=seeded(seed)) for seed in range(4)])
    wanted = torch.ones(4, math.ceil(B / acquisition_size), dtype=torch.bool)
    expected = [textbook.mean_accuracy(taken, order[:B].tolist(), 1, acquisition_size, EPOCHS) for order in orders]
    found = curve.mean_accuracy(curve.of(orders, wanted))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_accuracies_are_computed_where_they_are_wanted():
    curve = curve_of(snapshot())
    orders = torch.stack([torch.randperm(N, generator=seeded(seed)) for seed in range(4)])
    whole = curve.of(orders, torch.ones(4, 3, dtype=torch.bool))
    wanted = torch.rand(4, 3, generator=seeded(2)) < 0.7
    assert wanted.any(dim=0).tolist() == [True, True, True]
    assert torch.equal(curve.of(orders, wanted)[wanted], whole[wanted])


def test_what_an_exchange_affects_is_what_it_can_change():
    """What is bought by the end of an acquisition, as a set, differs exactly where it is said to."""
    curve = curve_of(snapshot())
    pairs = torch.tensor([(i, j) for i in range(N) for j in range(N) if i != j])
    order = torch.randperm(N, generator=seeded(1))
    affected = curve.affected(pairs)
    for new, found in zip(_exchanged(order, pairs), affected.tolist(), strict=True):
        expected = [set(order[:end].tolist()) != set(new[:end].tolist()) for end in (4, 8, 9)]
        assert found == expected


# --- proposals


def acquisition_of(place: int, batch_size: int, acquisition_size: int) -> int:
    return place // acquisition_size if place < batch_size else -1


@pytest.mark.parametrize(
    ("n", "batch_size", "acquisition_size"),
    [(N, B, A), (N, B, B), (N, B, 20), (N, N, A), (N, 1, 1), (B, B, 5), (N, B, N)],
)
def test_exchanges_are_between_acquisitions_and_never_outside_of_all(n, batch_size, acquisition_size):
    exchanges = _exchanges(n, ends_of(batch_size, acquisition_size), 3000, seeded()).tolist()
    assert len(exchanges) == 3000
    found = set()
    for one, other in exchanges:
        assert 0 <= one < batch_size
        assert 0 <= other < n
        belongs = {acquisition_of(place, batch_size, acquisition_size) for place in (one, other)}
        assert len(belongs) == 2
        found |= {(one, other)}
    possible = {
        (i, j)
        for i in range(batch_size)
        for j in range(n)
        if acquisition_of(i, batch_size, acquisition_size) != acquisition_of(j, batch_size, acquisition_size)
    }
    assert found == possible


def test_the_bought_place_is_drawn_uniformly_and_then_the_other():
    exchanges = _exchanges(N, ends_of(B, A), 20_000, seeded())
    shares = torch.bincount(exchanges[:, 0], minlength=B) / 20_000
    torch.testing.assert_close(shares, torch.full((B,), 1 / B), atol=0.009, rtol=0)  # 4 deviations
    partners = exchanges[exchanges[:, 0] == 5, 1]  # the second acquisition, 4 to 7: 13 other places
    shares = torch.bincount(partners, minlength=N) / len(partners)
    expected = torch.full((N,), 1 / 13)
    expected[4:8] = 0
    torch.testing.assert_close(shares, expected, atol=0.023, rtol=0)  # 4 deviations


@pytest.mark.parametrize("acquisition_size", [N, N + 4])
def test_one_acquisition_of_everything_leaves_nothing_to_exchange(acquisition_size):
    assert _exchanges(N, ends_of(N, acquisition_size), 50, seeded()).shape == (0, 2)
    record: dict = {}
    assert sorted(planned(snapshot(), bought=N, size=acquisition_size, record=record)) == list(range(N))
    assert record["kept"] == 0


def test_the_order_of_the_whole_pool_can_be_planned():
    record: dict = {}
    assert sorted(planned(snapshot(), bought=N, record=record)) == list(range(N))
    assert record["kept"] > 0
    assert record["best_accuracy"] >= record["first_accuracy"]


def test_outside_of_a_run_one_batch_is_planned():
    assert sas(snapshot(), B, seeded(), **BRIEF).tolist() == planned(snapshot(), size=B)


def test_a_pool_that_has_not_what_remains_to_be_bought_is_refused():
    with pytest.raises(ValueError, match=f"^snapshot.features has {N} rows; at least {N + 1}, all that sas plans to b"):
        sas(snapshot(), N, seeded(), context=Context(remaining=(N, 1)))


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1; a whole number of at least 0 was expected"),
        ({"greedy_steps": -2}, "greedy_steps is -2; a whole number of at least 0 was expected"),
        ({"retraining_epochs": -1}, "retraining_epochs is -1; a whole number of at least 0 was expected"),
        ({"annealing_factor": -1.0}, r"annealing_factor is -1\.0; a finite number above 0 was expected"),
        ({"performance_on": "train"}, "performance_on is 'train'; it has to be one of 'test', 'validation'"),
        ({"performance_on": "unlabelled"}, "performance_on is 'unlabelled'; it has to be one of 'test', 'validation'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sas(snapshot(), B, seeded(), **{"steps": 2, "greedy_steps": 1} | options)


@pytest.mark.parametrize("batch_size", [0, N + 1])
def test_a_batch_that_the_pool_cannot_give_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size is {batch_size}; 1 to {N}"):
        sas(snapshot(), batch_size, seeded())


@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize("nothing", [None, (torch.empty(0, D).double(), torch.empty(0).long())])
def test_a_set_that_is_not_there_is_named(name, nothing):
    found = "None" if nothing is None else "empty"
    with pytest.raises(ValueError, match=f"^snapshot.{name} is {found}; instances to judge models by were expected"):
        sas(snapshot(**{name: nothing}), B, seeded(), performance_on=name)
