"""Runs: rows that say what happened, the same bit by bit for the same configuration, and blind to hidden labels."""

import dataclasses
import itertools
import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from samples import failing_for_seed

import dal_core.loop
import dal_core.models.learners
from dal_core.data import FeatureBank
from dal_core.devices import device_in_words, resolve_device
from dal_core.experiment import Experiment, FailedRunError
from dal_core.models.training import Training, train_heads
from dal_core.oracles.sas import sas
from dal_core.pool import long_tailed
from dal_core.randomness import generator_for
from dal_core.snapshot import LastLayer, Snapshot, Truth
from dal_core.strategies import registry
from dal_core.updates import Updates
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import canonical, configuration, run, run_together
from dal_lab.sources import catalogue

TIMES = ["query_s", "train_s"]
BOSS = {"num_candidates": 5, "retraining_epochs": 2}
SAS = {"steps": 6, "greedy_steps": 3, "retraining_epochs": 2}
MEMBERS = {"strategies": ["random", "margin"]}
CHEAP = {
    "refine": MEMBERS | {"num_batches": 3, "depth": 2}, "autoal": MEMBERS | {"steps": 3}, "tailor": MEMBERS,
    "selectal": {"num_splits": 2, "retraining_epochs": 2}, "bald": {"draws": 5},
}  # fmt: skip


def tiny(strategy: str = "margin", **changes) -> Experiment:
    options = {"epochs": 3} | changes.pop("options", {})
    values = {"batch_size": 4, "initial_size": 10, "cycles": 2, "subset_size": 50, "device": "cpu"} | changes
    return experiment_of(strategy=strategy, options=options, **values)


def acquired(experiment: Experiment) -> list[list[int]]:
    return run(experiment)["acquired"].tolist()


# --- rows


@pytest.mark.parametrize("changes", [{}, {"head": "mlp", "optimiser": "radam"}, {"subset_size": None}])
def test_rows_say_what_happened(changes):
    rows = run(tiny(**changes))
    assert list(rows.columns) == [
        "cycle", "n_labeled", "accuracy", "nll", "brier", "ece", "ace", "query_s", "train_s", "acquired", "record",
    ]  # fmt: skip
    assert rows["record"].tolist() == ["{}"] * 3
    assert rows["cycle"].tolist() == [0, 1, 2]
    assert rows["n_labeled"].tolist() == [10, 14, 18]
    assert [len(bought) for bought in rows["acquired"]] == [10, 4, 4]
    bought = [instance for row in rows["acquired"] for instance in row]
    assert len(set(bought) & set(range(1347))) == 18
    assert rows["accuracy"].between(0, 1).all()
    assert rows["brier"].between(0, 2).all()
    assert (rows["nll"] > 0).all()
    assert rows["query_s"].isna().tolist() == [True, False, False]
    assert (rows["train_s"] > 0).all()


def test_no_cycles_give_the_row_of_the_initial_set():
    assert run(tiny(cycles=0))["n_labeled"].tolist() == [10]


def test_the_whole_pool_can_be_bought():
    rows = run(tiny(batch_size=1337, cycles=1, subset_size=None, options={"epochs": 0}))
    assert rows["n_labeled"].tolist() == [10, 1347]


def test_more_labels_help():
    rows = run(tiny("random", batch_size=100, cycles=1, subset_size=None, options={"epochs": 200}))
    assert rows["accuracy"][1] > rows["accuracy"][0] + 0.2


def test_strategies_of_a_seed_start_from_the_same_set_and_head():
    runs = [run(tiny(strategy, cycles=1)) for strategy in ("margin", "random", "entropy")]
    first = [frame.drop(columns=TIMES).iloc[0].to_dict() for frame in runs]
    assert first[0] == first[1] == first[2]
    assert len({tuple(frame["acquired"][1]) for frame in runs}) == 3


def test_seeds_differ():
    assert acquired(tiny(seed=0))[0] != acquired(tiny(seed=1))[0]
    assert run(tiny(seed=0))["nll"][0] != run(tiny(seed=1))["nll"][0]


