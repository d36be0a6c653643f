"""Studies of one's own, and the versions of code that a run's key holds."""

import dataclasses
import hashlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch

import dal_lab
from dal_core import RESULTS_VERSION
from dal_core.snapshot import LastLayer
from dal_core.strategies import register, registry
from dal_lab.runs.failures import RunError
from dal_lab.runs.grid import Grid, groups
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import Study, canonical, is_study, run, settings
from dal_lab.sources import catalogue
from dal_lab.studies.scaling import ScalingStudy
from dal_lab.studies.updating import UpdateStudy


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many instances of a data set have each class, up to so many classes: nothing registers it anywhere."""

    dataset: str = "digits"
    most: int = 3
    splits: tuple[str, ...] = ("train", "test")
    seed: int = 0
    columns: ClassVar[tuple[str, ...]] = ("split", "label", "count")

    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        bank = catalogue.load(self.dataset, data_dir=data_dir)
        labels = {"train": bank.train_labels, "test": bank.test_labels}
        rows = [(each, k, int((labels[each] == k).sum())) for each in self.splits for k in range(self.most)]
        return pd.DataFrame(rows, columns=list(self.columns))


@dataclasses.dataclass(frozen=True)
class Failing(Sizes):
    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        raise ValueError(f"there are no {self.most} classes")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_of_ones_own_is_computed_once_and_comes_with_its_settings(tmp_path, jobs):
    asked = [Sizes(), Sizes(most=2, seed=1), experiment_of(cycles=0, device="cpu")]
    rows = Grid(tmp_path, jobs=jobs).rows(asked)
    assert rows["data"].tolist() == ["digits"] * 11
    assert rows["most"][:10].tolist() == [3] * 6 + [2] * 4
    assert rows["seed"].tolist() == [0] * 6 + [1] * 4 + [0]
    assert rows["split"][6:10].tolist() == ["train", "train", "test", "test"]
    assert "splits" not in rows  # a tuple is no value of a row
    assert rows["count"][:3].tolist() == run(Sizes())["count"][:3].tolist()
    assert {path.name.split("-")[0] for path in tmp_path.glob("*.parquet")} == {"sizes", "experiment"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    pd.testing.assert_frame_equal(Grid(tmp_path, jobs=jobs).rows(asked), rows, check_exact=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")} == before
    assert (
        Grid(tmp_path, jobs=1).plan([Sizes(seed=4)]).lines()[0].startswith("would run  Sizes, digits, seed 4: about ")
    )


def test_a_study_of_ones_own_depends_on_the_content_of_its_data(tmp_path):
    store = Grid(tmp_path).store
    assert store.key(Sizes(), "one digest") != store.key(Sizes(), "another")
    assert store.key(Sizes(), "one digest") != store.key(Sizes(splits=("test",)), "one digest")
    assert settings(Sizes()) == {"data": "digits", "dataset": "digits", "most": 3, "seed": 0}


def test_a_study_of_ones_own_that_fails_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"1 of 1 runs failed: Failing, digits, most=9, seed 0: ValueError: there are no"
    ):
        Grid(tmp_path, jobs=1).rows([Failing(most=9)])


def of_text(text: str) -> type:
    """A study of the class `Mine` with this text of `run`, as a notebook's cell would define it."""
    names: dict = {"pd": pd}
    exec(text, names)
    return dataclasses.make_dataclass(
        "Mine", [("seed", int, 0)], namespace={"run": names["run"], "columns": ("x",)}, frozen=True
    )


def test_the_text_of_a_study_of_ones_own_is_part_of_its_key(tmp_path, monkeypatch):
    texts = {}
    monkeypatch.setattr("inspect.getsource", lambda function: texts[function])
    keys = []
    for value in (1, 2, 1):
        text = f"def run(self, *, data_dir=None):\n    return pd.DataFrame({{'x': [{value}]}})"
        kind = of_text(text)
        texts[kind.run] = text
        keys.append(Grid(tmp_path).store.key(kind(), "no data"))
    assert keys[0] == keys[2] != keys[1]


