"""Bad input to Python's entry points: refused in one line that names the argument, before anything is computed."""

import contextlib
import dataclasses
import inspect
import json

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import faults, refusal_of
from samples import oracle_snapshot_of, points, seeded, snapshot_of

import dal_core as dal
from dal_core import strategies
from dal_core.data import FeatureBank
from dal_core.models.heads import Head
from dal_core.models.training import Training, train_heads
from dal_core.pool import Pool
from dal_core.strategies import registry
from dal_lab.companion import budgets, statistics
from dal_lab.companion.artefacts import Report
from dal_lab.companion.figures import curves
from dal_lab.companion.paper_numbers import cell_by_cell, published
from dal_lab.companion.terminal import Comparison
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import BUYING, experiment_of
from dal_lab.runs.study import canonical, run, run_together
from dal_lab.sources import catalogue, protocols
from dal_lab.studies.scaling import ScalingStudy
from dal_lab.studies.updating import UpdateStudy, compared, tuned

pytestmark = pytest.mark.usefixtures("unchecked")  # as users run the package
N, M, K, D = 23, 7, 3, 5
moderate = settings(deadline=None, max_examples=25, derandomize=True)
NAN, INF = float("nan"), float("inf")
FEATURES = points(n=N, m=M, d=D)[0]
WEIGHT = points(n=K, m=1, d=D, seed=1)[0]
LABELS = torch.arange(M) % K


# --- configurations: every field, and every option of every strategy

# The kinds of faults are the contracts' (test_contracts.py); here each field meets one or two.
TEXTS, COUNT, FLAG = ("", "a\nb", "\udc80", None), (-1, "3"), ("no",)
OPTIONS = (None, [], "epochs=3", {1: 2}, {"epochs": "3"}, {"epochs": True}, {"epoch": 3}, {"learning_rate": NAN},
           {"learning_rate": 0}, {"learning_rate": 10**400}, {"learning_rate": 1e300}, {"weight_decay": 1e300},
           {"weight_decay": -1.0}, {"drop_last": "no"},
           {"training_batch_size": 0}, {"update_gamma": 3.0}, {"update_every": 0}, {"update_every": 1.5},
           {"update_every": 1, "update_gamma": NAN}, {"update_every": 1, "update_likelihood": "gausian"},
           {"validation_size": -1}, {"validation_size": True}, {"imbalance": 0.5}, {"imbalance": "10"},
           {"imbalance": INF}, {"epochs": {1, 2}}, {"epochs": b"3"}, {"likelihood": "gaussian"})  # fmt: skip
WORDS = ("ssgd", torch.zeros(2))
NUMBERS = ((), [1.5], (0,), ("1",))
FIELDS = {
    experiment_of: {
        "dataset": TEXTS, "encoder": ("", "a\nb", 3, ["minilm"]), "strategy": ("margn", "boss", *WORDS), "seed": COUNT,
        "batch_size": (0, *COUNT), "initial_size": (0, *COUNT), "cycles": COUNT, "subset_size": (0, 9, *COUNT),
        "head": WORDS, "optimiser": WORDS, "device": WORDS, "allow_oracle": FLAG, "options": OPTIONS[1:],
    },
    UpdateStudy: {
        "dataset": TEXTS, "encoder": ("a\nb", 3), "seed": COUNT, "initial_size": (0, *COUNT), "draws": (0, *COUNT),
        "new_sizes": (*NUMBERS, (2, 1), (1, 1),
        (1.5,)), "selection": WORDS, "validation_share": (0, 1.0, NAN, "a", None),
        "gammas": NUMBERS[2:], "first_order_gammas": NUMBERS[2:], "monte_carlo_gammas": NUMBERS[2:],
        "gradient_rates": NUMBERS[2:], "gradient_steps": NUMBERS[1:], "likelihood": WORDS,
        "prior_precision": (0, -1.0, NAN, INF, "1", None, True), "num_hypotheses": (0, *COUNT), "head": WORDS,
        "optimiser": WORDS, "device": WORDS, "options": OPTIONS[:10],
    },
    ScalingStudy: {
        "strategy": ("margn", "boss", *WORDS), "num_unlabelled": (0, 99, *COUNT), "num_labelled": (0, *COUNT),
        "num_features": (0, *COUNT), "num_classes": (1, *COUNT), "batch_size": (0, 5001, *COUNT),
        "repeats": (0, *COUNT), "seed": COUNT, "device": WORDS, "options": (*OPTIONS[:4], {"epochs": 3}, {"top": 1}),
    },
}  # fmt: skip
# A field may be refused by the name of what it goes with.
SAID = {"dataset": ("data is",), "num_unlabelled": ("num_unlabelled", "batch_size"), "allow_oracle": ("allow_oracle",)}


