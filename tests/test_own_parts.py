"""A learner, a task, data and strategies of one's own: one class or function each, and the package stays as it is."""

import dataclasses
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import BayesianRidge

import dal_core as dal
from dal_core.protocols import Outputs
from dal_core.randomness import integer_seed
from dal_core.snapshot import LastLayer, Predictions, Regression, Snapshot
from dal_core.strategies import registry


@pytest.fixture(autouse=True)
def no_traces():
    yield
    registry.forget_own()


def split(features, labels, seed=0):
    """Inputs and labels to train on, inputs and labels to test on."""
    order = np.random.default_rng(seed).permutation(len(labels))
    features, labels = features[order], labels[order]
    return features[:-50], labels[:-50], features[-50:], labels[-50:]


def wine():
    features, labels = load_wine(return_X_y=True)
    return split((features - features.mean(axis=0)) / features.std(axis=0), labels)


# --- a random forest


class ForestModel:
    last_layer = None

    def __init__(self, forest, num_classes):
        self.forest, self.num_classes = forest, num_classes

    def outputs(self, inputs):
        found = torch.full((len(inputs), self.num_classes), 1e-6, dtype=inputs.dtype)  # labels may lack classes
        found[:, self.forest.classes_] += torch.from_numpy(self.forest.predict_proba(inputs.numpy())).to(inputs.dtype)
        return Outputs(inputs, logits=found.log())


@dataclasses.dataclass(frozen=True)
class Forest:
    trees: int = 30
    gives: ClassVar[type] = Predictions

    def fit(self, task, data, index_sets, labels, draws, **_):
        for own, known, draw in zip(index_sets, labels, draws, strict=True):
            forest = RandomForestClassifier(self.trees, random_state=integer_seed(draw("trees")))
            yield ForestModel(forest.fit(data.inputs(own).numpy(), known.numpy()), task.num_outputs)


@pytest.mark.parametrize("strategy", ["margin", "typiclust", "unc_herding", "bait"])
def test_a_random_forest_learns_and_every_strategy_that_needs_no_layer_asks_it(strategy):
    experiment = dal.Experiment(strategy=strategy, learner=Forest(), protocol=dal.Protocol(cycles=2))
    rows = dal.run(experiment, wine())
    assert rows["n_labeled"].tolist() == [10, 20, 30]
    assert rows["accuracy"].iloc[-1] > 0.8
    again = dal.run(experiment, wine())
    assert again["acquired"].tolist() == rows["acquired"].tolist()


def test_an_oracle_judges_by_forests():
    strategy = dal.Strategy("boss", num_candidates=6, strategies=["random", "margin", "typiclass"])
    protocol = dal.Protocol(cycles=1)
    rows = dal.run(dal.Experiment(strategy=strategy, learner=Forest(), protocol=protocol, allow_oracle=True), wine())
    assert "loss_after" in rows["record"].iloc[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "alfamix"}, "strategy 'alfamix' needs LastLayer, but models of Forest give Predictions"),
        ({"updates": dal.Updates()}, "updates needs LastLayer, but models of Forest give Predictions"),
        ({"strategy": "refine"}, "strategy 'alfamix' needs LastLayer, but models of Forest give Predictions"),
    ],
)
def test_what_a_forest_cannot_give_is_refused_before_anything_runs(changes, message):
    with pytest.raises(ValueError, match=message):
        dal.Experiment(learner=Forest(), **changes)


# --- regression


class RidgeModel:
    last_layer = None

    def __init__(self, ridge):
        self.ridge = ridge

    def outputs(self, inputs):
        mean, deviation = self.ridge.predict(inputs.numpy(), return_std=True)
        return Outputs(inputs, mean=torch.from_numpy(mean), variance=torch.from_numpy(deviation) ** 2)


@dataclasses.dataclass(frozen=True)
class Ridge:
    gives: ClassVar[type] = Regression

    def fit(self, task, data, index_sets, labels, draws, **_):
        for own, known in zip(index_sets, labels, strict=True):
            yield RidgeModel(BayesianRidge().fit(data.inputs(own).numpy(), known.numpy()))


@dataclasses.dataclass(frozen=True)
class MeanError:
    needs: ClassVar[type] = Regression
    num_outputs: ClassVar[int] = 1

    def evaluate(self, model, test, train, pool):
        return {"mae": float((model.outputs(test.inputs()).mean - test.labels).abs().mean())}


def most_uncertain(snapshot: Regression, batch_size, generator):
    return snapshot.variance.topk(batch_size).indices


