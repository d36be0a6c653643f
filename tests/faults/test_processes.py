"""Killed processes, two at once in one folder, and clocks that go back: never a wrong table."""

import itertools
import os
import random
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from faulty import die_at, kill_group, meet, wait_until
from small_grid import (
    STRATEGIES,
    TIMES,
    assert_all_whole,
    assert_same,
    experiments,
    grid_command,
    hidden,
    stored,
    table,
    write_notebook,
)

import dal_lab.runs.grid
from dal_lab.companion.command_line import main
from dal_lab.companion.notebooks import execute
from dal_lab.runs.files import remove_leftovers
from dal_lab.runs.grid import Grid
from dal_lab.sources import catalogue
from dal_lab.sources.bank import load_bank

pytestmark = pytest.mark.faults


# --- kill -9


def test_of_20_kills_at_random_moments_no_run_is_lost_and_no_table_differs(tmp_path, commands):
    seeds, draw, moments = 80, random.Random(0), []
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "results"
    start = time.monotonic()
    code, expected = commands.run(grid_command(undisturbed, seeds))
    seconds = time.monotonic() - start
    assert code == 0
    before = {}
    for turn in range(20):
        process = commands.start(grid_command(folder, seeds))
        if turn % 4:  # else the moment may fall into what comes before the first run
            wait_until(lambda process=process: "runs, " in process.out.read_text() or not process.is_alive())
        time.sleep(draw.uniform(0, seconds / 10))
        kill_group(process)
        assert_all_whole(folder)
        after = stored(folder)
        assert {name: after.get(name) for name in before} == before
        moments.append((process.exitcode, len(after) - len(before)))
        before = after
    assert sum(code == -signal.SIGKILL for code, _ in moments) >= 15, moments
    assert sum(progress > 0 for _, progress in moments) >= 8, moments
    code, resumed = commands.run(grid_command(folder, seeds))
    assert code == 0
    assert resumed.splitlines()[-4:-1] == expected.splitlines()[-4:-1]  # the summary
    after = stored(folder)
    assert {name: after[name] for name in before} == before
    assert not hidden(folder)
    assert_same(table(folder, seeds), table(undisturbed, seeds))


@pytest.mark.parametrize("moment", ["half written", "written", "before the renaming", "after the renaming"])
@pytest.mark.parametrize("fresh", [False, True], ids=["first", "fresh"])
def test_a_kill_while_a_run_is_stored(tmp_path, commands, whole, moment, fresh):
    before = {}
    if fresh:  # over files that are there
        assert main(grid_command(tmp_path, 3)) == 0
        before = stored(tmp_path)
    process = commands.start(grid_command(tmp_path, 3, *["--fresh"] * fresh), die_at, moment, 4)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert_all_whole(tmp_path)
    assert len(hidden(tmp_path)) == (moment != "after the renaming")
    done = 4 if moment == "after the renaming" else 3
    after = stored(tmp_path)
    assert len(after) == (6 if fresh else done)
    assert sum(after[name] != before.get(name) for name in after) == done
    assert main(grid_command(tmp_path, 3)) == 0
    assert {name: stored(tmp_path)[name] for name in after} == after
    assert not hidden(tmp_path)
    assert_same(table(tmp_path, 3), whole(3))


def workers_of(process):
    return [
        each for each in psutil.Process(process.pid).children() if any("popen_loky" in word for word in each.cmdline())
    ]


@pytest.mark.parametrize("victim", ["all", "parent", "worker"])
def test_kills_of_a_grid_over_processes(tmp_path, commands, whole, victim):
    seeds, folder = 40, tmp_path / "results"
    process = commands.start(grid_command(folder, seeds, jobs=2))
    wait_until(lambda: len(stored(folder)) > 5)
    time.sleep(random.Random(victim).uniform(0, 0.2))
    if victim == "all":
        kill_group(process)
    elif victim == "parent":  # what its workers are at may end while the next command goes on
        process.kill()
    else:
        workers_of(process)[0].kill()
    process.join(60)
    assert process.exitcode == (0 if victim == "worker" else -signal.SIGKILL)  # the run of a lost worker is tried again
    before = stored(folder)
    assert 5 < len(before) <= 2 * seeds
    assert_all_whole(folder)
    code, _ = commands.run(grid_command(folder, seeds))
    kill_group(process)
    assert code == 0
    after = stored(folder)
    if victim != "parent":  # whose workers may have stored once more what was computed here
        assert {name: after[name] for name in before} == before
    remove_leftovers(folder)
    assert not hidden(folder)
    assert_same(table(folder, seeds), whole(seeds))