@pytest.mark.parametrize(
    ("study", "name", "bad"),
    [
        pytest.param(study, name, bad, id=f"{study.__name__}-{name}-{i}")
        for study, fields in FIELDS.items()
        for name, values in fields.items()
        for i, bad in enumerate(values)
    ],
)
def test_configurations_refuse_each_field_by_its_name(study, name, bad):
    options = [str(each) for each in bad] if name == "options" and isinstance(bad, dict) else []
    message = refusal_of(lambda: study(**{name: bad}))
    assert any(each in message for each in (*SAID.get(name, ()), name, *options))


def test_every_field_of_a_configuration_has_cases():
    for study, fields in FIELDS.items():
        buying = {*BUYING} if study is experiment_of else set()
        assert {*inspect.signature(study).parameters} - {"buying"} | buying == set(fields)


ANY_OPTION = ("nonsense", -1)
NONE_IS_FINE = {
    ("bait", "top_classes"), ("boss", "num_candidates"), ("probcover", "radius"), ("unc_herding", "temperature"),
    ("unc_herding", "gamma"),
}  # fmt: skip


def option_cases():
    for name in sorted(set(strategies.names()) - set(registry.own())):
        for option in strategies.option_names(name):
            for i, bad in enumerate(ANY_OPTION):
                whole = isinstance(bad, int) and bad > 0 and option in COUNTS
                if not whole and not (bad is None and (name, option) in NONE_IS_FINE):
                    yield pytest.param(name, option, bad, id=f"{name}-{option}-{i}")


# Any number of these is possible, if slow.
COUNTS = {"num_neighbours", "max_clusters", "min_cluster_size", "typiclust_acquisitions", "draws", "num_batches",
          "initial_size", "largest_pool", "num_candidates", "retraining_epochs", "label_draws", "num_passes", "steps",
          "greedy_steps", "depth", "num_splits"}  # fmt: skip


@pytest.mark.parametrize(("name", "option", "bad"), list(option_cases()))
def test_each_option_of_each_strategy_is_refused_by_its_name(name, option, bad):
    snapshot = oracle_snapshot_of(n=31, m=13, k=3, d=5, n_test=9, n_validation=7)
    if not strategies.needs_oracle(name):
        snapshot = snapshot.without_truth()
    refusal_of(lambda: strategies.query(strategies.get(name, {option: bad}), snapshot, 4, seeded()), option)


@pytest.mark.parametrize("name", sorted(strategies.names()))
@pytest.mark.parametrize("bad", [0, 32])
def test_no_strategy_picks_a_batch_that_is_none(name, bad):
    snapshot = oracle_snapshot_of(n=31, m=13, k=3, d=5, n_test=9, n_validation=7)
    if not strategies.needs_oracle(name):
        snapshot = snapshot.without_truth()
    refusal_of(lambda: strategies.query(strategies.get(name), snapshot, bad, seeded()), "batch_size")


@pytest.mark.parametrize(("wrong", "meant"), [("margn", "margin"), ("typiclus", "typiclust"), ("Bait", "bait")])
def test_a_near_miss_is_met_with_what_may_be_meant(wrong, meant):
    refusal_of(lambda: experiment_of(strategy=wrong), f"did you mean {meant!r}?")
    refusal_of(lambda: experiment_of(strategy="bait", options={"aproximation": "top"}), "did you mean 'approximation'?")


