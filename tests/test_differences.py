"""The ledger of differences to the released code, and what it says about size: both rules side by side."""

import importlib
import pkgutil
import re

import pytest
import torch
from samples import oracle_snapshot_of, seeded, snapshot_from

import dal_core
from dal_core import laplace, metrics
from dal_core.context import Context
from dal_core.experiment import Experiment, Protocol, Strategy
from dal_core.loop import run
from dal_core.models.learners import Linear
from dal_core.models.training import Training, train_head
from dal_core.oracles.cdo import cdo
from dal_core.oracles.judging import Judgement, judge, mean_losses, retrained
from dal_core.oracles.sas import _exchanges
from dal_core.randomness import choose, generator_for
from dal_core.strategies import registry
from dal_core.strategies.typiclust import typiclust_select
from dal_core.task import Classification
from dal_core.updates import Updates
from dal_lab.sources import catalogue

SAYS_SO = re.compile(r"as (published|released)|released code")


def rows_of(text):
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.fixture(scope="module")
def ledger(root):
    return rows_of((root / "docs" / "differences.md").read_text(encoding="utf-8"))


def test_every_row_names_a_module_and_a_test_that_exist(ledger, root):
    assert len(ledger) >= 10
    for row in ledger:
        importlib.import_module(row["where"].strip("`"))
        path, _, name = row["test"].strip("`").partition("::")
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8"), row["what"]
        assert re.search(r"\d|other picks|not measured", row["size"]), row["what"]


