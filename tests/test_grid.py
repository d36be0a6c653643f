import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from samples import failing_for_seed

import dal_core.experiment
import dal_core.grid
from dal_core.experiment import Experiment
from dal_core.grid import Grid, RunError, RunRefusedError, compute, groups
from dal_core.progress import progress
from dal_core.scaling_study import ScalingStudy
from dal_core.strategies import registry
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


def _unsealed(path):
    """The table as files held it before they had a seal, which would break with any change."""
    table = pq.read_table(path)
    return table.replace_schema_metadata({k: v for k, v in table.schema.metadata.items() if k != dal_core.grid.SEAL})


def _drop_a_column(path):
    pq.write_table(_unsealed(path).drop_columns(["accuracy"]), path)


def _drop_the_provenance(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


def _drop_the_rows(path):
    pq.write_table(_unsealed(path).slice(0, 0), path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "magic bytes"),
        (_empty, "size is 0 bytes"),
        (_flip_a_data_byte, "its bytes are not those that were written"),
        (_drop_a_column, "it has the columns"),
        (_drop_the_provenance, "NoneType|dal_core"),
        (_drop_the_rows, "it has no rows"),
    ],
)
def test_a_damaged_result_is_reported_and_computed_anew(tmp_path, damage, reason, computed):
    grid = Grid(tmp_path, jobs=1)
    whole = grid.rows([Experiment(**TINY)], "run")
    damage(only_file(grid))
    with pytest.warns(UserWarning, match=f"is damaged and will be computed anew: .*({reason})"):
        again = Grid(tmp_path, jobs=1).rows([Experiment(**TINY)], "run")
    assert len(computed) == 2
    pd.testing.assert_frame_equal(whole.drop(columns=TIMES), again.drop(columns=TIMES), check_exact=True)


def test_the_result_of_another_run_is_not_taken(tmp_path, computed):
    grid = Grid(tmp_path, jobs=1)
    grid.rows([Experiment(seed=0, **TINY)], "run")
    foreign = only_file(grid)
    other = Experiment(seed=1, **TINY)
    target = grid.store.path(other, grid.store.key(other, grid._digest(other)))
    target.write_bytes(foreign.read_bytes())  # whole, as its seal says
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


# --- seeds that go together on a GPU


@pytest.fixture
def on_gpu(monkeypatch):
    """The grid takes every device for CUDA; what it computes is computed on the CPU that the experiments name."""
    monkeypatch.setattr(dal_core.grid, "device_of", lambda _: torch.device("cuda"))


@pytest.fixture
def trained(monkeypatch):
    """How many heads each training of this process was of."""
    counts = []

    def counting(initial, features, labels, index_sets, training, generators):
        counts.append(len(index_sets))
        return train_heads(initial, features, labels, index_sets, training, generators)

    train_heads = dal_core.experiment.train_heads
    monkeypatch.setattr(dal_core.experiment, "train_heads", counting)
    return counts


def by_name(studies):
    return {str(i): study for i, study in enumerate(studies)}


def test_on_a_gpu_runs_go_together_that_differ_in_the_seed_only(monkeypatch):
    monkeypatch.setattr(
        dal_core.grid, "device_of", lambda study: torch.device("cpu" if study.device == "cpu" else "cuda")
    )
    base = {"cycles": 2, "subset_size": 50, "options": {"epochs": 3}}
    changes = [
        {}, {"strategy": "random"}, {"dataset": "moons"}, {"encoder": "minilm"}, {"batch_size": 5},
        {"initial_size": 5}, {"cycles": 3}, {"subset_size": None}, {"head": "mlp"}, {"optimiser": "radam"},
        {"device": "cuda"}, {"allow_oracle": True}, {"options": {"epochs": 4}},
    ]  # fmt: skip
    studies = [Experiment(seed=seed, **base | change) for seed in (2, 0, 7) for change in changes]
    found = groups(by_name(studies))
    assert [list(group) for group in found] == [[str(i), str(i + 13), str(i + 26)] for i in range(13)]
    assert all(study is studies[int(name)] for group in found for name, study in group.items())
    on_cpu = [dataclasses.replace(study, device="cpu") for study in studies]
    assert [list(group) for group in groups(by_name(on_cpu))] == [[str(i)] for i in range(39)]


