"""Runs: rows that say what happened, the same bit by bit for the same configuration, and blind to hidden labels."""

import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from dal_core import datasets, strategies
from dal_core.experiment import Experiment, canonical, configuration, resolve_device, run
from dal_core.features import FeatureBank
from dal_core.heads import PROTOCOLS
from dal_core.pool import OracleSnapshot, Snapshot
from dal_core.strategies import registry
from dal_core.strategies.sequential import Updates

TIMES = ["query_s", "train_s"]


def tiny(strategy: str = "margin", **changes) -> Experiment:
    options = {"epochs": 3} | changes.pop("options", {})
    values = {"batch_size": 4, "initial_size": 10, "cycles": 2, "subset_size": 50, "device": "cpu"} | changes
    return Experiment(strategy=strategy, options=options, **values)


def acquired(experiment: Experiment) -> list[list[int]]:
    return run(experiment)["acquired"].tolist()


# --- rows


@pytest.mark.parametrize("changes", [{}, {"head": "mlp", "optimiser": "radam"}, {"subset_size": None}])
def test_rows_say_what_happened(changes):
    rows = run(tiny(**changes))
    assert list(rows.columns) == [
        "cycle", "n_labeled", "accuracy", "nll", "brier", "ece", "ace", "query_s", "train_s", "acquired",
    ]  # fmt: skip
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
    ],
    ids=["random", "mlp", "updates", "lookahead"],
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
        PROTOCOLS["sgd"], learning_rate=0.5, weight_decay=0.0, batch_size=7, epochs=2, drop_last=False
    )
    assert tiny(options=changes).training == expected
    assert Experiment(optimiser="radam").training == PROTOCOLS["radam"]
    assert run(tiny(cycles=0, options={"learning_rate": 0.5}))["nll"][0] != run(tiny(cycles=0))["nll"][0]


# --- hidden labels


def replace_bank(monkeypatch: pytest.MonkeyPatch, bank: FeatureBank) -> None:
    monkeypatch.setattr(datasets, "load", lambda *_, **__: bank)


def with_other_labels(bank: FeatureBank, kept: set[int]) -> FeatureBank:
    """The bank with wrong labels for all of the train split but the instances `kept`."""
    labels = (bank.train_labels + 1) % bank.num_classes
    known = torch.tensor(sorted(kept))
    labels[known] = bank.train_labels[known]
    return dataclasses.replace(bank, train_labels=labels)


@pytest.mark.parametrize("options", [{}, {"update_every": 2}], ids=["batches", "updates"])
@pytest.mark.parametrize("strategy", strategies.names(oracle=False))
def test_labels_that_were_never_bought_change_nothing(monkeypatch, strategy, options):
    experiment = tiny(strategy, options=options)
    expected = run(experiment).drop(columns=TIMES)
    bought = {instance for row in expected["acquired"] for instance in row}
    replace_bank(monkeypatch, with_other_labels(datasets.load("digits"), bought))
    pd.testing.assert_frame_equal(run(experiment).drop(columns=TIMES), expected, check_exact=True)


def test_labels_of_a_batch_are_unknown_while_it_is_picked(monkeypatch):
    experiment = tiny(cycles=1)
    expected = acquired(experiment)
    replace_bank(monkeypatch, with_other_labels(datasets.load("digits"), set(expected[0])))
    assert acquired(experiment) == expected


def test_an_oracle_does_see_them(monkeypatch):
    experiment = tiny("lookahead", cycles=1, allow_oracle=True, options={"num_candidates": 30})
    expected = acquired(experiment)
    replace_bank(monkeypatch, with_other_labels(datasets.load("digits"), set(expected[0])))
    assert acquired(experiment)[0] == expected[0]
    assert acquired(experiment)[1] != expected[1]


