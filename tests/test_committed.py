"""Runs that travel with the figures that were drawn from them."""

import dataclasses
import json
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from dal_core import RESULTS_VERSION
from dal_core.data import FeatureBank
from dal_core.strategies import registry
from dal_lab.companion.artefacts import Report, check_manifest, note_load, read_manifest
from dal_lab.companion.command_line import main
from dal_lab.companion.site.index import write_site
from dal_lab.runs import committed
from dal_lab.runs.committed import LARGEST, commit, committed_runs
from dal_lab.runs.failures import RunRefusedError
from dal_lab.runs.grid import Grid
from dal_lab.runs.provenance import load_beside
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import bank_name, digest_of
from dal_lab.sources import catalogue
from dal_lab.sources.bank import save_bank
from dal_lab.sources.raw import DatasetUnavailableError
from dal_lab.studies.scaling import ScalingStudy
from dal_lab.studies.updating import UpdateStudy

TINY = {"dataset": "blobs", "cycles": 2, "device": "cpu", "options": {"epochs": 3}}


@dataclasses.dataclass(frozen=True)
class Odd:
    """A study whose columns have the names of others, and other types."""

    seed: int = 0
    columns: ClassVar[tuple[str, ...]] = ("accuracy", "cycle", "names", "nothing", "flag", "lists", "small")

    def run(self, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        rows = {
            "accuracy": [2**53 + 1, -1], "cycle": ["first", "ünd"], "names": ["", None], "nothing": [None, None],
            "flag": [True, False], "lists": [[0.1, 1e-300], []], "small": np.array([0.1, np.nan], dtype=np.float32),
        }  # fmt: skip
        return pd.DataFrame(rows)


def experiments(seeds=2, strategies=("random", "margin")):
    return [experiment_of(strategy=name, seed=seed, **TINY) for name in strategies for seed in range(seeds)]


def studies():
    updating = {"dataset": "blobs", "new_sizes": (2,), "draws": 1, "num_hypotheses": 5, "device": "cpu"}
    with_record = TINY | {"options": {"epochs": 3, "num_candidates": 2, "retraining_epochs": 2}}
    return [
        *experiments(),
        experiment_of(strategy="boss", allow_oracle=True, **with_record),
        UpdateStudy(**updating, options={"epochs": 3}),
        UpdateStudy(**updating, gradient_steps=(1,), options={"epochs": 3}),
        ScalingStudy(num_unlabelled=50, num_labelled=9, num_features=5, batch_size=5, device="cpu"),
    ]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A clone of its own, whose figures have no runs yet."""
    monkeypatch.setenv("DAL_ROOT", str(tmp_path / "clone"))
    return tmp_path / "clone"


def committing(folder, asked, path, data_dir=None):
    """The rows of the studies, computed in `folder` and committed to `path`."""
    grid = Grid(folder, jobs=1, data_dir=data_dir)
    rows = grid.rows(asked)
    commit(grid.keys, grid.store, path)
    return rows


@pytest.fixture
def path(project):
    return project / "figures" / "quick" / "01_runs.parquet"


@pytest.fixture
def rows(tmp_path, path):
    return committing(tmp_path / "mine", experiments(), path)


def assert_same(found, expected):
    """Equal in types and bits; frames of the standard library of tests tell no two NaN apart, nor 0.0 and -0.0."""
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    for name in expected:
        if expected[name].dtype.kind == "f":
            assert found[name].to_numpy().tobytes() == expected[name].to_numpy().tobytes()
        elif expected[name].dtype == object:
            assert [type(each) for each in found[name]] == [type(each) for each in expected[name]]


def test_runs_of_all_kinds_come_back_as_they_were_stored_and_nothing_is_computed(tmp_path, path, computed):
    committing(tmp_path / "mine", studies(), path)
    stored = Grid(tmp_path / "mine", jobs=1)
    count = len(computed)
    for study in studies():
        found = Grid(tmp_path / "other", jobs=1).rows([study])
        assert_same(found, stored.rows([study]))
    assert_same(Grid(tmp_path / "other", jobs=1).rows(studies()), stored.rows(studies()))
    assert len(computed) == count
    assert not (tmp_path / "other").exists()  # nothing was written, either


def test_columns_of_odd_types_survive_beside_others(tmp_path, path):
    committing(tmp_path / "mine", [Odd(), Odd(seed=1)], path)
    assert_same(Grid(tmp_path / "other").rows([Odd()]), Grid(tmp_path / "mine").rows([Odd()]))


def test_kinds_whose_columns_have_one_name_and_types_that_exclude_each_other_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match="cycle"):
        committing(tmp_path / "mine", [*experiments(), Odd()], path)
    assert not path.exists()


def test_the_file_reads_well_in_pandas(path, rows):
    table = pd.read_parquet(path)
    assert len(table) == len(rows) == 12
    assert list(table.columns[-11:]) == list(experiment_of().columns)
    assert sorted(table["run_key"].unique()) == sorted(rows["run"].unique())
    first = table.iloc[0]
    about = json.loads(first["run_configuration"])
    assert (about["data"], about["learner"]["training"]["epochs"]) == ("blobs", 3)
    assert (first["run_data"], first["run_data_digest"]) == ("blobs", digest_of(experiments()[0], None))
    assert first["run_results_version"] == RESULTS_VERSION
    assert json.loads(first["run_strategies"]) == {about["strategy"]["name"]: 1}
    assert json.loads(first["run_versions"])["torch"] == torch.__version__
    assert first["run_duration_s"] > 0
    mine = rows[rows["run"] == first["run_key"]].reset_index()
    assert table["acquired"][:3].map(list).tolist() == mine["acquired"].map(list).tolist()
    assert table["accuracy"][:3].tolist() == mine["accuracy"].tolist()


def test_the_folder_of_the_user_takes_precedence(tmp_path, path, rows):
    study = experiments()[0]
    grid = Grid(tmp_path / "theirs")
    digest = digest_of(study, None)
    key = grid.store.key(study, digest)
    changed = rows[rows["run"] == key][list(study.columns)].assign(accuracy=0.125)
    grid.store.write(study, key, changed, data_digest=digest, started=datetime.now(UTC), seconds=1.0)
    assert grid.rows([study])["accuracy"].tolist() == [0.125] * 3
    grid.store.path(study, key).unlink()
    assert grid.rows([study])["accuracy"].tolist() == rows["accuracy"][:3].tolist()


def test_what_is_missing_is_computed_and_a_plan_says_so(tmp_path, path, rows, computed):
    grid, asked = Grid(tmp_path / "other", jobs=1), experiments(seeds=3)
    assert grid.plan(asked).lines()[-1].startswith("4 runs are stored, 2 would run: about ")
    found = grid.rows(asked)
    assert computed == [("random", 2), ("margin", 2)]
    assert_same(found[found["seed"] < 2].reset_index(drop=True), rows)
    assert len(list((tmp_path / "other").glob("*.parquet"))) == 2


def test_fresh_ignores_them(tmp_path, path, rows, computed):
    grid = Grid(tmp_path / "other", jobs=1, fresh=True)
    grid.rows(experiments())
    assert len(computed) == 4
    assert_same(grid.rows(experiments()), Grid(tmp_path / "other", jobs=1).rows(experiments()))
    assert len(computed) == 4


def test_a_raised_version_of_a_strategy_voids_its_committed_runs_alone(tmp_path, path, rows, computed, monkeypatch):
    monkeypatch.setitem(registry._VERSIONS, "margin", 2)
    Grid(tmp_path / "other", jobs=1).rows(experiments())
    assert computed == [("margin", 0), ("margin", 1)]


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, path, monkeypatch):
    reads, read_sealed = [], committed.read_sealed
    monkeypatch.setattr(committed, "read_sealed", lambda path: reads.append(path) or read_sealed(path))
    committing(tmp_path / "mine", experiments(seeds=1), path)
    for _ in range(3):
        assert len(committed_runs([path.parent.parent])) == 2
    assert reads == [path]
    committing(tmp_path / "mine", experiments(seeds=2), path)
    assert len(committed_runs([path.parent.parent])) == 4


def test_what_is_committed_again_from_committed_runs_is_the_same_file(tmp_path, path, rows):
    content = path.read_bytes()
    grid = Grid(tmp_path / "other")
    grid.rows(experiments())
    commit(grid.keys, grid.store, path)
    assert path.read_bytes() == content
    commit(grid.keys[:3], grid.store, path.with_name("02_runs.parquet"))
    assert len(committed_runs([path.parent])) == 4
    assert pd.read_parquet(path.with_name("02_runs.parquet"))["run_key"].nunique() == 3


@pytest.mark.parametrize(
    ("load", "words"), [(1.94, "load 1.9 on 2 cores"), (5.1, "load 5.1 on 2 cores: times unreliable")]
)
def test_the_load_beside_measured_times_is_kept_with_the_run_and_told(tmp_path, path, monkeypatch, load, words):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.5, 0.5))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    committing(tmp_path / "mine", experiments(seeds=1), path)
    runs = {key: run.about for key, run in committed_runs([path.parent]).items()}
    assert {(about["load"], about["cores"]) for about in runs.values()} == {(round(load, 1), 2)}
    report = Report(path.parent, "01_it")
    for name in ("query_time", "accuracy"):
        report.table(pd.DataFrame({"data": ["blobs"]}), name, cell="(a)", keys=sorted(runs))
    report.table(pd.DataFrame({"data": ["blobs"]}), "other_time", cell="(a)", keys=[])
    unreliable = [f"{words} (01_query_time.csv, 01_query_time.md)"] if "unreliable" in words else []
    assert note_load(path.parent, "01_it", runs) == unreliable
    assert {name: entry.get("load") for name, entry in read_manifest(path.parent).items() if name.endswith("md")} == {
        "01_accuracy.md": None, "01_other_time.md": None, "01_query_time.md": {"cores": 2, "load": round(load, 1)},
    }  # fmt: skip
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "01_it.ipynb")
    page = write_site(path.parent, tmp_path / "executed", [tmp_path / "01_it.ipynb"], preset="quick").read_text()
    assert page.count(f"measured at {words}<") == 2  # in the list, and at the table that stands for the notebook
    assert "Time of computing" in page


def test_a_long_run_counts_the_load_of_a_longer_while(monkeypatch):
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1.0, 5.0, 15.0))
    assert [load_beside(seconds)["load"] for seconds in (0.1, 60, 61, 301, 4000)] == [1, 1, 5, 15, 15]


def test_runs_that_are_nowhere_cannot_be_committed_and_the_file_stays(tmp_path, path, rows):
    content = path.read_bytes()
    with pytest.raises(ValueError, match="the run 0123 is not in"):
        commit(["0123"], Grid(tmp_path / "mine").store, path)
    assert path.read_bytes() == content
    commit([], Grid(tmp_path / "mine").store, path)
    assert not path.exists()


def test_a_file_that_would_be_too_large_is_not_kept(tmp_path, path, rows, monkeypatch):
    assert 1000 < path.stat().st_size < LARGEST
    monkeypatch.setattr(committed, "LARGEST", 1000)
    grid = Grid(tmp_path / "mine")
    grid.rows(experiments())
    with pytest.warns(UserWarning, match=r"01_runs\.parquet would have 0\.0 MB: its runs are not committed"):
        commit(grid.keys, grid.store, path)
    assert not path.exists()


def test_a_few_hundred_runs_stay_small(tmp_path, path, rows):
    """A notebook of the quick preset has up to 150 runs of 21 rows; of those columns, six have random bits."""
    grid, study, draw = Grid(tmp_path / "many"), experiment_of(**TINY), np.random.default_rng(0)
    keys, digest = [], digest_of(study, None)
    for seed in range(150):
        each = dataclasses.replace(study, seed=seed)
        noise = {name: draw.random(21) for name in ("nll", "brier", "ece", "ace", "query_s", "train_s")}
        acquired = [draw.choice(1000, 10, replace=False).tolist() for _ in range(21)]
        about = {"cycle": range(21), "n_labeled": range(10, 220, 10), "accuracy": draw.integers(0, 500, 21) / 500}
        made = pd.DataFrame({**about, **noise, "acquired": acquired, "record": "{}"})[list(study.columns)]
        keys.append(grid.store.key(each, digest))
        grid.store.write(each, keys[-1], made, data_digest=digest, started=datetime.now(UTC), seconds=1.0)
    commit(keys, grid.store, path)
    assert path.stat().st_size < 350_000
    assert len(committed_runs([path.parent])) == 150


# --- damage


def damaged(content):
    yield content[: len(content) // 2]
    yield b""
    yield content + b"x"
    for place in (100, len(content) // 2, len(content) - 200):
        yield content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize("case", range(6))
def test_a_damaged_file_is_one_warning_and_its_runs_are_computed_anew(tmp_path, path, rows, case, computed):
    path.write_bytes([*damaged(path.read_bytes())][case])
    grid = Grid(tmp_path / "other", jobs=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [grid.rows(experiments()[:count]) for count in (2, 4)][-1]
    (line,) = [str(each.message) for each in told]
    assert line.startswith(f"{path} is damaged and its runs will be computed anew: ")
    assert "\n" not in line
    assert len(computed) == 4
    times = ["query_s", "train_s"]
    pd.testing.assert_frame_equal(found.drop(columns=times), rows.drop(columns=times), check_exact=True)


# --- data that are absent


@pytest.fixture
def data(tmp_path):
    """A folder with data that no catalogue has."""
    draw = torch.Generator().manual_seed(0)
    train, test = (torch.randn(size, 3, generator=draw) for size in (90, 31))
    bank = FeatureBank(train, torch.arange(90) % 3, test, torch.arange(31) % 3, ("a", "b", "c"), {"source": "made"})
    save_bank(bank, tmp_path / "data" / "made_mine.safetensors")
    save_bank(dataclasses.replace(bank, train_features=-train), tmp_path / "others" / "made_mine.safetensors")
    return tmp_path / "data"


def on_made(**changes):
    return experiment_of(**TINY | {"dataset": "made", "encoder": "mine", "subset_size": None} | changes)


def forget(folder):
    catalogue._load.cache_clear()
    shutil.rmtree(folder)
    folder.mkdir()


def test_where_the_data_are_absent_runs_are_found_by_their_configuration(tmp_path, path, data, computed):
    asked = [on_made(seed=seed) for seed in range(2)]
    rows = committing(tmp_path / "mine", asked, path, data)
    forget(data)
    found = Grid(tmp_path / "other", jobs=1, data_dir=data).rows(asked)
    assert_same(found, rows)
    assert len(computed) == 2
    with pytest.raises(
        RunRefusedError, match=r"1 of 3 runs failed: made \(mine\), .*, seed 2: DatasetUnavailableError"
    ):
        Grid(tmp_path / "other", jobs=1, data_dir=data).rows([*asked, on_made(seed=2)])


def test_other_data_of_the_same_name_are_computed_on(tmp_path, path, data, computed):
    asked = [on_made()]
    rows = committing(tmp_path / "mine", asked, path, data)
    catalogue._load.cache_clear()
    found = Grid(tmp_path / "other", jobs=1, data_dir=data.with_name("others")).rows(asked)
    assert len(computed) == 2
    assert found["run"][0] != rows["run"][0]


def test_absent_data_of_no_committed_run_are_a_refusal(tmp_path, path, data, monkeypatch):
    committing(tmp_path / "mine", [on_made()], path, data)
    forget(data)
    with pytest.raises(DatasetUnavailableError, match="no made_other"):
        Grid(tmp_path / "other", data_dir=data).rows([on_made(encoder="other")])
    with pytest.raises(DatasetUnavailableError, match="no made_mine"):
        Grid(tmp_path / "other", data_dir=data, fresh=True).rows([on_made()])
    with pytest.raises(DatasetUnavailableError, match="is not a folder"):
        Grid(tmp_path / "other", data_dir=data / "misspelt").rows([on_made()])
    for module in ("store", "committed"):
        monkeypatch.setattr(f"dal_lab.runs.{module}.RESULTS_VERSION", RESULTS_VERSION + 1)
    with pytest.raises(DatasetUnavailableError, match="no made_mine"):
        Grid(tmp_path / "other", data_dir=data).rows([on_made()])


def test_data_of_committed_runs_are_to_be_had(tmp_path, path, data):
    committing(tmp_path / "mine", [on_made()], path, data)
    forget(data)
    wanted = [{"dataset": "made", "encoder": "mine"}, {"dataset": "made", "encoder": "other"}, {"dataset": "blobs"}]
    there, absent = Grid(tmp_path / "other", data_dir=data).available(wanted)
    assert there == [wanted[0], wanted[2]]
    assert [*absent.values()] == [["made (other)"]]
    there, absent = Grid(tmp_path / "other", data_dir=data, fresh=True).available(wanted)
    assert there == [wanted[2]]
    assert bank_name(on_made()) == "made (mine)"


# --- commands

CELL = """
import pandas as pd
from pathlib import Path
from dal_lab.runs.settings import experiment_of
from dal_lab.companion.artefacts import Report
from dal_lab.runs.grid import Grid

grid = Grid(results_dir, jobs=1, fresh=fresh)
study = {"dataset": "blobs", "cycles": 2, "device": "cpu", "options": {"epochs": 3}}
grid.rows([experiment_of(strategy="badge", **study)])  # of which no figure is drawn
keys = len(grid.keys)
rows = grid.rows([experiment_of(seed=seed, **study) for seed in range(2)])
table = rows[["run", "cycle", "accuracy", "nll"]]
Report(Path(output_dir) / preset, "01_made").table(table, "table", cell="(a)", keys=grid.keys[keys:])
"""


@pytest.fixture
def clone(project):
    """A project with a notebook."""
    notebook = nbformat.v4.new_notebook()
    settings = 'preset = "quick"\noutput_dir = None\ndevice = "auto"\nfresh = False\nresults_dir = None'
    notebook.cells = [nbformat.v4.new_code_cell(settings), nbformat.v4.new_code_cell(CELL)]
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (project / "notebooks").mkdir(parents=True)
    nbformat.write(notebook, project / "notebooks" / "01_made.ipynb")
    return project


def stored(clone):
    return len(list((clone / "results").glob("*.parquet")))


@pytest.mark.slow
def test_the_notebooks_commit_what_their_figures_rest_on_and_a_fresh_clone_computes_nothing_of_it(clone):
    assert main(["notebooks"]) == 0
    figures = clone / "figures" / "quick"
    before = {path.name: path.read_bytes() for path in figures.iterdir() if path.suffix != ".html"}
    assert {"01_table.csv", "01_runs.parquet"} <= before.keys()
    keys = json.loads(before["manifest.json"])["01_table.csv"]["keys"]
    assert sorted(committed_runs([figures])) == keys
    assert (len(keys), stored(clone)) == (2, 3)
    shutil.rmtree(clone / "results")
    assert main(["notebooks"]) == 0
    assert {path.name: path.read_bytes() for path in figures.iterdir() if path.suffix != ".html"} == before
    assert stored(clone) == 1  # the one that no figure rests on
    check_manifest(figures)
    assert main(["notebooks", "--fresh"]) == 0
    assert stored(clone) == 3
    assert (figures / "01_table.csv").read_bytes() == before["01_table.csv"]


def test_runs_of_the_tiny_preset_are_not_committed(clone):
    assert main(["notebooks", "--preset", "tiny"]) == 0
    assert (clone / "figures" / "tiny" / "01_table.csv").exists()
    assert committed_runs([clone / "figures"]) == {}


def test_runs_that_cannot_be_committed_make_the_notebook_count_as_failed(clone, capsys):
    notebook = nbformat.read(clone / "notebooks" / "01_made.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("for path in Path(results_dir).glob('*.parquet'): path.unlink()"))
    nbformat.write(notebook, clone / "notebooks" / "01_made.ipynb")
    assert main(["notebooks"]) == 1
    assert "its runs are not committed: the run " in capsys.readouterr().out


def test_a_report_has_its_runs_beside_it(tmp_path, computed):
    options = ["--dataset", "blobs", "--cycles", "2", "--device", "cpu", "--option", "epochs=3", "--seeds", "2"]
    command = ["report", *options, "--jobs", "1", "--output-dir", str(tmp_path / "report"), "--results-dir"]
    assert main([*command, str(tmp_path / "one")]) == 0
    assert len(committed_runs([tmp_path / "report"])) == 2
    assert main([*command, str(tmp_path / "two")]) == 0
    assert len(computed) == 2
    assert main([*command, str(tmp_path / "two"), "--fresh"]) == 0
    assert len(computed) == 4