def test_ridge_regression_with_random_and_a_variance_strategy():
    data = split(*load_diabetes(return_X_y=True))
    dal.register("most_uncertain")(most_uncertain)
    errors = {}
    for strategy in ("random", "most_uncertain"):
        experiment = dal.Experiment(
            strategy=strategy, learner=Ridge(), task=MeanError(), protocol=dal.Protocol(cycles=4)
        )
        rows = dal.run(experiment, data)
        assert list(rows.columns) == ["cycle", "n_labeled", "mae", "query_s", "train_s", "acquired", "record"]
        errors[strategy] = rows["mae"].tolist()
    assert errors["random"][0] == errors["most_uncertain"][0]  # the same initial set
    assert errors["random"] != errors["most_uncertain"]
    assert all(last < 0.95 * first for first, *_, last in errors.values())


def test_a_classifiers_strategy_is_refused_on_a_regression():
    with pytest.raises(ValueError, match="strategy 'margin' needs Predictions, but models of Ridge give Regression"):
        dal.Experiment(strategy="margin", learner=Ridge(), task=MeanError())


@pytest.mark.parametrize("oracle", sorted(dal.names(oracle=True)))
def test_an_oracle_of_classes_is_refused_on_a_regression(oracle):
    message = f"strategy '{oracle}' compares classes, but .* a regression; a classification was expected"
    with pytest.raises(ValueError, match=message):
        dal.Experiment(strategy=oracle, learner=Ridge(), task=MeanError(), allow_oracle=True)
    x, y = X[:20], X[:20, 0]
    known = {"mean": y, "variance": y.abs() + 1, "hidden_labels": y[6:], "test": (x, y)}
    with pytest.raises(ValueError, match=message):
        dal.query(oracle, dal.Snapshot.of(x, labelled=range(6), labels=y[:6], **known), 3)


def test_labels_that_are_no_classes_need_a_task():
    with pytest.raises(ValueError, match=r"task is None, and labels have dtype torch\.float64"):
        dal.run(dal.Experiment(strategy="random", learner=Ridge()), split(*load_diabetes(return_X_y=True)))


# --- a learner that grows, and starts from the model before


class Growing(torch.nn.Module):
    def __init__(self, num_features, num_classes, width):
        super().__init__()
        self.hidden = torch.nn.Linear(num_features, width, dtype=torch.float64)
        self.last = torch.nn.Linear(width, num_classes, dtype=torch.float64)

    @property
    def last_layer(self):
        return self.last.weight, self.last.bias

    def outputs(self, inputs):
        features = self.hidden(inputs).relu()
        return Outputs(features, self.last(features))


@dataclasses.dataclass(frozen=True)
class GrowingNetwork:
    epochs: int = 30
    gives: ClassVar[type] = LastLayer
    seen: ClassVar[list] = []

    def fit(self, task, data, index_sets, labels, draws, *, previous=None, **_):
        for i, (own, known) in enumerate(zip(index_sets, labels, strict=True)):
            inputs, width = data.inputs(own), len(own)
            torch.manual_seed(integer_seed(draws[i]("initial weights")))
            model = Growing(inputs.shape[1], task.num_outputs, width)
            if previous is not None:
                old = previous[i]
                with torch.no_grad():
                    model.hidden.weight[: len(old.hidden.weight)] = old.hidden.weight
                    model.last.weight[:, : old.last.weight.shape[1]] = old.last.weight
                self.seen.append((old.hidden.out_features, width))
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            for _epoch in range(self.epochs):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model.outputs(inputs).logits, known).backward()
                optimiser.step()
            yield model


def test_a_network_grows_with_the_labels_and_goes_on_from_the_one_before():
    GrowingNetwork.seen.clear()
    experiment = dal.Experiment(strategy="badge", learner=GrowingNetwork(), protocol=dal.Protocol(cycles=3))
    rows = dal.run(experiment, wine())
    assert GrowingNetwork.seen == [(10, 20), (20, 30), (30, 40)]
    assert rows["accuracy"].iloc[-1] > 0.8


# --- pairs with float labels, judged by the share of the best that were found