def test_a_strategy_gets_labels_of_what_is_labelled_alone(monkeypatch):
    seen: list[Snapshot] = []

    def spy(snapshot, batch_size, generator):
        seen.append(snapshot)
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    rows, bank = run(tiny("spy")), datasets.load("digits")
    labelled: list[int] = []
    for snapshot, bought in zip(seen, rows["acquired"], strict=False):
        labelled += bought
        assert type(snapshot) is Snapshot
        others = {name for name, value in vars(snapshot).items() if not isinstance(value, torch.Tensor)}
        assert others == {"training"}
        assert snapshot.training == tiny("spy").training
        integers = [name for name in vars(snapshot).keys() - others if not vars(snapshot)[name].is_floating_point()]
        assert integers == ["labels"]
        assert torch.equal(snapshot.labels, bank.train_labels[labelled])
        assert torch.equal(snapshot.labelled_features, bank.train_features[labelled])
        assert snapshot.features.shape == (50, 64)  # the subset


def test_an_oracle_gets_the_labels_of_what_it_chooses_from(monkeypatch):
    seen: list[OracleSnapshot] = []

    def spy(snapshot: OracleSnapshot, batch_size, generator):
        seen.append(snapshot)
        return torch.arange(batch_size)

    monkeypatch.setitem(registry._STRATEGIES, "spy", spy)
    rows, bank = run(tiny("spy", allow_oracle=True)), datasets.load("digits")
    for snapshot, bought in zip(seen, rows["acquired"][1:], strict=True):
        assert torch.equal(snapshot.hidden_labels[:4], bank.train_labels[bought])
        assert torch.equal(snapshot.features[:4], bank.train_features[bought])
        assert torch.equal(snapshot.test_labels, bank.test_labels)


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
    assert values["options"] == {"epochs": 3}
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
    ],
    ids=str,
)
def test_every_field_is_part_of_the_key(changes):
    assert canonical(dataclasses.replace(tiny(), **changes)) != canonical(tiny())


def test_auto_is_the_device_that_it_stands_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert canonical(tiny(device="auto")) == canonical(tiny(device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert canonical(tiny(device="auto")) != canonical(tiny(device="cpu"))


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "margn"}, r"strategy is 'margn'; it has to be one of .*'margin'"),
        ({"head": "conv"}, "head is 'conv'; it has to be one of 'linear', 'mlp'"),
        ({"optimiser": "adam"}, "optimiser is 'adam'; it has to be one of 'sgd', 'radam'"),
        ({"device": "tpu"}, "device is 'tpu'; it has to be one of 'auto', 'cpu', 'cuda'"),
        ({"seed": -1}, "seed is -1; a whole number of at least 0 was expected"),
        ({"batch_size": 0}, "batch_size is 0; a whole number of at least 1 was expected"),
        ({"initial_size": 0}, "initial_size is 0; a whole number of at least 1"),
        ({"cycles": -1}, "cycles is -1; a whole number of at least 0"),
        ({"subset_size": 9}, "subset_size is 9; a whole number of at least 10"),
        ({"options": {"gamma": 1.0}}, "strategy 'margin' has no option 'gamma'"),
        ({"options": {"epoch": 3}}, "strategy 'margin' has no option 'epoch'"),
        ({"options": {"epochs": -3}}, "epochs is -3; a whole number of at least 0"),
        ({"options": {"learning_rate": 0.0}}, r"learning_rate is 0\.0; a finite number above 0"),
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
            "update_every is given, but the oracle 'lookahead' picks whole batches",
        ),
    ],
    ids=str,
)
def test_configuration_refuses_what_is_unknown_or_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**changes)


def test_run_refuses_more_cycles_than_the_pool_can_feed():
    with pytest.raises(ValueError, match="the experiment buys 1350 instances, but the pool of digits has 1347"):
        run(tiny(cycles=335))


def test_run_refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no CUDA device here; 'cpu' or 'auto'"):
        run(tiny(device="cuda"))


def test_run_refuses_what_is_no_experiment():
    with pytest.raises(TypeError, match="experiment is a dict; an Experiment was expected"):
        run({"strategy": "margin"})


def test_run_refuses_an_unknown_data_set():
    with pytest.raises(ValueError, match=r"dataset is 'digit'; it has to be one of .*'digits'"):
        run(tiny(dataset="digit"))
