"""The papers' protocols: values as the audit of the released code has them, written here by hand, and what follows."""

import json

import pytest

from dal_core.strategies import registry
from dal_lab.companion.command_line import main
from dal_lab.companion.paper_numbers import published
from dal_lab.runs.settings import experiment_of
from dal_lab.sources.catalogue import data_sets
from dal_lab.sources.protocols import COLUMNS, papers, rows, settings

# Of each paper and data set: batch size, which is the initial size as well, and the part of the pool that is seen.
BOSS = {
    "cifar10": (10, 1000), "stl10": (10, None), "snacks": (20, None), "flowers102": (25, None), "dtd": (50, None),
    "dopanim": (50, 1000), "food101": (100, 1000), "cifar100": (100, 1000), "tinyimagenet": (200, 5000),
    "imagenet": (1000, 5000), "agnews": (5, 1000), "dbpedia": (10, 1000), "banking77": (200, 2500),
    "clinc150": (200, 2500),
}  # fmt: skip
REFINE = {
    "cifar10": (10, 5000), "stl10": (10, 5000), "snacks": (10, 5000), "dopanim": (50, 5000), "food101": (100, 5000),
    "cifar100": (100, 5000), "tinyimagenet": (200, 5000), "imagenet": (1000, 5000), "esc50": (20, 500),
}  # fmt: skip
LAPLACE = {
    "cifar10": (10, 1000), "snacks": (20, 1000), "dtd": (50, 1000), "cifar100": (100, 1000), "agnews": (10, 1000),
    "dbpedia": (10, 1000), "banking77": (200, 1000), "clinc150": (150, 1000),
}  # fmt: skip
FAST_FISHING = {
    "cifar10": (10, 1000), "stl10": (10, 1000), "snacks": (20, 1000), "cifar100": (100, 1000), "food101": (100, 1000),
    "flowers102": (25, 1000), "tinyimagenet": (200, 1000), "imagenet": (1000, 15_000), "letter": (30, 1000),
}  # fmt: skip
SIZES = {"boss": BOSS, "refine": REFINE, "laplace_updates": LAPLACE, "fast_fishing": FAST_FISHING}
RADAM = {"optimiser": "radam", "learning_rate": 1e-2, "weight_decay": 1e-4, "epochs": 200}
SGD = {"optimiser": "sgd", "learning_rate": 1e-2, "weight_decay": 5e-4, "epochs": 200}
# What holds for every row of a paper, and for its images.
EVERY = {
    "boss": SGD | {"minibatch": 64, "drop_last": True},
    "refine": SGD | {"minibatch": 64, "drop_last": True},
    "laplace_updates": RADAM | {"minibatch": 64, "drop_last": True},
    "fast_fishing": RADAM | {"minibatch": 64, "drop_last": False},
}
IMAGES = {
    "boss": {"encoder": "dinov2", "other_encoders": ["swinv2"]},
    "refine": {"encoder": "dinov2_registers", "other_encoders": ["clip", "dinov3"]},
    "laplace_updates": {"encoder": "dinov2", "other_encoders": []},
    "fast_fishing": {"encoder": "dinov2", "other_encoders": []},
}
BOSS_TEXTS = ("agnews", "dbpedia", "banking77", "clinc150")
OWN = {
    **{("boss", name): {"learning_rate": 1e-3, "encoder": "minilm_unit"} for name in BOSS_TEXTS},
    ("laplace_updates", "banking77"): {"learning_rate": 1e-1, "encoder": "bert"},
    ("fast_fishing", "letter"): {"initial_size": 10, "head": "mlp", "encoder": None, "share": 1.0},
    ("refine", "esc50"): {"encoder": "ast", "share": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def as_json():
    """What `dal data --protocols --json` prints, a row a paper and data set."""
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *texts, **_: printed.extend(texts))
        assert main(["data", "--protocols", "--json"]) == 0
    return {(row["paper"], row["data"]): row for row in json.loads("".join(printed))}


def test_rows_are_those_of_the_audit(as_json):
    expected = {}
    for paper, sizes in SIZES.items():
        for data, (size, seen) in sizes.items():
            image = data_sets()[data].kind == "image"
            common = EVERY[paper] | ({"share": 0.9} | IMAGES[paper] if image else {})
            batch = {"batch_size": size, "initial_size": size, "subset_size": seen, "cycles": 20}
            expected[paper, data] = common | batch | OWN.get((paper, data), {})
    assert expected.keys() == as_json.keys()
    found = {key: {name: as_json[key][name] for name in each} for key, each in expected.items()}
    assert found == expected


@pytest.mark.parametrize(
    ("paper", "data", "method", "expected"),
    [
        ("laplace_updates", "cifar10", "second_order", {"gamma": 10, "likelihood": "gaussian"}),
        ("laplace_updates", "banking77", "second_order", {"gamma": 0.05, "likelihood": "categorical"}),
        ("laplace_updates", "cifar10", "monte_carlo", {"num_hypotheses": 10_000, "gamma": 0.01}),
        ("laplace_updates", "cifar10", "bait", {"approximation": "exact"}),
        ("fast_fishing", "letter", "bait", {"fisher": "sum"}),
        ("boss", "snacks", "bait", {"fisher": "batch_means", "approximation": "binary"}),
        ("boss", "dtd", "boss", {"num_candidates": 100, "retraining_epochs": 50, "loss": "zero_one"}),
        ("boss", "dtd", "sas", {"steps": 25_000, "greedy_steps": 5000, "annealing_factor": 0.1}),
        ("boss", "dtd", "cdo", {"num_candidates": 20}),
        ("refine", "snacks", "bait", {"fisher": "batch_means", "approximation": "binary"}),
        ("refine", "snacks", "refine", {"depth": 5, "num_batches": 100, "alpha": 0.4, "initial_size": 5000}),
        ("refine", "snacks", "refine", {"largest_pool": 10_000, "final_strategy": "unc_herding"}),
    ],
)
def test_methods_are_those_of_the_audit(paper, data, method, expected):
    (found,) = (row["methods"][method] for row in rows(paper) if row["data"] == data)
    assert {name: found[name] for name in expected} == expected
    if method in registry.names():
        assert found.keys() <= set(registry.option_names(method))


def test_each_value_says_where_it_is_from():
    stated = set(COLUMNS) - {"paper", "data", "tested_on", "other_encoders", "released", "extra", "note", "sources"}
    for row in rows():
        assert set(row) == set(COLUMNS)
        assert set(row["sources"]) == stated, (row["paper"], row["data"])
        assert all(text.startswith(("read: ", "assumed: ")) for text in row["sources"].values())
        assert "mean-field" in row["metrics_from"]
    known = set(COLUMNS) | {"num_hypotheses"}
    for about in papers().values():
        assert all({*about["every"], *own, *own.get("released", {})} <= known for own in about["rows"].values())


def test_pools_last_for_all_cycles():
    pools = {}
    for row in rows():
        pool = round(row["share"] * data_sets()[row["data"]].train_size)
        assert row["initial_size"] + row["cycles"] * row["batch_size"] <= pool, row["data"]
        assert row["subset_size"] is None or row["subset_size"] > row["batch_size"]  # Else there is nothing to choose.
        pools[row["data"]] = pool if row["paper"] == "boss" else pools.get(row["data"])
    assert (pools["flowers102"], pools["dtd"], pools["cifar10"], pools["agnews"]) == (918, 1692, 45_000, 50_000)


def test_authors_are_those_of_the_papers():
    authors = {name: about["authors"] for name, about in papers().items()}
    assert authors["boss"] == "Huseljic, Hahn, Herde, Sandrock and Sick"
    assert authors["fast_fishing"] == "Huseljic, Hahn, Herde, Rauch and Sick"
    assert authors["refine"] == "Huseljic, Herde, Rauch, Hahn and Sick"
    assert authors["laplace_updates"] == "Huseljic, Herde, Rauch, Hahn, Huang, Kottke, Vogt and Sick"


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("paper", SIZES)
def test_settings_make_experiments_with_the_values_of_the_rows(paper, released):
    by_data = {row["data"]: row for row in rows(paper)}
    found = settings(paper, released=released)
    assert [each["dataset"] for each in found] == [name for name, row in by_data.items() if not row["extra"]]
    for each in found:
        row = by_data[each["dataset"]]
        row |= {name: value for name, value in row["released"].items() if name in row} if released else {}
        made = experiment_of(**each)
        training, protocol = made.learner.training, made.protocol
        head = type(made.learner).__name__.lower()
        assert (made.data, made.encoder, head) == (row["data"], row["encoder"], row["head"])
        assert training.batch_size == row["minibatch"]
        for name in ("optimiser", "learning_rate", "weight_decay", "drop_last", "epochs"):
            assert getattr(training, name) == row[name]
        for name in ("initial_size", "batch_size", "cycles", "subset_size", "share"):
            assert getattr(protocol, name) == row[name]


def test_the_released_minibatch_of_fast_fishing_can_be_run_too():
    (letter,) = (each for each in settings("fast_fishing", released=True) if each["dataset"] == "letter")
    training = experiment_of(**letter).learner.training
    assert (training.batch_size, training.drop_last) == (128, True)
    (row,) = (row for row in rows("fast_fishing") if row["data"] == "letter")
    assert "60.72" in row["sources"]["minibatch"]
    assert row["released"] == {"minibatch": 128, "drop_last": True}


def test_an_encoder_takes_the_data_sets_that_it_reads():
    images = [row["data"] for row in rows("refine") if data_sets()[row["data"]].kind == "image" and not row["extra"]]
    for encoder in ("clip", "org/model", "clip"):
        assert [(each["dataset"], each["encoder"]) for each in settings("refine", encoder)] == [
            (name, encoder) for name in images
        ]
    assert [each["dataset"] for each in settings("boss", "minilm")] == ["agnews", "dbpedia", "banking77", "clinc150"]
    assert settings("fast_fishing", "ast") == []
    with pytest.raises(ValueError, match="paper is 'bosss'; it has to be one of 'laplace_updates', 'fast_fishing'"):
        settings("bosss")


def test_no_published_accuracy_is_above_what_its_budget_lets_a_learner_know():
    """That of random in cycles 0 to 6 is not above the expected share of classes seen, and not below half of it."""
    table = published("boss_dinov2")
    low = table[(table["budget"] == "low") & (table["strategy"] == "random")].set_index("data")["accuracy"]
    checked = 0
    for row in rows("boss"):
        known = data_sets()[row["data"]]
        if known.title in low:
            labels = [row["initial_size"] + cycle * row["batch_size"] for cycle in range(7)]
            seen = sum(1 - (1 - 1 / known.num_classes) ** n for n in labels) / len(labels)  # of classes of equal size
            assert seen / 2 <= low[known.title] <= seen, known.title
            checked += 1
    assert checked == 10


def test_the_table_for_people_says_what_is_assumed(capsys):
    assert main(["data", "--protocols"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "fast_fishing: minibatch is 128 in the released code", "60.72", "EAT", "fast_fishing (imagenet): subset_size",
        "boss: Huseljic, Hahn, Herde, Sandrock and Sick", "0.9 of train",
    ):  # fmt: skip
        assert words in printed
