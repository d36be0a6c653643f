import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from samples import failing_for_seed
from stored_runs import contents, files

import dal_core.loop
import dal_lab.runs.grid
import dal_lab.runs.store
from dal_core.strategies import registry
from dal_lab.runs import engine
from dal_lab.runs.failures import ERROR_LENGTH, Failure, RunError, RunRefusedError, error_of
from dal_lab.runs.grid import Grid, attempt, digest_of, groups
from dal_lab.runs.plan import duration_in_words
from dal_lab.runs.progress import progress
from dal_lab.runs.settings import experiment_of
from dal_lab.studies.scaling import ScalingStudy
from dal_lab.studies.updating import UpdateStudy

TINY = {"cycles": 2, "subset_size": 50, "device": "cpu", "options": {"epochs": 3}}
TIMES = ["query_s", "train_s"]


def experiments(seeds=2, strategies=("random", "margin")):
    return [experiment_of(strategy=name, seed=seed, **TINY) for name in strategies for seed in range(seeds)]


def only_file(grid):
    (path,) = files(grid.store.folder)
    return path


def test_rows_come_in_the_order_asked_for_with_their_settings(tmp_path):
    rows = Grid(tmp_path, jobs=1).rows(experiments(), "runs")
    assert rows["strategy"].tolist() == ["random"] * 6 + ["margin"] * 6
    assert rows["seed"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert rows["n_labeled"].tolist() == [10, 20, 30] * 4
    assert rows["run"].nunique() == 4
    assert set(rows["data"]) == {"digits"}


def test_a_list_among_the_options_is_one_value_in_every_row(tmp_path):
    options = {"epochs": 3, "num_candidates": 2, "retraining_epochs": 2, "strategies": ["random", "margin"]}
    study = experiment_of(strategy="boss", allow_oracle=True, **TINY | {"options": options})
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
    assert [path.name for path in files(alone.store.folder)] == [path.name for path in files(together.store.folder)]


def test_a_result_is_keyed_by_configuration_data_and_version(tmp_path, monkeypatch):
    store = Grid(tmp_path).store
    first = experiment_of(strategy="margin", **TINY)
    key = store.key(first, "data")
    assert store.key(experiment_of(strategy="margin", **TINY), "data") == key
    for other in ({"strategy": "entropy"}, {"seed": 1}, {"batch_size": 11}, {"options": {"epochs": 4}}):
        assert store.key(experiment_of(**{"strategy": "margin", **TINY, **other}), "data") != key
    assert store.key(first, "other data") != key
    monkeypatch.setattr(dal_lab.runs.store, "RESULTS_VERSION", dal_lab.runs.store.RESULTS_VERSION + 1)
    assert store.key(first, "data") != key


def test_provenance_says_what_when_and_with_which_versions(tmp_path):
    grid = Grid(tmp_path, jobs=1)
    grid.rows([experiment_of(seed=3, **TINY)], "run")
    provenance = grid.store.provenance(only_file(grid))
    assert provenance["configuration"]["strategy"]["name"] == "margin"
    assert provenance["configuration"]["learner"]["training"]["epochs"] == 3
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
    return table.replace_schema_metadata(
        {k: v for k, v in table.schema.metadata.items() if k != dal_lab.runs.store.SEAL}
    )


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
    whole = grid.rows([experiment_of(**TINY)], "run")
    damage(only_file(grid))
    with pytest.warns(UserWarning, match=f"is damaged and will be computed anew: .*({reason})"):
        again = Grid(tmp_path, jobs=1).rows([experiment_of(**TINY)], "run")
    assert len(computed) == 2
    pd.testing.assert_frame_equal(whole.drop(columns=TIMES), again.drop(columns=TIMES), check_exact=True)


def test_the_result_of_another_run_is_not_taken(tmp_path, computed):
    grid = Grid(tmp_path, jobs=1)
    grid.rows([experiment_of(seed=0, **TINY)], "run")
    foreign = only_file(grid)
    other = experiment_of(seed=1, **TINY)
    target = grid.store.path(other, grid.store.key(other, digest_of(other, grid.data_dir)))
    target.write_bytes(foreign.read_bytes())  # whole, as its seal says
    with pytest.warns(UserWarning, match="it holds the run"):
        grid.rows([other], "run")
    assert len(computed) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_failing_runs_are_named_at_the_end_and_the_others_are_kept(tmp_path, jobs):
    bad = [experiment_of(dataset="moons", seed=seed, **TINY | {"cycles": 200}) for seed in (3, 1)]
    worse = experiment_of(dataset="moons", **TINY | {"cycles": 300})
    grid = Grid(tmp_path, jobs=jobs)
    with pytest.raises(RunRefusedError) as caught:
        grid.rows([bad[0], worse, bad[1], *experiments()], "runs")
    first, *lines = str(caught.value).splitlines()
    assert first == f"3 of 7 runs failed, with tracebacks in {tmp_path / 'failures'}:"
    assert sorted(line.split(": ValueError: the experiment buys ")[0] for line in lines) == [
        "    moons, margin, cycles=200, subset_size=50, epochs=3, seeds 1, 3",
        "    moons, margin, cycles=300, subset_size=50, epochs=3, seed 0",
    ]
    assert len(files(grid.store.folder)) == 4
    assert len(list(grid.store.failures.iterdir())) == 3
    told = grid.store.failure_path(grid.store.key(worse, digest_of(worse, grid.data_dir))).read_text()
    assert "'cycles': 300" in told
    assert "Traceback (most recent call last)" in told
    assert "in instances_for" in told
    with pytest.raises(RunError, match=r"^1 of 5 runs failed: moons, margin, .*buys 3010 instances.* \(tracebacks in "):
        grid.rows([worse, *experiments()], "runs")


def test_a_summary_of_failures_names_a_few_of_many():
    def failure(strategy, seed, error=None):
        return Failure.of("key", experiment_of(strategy=strategy, seed=seed), error or KeyError("lost"))

    names = ["random", "margin", "badge", "bait", "typiclust", "refine", "least_confident"]
    many = [failure(name, seed) for name in names for seed in (1, 0)]
    told = str(error_of(many, 20, Path("results/failures")))
    assert told.startswith("14 of 20 runs failed: digits, random, seeds 0, 1; digits, margin, seeds 0, 1; ")
    assert told.endswith("digits, typiclust, seeds 0, 1; and 2 more: KeyError: 'lost' (tracebacks in results/failures)")
    two = [failure("random", 0), failure("random", 1, OSError("x" * 999))]
    told = str(error_of(two, 2, Path("there"))).splitlines()
    assert [len(told), len(told[2])] == [3, len("    digits, random, seed 1: ") + ERROR_LENGTH]


def test_a_refusal_among_failures_is_no_fault_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._STRATEGIES, "failing", failing_for_seed(0, KeyError("lost")))
    asked = [experiment_of(strategy="failing", **TINY), experiment_of(dataset="moons", **TINY | {"cycles": 200})]
    with pytest.raises(RunError, match=r"digits, failing, .*seed 0: KeyError: 'lost'\n") as caught:
        Grid(tmp_path, jobs=1).rows(asked, "runs")
    assert type(caught.value) is RunError