def test_what_is_a_study():
    assert isinstance(Sizes(), Study)
    for each in (Sizes(), experiment_of(), UpdateStudy(), ScalingStudy()):
        assert is_study(each)
    without_run = dataclasses.make_dataclass("WithoutRun", [("seed", int, 0)], namespace={"columns": ()})
    for each in (Sizes, None, "digits", {"run": 1}, without_run()):
        assert not is_study(each)
        with pytest.raises(TypeError, match="an Experiment was expected"):
            dal_lab.run(each)


# --- versions

TRAINED = {"device": "cpu", "options": {"epochs": 3}}
STUDIES = {
    "bait": experiment_of(strategy="bait", **TRAINED),
    "margin": experiment_of(strategy="margin", **TRAINED),
    "refine with bait": experiment_of(
        strategy="refine", device="cpu", options={"strategies": ["bait", "margin"], "final_strategy": "random"}
    ),
    "refine without": experiment_of(
        strategy="refine", device="cpu", options={"strategies": ["random", "margin"], "final_strategy": "random"}
    ),
    "boss with bait": experiment_of(strategy="boss", allow_oracle=True, device="cpu", options={"strategies": ["bait"]}),
    "updating": UpdateStudy(device="cpu"),
    "scaling bait": ScalingStudy(strategy="bait", device="cpu"),
    "scaling margin": ScalingStudy(strategy="margin", device="cpu"),
}


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Which of the studies have another key after something was done."""
    store = Grid(tmp_path).store
    before = {name: store.key(study, "data") for name, study in STUDIES.items()}
    return lambda: {name for name, study in STUDIES.items() if store.key(study, "data") != before[name]}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("bait", {"bait", "refine with bait", "boss with bait", "scaling bait"}),
        ("refine", {"refine with bait", "refine without"}),
        ("random", {"refine with bait", "refine without"}),
        ("boss", {"boss with bait"}),
        ("typiclust", set()),
    ],
)
def test_a_raised_version_of_a_strategy_voids_its_runs_and_those_of_ensembles_that_ask_it(
    changed, monkeypatch, raised, expected
):
    monkeypatch.setitem(registry._VERSIONS, raised, 9)
    assert changed() == expected


def test_a_raised_version_of_a_study_voids_its_runs_alone(changed, monkeypatch):
    monkeypatch.setattr(UpdateStudy, "version", 9)
    assert changed() == {"updating"}


def test_a_raised_results_version_voids_all_runs(changed, monkeypatch):
    monkeypatch.setattr("dal_lab.runs.store.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert changed() == STUDIES.keys()


def test_runs_from_before_there_were_versions_are_still_found(tmp_path):
    study = STUDIES["bait"]
    identity = "\n".join((canonical(study), "data", str(RESULTS_VERSION)))
    assert Grid(tmp_path).store.key(study, "data") == hashlib.sha256(identity.encode()).hexdigest()[:32]


def test_versions_are_registered_with_the_strategies(monkeypatch):
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))

    def fourth(snapshot, batch_size, generator):
        return snapshot

    register("fourth", version=4)(fourth)
    assert registry.version("fourth") == 4
    assert registry.version("margin") == 1
    registry.forget_own()
    assert "fourth" not in registry._VERSIONS
    for wrong in (0, -1, True):
        with pytest.raises(ValueError, match="version is"):
            register("fifth", version=wrong)


# --- learners and tasks of one's own

LEARNER = """
    import dataclasses
    from typing import ClassVar
    import dal_core as dal

    class Base:
        def fit(self, task, data, index_sets, labels, draws, **others):
            return dal.Linear(dal.Training(epochs=EPOCHS)).fit(task, data, index_sets, labels, draws, **others)

    @dataclasses.dataclass(frozen=True)
    class Mine(Base):
        widths: list = dataclasses.field(default_factory=lambda: [3])
        kind: str = "extra"
        seed: int = 7
        gives: ClassVar[type] = dal.LastLayer
"""


def cell(text, name="<cell>"):
    """The names that a notebook's cell defines, whose text Python keeps for functions alone."""
    text = textwrap.dedent(text)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), names := {"__name__": "__main__"})
    return names


def of_learner(learner, **more):
    return dataclasses.replace(experiment_of(cycles=1, device="cpu"), learner=learner, **more)