@given(
    st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text()) | st.dictionaries(st.text(), st.text())
)
@moderate
def test_whatever_a_choice_is_it_is_refused_in_one_line(value):
    for name in ("strategy", "head", "optimiser", "device"):
        refusal_of(lambda name=name: experiment_of(**{name: value}), name)


# --- data, pools, heads, snapshots


def bank_arrays(**changes):
    features, test = points(n=11, m=7, d=D, dtype=torch.float32)
    arrays = {"train_features": features, "train_labels": torch.arange(11) % K, "test_features": test}
    arrays |= {"test_labels": torch.arange(7) % K, "class_names": ("a", "b", "c"), "provenance": {}}
    return arrays | changes


@pytest.mark.parametrize("name", ["train_features", "train_labels", "test_features", "test_labels"])
@pytest.mark.parametrize("fault", [
    "NaN", "infinite", "integers", "half", "floats", "bools", "int32", "one axis more", "no axis", "negative",
    "too large", "a list", "an array", "empty", "no columns", "none",
])  # fmt: skip
def test_banks_refuse_each_array_by_its_name(name, fault):
    good = bank_arrays()[name]
    bad = dict(faults(name, good)) | {"empty": good[:0], "no columns": good[..., :0], "none": None}
    if fault not in bad:
        bad[fault] = good.tolist()
    refusal_of(lambda: FeatureBank(**bank_arrays(**{name: bad[fault]})), name)


@pytest.mark.parametrize("names", [(), ("a",), "abc", ("a", "b", 3), ["a", "b", "c"], None, ("a", "b")])
def test_banks_refuse_class_names(names):
    refusal_of(
        lambda: FeatureBank(**bank_arrays(class_names=names)), "_labels" if names == ("a", "b") else "class_names"
    )


def test_banks_refuse_other_provenance():
    refusal_of(lambda: FeatureBank(**bank_arrays(provenance="me")), "provenance")


SNAPSHOT = snapshot_of(n=N, m=M, k=K, d=D)


@pytest.mark.parametrize("name", ["features", "logits", "labelled_features", "labelled_logits", "labels", "weight"])
@pytest.mark.parametrize("fault", ["NaN", "half", "another dtype", "another device", "floats", "int32", "one axis more",
                                   "no axis", "negative", "too large", "a list"])  # fmt: skip
