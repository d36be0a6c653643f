"""Studies of one's own, and the versions of code that a run's key holds."""

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

import dal_lab
from dal_core import RESULTS_VERSION
from dal_core.strategies import register, registry
from dal_lab.runs.grid import Grid
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
    monkeypatch.setitem(registry._VERSIONS, raised, 2)
    assert changed() == expected


def test_a_raised_version_of_a_study_voids_its_runs_alone(changed, monkeypatch):
    monkeypatch.setattr(UpdateStudy, "version", 2)
    assert changed() == {"updating"}


def test_a_raised_results_version_voids_all_runs(changed, monkeypatch):
    monkeypatch.setattr("dal_lab.runs.store.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert changed() == STUDIES.keys()


def test_runs_from_before_there_were_versions_are_still_found(tmp_path):
    study = STUDIES["refine with bait"]
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