def test_every_module_that_speaks_of_the_released_code_has_a_row(ledger, root):
    known = {row["where"].strip("`") for row in ledger}
    said = {
        each.name
        for each in pkgutil.walk_packages(dal_core.__path__, "dal_core.")
        if not each.ispkg and SAYS_SO.search((root / f"{each.name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    }
    assert said
    assert said <= known


# --- both rules


def bank_of(classes=4):
    draw = seeded(2)
    features, rule = torch.randn(160, 6, generator=draw), torch.randn(6, classes, generator=draw)
    labels = (features @ rule + 0.5 * torch.randn(160, classes, generator=draw)).argmax(dim=1)
    return features[:100], labels[:100], features[100:], labels[100:]


def test_mean_field_columns():
    """The plain columns stay as they are; the others are those of logits / sqrt(1 + 0.4 v)."""
    x, y, x_test, y_test = bank_of()
    protocol = {"cycles": 1, "batch_size": 5}
    plain = run(Experiment(strategy="random", protocol=Protocol(**protocol), device="cpu"), (x, y, x_test, y_test))
    asked = Experiment(strategy="random", protocol=Protocol(**protocol, mean_field=0.4), device="cpu")
    both = run(asked, (x, y, x_test, y_test))
    assert list(both.columns) == list(asked.columns)
    shared = [name for name in plain.columns if not name.endswith("_s")]
    assert both[shared].equals(plain[shared])

    labelled = torch.tensor([*both["acquired"].iloc[0], *both["acquired"].iloc[1]])
    initial = Linear().initial(x, 4, lambda purpose: generator_for(0, purpose))
    head = train_head(initial, x, y, labelled, Training(), generator_for(0, "minibatches", 1))
    covariance = torch.linalg.inv(torch.eye(6).double() + x[labelled].double().T @ x[labelled].double())
    variance = (x_test.double() @ covariance * x_test.double()).sum(dim=1)
    logits = laplace.mean_field_logits(head.logits(x_test).double(), variance, 0.4)
    for name in ("nll", "brier", "ece", "ace"):
        assert both[f"{name}_mean_field"].iloc[1] == pytest.approx(getattr(metrics, name)(logits, y_test), rel=1e-5)
        assert both[f"{name}_mean_field"].iloc[1] != pytest.approx(both[name].iloc[1], rel=1e-3)


def test_mean_field_belongs_to_one_place_and_needs_a_last_layer():
    with pytest.raises(ValueError, match=r"mean_field is -1\.0; a finite number above 0"):
        Protocol(mean_field=-1.0)
    with pytest.raises(ValueError, match=r"protocol.mean_field is 0.4, but task is given; one of them was expected"):
        Experiment(protocol=Protocol(mean_field=0.4), task=Classification(3))


def test_cdo_compares_heads_of_the_same_length():
    """On digits, 50 labelled: a head of 50 epochs is never better than the run's, of 200."""
    bank = catalogue.load("digits")
    order, labelled, pool = choose(1347, 1347, seeded()), slice(50), slice(50, 90)
    x, y = bank.train_features[order], bank.train_labels[order]
    taken = snapshot_from(
        x[pool], torch.zeros(40, 10), x[labelled], torch.zeros(50, 10), y[labelled], torch.zeros(10, 64),
        hidden_labels=y[pool], test=(bank.test_features, bank.test_labels), training=Training(),
    )  # fmt: skip

    def losses(batches, epochs):
        models = retrained(taken, batches, [0], epochs)
        return mean_losses(models, bank.test_features, bank.test_labels, "cross_entropy")

    nothing = torch.empty(1, 0, dtype=torch.int64)
    judged, alike, to_the_end = losses(torch.arange(40).unsqueeze(1), 50), losses(nothing, 50), losses(nothing, 200)
    assert 0.2 < (judged < alike).double().mean() < 0.9
    assert (judged < to_the_end).double().mean() == 0
    record: dict = {}
    cdo(taken, 1, seeded(), num_candidates=2, context=Context(record=record))
    assert record["loss_before"] > float(to_the_end)


def test_most_exchanges_of_sas_bring_in_what_is_not_bought():
    ends = torch.arange(10, 201, 10)  # 200 of 1,000 are bought
    exchanges = _exchanges(1000, ends, 20_000, seeded())
    assert (exchanges < 200).all(dim=1).double().mean() == pytest.approx(0.19, abs=0.01)  # released: a half
    assert (exchanges < 200).any(dim=1).all()


def test_candidates_are_judged_with_the_same_minibatches():
    taken = oracle_snapshot_of(20, 12, 3, 5, 31, 7, training=Training(batch_size=4, epochs=20))
    twice = torch.tensor([[1, 2, 3]] * 2)
    same = judge(taken, twice, Judgement(loss="cross_entropy", retraining_epochs=8), seeded())
    assert same[0] == same[1]
    own = retrained(taken, twice, [1, 2], 8)
    losses = mean_losses(own, taken.test.inputs(), taken.test.labels, "cross_entropy")
    assert losses[0] != losses[1]


def test_small_clusters_of_typiclust_come_last():
    pair, many = torch.tensor([[0.0], [0.1]]), torch.linspace(50, 60, 30).unsqueeze(1)
    features, labelled = torch.cat((pair, many)), torch.tensor([[55.0]])
    first = {
        smallest: typiclust_select(features, labelled, 1, seeded(), min_cluster_size=smallest).item() < 2
        for smallest in (1, 5)
    }
    assert first == {1: True, 5: False}


def test_exact_bait_picks_one_by_one():
    """With an update after each pick, as an experiment is asked for it."""

    def picks(approximation):
        updates, protocol = Updates(every=1), Protocol(cycles=1, subset_size=30)
        strategy, learner = Strategy("bait", approximation=approximation), Linear(Training("radam", epochs=5))
        asked = Experiment(strategy=strategy, updates=updates, learner=learner, protocol=protocol, device="cpu")
        return set(run(asked, bank_of())["acquired"].iloc[1])

    exact = picks("exact")
    assert len(exact) == 10
    assert exact != picks("binary")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("boss", {"strategies": ["bait"], "num_candidates": 1, "retraining_epochs": 1}),
        ("refine", {"strategies": ["random"], "final_strategy": "bait", "depth": 0}),
    ],
)
def test_ensembles_pass_options_on_to_their_strategies(name, options, monkeypatch):
    asked, original = [], registry._STRATEGIES["bait"]

    def spying(snapshot, batch_size, generator, *, fisher="sum"):
        asked.append(fisher)
        return original(snapshot, batch_size, generator, fisher=fisher)

    monkeypatch.setitem(registry._STRATEGIES, "bait", spying)
    taken = oracle_snapshot_of(40, 9, 3, 5, 11, 7, training=Training(epochs=1))
    released = {"strategy_options": {"bait": {"fisher": "batch_means"}}}
    for more in ({}, released):
        registry.query(registry.get(name, options | more), taken, 4, seeded())
    assert asked == ["sum", "batch_means"]
    with pytest.raises(ValueError, match="strategy_options is 'badge'; it has to be"):
        registry.get(name, options | {"strategy_options": {"badge": {}}})(taken, 4, seeded())
    with pytest.raises(ValueError, match="strategy 'bait' has no option 'fish'"):
        registry.get(name, options | {"strategy_options": {"bait": {"fish": 1}}})(taken, 4, seeded())