def test_the_traceback_of_a_run_is_gone_when_it_succeeds(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._STRATEGIES, "failing", failing_for_seed(0, KeyError("lost")))
    asked, grid = [experiment_of(strategy="failing", **TINY)], Grid(tmp_path, jobs=1)
    with pytest.raises(RunError):
        grid.rows(asked, "runs")
    assert [path.suffix for path in grid.store.failures.iterdir()] == [".txt"]
    monkeypatch.setitem(registry._STRATEGIES, "failing", failing_for_seed(1, KeyError("lost")))
    assert len(grid.rows(asked, "runs")) == 3
    assert list(grid.store.failures.iterdir()) == []


def test_a_worker_with_other_data_is_refused(tmp_path):
    store, study = Grid(tmp_path).store, experiment_of(**TINY)
    (failure,) = attempt({store.key(study, "other data"): study}, store, None)
    assert failure.refused
    assert "has other data for digits, or another version of dal_core" in failure.error
    assert attempt({store.key(study, digest_of(study, None)): study}, store, None) == []


def test_a_killed_worker_changes_nothing(tmp_path, monkeypatch):
    asked = [experiment_of(seed=seed, **TINY | {"options": {"epochs": 150}}) for seed in range(8)]
    grid, submit, workers = Grid(tmp_path / "killed", jobs=2), engine._submit, []

    def killing(task):
        worker, future = submit(task)
        workers.append(worker)
        if len(workers) == 4:  # it has just been given something to do
            os.kill(next(iter(worker._processes)), signal.SIGKILL)
        return worker, future

    monkeypatch.setattr(engine, "_submit", killing)
    rows = grid.rows(asked, "runs")
    assert len(workers) == 9  # one was tried again
    serial = Grid(tmp_path / "serial", jobs=1).rows(asked, "runs")
    pd.testing.assert_frame_equal(rows.drop(columns=TIMES), serial.drop(columns=TIMES), check_exact=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "serial")
    assert not list(grid.store.folder.glob("failures/*"))