def test_a_learner_of_a_cell_counts_with_inherited_functions_and_its_fields_take_no_others_place(tmp_path, monkeypatch):
    texts = [LEARNER.replace("EPOCHS", epochs) for epochs in ("1", "2", "1")]
    studies = [of_learner(cell(text, f"<cell {i}>")["Mine"](seed=8)) for i, text in enumerate(texts)]
    keys = [Grid(tmp_path).store.key(study, "data") for study in studies]
    assert keys[0] == keys[2] != keys[1]
    found = json.loads(canonical(studies[0]))["learner"]
    assert (found["kind"], found["kind_"]) == ("Mine", "extra")
    columns = settings(of_learner(studies[0].learner, seed=1))
    assert (columns["seed"], columns["learner_seed"], columns["head"], columns["widths"]) == (1, 8, "Mine", "[3]")
    monkeypatch.setattr("dal_lab.runs.grid.device_of", lambda study: torch.device("cuda"))
    seeds = {str(seed): dataclasses.replace(studies[0], seed=seed) for seed in range(2)}
    assert [list(group) for group in groups(seeds | {"other": studies[1]})] == [["0", "1"], ["other"]]


def test_a_class_without_a_text_is_named_once(tmp_path):
    exec(textwrap.dedent(LEARNER), names := {"__name__": "__main__", "EPOCHS": 1})
    names["Mine"].__qualname__ = "Typed"
    with pytest.warns(UserWarning, match="the text of Typed cannot be read") as told:
        [Grid(tmp_path).store.key(of_learner(names["Mine"]()), "data") for _ in range(2)]
    assert len(told) == 1


def test_a_value_that_json_cannot_hold_is_named(tmp_path):
    learner = dataclasses.make_dataclass("Of", [("widths", object)], namespace={"gives": LastLayer, "fit": 1})({3})
    with pytest.raises(ValueError, match=r"^Experiment\.learner\.widths is \{3\}; a dataclass or a value that JSON "):
        Grid(tmp_path).rows([of_learner(learner)])


def test_options_take_no_others_place(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))
    taken = {"seed": 7, "dataset": "x", "head": "x", "cycles": 9, "device": "x", "run": "x"}
    parameters = ", ".join(f"{name}=None" for name in taken)
    exec(f"def mine(snapshot, batch_size, generator, *, {parameters}): return", names := {"__name__": "mine"})
    register("mine")(names["mine"])
    found, plain = (settings(experiment_of(strategy="mine", seed=1, options=each)) for each in (taken, {}))
    assert found == plain | {f"strategy_{name}": value for name, value in taken.items()}


@pytest.mark.parametrize(
    ("columns", "found", "message"),
    [
        (None, {"seed": 1}, r"the columns \['seed'\], which name the run"),
        (("mae",), {"rmse": 1}, r"3 rows have the columns .* \(\['mae', 'rmse'\] differ\)"),
    ],
)
def test_a_task_whose_columns_are_not_its_own_is_refused_before_anything_is_stored(tmp_path, columns, found, message):
    names = {"needs": LastLayer, "num_outputs": 10, "evaluate": lambda self, *_: found}
    names |= {} if columns is None else {"columns": columns}
    task = dataclasses.make_dataclass("Judging", [], namespace=names, frozen=True)()
    with pytest.raises(RunError, match=message):
        Grid(tmp_path, jobs=1).rows([dataclasses.replace(experiment_of(cycles=2, device="cpu"), task=task)])
    assert not [*tmp_path.glob("*.parquet")]


@pytest.mark.slow
def test_a_script_computes_with_its_learner_in_several_processes(tmp_path, root):
    use = """
    import dal_lab
    usual = dal.Experiment(learner=Mine(), protocol=dal.Protocol(cycles=1), device="cpu")
    asked = [dataclasses.replace(usual, seed=seed) for seed in (0, 1)]
    rows = [dal_lab.Grid(f"results {jobs}", jobs=jobs).rows(asked) for jobs in (2, 1)]
    assert rows[0]["run"].tolist() == rows[1]["run"].tolist()
    assert rows[0]["accuracy"].tolist() == rows[1]["accuracy"].tolist()
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(LEARNER.replace("EPOCHS", "2") + use))
    command = [sys.executable, "mine.py"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