@pytest.mark.parametrize(
    "experiment",
    [
        tiny("random"),
        tiny("margin", head="mlp", optimiser="radam"),
        tiny("margin", options={"update_every": 1}),
        tiny("lookahead", allow_oracle=True, options={"num_candidates": 30}),
        tiny("boss", allow_oracle=True, options=BOSS),
        tiny("boss", allow_oracle=True, head="mlp", options=BOSS),
        tiny("cdo", allow_oracle=True, options={"num_candidates": 3, "retraining_epochs": 2}),
        tiny("sas", allow_oracle=True, options=SAS),
    ],
    ids=["random", "mlp", "updates", "lookahead", "boss", "boss, mlp", "cdo", "sas"],
)
def test_same_configuration_same_rows_whatever_the_process_did_before(experiment):
    threads = torch.get_num_threads()
    expected = run(experiment).drop(columns=TIMES)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002 - the global generator is the point
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        again = run(experiment).drop(columns=TIMES)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state[0])
        assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    finally:
        torch.set_num_threads(threads)
    pd.testing.assert_frame_equal(again, expected, check_exact=True)


# --- updates within a batch


def test_updates_within_a_batch_change_its_picks():
    plain = acquired(tiny(batch_size=8))
    updated = acquired(tiny(batch_size=8, options={"update_every": 1}))
    assert updated[:1] == plain[:1]
    assert updated[1][0] == plain[1][0]  # the first pick is made before any update
    assert updated[1] != plain[1]
    assert acquired(tiny(batch_size=8, options={"update_every": 8})) == plain


def test_the_options_of_updates_arrive():
    options = {
        "update_every": 2,
        "update_gamma": 3.0,
        "update_likelihood": "categorical",
        "update_prior_precision": 0.5,
    }
    assert tiny(options=options).updates == Updates(2, 3.0, "categorical", 0.5)
    assert tiny().updates is None


def test_the_options_of_the_training_arrive():
    changes = {"learning_rate": 0.5, "weight_decay": 0.0, "training_batch_size": 7, "epochs": 2, "drop_last": False}
    expected = dataclasses.replace(
        Training("sgd"), learning_rate=0.5, weight_decay=0.0, batch_size=7, epochs=2, drop_last=False
    )
    assert tiny(options=changes).learner.training == expected
    assert experiment_of(optimiser="radam").learner.training == Training("radam")
    assert run(tiny(cycles=0, options={"learning_rate": 0.5}))["nll"][0] != run(tiny(cycles=0))["nll"][0]


# --- hidden labels


def replace_bank(monkeypatch: pytest.MonkeyPatch, bank: FeatureBank) -> None:
    monkeypatch.setattr(catalogue, "load", lambda *_, **__: bank)


def with_other_labels(bank: FeatureBank, kept: set[int]) -> FeatureBank:
    """The bank with wrong labels for all of the train split but the instances `kept`."""
    labels = (bank.train_labels + 1) % bank.num_classes
    known = torch.tensor(sorted(kept))
    labels[known] = bank.train_labels[known]
    return dataclasses.replace(bank, train_labels=labels)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [*((name, {}) for name in registry.names(oracle=False)), ("margin", {"update_every": 2})],
)
def test_labels_that_were_never_bought_change_nothing(monkeypatch, strategy, options):
    experiment = tiny(strategy, options=CHEAP.get(strategy, {}) | options)
    expected = run(experiment).drop(columns=TIMES)
    bought = {instance for row in expected["acquired"] for instance in row}
    replace_bank(monkeypatch, with_other_labels(catalogue.load("digits"), bought))
    pd.testing.assert_frame_equal(run(experiment).drop(columns=TIMES), expected, check_exact=True)


def test_labels_of_a_batch_are_unknown_while_it_is_picked(monkeypatch):
    experiment = tiny(cycles=1)
    expected = acquired(experiment)
    replace_bank(monkeypatch, with_other_labels(catalogue.load("digits"), set(expected[0])))
    assert acquired(experiment) == expected