@dataclasses.dataclass(frozen=True)
class Pairs:
    """All pairs of some items, which are never one tensor: the features of a pair are made when they are read."""

    items: torch.Tensor

    def __len__(self):
        return len(self.items) ** 2

    def inputs(self, positions):
        return torch.cat((self.items[positions // len(self.items)], self.items[positions % len(self.items)]), dim=1)


@dataclasses.dataclass(frozen=True)
class ShareOfBest:
    best: int = 10
    needs: ClassVar[type] = Regression
    num_outputs: ClassVar[int] = 1

    def evaluate(self, model, test, train, pool):
        top = train.labels.topk(self.best).indices
        return {"found": float(torch.isin(top, pool.labelled).double().mean())}


def highest_mean(snapshot: Regression, batch_size, generator):
    return snapshot.mean.topk(batch_size).indices


def test_the_best_pairs_are_found():
    dal.register("highest_mean")(highest_mean)
    items = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = Pairs(items)
    values = pairs.inputs(torch.arange(len(pairs))) @ torch.tensor([1.0, -1, 0, 2, 0, 1], dtype=torch.float64)
    data = (pairs, values, Pairs(items[:3]), values[:9])
    found = {}
    for strategy in ("random", "highest_mean"):
        experiment = dal.Experiment(
            strategy=strategy, learner=Ridge(), task=ShareOfBest(), protocol=dal.Protocol(cycles=3)
        )
        found[strategy] = dal.run(experiment, data)["found"].tolist()
    assert found["highest_mean"][-1] == 1
    assert found["random"][-1] < 0.5


# --- virtual instances


def test_virtual_instances_of_a_strategy_are_learnt_from_in_the_next_training_alone():
    sizes = []

    @dataclasses.dataclass(frozen=True)
    class Watched(dal.Linear):
        def fit(self, task, data, index_sets, labels, draws, *, virtual=None, **others):
            sizes.append(None if virtual is None else [len(made[1]) for made in virtual])
            return super().fit(task, data, index_sets, labels, draws, virtual=virtual, **others)

    def mixing(snapshot: Snapshot, batch_size, generator, *, context=None):
        if context is not None and context.cycle == 0:
            first, second = snapshot.labelled_features[:2]
            context.virtual = ((first + second)[None] / 2, snapshot.labels[:1])
        return torch.arange(batch_size)

    dal.register("mixing")(mixing)
    dal.register("plain")(lambda snapshot, batch_size, generator: torch.arange(batch_size))
    protocol = dal.Protocol(cycles=2)
    mixed = dal.run(dal.Experiment(strategy="mixing", learner=Watched(), protocol=protocol), wine())
    assert sizes == [None, [1], None]
    plain = dal.run(dal.Experiment(strategy="plain", protocol=protocol), wine())
    assert mixed["acquired"].tolist() == plain["acquired"].tolist()
    assert [a == b for a, b in zip(mixed["nll"], plain["nll"], strict=True)] == [True, False, True]


# --- before the first label


@pytest.mark.parametrize("initial", ["typiclust", "coreset", "max_herding", "balanced"])
def test_an_initial_set_is_chosen_from_features_alone(initial):
    train, labels, test, test_labels = wine()
    protocol = dal.Protocol(initial_size=12, cycles=0, initial=initial)
    (first,) = dal.run(dal.Experiment(protocol=protocol), (train, labels, test, test_labels))["acquired"]
    assert len(set(first)) == 12
    if initial == "balanced":
        assert np.bincount(labels[first]).tolist() == [4, 4, 4]
    else:
        again = dal.run(dal.Experiment(protocol=protocol), (train, labels[::-1].copy(), test, test_labels))
        assert again["acquired"][0] == first  # labels do not matter
        snapshot = Snapshot.of(train, labelled=[], labels=[])
        assert len(dal.query(initial, snapshot, 5)) == 5


def test_without_labels_coreset_draws_the_first_centre_and_takes_no_instance_twice():
    snapshot = Snapshot.of(torch.tensor([[0.0], [0.0], [0.0], [9.0], [9.0]]), labelled=[], labels=[])
    batches = [dal.query("coreset", snapshot, 5, seed=seed).tolist() for seed in range(20)]
    assert all(sorted(batch) == [0, 1, 2, 3, 4] for batch in batches)
    assert len({batch[0] for batch in batches}) > 1
    assert all((batch[0] < 3) != (batch[1] < 3) for batch in batches)  # the second is the farthest
    assert [len(dal.query("coreset", snapshot, 1, seed=seed)) for seed in (0, 1)] == [1, 1]


def test_the_size_of_a_balanced_set_is_a_multiple_of_the_classes():
    with pytest.raises(ValueError, match="initial_size is 10; for a balanced set a multiple of 3 classes"):
        dal.run(dal.Experiment(protocol=dal.Protocol(initial="balanced", cycles=1)), wine())


# --- batches of several sizes, shares


def test_batches_may_differ_in_size_and_a_pool_may_be_a_share():
    protocol = dal.Protocol(batch_size=(3, 5, 1), share=0.5)
    rows = dal.run(dal.Experiment(protocol=protocol), wine())
    assert rows["n_labeled"].tolist() == [10, 13, 18, 19]
    with pytest.raises(ValueError, match="buys 65 instances, but the pool has 64"):
        dal.run(dal.Experiment(protocol=dal.Protocol(batch_size=(55,), share=0.5)), wine())


# --- what does not fit is refused in one line


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A learner that fits nothing."""

    gives: ClassVar[type] = Predictions

    def fit(self, task, data, index_sets, labels, draws, **_):
        return iter(())


@dataclasses.dataclass(frozen=True)
class Boastful(Forest):
    """A learner whose models lack the layer that it promises."""

    gives: ClassVar[type] = LastLayer


X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"learner": Lazy()}, (X, Y, X, Y), r"learner is Lazy\(\), whose fit made 0 models; 1 were expected"),
        ({"learner": Boastful()}, (X, Y, X, Y), "the model has no weight, but its learner gives LastLayer"),
        ({}, (X, Y[:35], X, Y), r"train_labels has shape \(35,\); \(40,\) was expected"),
        ({}, (dal.FeatureData(X), Y[:35], X, Y), r"train_labels has shape \(35,\); \(40,\) was expected"),
        ({}, (X, Y, X[:20], Y[:1]), r"test_labels has shape \(1,\); \(20,\) was expected"),
        ({}, (X, [*"ab"] * 20, X, Y), "train_labels is .*; a tensor or an array of numbers was expected"),
        ({}, (dal.FeatureData(X / 0), Y, X, Y), "train_features holds"),
        ({}, X, "data is tensor"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_parts_that_do_not_fit_are_refused(changes, data, message):
    with pytest.raises(ValueError, match=message) as refusal:
        dal.run(dal.Experiment(protocol=dal.Protocol(cycles=1, batch_size=2), **changes), data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: dal.Experiment(learner=dal.Linear), "a learner that gives a view was expected, such as Linear"),
        (lambda: dal.Protocol(batch_size=(3, 4), cycles=5), "cycles is 5; 2, the sizes in batch_size, was expected"),
        (lambda: dal.Strategy("refine", strategies=["nope"]), "strategies is 'nope'; it has to be one of"),
        (lambda: dal.run(dal.Strategy("margin"), (X, Y, X, Y)), r"experiment is Strategy\('margin'\); an Experiment"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_experiments_of_wrong_parts_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        parts()


def test_lists_of_the_caller_do_not_change_a_strategy_and_frames_are_data():
    names = ["random", "margin"]
    strategy = dal.Strategy("refine", strategies=names, final_strategy="margin")
    names.append("nope")
    assert strategy.options["strategies"] == ["random", "margin"]
    experiment = dal.Experiment(protocol=dal.Protocol(cycles=1))
    frame = pd.DataFrame(X.numpy(), index=range(100, 140))
    rows = dal.run(experiment, (frame, pd.Series(Y.numpy(), index=frame.index), X.numpy()[::-1], Y.numpy()[::-1]))
    plain = dal.run(experiment, (X, Y, X.flip(0), Y.flip(0)))
    assert rows["acquired"].tolist() == plain["acquired"].tolist()
    assert dataclasses.asdict(experiment)["strategy"] == {"name": "margin", "options": {}}


def test_any_integers_are_classes_and_features_of_any_scale_can_be_standardised():
    experiment = dal.Experiment(protocol=dal.Protocol(cycles=2))
    far = torch.tensor([-(10**9), 5, 10**12])[Y]
    plain = dal.run(experiment, (X, Y, X, Y)).drop(columns=["query_s", "train_s"])
    pd.testing.assert_frame_equal(dal.run(experiment, (X, far, X, far))[list(plain)], plain)
    experiment = dal.Experiment(protocol=dal.Protocol(cycles=2, standardise=True))
    scaled = X.double() * torch.logspace(-3, 6, X.shape[1], dtype=torch.float64) + 7
    expected = dal.run(experiment, (X.double(), Y, X.double(), Y))
    assert expected["nll"].tolist() != plain["nll"].tolist()
    found = dal.run(experiment, (scaled, Y, scaled, Y))
    assert found["acquired"].tolist() == expected["acquired"].tolist()
    np.testing.assert_allclose(found["nll"], expected["nll"], rtol=1e-4)
    with pytest.warns(UserWarning, match="data: the scale of features is far from 1"):
        dal.run(dal.Experiment(protocol=dal.Protocol(cycles=2)), (scaled, Y, scaled, Y))


def test_whole_numbers_are_targets_of_a_regression():
    targets = (X[:, 0] * 10).round().long()
    experiment = dal.Experiment(strategy="random", learner=Ridge(), task=MeanError(), protocol=dal.Protocol(cycles=1))
    assert dal.run(experiment, (X, targets, X, targets))["mae"].iloc[-1] < 5


def test_no_way_leads_from_a_context_to_other_runs_and_the_snapshot_is_the_strategys_own():
    callables = []

    def looking(snapshot, batch_size, generator, *, context=None):
        callables.extend(name for name, part in vars(context).items() if callable(part))
        snapshot.instances.zero_()
        return torch.arange(batch_size)

    dal.register("looking")(looking)
    asked = []
    experiment = dal.Experiment(strategy="looking", protocol=dal.Protocol(cycles=2))
    assert dal.run(experiment, (X, Y, X, Y), watch=asked.append)["n_labeled"].tolist() == [10, 20, 30]
    assert (callables, len(asked)) == ([], 2)