def test_snapshots_refuse_each_tensor(name, fault):
    bad = dict(faults(name, getattr(SNAPSHOT, name)))
    value = bad.get(fault, [1.0])
    message = refusal_of(lambda: dataclasses.replace(SNAPSHOT, **{name: value}))
    assert name in message


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Pool.start(0, 1, seeded()), "size"),
        (lambda: Pool.start(5, 6, seeded()), "initial_size"),
        (lambda: Pool.start(5, True, seeded()), "initial_size"),
        (lambda: Pool.start(5, 2, 0), "generator"),
        (lambda: Pool.start(5, 2, seeded()).buy(torch.tensor([9])), "instances"),
        (lambda: Pool.start(5, 2, seeded()).buy([1]), "instances"),
        (lambda: Pool.start(5, 2, seeded()).buy(torch.tensor([0.5])), "instances"),
        (lambda: Pool.start(5, 1, seeded()).buy(Pool.start(5, 1, seeded()).unlabelled[[0, 0]]), "instances"),
        (lambda: Pool.start(5, 2, seeded()).subset(-1, seeded()), "size"),
        (lambda: Pool.start(5, 2, seeded()).subset(1, None), "generator"),
        (lambda: Head.initial("conv", D, K, seeded()), "kind"),
        (lambda: Head.initial("linear", 0, K, seeded()), "num_features"),
        (lambda: Head.initial("linear", D, 0, seeded()), "num_classes"),
        (lambda: Head.initial("linear", D, 2.5, seeded()), "num_classes"),
        (lambda: Head.initial("linear", D, K, 0), "generator"),
        (lambda: strategies.query(strategies.get("margin"), None, 3, seeded()), "snapshot"),
        (lambda: strategies.query(strategies.get("margin"), SNAPSHOT, 3, 0), "generator"),
        (lambda: strategies.query(lambda *_: None, SNAPSHOT, 3, seeded()), "the strategy returned None"),
        (lambda: strategies.query(lambda *_: [1, 2, 3], SNAPSHOT, 3, seeded()), "the strategy returned [1, 2, 3]"),
        (lambda: strategies.query(lambda *_: torch.ones(3), SNAPSHOT, 3, seeded()), "the strategy returned"),
        (lambda: strategies.query(lambda *_: torch.tensor([1, 1, 2]), SNAPSHOT, 3, seeded()), "distinct positions"),
        (lambda: strategies.register("")(strategies.get("margin")), "name"),
        (lambda: strategies.register("a\nb")(strategies.get("margin")), "name"),
        (lambda: strategies.register(3)(strategies.get("margin")), "name"),
        (lambda: strategies.register("mine")(3), "'mine' is 3"),
        (lambda: strategies.register("mine")(lambda pool, size: None), "'mine' takes"),
        (lambda: strategies.register("margin")(lambda snapshot, batch_size, generator: None), "'margin' is registered"),
    ],
)  # fmt: skip
def test_pools_heads_and_strategies_refuse_by_name(call, name):
    refusal_of(call, name)
    assert "mine" not in strategies.names()


TRAINING = {
    "initial": Head(WEIGHT, WEIGHT[:, 0]), "features": FEATURES, "labels": torch.arange(N) % K,
    "index_sets": torch.arange(8).view(2, 4), "training": dataclasses.replace(Training("sgd"), epochs=1),
    "generators": [seeded(), seeded(1)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("features", FEATURES.half()), ("features", FEATURES.long()), ("features", FEATURES.tolist()),
        ("features", FEATURES[:, :3]), ("features", FEATURES.float()), ("labels", LABELS.int()), ("labels", LABELS[:3]),
        ("labels", torch.arange(N)), ("labels", None), ("index_sets", torch.arange(4)), ("index_sets", [[1, 2]]),
        ("index_sets", torch.full((2, 4), N)), ("index_sets", torch.full((2, 4), -1)), ("index_sets", torch.ones(2, 4)),
        ("index_sets", torch.empty(2, 0, dtype=torch.int64)), ("training", "sgd"), ("training", None),
        ("generators", [seeded()]), ("generators", [0, 1]), ("generators", [None, None]),
    ],
)  # fmt: skip
def test_training_refuses_each_argument_by_its_name(name, bad):
    refusal_of(lambda: train_heads(**TRAINING | {name: bad}), name)


def test_training_that_diverges_names_the_learning_rate():
    bad = experiment_of(
        dataset="moons", cycles=1, batch_size=2, subset_size=20, options={"learning_rate": 1e30, "epochs": 9}
    )
    refusal_of(lambda: run(bad), "learning_rate=1e+30")


# --- data sets by name, runs, grids

NAMES = ("../x", "..", "a/b", "C:\\x", "\0", "a\nb", "", " ", "/etc/passwd", "x" * 5000, "é" * 150, "\udcff", 3, None)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("load", [catalogue.load, lambda name, **more: catalogue.extract(name, "bert", **more)])
def test_names_of_data_sets_that_no_file_can_have_are_refused(load, name, tmp_path):
    refusal_of(lambda: load(name, data_dir=tmp_path), "dataset is ")


@pytest.mark.parametrize(
    "encoder", ["", "\0", "a\nb", "x" * 5000, "a/" + "x" * 5000, 3, ["bert"], "bert:max", "minilm@"]
)
def test_encoders_that_are_none_are_refused(encoder, tmp_path):
    if encoder == "minilm@":
        pytest.importorskip("huggingface_hub")
    refusal_of(lambda: catalogue.load("cifar10", encoder=encoder, data_dir=tmp_path), "encoder")


