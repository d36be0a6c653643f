"""Progressive filtering, and REFINE on top of it."""

import pytest

from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.ensembles import filtering
from dal_core.ensembles.filtering import progressive_filter, shared_options
from dal_core.ensembles.members import STRATEGIES
from dal_core.ensembles.refine import refine
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from tests.samples import seeded, snapshot_of

N, B = 61, 3
FEW = {"strategies": ("margin", "random", "badge"), "num_batches": 6, "initial_size": 40, "alpha": 0.5}


def pool(**changes) -> Snapshot:
    return snapshot_of(n=N, **changes)


def filtered(generator=None, **options):
    return progressive_filter(pool(), B, generator or seeded(), **FEW | {"depth": 3} | options)


def textbook_rounds(generator, depth, num_batches=6, **options):
    queries = {name: strategies.get(name) for name in FEW["strategies"]}
    options = {"num_batches": num_batches, "alpha": 0.5, "initial_size": 40, "depth": depth} | options
    return textbook.progressive_filter(pool(), B, generator, queries, **options)


@pytest.mark.parametrize("largest_pool", [10_000, 9])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_filters_as_one_query_after_another(depth, largest_pool):
    found = filtered(depth=depth, largest_pool=largest_pool)
    rounds = textbook_rounds(seeded(), depth, largest_pool=largest_pool)
    assert [each.tolist() for each in found.rounds] == [each.tolist() for each in rounds]
    assert found.positions.tolist() == rounds[-1].tolist()
    assert list(found.sizes) == [len(each) for each in rounds]
    assert found.topped_up == 0


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_does_not_matter(workers):
    expected = filtered(strategies=STRATEGIES, num_batches=18, workers=1)
    found = filtered(strategies=STRATEGIES, num_batches=18, workers=workers)
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.sizes == expected.sizes


def test_the_pool_never_grows():
    sizes = filtered(depth=6).sizes
    assert all(after <= before for before, after in zip((N, *sizes), sizes, strict=False))
    assert sizes[-1] < sizes[0]


@pytest.mark.parametrize("largest_pool", [10_000, 9])
def test_the_pool_after_each_round_is_that_of_a_filter_which_stops_there(largest_pool):
    rounds = filtered(depth=4, largest_pool=largest_pool).rounds
    assert len(rounds) == 4
    for depth, left in enumerate(rounds, start=1):
        assert left.equal(filtered(depth=depth, largest_pool=largest_pool).positions)


def test_no_rounds_keep_everything():
    found = filtered(depth=0)
    assert found.positions.tolist() == list(range(N))
    assert found.sizes == ()


def test_a_pool_smaller_than_the_first_part_is_seen_as_a_whole(monkeypatch):
    seen = []
    original = registry.query

    def spying(strategy, snapshot, batch_size, generator):
        seen.append(len(snapshot.features))
        return original(strategy, snapshot, batch_size, generator)

    monkeypatch.setattr(registry, "query", spying)
    filtered(depth=1, initial_size=5000)
    assert set(seen) == {N}
    seen.clear()
    found = filtered(depth=2, workers=1)
    assert seen == [40] * 6 + [max(B, found.sizes[0] // 2)] * 6


def test_what_is_cut_below_a_batch_is_topped_up_at_random():
    fillers = set()
    for seed in range(20):
        found = filtered(seeded(seed), largest_pool=1)
        assert found.sizes == (1, 1, 1)
        assert found.topped_up == 3 * (B - 1)
        assert len(set(found.positions.tolist())) == B
        fillers |= set(found.positions.tolist())
    assert len(fillers) > 20


def test_fewer_batches_than_strategies_are_one_each():
    found = filtered(num_batches=1, depth=1)
    assert found.positions.tolist() == textbook_rounds(seeded(), 1, num_batches=3)[0].tolist()


def test_an_ensemble_of_one():
    found = filtered(strategies=["margin"], depth=1, num_batches=4)
    assert B <= len(found.positions) <= 4 * B


def test_a_failing_strategy_is_named(monkeypatch):
    def refusing(snapshot, batch_size, generator):
        raise ValueError("labels are too few")

    monkeypatch.setitem(registry._STRATEGIES, "refusing", refusing)
    with pytest.raises(ValueError, match="strategy 'refusing' failed while filtering: labels are too few"):
        progressive_filter(pool(), B, seeded(), **FEW | {"strategies": ["margin", "refusing"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": -1}, "depth is -1; a whole number of at least 0 was expected"),
        ({"num_batches": 0}, "num_batches is 0; a whole number of at least 1"),
        ({"initial_size": 0}, "initial_size is 0"),
        ({"largest_pool": 0}, "largest_pool is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"alpha": 0}, "alpha is 0.0; a number above 0 and at most 1 was expected"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"strategies": "margin"}, "strategies is 'margin'; a list was expected"),
        ({"strategies": []}, r"strategies is \[\]"),
        ({"strategies": ["margn"]}, "strategies is 'margn'; it has to be one of"),
        ({"strategies": ["typiclass"]}, "strategies is 'typiclass'; it has to be one of"),
    ],
)
def test_bad_input(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        filtered(**options)


def test_a_batch_larger_than_the_pool():
    with pytest.raises(ValueError, match=f"batch_size is {N + 1}; 1 to {N}"):
        progressive_filter(pool(), N + 1, seeded())


# --- REFINE


def refined(generator=None, context=None, **options):
    return refine(pool(), B, generator or seeded(), **FEW | {"depth": 2} | options, context=context)


def test_refine_is_the_final_strategy_on_what_the_filter_leaves():
    generator, snapshot, context = seeded(), pool(), Context()
    options = shared_options(snapshot, generator)
    left = progressive_filter(snapshot, B, generator, **FEW, depth=2, options=options)
    final = strategies.get("unc_herding", options["unc_herding"])
    expected = left.positions[final(snapshot.at(left.positions), B, generator)]
    assert refined(context=context).tolist() == expected.tolist()
    assert context.record == {"pool_sizes": list(left.sizes), "topped_up": 0}
    assert [each.tolist() for each in context.trace["rounds"].rounds] == [each.tolist() for each in left.rounds]


def test_any_strategy_can_choose_from_the_filtered_pool():
    left = filtered(depth=2)
    expected = left.positions[strategies.get("margin")(pool().at(left.positions), B, seeded())]
    assert refined(final_strategy="margin").tolist() == expected.tolist()


def test_scales_are_found_once(monkeypatch):
    calls = []
    original = filtering.held_out_temperature
    monkeypatch.setattr(filtering, "held_out_temperature", lambda *args: calls.append(1) or original(*args))
    monkeypatch.setattr("dal_core.strategies.herding.held_out_temperature", None)
    refined(strategies=["unc_herding", "margin"])
    assert len(calls) == 1
    refined(final_strategy="margin")
    assert len(calls) == 1


def test_refine_refuses_oracles():
    with pytest.raises(ValueError, match="final_strategy is 'lookahead'; it has to be one of"):
        refined(final_strategy="lookahead")
    with pytest.raises(ValueError, match="strategies is 'margin'; a list was expected"):
        refined(strategies="margin")