def test_an_oracle_does_see_them(monkeypatch):
    experiment = tiny("lookahead", cycles=1, allow_oracle=True, options={"num_candidates": 30})
    expected = acquired(experiment)
    replace_bank(monkeypatch, with_other_labels(catalogue.load("digits"), set(expected[0])))
    assert acquired(experiment)[0] == expected[0]
    assert acquired(experiment)[1] != expected[1]


def test_a_strategy_gets_labels_of_what_is_labelled_alone(monkeypatch):
    seen: list[Snapshot] = []

    def spy(snapshot, batch_size, generator):
        seen.append(snapshot)
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    rows, bank = run(tiny("spy")), catalogue.load("digits")
    labelled: list[int] = []
    for snapshot, bought in zip(seen, rows["acquired"], strict=False):
        labelled += bought
        assert isinstance(snapshot, LastLayer)
        assert not isinstance(snapshot, Truth)
        others = {name for name, value in vars(snapshot).items() if not isinstance(value, torch.Tensor)}
        assert others == {"data", "draw", "learner", "task", "model", "cycle"}
        assert set(vars(snapshot.data)) == {"features"}
        assert snapshot.learner == tiny("spy").learner
        integers = {name for name in vars(snapshot).keys() - others if not vars(snapshot)[name].is_floating_point()}
        assert integers == {"labels", "labelled", "instances"}
        assert snapshot.labelled.tolist() == labelled
        assert torch.equal(snapshot.labels, bank.train_labels[labelled])
        assert torch.equal(snapshot.labelled_features, bank.train_features[labelled])
        assert snapshot.features.shape == (50, 64)  # the subset


def test_an_oracle_gets_the_labels_of_what_it_chooses_from(monkeypatch):
    seen: list[Truth] = []

    def spy(snapshot: Truth, batch_size, generator):
        seen.append(snapshot)
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    rows, bank = run(tiny("spy", allow_oracle=True)), catalogue.load("digits")
    for snapshot, bought in zip(seen, rows["acquired"][1:], strict=True):
        assert torch.equal(snapshot.hidden_labels[:4], bank.train_labels[bought])
        assert torch.equal(snapshot.features[:4], bank.train_features[bought])
        assert torch.equal(snapshot.test.labels, bank.test_labels)


# --- oracles


def oracle(strategy: str, **changes) -> Experiment:
    options = {"boss": BOSS, "sas": SAS}[strategy] | changes.pop("options", {})
    return tiny(strategy, allow_oracle=True, options=options, **changes)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_boss_tells_in_every_row_but_the_first_who_supplied_the_batch(head):
    rows = run(oracle("boss", head=head))
    assert tuple(rows.columns) == Experiment().columns
    first, *others = map(json.loads, rows["record"])
    assert first == {}
    assert len(others) == 2
    for told in others:
        assert told["supplier"] in told["strategies"]
        assert told["loss_after"] == min(told["losses"])
        assert len(told["losses"]) == 5
    assert others[0] != others[1]


def test_the_loss_before_is_that_of_the_run():
    rows = run(oracle("boss"))
    losses = [json.loads(told)["loss_before"] for told in rows["record"][1:]]
    assert losses == pytest.approx((1 - rows["accuracy"][:2]).tolist(), abs=1e-6)  # zero-one, on the test split


def test_candidates_are_retrained_as_the_run_trains():
    # As many epochs as the run has and a minibatch that holds everything: what the oracle foresees comes true.
    options = {"retraining_epochs": 3, "training_batch_size": 100}
    for head, optimiser in (("linear", "sgd"), ("linear", "radam"), ("mlp", "radam")):
        rows = run(oracle("boss", head=head, optimiser=optimiser, options=options))
        losses = [json.loads(told)["loss_after"] for told in rows["record"][1:]]
        assert losses == pytest.approx((1 - rows["accuracy"][1:]).tolist(), abs=1e-6)


@pytest.mark.parametrize("strategy", ["boss", "cdo", "sas", "lookahead", "typiclass"])
def test_oracles_have_to_be_allowed(strategy):
    with pytest.raises(ValueError, match=f"'{strategy}' looks at true labels: allow_oracle is False, True was expect"):
        tiny(strategy)


# --- what a strategy knows of the run


