"""What a user meets first: own arrays, own networks, own strategies, and the names that `import dal_core` gives."""

import functools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import dal_core as dal
import dal_lab
from dal_core.snapshot import AbsentError
from dal_core.strategies import registry
from dal_lab.runs.settings import experiment_of

ORDINARY = registry.names(oracle=False)
LABELLED = [3, 150, 77, 8, 101, 42, 170, 60, 99, 12, 133, 55]


@pytest.fixture(scope="module")
def wine():
    """Arguments of `Snapshot.of`: scikit-learn's wine with a logistic regression that knows twelve of its labels."""
    x, y = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = LogisticRegression().fit(x[LABELLED], y[LABELLED])
    return {
        "features": x, "logits": model.decision_function(x), "labelled": LABELLED, "labels": y[LABELLED],
        "weight": model.coef_, "bias": model.intercept_,
    }  # fmt: skip


def test_all_names_are_known_in_a_fresh_process_that_loads_no_more_than_it_needs():
    heavy = ["matplotlib", "seaborn", "torchvision", "transformers", "datasets", "dal_lab"]
    code = (
        "import sys, dal_core as dal; names = dal.names(); assert callable(dal.get('refine')); "
        f"print(sorted(set({heavy}) & set(sys.modules)), len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("] ") == ["[", f"{len(registry.names())}\n"]


QUICK = {"refine": {"num_batches": 3}}


@pytest.mark.parametrize("name", ORDINARY)
def test_every_strategy_picks_from_arrays_as_positions_in_them(wine, name):
    picked = dal.query(name, dal.Snapshot.of(**wine), 5, seed=1, **QUICK.get(name, {}))
    assert len(set(picked.tolist()) - set(LABELLED)) == 5
    assert picked.tolist() == dal.query(name, dal.Snapshot.of(**wine), 5, seed=1, **QUICK.get(name, {})).tolist()
    tensors = {key: torch.as_tensor(np.asarray(value)) for key, value in wine.items()}
    assert picked.tolist() == dal.query(name, dal.Snapshot.of(**tensors), 5, seed=1, **QUICK.get(name, {})).tolist()


@pytest.mark.parametrize("name", ORDINARY)
def test_a_networks_outputs_need_not_be_detached(wine, name):
    torch.manual_seed(0)
    body, last = torch.nn.Linear(13, 6), torch.nn.Linear(6, 3)
    features = body(torch.as_tensor(wine["features"]).float()).relu()
    outputs = {"features": features, "logits": last(features), "weight": last.weight, "bias": last.bias}
    known = {"labelled": LABELLED, "labels": wine["labels"]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        picked = dal.query(name, dal.Snapshot.of(**outputs, **known), 5, **QUICK.get(name, {}))
    detached = {key: value.detach() for key, value in outputs.items()}
    assert picked.tolist() == dal.query(name, dal.Snapshot.of(**detached, **known), 5, **QUICK.get(name, {})).tolist()
    assert not picked.requires_grad
    assert features.requires_grad


def test_a_mask_means_the_positions_that_it_marks(wine):
    mask = np.zeros(len(wine["features"]), dtype=bool)
    mask[LABELLED] = True
    order = np.argsort(LABELLED)
    masked = dal.Snapshot.of(**wine | {"labelled": mask, "labels": wine["labels"][order]})
    assert dal.query("margin", masked, 7).tolist() == dal.query("margin", dal.Snapshot.of(**wine), 7).tolist()


def test_strategies_that_look_at_features_alone_need_no_logits(wine):
    whole = dal.Snapshot.of(**wine)
    bare = dal.Snapshot.of(wine["features"], labelled=LABELLED, labels=wine["labels"])
    for name in ("random", "coreset", "typiclust", "max_herding", "probcover"):
        assert dal.query(name, bare, 6).tolist() == dal.query(name, whole, 6).tolist(), name
    for name, missing in {"margin": "logits", "badge": "logits", "bait": "logits", "bald": "logits"}.items():
        with pytest.raises(AbsentError, match=f"^snapshot has no {missing}, which this strategy needs: Snapshot.of"):
            dal.query(name, bare, 6)
    with pytest.raises(AbsentError, match=r"^snapshot has no weight, which this strategy needs"):
        dal.query("dropquery", dal.Snapshot.of(**wine | {"weight": None, "bias": None}), 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": [["a"]]}, r"features is \[\['a'\]\]; a tensor or an array of numbers was expected"),
        ({"labelled": [1, 1]}, "labelled is .*; different positions, or a mask of 178, were expected"),
        ({"labelled": [0, 178]}, "labelled holds positions from 0 to 178; 0 to 177 was expected"),
        ({"labelled": [-1, 4]}, "labelled holds positions from -1 to 4; 0 to 177 was expected"),
        ({"labels": [0, 1]}, r"labels has shape \(2,\); \(m\) with m = 12 as in labelled_features was expected"),
        ({"labels": ["a"] * 12}, "labels is .*; a tensor or an array of numbers was expected"),
        ({"labels": [0.5] * 12}, "labels has dtype torch.float64; integer class labels were expected"),
        ({"labels": [3] * 12}, "labels holds labels from 3 to 3; 0 to 2 was expected"),
        ({"logits": np.zeros((177, 3))}, r"logits has shape \(177, 3\); a row for each of 178 instances was expected"),
        ({"logits": np.zeros((178, 1)), "weight": None, "bias": None, "labels": [0] * 12},
         r"logits has shape \(166, 1\); at least 2 classes, a column each, were expected; two classes by one"),
        ({"logits": np.zeros(178), "weight": None, "bias": None}, r"logits has shape \(166,\); at least 2 classes, a "),
        ({"weight": np.zeros((3, 12))}, r"weight has shape \(3, 12\); \(k, d\) with d = 13 as in features was ex"),
        ({"features": np.full((178, 13), 1e200)}, r"features holds values up to 1e\+200, whose squares overflow"),
        ({"bias": np.full(3, np.nan)}, r"bias holds 3 values that are NaN or infinite, the first at \(0,\)"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_in_one_line(wine, changes, message):
    with pytest.raises(ValueError, match=rf"^{message}") as raised:
        dal.Snapshot.of(**wine | changes)
    assert "\n" not in str(raised.value)


@pytest.fixture
def own():
    """Forgets what a test registers."""
    yield
    registry.forget_own()


class First:
    """A strategy that is an object."""

    __hash__ = None

    def __init__(self, start):
        self.start = start

    def __call__(self, snapshot, batch_size, generator):
        return torch.arange(self.start, self.start + batch_size)


def first(snapshot, batch_size, generator, *, start=0):
    return torch.arange(start, start + batch_size)


@pytest.mark.usefixtures("own")
def test_a_strategy_may_be_a_function_an_object_or_a_partial(wine):
    for name, strategy in {"function": first, "object": First(2), "partial": functools.partial(first, start=4)}.items():
        dal.register(name)(strategy)
    snapshot = dal.Snapshot.of(**wine)
    assert dal.query("function", snapshot, 3, start=1).tolist() == [1, 2, 4]  # 3 is labelled
    assert dal.query("object", snapshot, 3).tolist() == [2, 4, 5]
    assert dal.query("partial", snapshot, 3).tolist() == [5, 6, 7]
    sources = {name: registry.own_source(name) for name in ("function", "object", "partial")}
    assert all("torch.arange" in text for text in sources.values())
    assert "'start': 2" in sources["object"]
    assert "('start', 4)" in sources["partial"]
    assert not any(map(registry.needs_oracle, sources))


@pytest.mark.usefixtures("own")
def test_options_called_like_those_of_the_training_reach_the_strategy():
    noted = []

    @dal.register("noting")
    def noting(snapshot, batch_size, generator, *, epochs=1, learning_rate=0.5, imbalance=2, update_every=3):
        noted.append((epochs, learning_rate, imbalance, update_every))
        return torch.arange(batch_size)

    options = {"epochs": 7, "learning_rate": 0.25, "imbalance": 5, "update_every": 9, "weight_decay": 0.5}
    experiment = experiment_of(strategy="noting", options=options | {"training_epochs": 3})
    assert experiment.strategy.options == {k: v for k, v in options.items() if k != "weight_decay"}
    training = experiment.learner.training
    assert (training.epochs, training.learning_rate, training.weight_decay) == (3, 0.01, 0.5)
    assert experiment.updates is None
    assert experiment.protocol.imbalance == 1
    experiment.strategy.function(None, 2, None)
    assert noted == [(7, 0.25, 5, 9)]
    own, of_training = (experiment_of(strategy=name, options={"learning_rate": 0.1}) for name in ("autoal", "margin"))
    assert own.strategy == dal.Strategy("autoal", learning_rate=0.1)
    assert (own.learner, of_training.strategy) == (dal.Linear(), dal.Strategy("margin"))
    assert of_training.learner == dal.Linear(dal.Training(learning_rate=0.1))


@pytest.mark.usefixtures("own")
def test_a_run_takes_arrays_tensors_and_banks(wine):
    @dal.register("mine")
    def mine(snapshot, batch_size, generator):
        return snapshot.logits[:, 0].argsort(stable=True)[:batch_size]

    order = np.random.default_rng(0).permutation(178)
    arrays = tuple(part[rows] for rows in (order[50:], order[:50]) for part in (wine["features"], load_wine().target))
    tensors = tuple(map(torch.from_numpy, arrays))
    experiment = dal.Experiment(strategy="mine", protocol=dal.Protocol(cycles=3))
    rows = [
        dal.run(experiment, data).drop(columns=["query_s", "train_s"])
        for data in (arrays, tensors, dal.FeatureBank(*tensors, ("a", "b", "c")))
    ]
    assert rows[0]["n_labeled"].tolist() == [10, 20, 30, 40]
    for other in rows[1:]:
        pd.testing.assert_frame_equal(other, rows[0], check_exact=True)
    (first,) = dal.run(dal.Experiment(protocol=dal.Protocol(cycles=0)), dal_lab.load("digits"))["acquired"]
    assert len(set(first)) == 10
