import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest

import dal_core.grid
from dal_core.experiment import Experiment
from dal_core.grid import Grid, RunError, compute
from dal_core.update_study import UpdateStudy

TINY = {"cycles": 2, "subset_size": 50, "device": "cpu", "options": {"epochs": 3}}
TIMES = ["query_s", "train_s"]


def experiments(seeds=2, strategies=("random", "margin")):
    return [Experiment(strategy=name, seed=seed, **TINY) for name in strategies for seed in range(seeds)]


def stored(grid):
    return sorted(grid.store.folder.glob("[!.]*.parquet"))


def only_file(grid):
    (path,) = stored(grid)
    return path


@pytest.fixture
def computed(monkeypatch):
    """Names the runs that are computed in this process."""
    calls = []

    def counting(study, *arguments):
        calls.append((study.strategy, study.seed))
        return compute(study, *arguments)

    monkeypatch.setattr(dal_core.grid, "compute", counting)
    return calls


def test_rows_come_in_the_order_asked_for_with_their_settings(tmp_path):
    rows = Grid(tmp_path, jobs=1).rows(experiments(), "runs")
    assert rows["strategy"].tolist() == ["random"] * 6 + ["margin"] * 6
    assert rows["seed"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert rows["n_labeled"].tolist() == [10, 20, 30] * 4
    assert rows["run"].nunique() == 4
    assert set(rows["data"]) == {"digits"}


def test_a_list_among_the_options_is_one_value_in_every_row(tmp_path):
    options = {"epochs": 3, "num_candidates": 2, "retraining_epochs": 2, "strategies": ["random", "margin"]}
    study = Experiment(strategy="boss", allow_oracle=True, **TINY | {"options": options})
    rows = Grid(tmp_path, jobs=1).rows([study, *experiments(seeds=1)], "runs")
    assert rows["n_labeled"].tolist() == [10, 20, 30] * 3
    assert rows["strategies"][:3].map(json.loads).tolist() == [["random", "margin"]] * 3
    assert rows["num_candidates"][:3].tolist() == [2, 2, 2]
    assert rows["strategies"][3:].isna().all()
    assert [json.loads(told).get("supplier") in ("random", "margin") for told in rows["record"][:3]] == [
        False, True, True,
    ]  # fmt: skip
    again = Grid(tmp_path, jobs=1).rows([study, *experiments(seeds=1)], "runs")
    pd.testing.assert_frame_equal(again, rows, check_exact=True)


def test_nothing_is_computed_twice(tmp_path, computed):
    first = Grid(tmp_path, jobs=1).rows(experiments(), "runs")
    assert len(computed) == 4
    second = Grid(tmp_path, jobs=1).rows(experiments(), "runs")
    assert len(computed) == 4
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_fresh_computes_each_run_once_more(tmp_path, computed):
    Grid(tmp_path, jobs=1).rows(experiments(), "runs")
    fresh = Grid(tmp_path, jobs=1, fresh=True)
    fresh.rows(experiments(), "runs")
    fresh.rows(experiments(seeds=1), "some of them again")
    assert len(computed) == 8


def test_only_missing_runs_are_computed(tmp_path, computed):
    Grid(tmp_path, jobs=1).rows(experiments(seeds=1), "runs")
    Grid(tmp_path, jobs=1).rows(experiments(seeds=2), "runs")
    assert computed == [("random", 0), ("margin", 0), ("random", 1), ("margin", 1)]


def test_jobs_make_no_difference_bit_by_bit(tmp_path):
    study = UpdateStudy(new_sizes=(2,), draws=1, num_hypotheses=5, device="cpu", options={"epochs": 3})
    alone = Grid(tmp_path / "1", jobs=1)
    together = Grid(tmp_path / "2", jobs=2)
    for asked, times in ((experiments(), TIMES), ([study], ["update_s"])):
        one, two = (grid.rows(asked, "runs").drop(columns=times) for grid in (alone, together))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert [path.name for path in stored(alone)] == [path.name for path in stored(together)]


def test_a_result_is_keyed_by_configuration_data_and_version(tmp_path, monkeypatch):
    store = Grid(tmp_path).store
    first = Experiment(strategy="margin", **TINY)
    key = store.key(first, "data")
    assert store.key(Experiment(strategy="margin", **TINY), "data") == key
    for other in ({"strategy": "entropy"}, {"seed": 1}, {"batch_size": 11}, {"options": {"epochs": 4}}):
        assert store.key(Experiment(**{"strategy": "margin", **TINY, **other}), "data") != key
    assert store.key(first, "other data") != key
    monkeypatch.setattr(dal_core.grid, "RESULTS_VERSION", dal_core.grid.RESULTS_VERSION + 1)
    assert store.key(first, "data") != key


def test_provenance_says_what_when_and_with_which_versions(tmp_path):
    grid = Grid(tmp_path, jobs=1)
    grid.rows([Experiment(seed=3, **TINY)], "run")
    provenance = grid.store.provenance(only_file(grid))
    assert provenance["configuration"]["strategy"] == "margin"
    assert provenance["configuration"]["options"] == {"epochs": 3}
    assert provenance["seed"] == 3
    assert provenance["device"] == "cpu"
    assert set(provenance["versions"]) == {"python", "torch", "dal_core"}
    assert provenance["duration_s"] > 0
    assert pd.Timestamp(provenance["started"]).tzinfo is not None
    assert len(provenance["git_commit"].removesuffix("-dirty")) in (40, len("unknown"))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path):
    path.write_bytes(b"")