def test_a_strategy_knows_its_cycle_and_keeps_its_memory_to_itself(monkeypatch):
    seen = []

    def spy(snapshot, batch_size, generator, *, context=None):
        seen.append((snapshot.cycle, dict(context.memory)))
        context.memory["last"] = f"left in {context.cycle}"
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    for _ in range(2):
        run(tiny("spy", cycles=3))
    course = [(0, {}), (1, {"last": "left in 0"}), (2, {"last": "left in 1"})]
    assert seen == course * 2
    with pytest.raises(ValueError, match="strategy 'spy' has no option 'context'"):
        tiny("spy", options={"context": {}})


# --- instances that are set aside


def test_instances_set_aside_are_never_bought_and_change_nothing_about_the_start():
    aside = set()
    for strategy in ("random", "margin"):
        plain = run(tiny(strategy, batch_size=400, cycles=3, subset_size=None))
        rows = run(tiny(strategy, batch_size=400, cycles=3, subset_size=None, options={"validation_size": 137}))
        assert rows["acquired"][0] == plain["acquired"][0]
        assert rows["nll"][0] == plain["nll"][0]
        bought = {instance for row in rows["acquired"] for instance in row}
        assert len(bought) == 1210  # all but what is set aside
        aside |= {tuple(sorted(set(range(1347)) - bought))}
    assert len(aside) == 1  # the same for all strategies of a seed
    assert len(aside.pop()) == 137


def test_an_oracle_sees_what_is_set_aside_as_its_validation_set(monkeypatch):
    seen: list[Truth] = []

    def spy(snapshot: Truth, batch_size, generator):
        seen.append(snapshot)
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    run(tiny("spy", allow_oracle=True, subset_size=None, options={"validation_size": 11}))
    bank = catalogue.load("digits")
    first, second = seen
    aside = first.validation.inputs()
    assert aside.shape == (11, 64)
    assert torch.equal(aside, second.validation.inputs())
    places = [int((bank.train_features == row).all(dim=1).nonzero()[0]) for row in aside]
    assert torch.equal(first.validation.labels, bank.train_labels[places])
    for snapshot in seen:
        everything = torch.cat((snapshot.features, snapshot.labelled_features))
        assert len(everything) == 1347 - 11
        assert not (everything.unsqueeze(1) == aside).all(dim=2).any()


def test_without_any_set_aside_an_oracle_has_no_validation_set():
    message = "snapshot.validation is None; instances to judge models by were expected"
    with pytest.raises(ValueError, match=message):
        run(oracle("boss", options={"performance_on": "validation"}))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_boss_can_judge_by_the_validation_set(head):
    options = {"performance_on": "validation", "validation_size": 50}
    rows = run(oracle("boss", head=head, options=options))
    losses = torch.tensor([json.loads(told)["losses"] for told in rows["record"][1:]])
    torch.testing.assert_close(losses * 50, (losses * 50).round(), atol=1e-4, rtol=0)  # wrong ones of 50
    assert (losses > 0).all()


def test_a_long_tailed_pool_is_all_that_can_be_bought():
    rows = run(tiny("random", options={"imbalance": 10}))
    bank = catalogue.load("digits")
    kept = long_tailed(bank.train_labels, 10, generator_for(0, "long tail"))
    assert set(itertools.chain(*rows["acquired"])) <= set(kept.tolist())
    with pytest.raises(ValueError, match=f"but the pool has {len(kept)}"):
        run(tiny("random", batch_size=len(kept), cycles=1, subset_size=None, options={"imbalance": 10}))
    with pytest.raises(ValueError, match=r"imbalance is 0\.5; a finite number of at least 1 was expected"):
        tiny(options={"imbalance": 0.5})


def test_a_share_of_the_pool_is_no_validation_size(unchecked):
    with pytest.raises(ValueError, match=r"validation_size is 0\.2; a whole number of at least 0 was expected"):
        tiny(options={"validation_size": 0.2})


def test_run_refuses_to_set_aside_what_is_to_be_bought():
    with pytest.raises(ValueError, match="the experiment buys 18 instances, but the pool has 17"):
        run(tiny(options={"validation_size": 1330}))