def test_leftovers_do_not_hurt(tmp_path, whole):
    main(grid_command(tmp_path, 1))
    (name, content), *_ = stored(tmp_path).items()
    stem = name.removesuffix(".parquet")
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = tmp_path / f".{stem}~{socket.gethostname()}~{gone.pid}~0123abcd.part.parquet"
    alive = tmp_path / f".{stem}~{socket.gethostname()}~{os.getpid()}~0123abcd.part.parquet"
    elsewhere = tmp_path / f".{stem}~another.machine~{gone.pid}~0123abcd.part.parquet"
    for path in (dead, alive, elsewhere):
        path.write_bytes(content[: len(content) // 2])
    (tmp_path / "somebody.lock").touch()
    assert main(grid_command(tmp_path, 2)) == 0
    assert set(hidden(tmp_path)) == {alive, elsewhere}
    assert_same(table(tmp_path, 2), whole(2))


# --- two at once


@pytest.mark.parametrize("fresh", [False, True], ids=["first", "fresh"])
def test_two_grids_share_a_folder(tmp_path, commands, whole, fresh):
    others = ("margin", "entropy")
    more = ["--fresh"] * fresh
    for turn in range(3):
        folder, meeting = tmp_path / f"{turn}", tmp_path / f"meeting {turn}"
        meeting.mkdir()
        if fresh:
            main(grid_command(folder, 8))
        # `margin` comes first in both, and its first files are written by both at the same time.
        two = [
            commands.start(grid_command(folder, 8, *more, strategies=names), meet, meeting, 1)
            for names in (STRATEGIES[::-1], others)
        ]
        for process in two:
            process.join(120)
            assert process.exitcode == 0, process.out.read_text()
        assert len(list(meeting.iterdir())) == 10
        assert len(stored(folder)) == 8 * 3
        assert_all_whole(folder)
        assert not hidden(folder)
        assert_same(table(folder, 8), whole(8))
        assert_same(table(folder, 8, others), whole(8, others))


def test_two_extractions_share_a_cache(tmp_path, raw):
    # Threads, whose locks exclude each other like those of processes, because each opens the lock file itself.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        commands = [[*raw[:-1], str(tmp_path / name)] for name in ("one", "two")]
        assert list(pool.map(main, commands)) == [0, 0]
    assert len({load_bank(path).digest for path in tmp_path.glob("[ot][nw][eo]/*")}) == 1
    assert len(list((tmp_path / "disk" / "features").glob("*.safetensors"))) == 1


# --- clocks


@pytest.fixture
def falling_clock(monkeypatch):
    """Each look at the date and time is an hour before the last one."""
    hours = itertools.count()

    class Falling(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2030, 1, 1, tzinfo=tz) - timedelta(hours=next(hours))

    monkeypatch.setattr(time, "time", lambda: Falling.now(UTC).timestamp())
    monkeypatch.setattr("tqdm.std.time", time.time)
    monkeypatch.setattr(dal_lab.runs.grid, "datetime", Falling)


@pytest.mark.usefixtures("falling_clock")
def test_a_clock_that_goes_back_changes_nothing(tmp_path, whole, computed):
    first = Grid(tmp_path, jobs=1).rows(experiments(3), "runs")
    assert len(computed) == 6
    assert (first["train_s"] > 0).all()
    assert (first["query_s"].dropna() > 0).all()
    draw, grid = random.Random(0), Grid(tmp_path, jobs=1)
    moments = []
    for path in tmp_path.glob("[!.]*.parquet"):
        told = grid.store.provenance(path)
        assert told["duration_s"] > 0
        moments.append(told["started"])
        moment = draw.choice([0, 1, 2**31, 2**32])  # seconds since 1970
        os.utime(path, (moment, moment))
    assert len(set(moments)) == 6
    again = grid.rows(experiments(3), "runs")
    assert len(computed) == 6
    assert_same(again.drop(columns=TIMES), whole(3))
    expected = pd.concat([first, again])
    assert expected.groupby("run")["train_s"].nunique().eq(3).all()  # of three rows each: nothing was measured anew


@pytest.mark.usefixtures("falling_clock")
def test_leftovers_go_by_their_process_and_not_by_their_age(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    parts = [tmp_path / f".x~{socket.gethostname()}~{pid}~{i}.part" for pid in (gone.pid, os.getpid()) for i in (0, 1)]
    for path, moment in zip(parts, [0, 2**32, 0, 2**32], strict=True):
        path.touch()
        os.utime(path, (moment, moment))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == parts[2:]


def test_a_file_of_features_that_is_replaced_under_the_same_time_is_read_anew(tmp_path):
    path, draw = tmp_path / "mine.npz", np.random.default_rng(0)
    labels = np.arange(20) % 2
    np.savez(path, x=draw.normal(size=(20, 3)), y=labels)
    first, moment = catalogue.read_features(path), path.stat().st_mtime_ns
    assert catalogue.read_features(path) is first
    np.savez(path, x=draw.normal(size=(20, 3)), y=labels)
    os.utime(path, ns=(moment, moment))
    assert catalogue.read_features(path).digest != first.digest


def test_parts_of_an_extraction_count_whatever_their_time(tmp_path, raw, monkeypatch, falling_clock):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dal_lab.sources.extraction.save_bank", interrupted)
        assert main(raw) == 130
    parts = list((tmp_path / "disk" / "features").glob("*.parts/*"))
    assert len(parts) == 2
    for path, moment in zip(parts, (0, 2**32), strict=True):
        os.utime(path, (moment, moment))
    monkeypatch.setattr("dal_lab.sources.extraction.load_encoder", lambda *_: pytest.fail("it is encoded anew"))
    assert main(raw) == 0


def test_a_notebook_took_no_less_than_no_time(tmp_path, monkeypatch):
    notebook = write_notebook(tmp_path / "01_made.ipynb")

    def execute_in_the_past(source, target, *_, **__):
        executed = nbformat.read(source, as_version=4)
        for cell in executed.cells[1:]:
            cell.execution_count = 1
        executed.metadata["papermill"] = {"duration": -3600.0, "end_time": "2026-01-01T00:00:00"}
        nbformat.write(executed, target)

    monkeypatch.setattr("papermill.execute_notebook", execute_in_the_past)
    outcome = execute(notebook, tmp_path / "executed" / "01_made.ipynb", {})
    assert outcome.error is None
    assert 0 < nbformat.read(outcome.executed, as_version=4).metadata["papermill"]["duration"] < 60