@pytest.mark.parametrize("data_dir", ["", "/no/such", "a\nb", "\0", "x" * 5000, 3, b"x", "~nobody/x", __file__])
def test_data_folders_that_are_none_are_refused(data_dir, monkeypatch, tmp_path):
    if data_dir == "":
        pytest.skip("the working directory")
    monkeypatch.chdir(tmp_path)
    for call in (catalogue.load, lambda name, **more: run(experiment_of(dataset=name), **more)):
        refusal_of(lambda call=call: call("digits", data_dir=data_dir), "data_dir")


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: run_together([]), "experiments"),
        (lambda: run_together([1]), "experiments"),
        (lambda: run_together([experiment_of(), experiment_of(cycles=3)]), "experiments differ in protocol"),
        (lambda: run(experiment_of(initial_size=2000)), "buys 2200 instances"),
        (
            lambda: run(experiment_of(strategy="boss", allow_oracle=True, options={"update_every": 1})),
            "updates is given",
        ),
        (lambda: run(UpdateStudy(initial_size=5000)), "needs 5010 instances"),
        (lambda: catalogue.read_features(3), "path is 3"),
        (lambda: catalogue.read_features("x" * 5000 + ".npz"), "no feature file at"),
        (lambda: catalogue.read_features("a\nb.npz"), "a\\nb.npz"),
        (lambda: catalogue.data_sets()["sst2"].protocol(), "batch size"),
        (lambda: protocols.settings("bosss"), "paper is 'bosss'"),
        (lambda: published("boss"), "name is 'boss'"),
    ],
)
def test_runs_and_files_are_refused(call, word):
    refusal_of(call, word)


def test_what_is_no_experiment_is_a_type_error():
    refusal_of(lambda: run({"dataset": "digits"}), "experiment is a dict", kinds=(TypeError,))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"jobs": 0}, "jobs"), ({"jobs": "2"}, "jobs"), ({"jobs": True}, "jobs"), ({"jobs": 1.5}, "jobs"),
        ({"fresh": "no"}, "fresh"), ({"folder": 3}, "folder"), ({"folder": "a\0b"}, "folder"),
        ({"folder": __file__}, "folder"), ({"folder": f"{__file__}/x"}, "folder"), ({"folder": "x" * 5000}, "folder"),
    ],
)  # fmt: skip
def test_grids_refuse_by_name(arguments, name, tmp_path):
    refusal_of(lambda: Grid(**{"folder": tmp_path / "r"} | arguments), name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("studies", [[], None, experiment_of(), [experiment_of(), 3], ["digits"]])
def test_grids_refuse_what_are_no_studies(studies, tmp_path):
    refusal_of(lambda: Grid(tmp_path / "r").rows(studies, "runs"), "studies")
    assert not list(tmp_path.iterdir())


# --- tables and figures

ROWS = pd.DataFrame(
    [
        {"run": f"{name}{seed}", "data": "digits", "strategy": name, "seed": seed, "cycle": cycle, "method": "base",
         "n_labeled": 10 * cycle, "accuracy": 0.1 * seed + 0.2 * cycle, "query_s": 0.1, "draw": 0, "n_new": 1,
         "steps": 1, "gamma": 1.0, "rate": 1.0, "validation_accuracy": 0.5, "budget": "low", "varied": "N", "size": 3,
         "record": "{}"}
        for name in ("margin", "random", "badge")
        for seed in (0, 1)
        for cycle in (0, 1, 2)
    ]
)  # fmt: skip
TABLES = {
    "mean_over_seeds": (lambda rows: statistics.mean_over_seeds(rows, ["strategy"], ["accuracy"]),
    ("strategy", "seed", "accuracy")),
    "difference_to": (lambda rows: statistics.difference_to(rows, "random"),
    ("data", "seed", "cycle", "strategy", "accuracy")),
    "paired": (lambda rows: statistics.paired(rows, "random"), ("data", "seed", "strategy", "accuracy")),
    "win_rates": (statistics.win_rates, ("data", "seed", "cycle", "strategy", "accuracy")),
    "blocks": (statistics.blocks, ("data", "seed", "cycle", "strategy", "accuracy")),
    "Comparison": (Comparison, ("data", "strategy", "seed", "cycle", "n_labeled", "accuracy")),
    "with_budget": (budgets.with_budget, ("run", "cycle")),
    "leads": (lambda rows: budgets.leads(rows, "badge"), ("data", "budget", "seed", "strategy", "accuracy")),
    "records": (budgets.records, ("run", "data", "strategy", "seed", "cycle", "record")),
    "learning_curves": (curves.learning_curves, ("data", "strategy", "seed", "n_labeled", "accuracy")),
    "accuracy_against_time": (curves.accuracy_against_time, ("data", "strategy", "seed", "accuracy", "query_s")),
    "costs": (lambda rows: curves.costs(rows, y="query_s"), ("varied", "size", "strategy", "seed", "query_s")),
    "tuned": (tuned, ("method", "steps", "gamma", "rate", "validation_accuracy")),
    "compared": (lambda rows: compared(rows, ["base"]), ("run", "draw", "n_new", "method", "accuracy")),
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "column"), [(name, column) for name, (_, columns) in TABLES.items() for column in columns]
)
def test_tables_name_the_column_that_rows_lack(table, column):
    call, _ = TABLES[table]
    refusal_of(lambda: call(ROWS.drop(columns=column)), column)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bad", ["no rows", "nothing", "a list"])