@pytest.mark.usefixtures("on_gpu")
def test_what_queries_for_long_and_other_studies_go_alone():
    names = ["boss", "lookahead", "typiclass", "refine", "tailor"]
    studies = [Experiment(strategy=name, seed=seed, allow_oracle=True) for name in names for seed in range(2)]
    studies += [study(seed=seed) for study in (UpdateStudy, ScalingStudy) for seed in range(2)]
    assert [list(group) for group in groups(by_name(studies))] == [[str(i)] for i in range(14)]


@pytest.mark.usefixtures("on_gpu")
def test_together_or_alone_makes_no_difference_to_what_is_stored(tmp_path, monkeypatch, trained):
    asked = [*experiments(seeds=3), *experiments(seeds=2, strategies=["tailor"])]
    together = Grid(tmp_path / "together", jobs=2)
    rows = together.rows(asked, "runs")
    assert trained == [3] * 6 + [1] * 6
    monkeypatch.undo()
    alone = Grid(tmp_path / "alone", jobs=1)
    pd.testing.assert_frame_equal(rows.drop(columns=TIMES), alone.rows(asked, "runs").drop(columns=TIMES), atol=1e-4)
    assert [path.name for path in stored(together)] == [path.name for path in stored(alone)]
    assert together.keys == alone.keys
    for key, study in zip(together.keys, asked, strict=True):
        provenance = together.store.provenance(together.store.path(study, key))
        assert (provenance["key"], provenance["seed"]) == (key, study.seed)
        assert provenance["configuration"]["strategy"] == study.strategy
        assert provenance["duration_s"] > 0


@pytest.mark.usefixtures("on_gpu")
def test_only_missing_seeds_go_together(tmp_path, trained):
    Grid(tmp_path).rows(experiments(seeds=1), "runs")
    Grid(tmp_path).rows(experiments(seeds=3), "runs")
    assert trained == [1] * 6 + [2] * 6


@pytest.mark.usefixtures("on_gpu")
def test_progress_counts_runs_that_go_together_one_by_one(tmp_path, monkeypatch):
    bars = []

    def spy(iterable, what, **options):
        bars.append(progress(iterable, what, **options))
        return bars[-1]

    monkeypatch.setattr(dal_core.grid, "progress", spy)
    Grid(tmp_path).rows(experiments(seeds=3), "runs")
    assert [(bar.n, bar.total) for bar in bars] == [(6, 6)]


def with_failing(monkeypatch, seed, error):
    """Six runs of two groups, and a third group that ends with `error` in the second acquisition of `seed`."""
    monkeypatch.setitem(registry._STRATEGIES, "failing", failing_for_seed(seed, error))
    return [*experiments(seeds=3), *experiments(seeds=3, strategies=["failing"])]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("error", "kind"), [(KeyError("lost"), RunError), (ValueError("lost"), RunRefusedError)], ids=["error", "refusal"]
)
def test_of_runs_that_go_together_the_failing_one_is_named_and_none_is_stored(tmp_path, monkeypatch, error, kind):
    asked = with_failing(monkeypatch, 1, error)
    named = r"^the run {.*'strategy': 'failing', 'seed': 1,.* failed: \w+Error: .*lost"
    with pytest.raises(RunError, match=named) as caught:
        Grid(tmp_path).rows(asked, "runs")
    assert type(caught.value) is kind
    assert len(stored(Grid(tmp_path))) == 6


@pytest.mark.usefixtures("on_gpu")
def test_a_failing_joint_training_names_all_its_runs(tmp_path, monkeypatch):
    def failing(*_):
        raise MemoryError("full")

    monkeypatch.setattr(dal_core.experiment, "train_heads", failing)
    with pytest.raises(RunError, match=r"^the runs {.*'strategy': 'random', 'seed': \[0, 1, 2\],.* MemoryError: full"):
        Grid(tmp_path).rows(experiments(seeds=3), "runs")


@pytest.mark.usefixtures("on_gpu")
def test_an_interruption_keeps_the_groups_that_were_finished(tmp_path, monkeypatch, trained):
    asked = with_failing(monkeypatch, 2, KeyboardInterrupt())
    grid = Grid(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        grid.rows(asked, "runs")
    assert {grid.store.provenance(path)["configuration"]["strategy"] for path in stored(grid)} == {"random", "margin"}
    assert len(stored(grid)) == 6
    del trained[:]
    assert with_failing(monkeypatch, 3, KeyboardInterrupt()) == asked  # a seed that is not asked for
    assert len(grid.rows(asked, "runs")) == 9 * 3
    assert trained == [3] * 3  # the interrupted group alone