def _flip_a_data_byte(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)


def _drop_a_column(path):
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["accuracy"]), path)


def _drop_the_provenance(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


def _drop_the_rows(path):
    pq.write_table(pq.read_table(path).slice(0, 0), path)


@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _flip_a_data_byte, _drop_a_column, _drop_the_provenance, _drop_the_rows]
)
def test_a_damaged_result_is_reported_and_computed_anew(tmp_path, damage, computed):
    grid = Grid(tmp_path, jobs=1)
    whole = grid.rows([Experiment(**TINY)], "run")
    damage(only_file(grid))
    with pytest.warns(UserWarning, match="is damaged and will be computed anew"):
        again = Grid(tmp_path, jobs=1).rows([Experiment(**TINY)], "run")
    assert len(computed) == 2
    pd.testing.assert_frame_equal(whole.drop(columns=TIMES), again.drop(columns=TIMES), check_exact=True)


def test_the_result_of_another_run_is_not_taken(tmp_path, computed):
    grid = Grid(tmp_path, jobs=1)
    grid.rows([Experiment(seed=0, **TINY)], "run")
    foreign = only_file(grid)
    other = Experiment(seed=1, **TINY)
    target = grid.store.path(other, grid.store.key(other, grid._digest(other)))
    target.write_bytes(foreign.read_bytes())
    with pytest.warns(UserWarning, match="it holds the run"):
        grid.rows([other], "run")
    assert len(computed) == 2


def test_a_failing_run_is_named_and_the_others_are_kept(tmp_path):
    good, bad = Experiment(**TINY), Experiment(dataset="moons", **TINY | {"cycles": 200})
    grid = Grid(tmp_path, jobs=1)
    with pytest.raises(RunError, match=r"'dataset': 'moons'.*buys 2010 instances"):
        grid.rows([good, bad], "runs")
    assert len(stored(grid)) == 1


def test_unknown_number_of_jobs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs is 0"):
        Grid(tmp_path, jobs=0)


SLOW_GRID = """
import sys, time
import dal_core.grid
from dal_core.experiment import Experiment
from dal_core.grid import Grid

if __name__ == "__main__":
    tiny = {"cycles": 2, "subset_size": 50, "device": "cpu", "options": {"epochs": 150}}
    Grid(sys.argv[1], jobs=1).rows([Experiment(seed=seed, **tiny) for seed in range(30)], "runs")
"""


def test_killed_runs_leave_nothing_half_written_and_are_resumed(tmp_path):
    script, folder = tmp_path / "grid.py", tmp_path / "results"
    script.write_text(SLOW_GRID)
    counts = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.DEVNULL)
        deadline, before = time.monotonic() + 60, len(list(folder.glob("experiment-*.parquet")))
        while len(list(folder.glob("experiment-*.parquet"))) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        counts.append(len(list(folder.glob("experiment-*.parquet"))))
        for path in folder.glob("experiment-*.parquet"):
            assert pq.read_table(path).num_rows == 3
    assert 2 <= counts[0] < counts[1] < counts[2] < 30
    settings = TINY | {"options": {"epochs": 150}}
    asked = [Experiment(seed=seed, **settings) for seed in range(30)]
    resumed = Grid(folder, jobs=1).rows(asked, "runs")
    assert not list(folder.glob(".*.part*"))
    whole = Grid(tmp_path / "uninterrupted", jobs=2).rows(asked, "runs")
    pd.testing.assert_frame_equal(resumed.drop(columns=TIMES), whole.drop(columns=TIMES), check_exact=True)


def test_no_pickle_is_written(tmp_path):
    grid = Grid(tmp_path, jobs=2)
    grid.rows(experiments(), "runs")
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}
    for path in stored(grid):
        assert path.read_bytes()[:4] == b"PAR1"
        json.dumps(grid.store.provenance(path))