def test_tables_refuse_what_are_no_rows(table, bad):
    call, _ = TABLES[table]
    refusal_of(lambda: call({"no rows": ROWS[:0], "nothing": None, "a list": [1, 2]}[bad]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.difference_to(ROWS, "margn"),
        lambda: statistics.verdict(ROWS, "margn", "random"),
        lambda: statistics.paired(ROWS, "margn"),
        lambda: budgets.leads(ROWS, "margn"),
    ],
)
def test_tables_name_the_strategy_that_is_not_there(call):
    refusal_of(call, "margn")


def test_cells_of_papers_need_their_columns():
    table = statistics.mean_over_seeds(ROWS, ["data", "strategy"], ["accuracy"])
    for measured, paper in ((table.drop(columns="accuracy_ci"), ROWS), (table, ROWS.drop(columns="accuracy"))):
        refusal_of(lambda m=measured, p=paper: cell_by_cell(m, p, ["data", "strategy"]), "lacks the columns")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\nb", "\0", "x" * 300, 3])
def test_results_stay_in_their_folder(name, tmp_path):
    report = Report(tmp_path / "figures", "01_it")
    refusal_of(lambda: report.table(ROWS, name if isinstance(name, str) else 3, cell="(a)", keys=[]), "name")
    refusal_of(lambda: Report(tmp_path / "figures", name), "notebook")
    assert not list(tmp_path.iterdir())


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda e: st.lists(e, max_size=3)))
@moderate
def test_options_are_json_or_refused(value):
    """An Experiment either refuses an option or has a configuration that can be kept."""
    study = None
    with contextlib.suppress(ValueError):
        study = experiment_of(strategy="boss", allow_oracle=True, options={"strategies": value})
    if study is None:
        refusal_of(
            lambda: experiment_of(strategy="boss", allow_oracle=True, options={"strategies": value}), "strategies"
        )
    else:
        json.loads(canonical(study))


@pytest.mark.parametrize(
    ("path", "fits"),
    [("/\udcc3\udcb6/x.npz", True), ("\udcc3.npz", False), ("/\ud800/x.npz", False), ("a\nb/x.npz", False)],
)
def test_a_folder_may_have_a_name_that_the_locale_cannot_decode(path, fits):
    if fits:
        assert dal.Experiment(data=path).data == path
    else:
        refusal_of(lambda: dal.Experiment(data=path), "data")