# --- a plan made ahead


@pytest.mark.parametrize("subset_size", [50, None])
def test_a_plan_of_the_first_cycle_is_bought_batch_by_batch(monkeypatch, subset_size):
    asked = []

    def spying(snapshot: Truth, batch_size, generator, *, context=None):
        plan = sas(snapshot, batch_size, generator, context=context, **SAS)
        asked.append((batch_size, context.remaining, snapshot.features[plan]))
        return plan

    monkeypatch.setitem(registry._STRATEGIES, "spying", spying)
    rows = run(tiny("spying", allow_oracle=True, cycles=3, subset_size=subset_size))
    ((batch_size, remaining, features),) = asked  # one query
    assert (batch_size, remaining) == (4, (4, 4, 4))
    assert [len(bought) for bought in rows["acquired"]] == [10, 4, 4, 4]
    bought = [instance for row in rows["acquired"][1:] for instance in row]
    assert torch.equal(catalogue.load("digits").train_features[bought], features)
    told = [json.loads(record) for record in rows["record"]]
    assert set(told[1]) == {"first_accuracy", "best_accuracy", "kept"}
    assert told[0] == told[2] == told[3] == {}


def test_a_plan_needs_a_subset_that_holds_it():
    assert run(oracle("sas", subset_size=8))["n_labeled"].tolist() == [10, 14, 18]
    with pytest.raises(ValueError, match=r"snapshot\.features has 7 rows; at least 8, all that sas plans to buy, were"):
        run(oracle("sas", subset_size=7))


def test_a_plan_of_no_cycles_is_no_plan():
    assert run(oracle("sas", cycles=0))["record"].tolist() == ["{}"]


# --- several seeds at once


def seeds(strategy: str = "margin", count: int = 3, **changes) -> list[Experiment]:
    return [tiny(strategy, seed=seed, **changes) for seed in range(5, 5 + count)]


@pytest.fixture
def doubles(monkeypatch):
    """Digits in float64, where no rounding decides what is acquired."""
    bank = catalogue.load("digits")
    train, test = bank.train_features.double(), bank.test_features.double()
    replace_bank(monkeypatch, dataclasses.replace(bank, train_features=train, test_features=test))


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(("head", "optimiser"), [("linear", "sgd"), ("mlp", "radam")])
@pytest.mark.parametrize("strategy", ["random", "margin", "badge", "coreset", "typiclust", "bait"])
def test_seeds_that_go_together_have_the_rows_they_have_alone(strategy, head, optimiser):
    minibatches = {"training_batch_size": 4}  # several, so that the shuffling matters
    experiments = seeds(strategy, head=head, optimiser=optimiser, options=minibatches)
    together = run_together(experiments)
    assert len({str(rows["acquired"].tolist()) for rows in together}) == 3
    for rows, experiment in zip(together, experiments, strict=True):
        alone = run(experiment)
        assert rows["acquired"].tolist() == alone["acquired"].tolist()
        assert rows["query_s"].isna().tolist() == [True, False, False]
        numbers = [name for name in alone.columns if name not in (*TIMES, "acquired", "record")]
        pd.testing.assert_frame_equal(rows[numbers], alone[numbers], atol=1e-6, rtol=0)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("random", {"imbalance": 10, "validation_size": 20}),
        ("margin", {"update_every": 2}),
        ("tailor", {}),  # has a memory
        ("sas", SAS),  # plans ahead and has a record
    ],
)
def test_what_a_run_keeps_from_cycle_to_cycle_is_its_own(strategy, options):
    experiments = seeds(strategy, cycles=3, allow_oracle=strategy == "sas", options=options)
    for rows, experiment in zip(run_together(experiments), experiments, strict=True):
        alone = run(experiment)
        assert tuple(rows.columns) == Experiment().columns
        assert rows["acquired"].tolist() == alone["acquired"].tolist()
        told, expected = (list(map(json.loads, frame["record"])) for frame in (rows, alone))
        assert told == [pytest.approx(values, abs=1e-6) for values in expected]