def test_a_run_that_loses_its_process_each_time_is_reported_and_the_others_are_kept(tmp_path, monkeypatch):
    def deadly(snapshot, batch_size, generator):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(registry._STRATEGIES, "deadly", deadly)
    grid, lost = Grid(tmp_path, jobs=2), experiment_of(strategy="deadly", **TINY)
    with pytest.raises(RunError, match=r"^1 of 5 runs failed: .* deadly, .*seed 0: LostWorkerError: .* lost 3 times"):
        grid.rows([lost, *experiments()], "runs")
    assert len(files(grid.store.folder)) == 4
    (told,) = grid.store.failures.iterdir()
    assert "'name': 'deadly'" in told.read_text()
    assert "SIGKILL" in told.read_text()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": 2, "dask": "tcp://host:8786"}, "jobs and dask are given; one of them was expected"),
        ({"slurm": {"jobs": 0}}, "jobs of slurm is 0"),
        ({"slurm": {"cores": "many"}}, "cores of slurm is 'many'"),
    ],
)
def test_unknown_places_to_compute_are_refused(tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        Grid(tmp_path, **asked)


def test_a_plan_tells_what_would_run_and_for_how_long(tmp_path):
    grid, asked = Grid(tmp_path, jobs=2), experiments(seeds=4)
    assert grid.plan(asked).lines() == [
        "would run  digits, random, cycles=2, subset_size=50, epochs=3, seeds 0, 1, 2, 3: no estimate",
        "would run  digits, margin, cycles=2, subset_size=50, epochs=3, seeds 0, 1, 2, 3: no estimate",
        "0 runs are stored, 8 would run; no stored run tells for how long",
    ]
    assert not tmp_path.exists() or files(grid.store.folder) == []
    done = experiments(seeds=3, strategies=["random"])
    rows = Grid(tmp_path, jobs=1).rows(done, "runs")
    for study, seconds in zip(done, (100.0, 700.0, 500.0), strict=True):  # as if they had taken so long
        key = grid.store.key(study, digest_of(study, grid.data_dir))
        mine = rows[rows["run"] == key][list(study.columns)]
        about = {"data_digest": digest_of(study, None), "started": datetime.now(UTC), "seconds": seconds}
        grid.store.write(study, key, mine, **about)
    lines = grid.plan(asked).lines()
    assert lines[0] == "stored     digits, random, cycles=2, subset_size=50, epochs=3, seeds 0, 1, 2"
    assert lines[1] == "would run  digits, random, cycles=2, subset_size=50, epochs=3, seed 3: about 8.3 min each"
    assert lines[2].endswith("seeds 0, 1, 2, 3: no estimate")
    assert lines[3] == (
        "3 runs are stored, 5 would run: about 8.3 min, 2 at a time, and 4 that no stored run tells about"
    )
    many = experiments(seeds=7, strategies=["random"])
    assert grid.plan(many).lines()[-1] == "3 runs are stored, 4 would run: about 17 min, 2 at a time"
    again = Grid(tmp_path, jobs=1, fresh=True).plan(many)
    assert again.lines()[-1] == "0 runs are stored, 7 would run: about 58 min, one after another"
    assert grid.plan(done).lines()[-1] == "3 runs are stored, 0 would run"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.1 s"),
        (3.14, "3.1 s"),
        (59.6, "60 s"),
        (90, "1.5 min"),
        (2400, "40 min"),
        (8640, "2.4 h"),
        (1e5, "28 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration_in_words(seconds) == words


@pytest.mark.faults
def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(tmp_path, root):
    # Long enough that nothing is finished by itself before it is stopped.
    settings = ["--cycles", "2", "--subset-size", "50", "--option", "epochs=400", "--device", "cpu", "--seeds", "40"]
    command = [sys.executable, "-m", "dal_lab", "grid", *settings, "--jobs", "2", "--results-dir", str(tmp_path)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("experiment-*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    told = process.communicate(timeout=30)[1].splitlines()
    assert process.returncode == 130
    done = len(list(tmp_path.glob("experiment-*.parquet")))
    assert 2 <= done < 40
    found = re.fullmatch(
        r"stopped: (\d+) of 40 runs are done and kept in (.*); the same command goes on from there", told[-1]
    )
    assert found
    assert done - 2 <= int(found[1]) <= done  # the last ones may have been stored while it stopped
    assert found[2] == str(tmp_path)
    assert all(line.startswith("learning curves: ") for line in told[:-1])
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_no_pickle_is_written(tmp_path):
    grid = Grid(tmp_path, jobs=2)
    grid.rows(experiments(), "runs")
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}
    for path in files(grid.store.folder):
        assert path.read_bytes()[:4] == b"PAR1"
        json.dumps(grid.store.provenance(path))


# --- seeds that go together on a GPU


@pytest.fixture
def on_gpu(monkeypatch):
    """The grid takes every device for CUDA; what it computes is computed on the CPU that the experiments name."""
    monkeypatch.setattr(dal_lab.runs.grid, "device_of", lambda _: torch.device("cuda"))


@pytest.fixture
def trained(monkeypatch):
    """How many heads each training of this process was of."""
    counts = []

    def counting(initial, features, labels, index_sets, training, generators):
        counts.append(len(index_sets))
        return train_heads(initial, features, labels, index_sets, training, generators)

    train_heads = dal_core.models.learners.train_heads
    monkeypatch.setattr(dal_core.models.learners, "train_heads", counting)
    return counts


def by_name(studies):
    return {str(i): study for i, study in enumerate(studies)}


def test_on_a_gpu_runs_go_together_that_differ_in_the_seed_only(monkeypatch):
    monkeypatch.setattr(
        dal_lab.runs.grid, "device_of", lambda study: torch.device("cpu" if study.device == "cpu" else "cuda")
    )
    base = {"cycles": 2, "subset_size": 50, "options": {"epochs": 3}}
    changes = [
        {}, {"strategy": "random"}, {"dataset": "moons"}, {"encoder": "minilm"}, {"batch_size": 5},
        {"initial_size": 5}, {"cycles": 3}, {"subset_size": None}, {"head": "mlp"}, {"optimiser": "radam"},
        {"device": "cuda"}, {"allow_oracle": True}, {"options": {"epochs": 4}},
    ]  # fmt: skip
    studies = [experiment_of(seed=seed, **base | change) for seed in (2, 0, 7) for change in changes]
    found = groups(by_name(studies))
    assert [list(group) for group in found] == [[str(i), str(i + 13), str(i + 26)] for i in range(13)]
    assert all(study is studies[int(name)] for group in found for name, study in group.items())
    on_cpu = [dataclasses.replace(study, device="cpu") for study in studies]
    assert [list(group) for group in groups(by_name(on_cpu))] == [[str(i)] for i in range(39)]


@pytest.mark.usefixtures("on_gpu")
def test_what_queries_for_long_and_other_studies_go_alone():
    names = ["boss", "lookahead", "typiclass", "refine", "tailor"]
    studies = [experiment_of(strategy=name, seed=seed, allow_oracle=True) for name in names for seed in range(2)]
    studies += [study(seed=seed) for study in (UpdateStudy, ScalingStudy) for seed in range(2)]
    assert [list(group) for group in groups(by_name(studies))] == [[str(i)] for i in range(14)]


@pytest.mark.usefixtures("on_gpu")
def test_together_or_alone_makes_no_difference_to_what_is_stored(tmp_path, monkeypatch, trained):
    asked = [*experiments(seeds=3), *experiments(seeds=2, strategies=["tailor"])]
    together = Grid(tmp_path / "together", jobs=2)
    rows = together.rows(asked, "runs")
    assert trained == [3] * 6 + [1] * 10  # TAILOR's UncertaintyHerding calibrates a head in each of 4 acquisitions
    monkeypatch.undo()
    alone = Grid(tmp_path / "alone", jobs=1)
    pd.testing.assert_frame_equal(rows.drop(columns=TIMES), alone.rows(asked, "runs").drop(columns=TIMES), atol=1e-4)
    assert [path.name for path in files(together.store.folder)] == [path.name for path in files(alone.store.folder)]
    assert together.keys == alone.keys
    for key, study in zip(together.keys, asked, strict=True):
        provenance = together.store.provenance(together.store.path(study, key))
        assert (provenance["key"], provenance["seed"]) == (key, study.seed)
        assert provenance["configuration"]["strategy"]["name"] == study.strategy.name
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

    monkeypatch.setattr(dal_lab.runs.grid, "progress", spy)
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
def test_of_runs_that_go_together_the_failing_one_is_named_and_the_others_go_on(tmp_path, monkeypatch, error, kind):
    asked = with_failing(monkeypatch, 1, error)
    named = r"^1 of 9 runs failed: digits, failing, .*, seed 1: \w+Error: .*lost"
    with pytest.raises(RunError, match=named) as caught:
        Grid(tmp_path).rows(asked, "runs")
    assert type(caught.value) is kind
    assert len(files(tmp_path)) == 8


@pytest.mark.usefixtures("on_gpu")
def test_a_failing_joint_training_names_all_its_runs(tmp_path, monkeypatch):
    def failing(*_):
        raise MemoryError("full")

    monkeypatch.setattr(dal_core.models.learners, "train_heads", failing)
    with pytest.raises(
        RunError, match=r"^6 of 6 runs failed: .* random, .*seeds 0, 1, 2; .* margin, .* 2: MemoryError: full \(trac"
    ):
        Grid(tmp_path).rows(experiments(seeds=3), "runs")


@pytest.mark.usefixtures("on_gpu")
def test_an_interruption_keeps_the_groups_that_were_finished(tmp_path, monkeypatch, trained):
    asked = with_failing(monkeypatch, 2, KeyboardInterrupt())
    grid = Grid(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        grid.rows(asked, "runs")
    kept = [grid.store.provenance(path)["configuration"]["strategy"]["name"] for path in files(grid.store.folder)]
    assert set(kept) == {"random", "margin"}
    assert len(kept) == 6
    del trained[:]
    assert with_failing(monkeypatch, 3, KeyboardInterrupt()) == asked  # a seed that is not asked for
    assert len(grid.rows(asked, "runs")) == 9 * 3
    assert trained == [3] * 3  # the interrupted group alone