def test_heads_of_all_seeds_are_trained_in_one_call_a_cycle_and_share_its_time(monkeypatch):
    seconds, calls = [0.0], []

    def slow(initial, features, labels, index_sets, training, generators):
        seconds[0] += 6
        calls.append(tuple(index_sets.shape))
        return train_heads(initial, features, labels, index_sets, training, generators)

    monkeypatch.setattr(dal_core.models.learners, "train_heads", slow)
    monkeypatch.setattr(dal_core.loop, "now", lambda _: seconds[0])
    together = run_together(seeds())
    assert calls == [(3, 10), (3, 14), (3, 18)]
    assert [rows["train_s"].tolist() for rows in together] == [[2.0] * 3] * 3
    assert run(tiny())["train_s"].tolist() == [6.0] * 3


def test_runs_that_differ_in_more_than_the_seed_do_not_go_together():
    different = {"protocol": {"batch_size": 5}, "strategy, learner": {"strategy": "random", "options": {"epochs": 4}}}
    for names, changes in different.items():
        with pytest.raises(ValueError, match=f"^experiments differ in {names}; runs that go together differ in the s"):
            run_together([tiny(), tiny(seed=1), tiny(**{"seed": 2, **changes})])
    with pytest.raises(ValueError, match="experiments is empty; at least one was expected"):
        run_together([])


def test_of_several_runs_the_one_that_fails_is_named(monkeypatch):
    error = KeyError("lost")
    monkeypatch.setitem(registry._STRATEGIES, "failing", failing_for_seed(6, error))
    with pytest.raises(FailedRunError, match="the run with the seed 6 failed") as caught:
        run_together(seeds("failing"))
    assert caught.value.experiment == tiny("failing", seed=6)
    assert caught.value.__cause__ is error
    with pytest.raises(KeyError, match="lost"):  # a single run needs no name
        run(tiny("failing", seed=6))


def test_of_several_runs_the_one_whose_pool_is_too_small_is_named():
    sizes = {}
    for seed in range(5, 8):
        sizes[seed] = len(long_tailed(catalogue.load("digits").train_labels, 10, generator_for(seed, "long tail")))
    smallest = min(sizes, key=lambda seed: sizes[seed])
    assert sorted(sizes.values())[1] > sizes[smallest]
    batch = sizes[smallest] - 9  # one more than is there
    experiments = seeds(batch_size=batch, cycles=1, subset_size=None, options={"imbalance": 10})
    with pytest.raises(FailedRunError) as caught:
        run_together(experiments)
    assert caught.value.experiment.seed == smallest
    assert f"has {sizes[smallest]}" in str(caught.value.__cause__)


# --- configurations


def test_is_frozen_and_survives_pickling():
    experiment = tiny(options={"update_every": 2})
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.seed = 1
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_equal_configurations_are_one_key_whatever_the_order_of_options():
    one = tiny(options={"learning_rate": 0.1, "weight_decay": 0.2})
    other = tiny(options={"weight_decay": 0.2, "learning_rate": 0.1})
    assert one == other
    assert len({one, other, tiny()}) == 2
    assert canonical(one) == canonical(other)


def test_configuration_is_the_full_configuration_as_json():
    values = configuration(tiny())
    assert json.loads(canonical(tiny())) == values
    assert values["kind"] == "Experiment"
    assert values["learner"]["training"]["epochs"] == 3
    assert values["protocol"]["batch_size"] == 4
    assert set(values) == {"kind"} | {field.name for field in dataclasses.fields(Experiment)}


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "moons"},
        {"encoder": "minilm"},
        {"strategy": "random"},
        {"seed": 1},
        {"batch_size": 5},
        {"initial_size": 5},
        {"cycles": 3},
        {"subset_size": None},
        {"head": "mlp"},
        {"optimiser": "radam"},
        {"allow_oracle": True},
        {"options": {"epochs": 4}},
        {"options": {"update_every": 1}},
        {"options": {"imbalance": 2.0}},
    ],
    ids=str,
)
def test_every_field_is_part_of_the_key(changes):
    assert canonical(tiny(**changes)) != canonical(tiny())


def test_auto_is_the_device_that_it_stands_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    assert canonical(tiny(device="auto")) == canonical(tiny(device="mps")) != canonical(tiny(device="cpu"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert canonical(tiny(device="auto")) == canonical(tiny(device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert canonical(tiny(device="auto")) != canonical(tiny(device="cpu"))


def test_devices_have_names_for_readers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert re.fullmatch(r"CPU \(.*, \d+ cores\)", device_in_words("cpu"))
    assert device_in_words("cuda") == "cuda"  # which this machine does not have
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert device_in_words("auto") == device_in_words("cuda") == "a GPU"


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "margn"}, r"strategy is 'margn'; it has to be one of .*'margin'"),
        ({"head": "conv"}, "head is 'conv'; it has to be one of 'linear', 'mlp'"),
        ({"optimiser": "adam"}, "optimiser is 'adam'; it has to be one of 'sgd', 'radam'"),
        ({"device": "tpu"}, "device is 'tpu'; it has to be one of 'auto', 'cpu', 'cuda', 'mps'"),
        ({"seed": -1}, "seed is -1; a whole number of at least 0 was expected"),
        ({"batch_size": 0}, "batch_size is 0; a whole number of at least 1 was expected"),
        ({"initial_size": 0}, "initial_size is 0; a whole number of at least 1"),
        ({"cycles": -1}, "cycles is -1; a whole number of at least 0"),
        ({"subset_size": 9}, "subset_size is 9; a whole number of at least 10"),
        ({"options": {"gamma": 1.0}}, "strategy 'margin' has no option 'gamma'"),
        ({"options": {"epoch": 3}}, "strategy 'margin' has no option 'epoch'"),
        ({"options": {"epochs": -3}}, "epochs is -3; a whole number of at least 0"),
        ({"options": {"validation_size": -1}}, "validation_size is -1; a whole number of at least 0"),
        (
            {"strategy": "boss", "allow_oracle": True, "options": {"context": {}}},
            "strategy 'boss' has no option 'context'; it has num_candidates, ",
        ),
        (
            {"strategy": "sas", "allow_oracle": True, "options": {"acquisition_size": 2}},
            "strategy 'sas' has no option 'acquisition_size'; it has steps, greedy_steps, ",
        ),
        ({"options": {"learning_rate": 0.0}}, r"learning_rate is 0\.0; a number above 0 and at most 1e\+30"),
        ({"options": {"update_every": 0}}, "update_every is 0; a whole number of at least 1"),
        (
            {"options": {"update_gamma": 1.0}},
            r"options holds \['update_gamma'\], which have no effect without update_ev",
        ),
        ({"strategy": "lookahead"}, "'lookahead' looks at true labels: allow_oracle is False, True was expected"),
        (
            {"strategy": "lookahead", "allow_oracle": True, "options": {"gama": 1.0}},
            "strategy 'lookahead' has no option 'gama'; it has num_candidates, gamma, prior_precision, loss",
        ),
        (
            {"strategy": "lookahead", "allow_oracle": True, "options": {"update_every": 1}},
            "updates is given, but the oracle 'lookahead' picks whole batches",
        ),
    ],
    ids=str,
)
def test_configuration_refuses_what_is_unknown_or_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment_of(**changes)


def test_run_refuses_more_cycles_than_the_pool_can_feed():
    with pytest.raises(ValueError, match="the experiment buys 1350 instances, but the pool has 1347"):
        run(tiny(cycles=335))


@pytest.mark.parametrize(("device", "module"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_run_refuses_a_device_that_is_not_there(monkeypatch, device, module):
    monkeypatch.setattr(module, "is_available", lambda: False)
    message = f"device is '{device}', but torch sees no {device.upper()} device here; 'cpu' or 'auto' was expected"
    with pytest.raises(ValueError, match=message):
        run(tiny(device=device))


def test_run_refuses_what_is_no_experiment():
    with pytest.raises(TypeError, match="experiment is a dict; an Experiment was expected"):
        run({"strategy": "margin"})


def test_run_refuses_an_unknown_data_set():
    with pytest.raises(ValueError, match=r"dataset is 'digit'; it has to be one of .*'digits'"):
        run(tiny(dataset="digit"))
