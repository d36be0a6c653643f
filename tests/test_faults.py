"""Killed processes, full disks, read-only folders, shared folders, wrong clocks, damaged files: never a wrong table."""

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from faulty import Commands, die_at, files_of_at_most, kill_group, meet, wait_until

import dal_core.grid
import dal_core.store
from dal_core import datasets
from dal_core.__main__ import main
from dal_core.experiment import Experiment
from dal_core.features import FeatureBank
from dal_core.files import UNSEALED, check_writable, is_intact, remove_leftovers, sealed, write_atomically
from dal_core.grid import Grid
from dal_core.report.artefacts import ManifestError, Report, check_manifest
from dal_core.report.notebook_page import read_notebook
from dal_core.report.notebooks import Notebook, execute, run_all

pytestmark = pytest.mark.faults

TIMES = ["query_s", "train_s"]
SETTINGS = {"dataset": "blobs", "cycles": 2, "device": "cpu", "options": {"epochs": 3}}
OPTIONS = ["--dataset", "blobs", "--cycles", "2", "--device", "cpu", "--option", "epochs=3"]
STRATEGIES = ("random", "margin")


def experiments(seeds, strategies=STRATEGIES):
    return [Experiment(strategy=name, seed=seed, **SETTINGS) for name in strategies for seed in range(seeds)]


def grid_command(folder, seeds, *more, strategies=STRATEGIES, jobs=1):
    about = ["--strategy", *strategies, "--seeds", seeds, "--results-dir", folder, "--jobs", jobs]
    return list(map(str, ["grid", *about, *OPTIONS, *more]))


def stored(folder):
    """The content of all files that count as results."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.parquet")}


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def table(folder, seeds, strategies=STRATEGIES):
    """What the folder holds, without computing anything, and without a doubt about any file."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr(dal_core.grid, "compute", lambda study, *_: pytest.fail(f"{study} is not stored"))
        return Grid(folder, jobs=1).rows(experiments(seeds, strategies), "runs").drop(columns=TIMES)


def assert_all_whole(folder):
    """Each file under the name of a result holds all of one."""
    for name, content in stored(folder).items():
        assert is_intact(content), name
        assert pq.read_table(pa.BufferReader(content)).num_rows == 3


def only_complaint(text):
    """The error in the output of a command, which has to be one line."""
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    started = Commands(tmp_path_factory.mktemp("commands"))
    assert started.run(["datasets"])[0] == 0  # waits for the imports
    yield started
    started.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The table of a grid that nothing disturbs, for some number of seeds."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def rows(seeds, strategies=STRATEGIES):
        Grid(folder, jobs=1).rows(experiments(seeds, strategies), "runs")
        return table(folder, seeds, strategies)

    return rows


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


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


# --- no space


@pytest.fixture
def mount(tmp_path):
    """Mounts over a folder, with options of mount(8)."""
    folders = []

    def mounted(folder, *options):
        folder.mkdir(exist_ok=True)
        ended = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if ended.returncode:
            pytest.skip(f"nothing can be mounted here: {ended.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mounted
    for folder in reversed(folders):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path, mount):
    """A small file system of 4 KiB pages."""
    return mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs")


def fill(disk, *, leave=0):
    """Use up all space but some pages; returns what to delete to get it back."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, filler.stat().st_size // 4096 * 4096 - 4096 * leave)
    return filler


@pytest.mark.parametrize("leave", [0, 1, 2, 3, 4, 8])
def test_a_grid_on_a_full_disk(disk, capsys, whole, leave):
    folder = disk / "results"
    filler = fill(disk, leave=leave)
    assert main(grid_command(folder, 3)) == 2
    told = only_complaint(capsys.readouterr().err)
    assert str(folder) in told
    assert "No space left on device" in told
    kept = stored(folder) if folder.is_dir() else {}
    assert (len(kept) > 0) >= (leave == 8)
    assert len(kept) <= leave / 2
    assert not hidden(disk)
    filler.unlink()
    assert main(grid_command(folder, 3)) == 0
    assert {name: stored(folder)[name] for name in kept} == kept
    assert_same(table(folder, 3), whole(3))


def test_a_grid_whose_files_may_not_grow(tmp_path, commands, whole):
    code, out = commands.run(grid_command(tmp_path, 2), files_of_at_most, 4096)
    assert code == 2
    only_complaint(out)
    assert f"{tmp_path}/experiment-" in out
    assert "File too large" in out
    assert not stored(tmp_path)
    assert not hidden(tmp_path)
    assert main(grid_command(tmp_path, 2)) == 0
    assert_same(table(tmp_path, 2), whole(2))


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_the_output_of_a_run_on_a_full_disk(disk, capsys, name):
    command, target = ["run", *OPTIONS, "--output", str(disk / name)], disk / name
    filler = fill(disk)
    assert main(command) == 2
    told = only_complaint(capsys.readouterr().err)
    assert told == f"error: {target} cannot be written: No space left on device"
    assert list(disk.iterdir()) == [filler]
    filler.unlink()
    assert main(command) == 0
    written = pd.read_csv(target) if target.suffix == ".csv" else pd.read_parquet(target)
    expected = dal_core.experiment.run(Experiment(**SETTINGS))
    assert written["accuracy"].tolist() == pytest.approx(expected["accuracy"].tolist())


def test_a_report_on_a_full_disk(tmp_path, disk, capsys):
    command = ["report", *grid_command(tmp_path / "results", 2)[1:], "--output-dir"]
    assert main([*command, str(tmp_path / "report")]) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    pages = sum(-(-len(content) // 4096) for content in expected.values())
    for leave in (0, pages // 2, pages - 1):
        filler = fill(disk, leave=leave)
        capsys.readouterr()
        assert main([*command, str(disk / "report")]) == 2
        told = only_complaint(capsys.readouterr().err)
        assert str(disk / "report") in told
        assert "No space left on device" in told
        assert not hidden(disk)
        for path in (disk / "report").glob("*.[!j]*"):
            assert path.read_bytes() == expected[path.name]
        filler.unlink()
    assert main([*command, str(disk / "report")]) == 0
    assert {path.name: path.read_bytes() for path in (disk / "report").iterdir()} == expected
    check_manifest(disk / "report")


@pytest.fixture
def raw(tmp_path, monkeypatch, model_folders):
    """A command that extracts features, with its cache in `tmp_path/disk`."""
    (tmp_path / "banking77_train.csv").write_text("text,category\n" + "how do i,ask\nlost card,tell\nfees,ask\n" * 10)
    (tmp_path / "banking77_test.csv").write_text("text,category\nhow,ask\ncard,tell\n")
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "disk"))
    about = ["--dataset", "banking77", "--encoder", str(model_folders / "bert"), "--data-dir", str(tmp_path)]
    return ["features", *about, "--device", "cpu", "--output-dir", str(tmp_path / "out")]


def extracted(tmp_path):
    (path,) = (tmp_path / "out").iterdir()
    return FeatureBank.load(path).digest


def test_features_on_a_full_disk(tmp_path, disk, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    codes = []
    for leave in range(12):
        shutil.rmtree(disk / "features")
        shutil.rmtree(tmp_path / "out")
        filler = fill(disk, leave=leave)
        capsys.readouterr()
        codes.append(main(raw))
        if codes[-1]:
            told = only_complaint(capsys.readouterr().err)
            assert str(disk) in told
            assert "No space left on device" in told
            assert not list(disk.glob("features/*.safetensors"))
        filler.unlink()
        assert main(raw) == 0
        assert extracted(tmp_path) == expected
        assert [path.suffix for path in (disk / "features").iterdir() if path.suffix != ".lock"] == [".safetensors"]
    assert set(codes) == {0, 2}
    assert codes == sorted(codes, reverse=True)


def test_features_carried_to_a_full_disk(tmp_path, disk, raw, capsys, monkeypatch):
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    raw = [*raw[:-1], str(disk)]
    filler = fill(disk)
    assert main(raw) == 2
    assert f"{disk / 'banking77_'}" in (told := only_complaint(capsys.readouterr().err))
    assert "No space left on device" in told
    assert list(disk.iterdir()) == [filler]
    filler.unlink()
    assert main(raw) == 0


REPORTING = """
import pandas as pd
from dal_core.report.artefacts import Report
Report(f"{output_dir}/{preset}", "01_made").table(pd.DataFrame({"x": [1]}), "table", cell="(a)", keys=["k"])
"""


def write_notebook(path, cell=REPORTING):
    notebook = nbformat.v4.new_notebook()
    settings = 'preset = "tiny"\noutput_dir = "."'
    notebook.cells = [nbformat.v4.new_markdown_cell("# A title"), nbformat.v4.new_code_cell(settings)]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.cells.append(nbformat.v4.new_code_cell(cell))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return Notebook(path)


def test_a_notebook_that_reports_to_a_full_disk(tmp_path, disk, capsys, root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))  # of the kernel
    notebook = write_notebook(tmp_path / "01_made.ipynb")
    places = {"executed": tmp_path / "executed", "figures": disk / "figures"}
    filler = fill(disk, leave=1)
    with pytest.raises(OSError, match=r"/figures/tiny.* cannot be written: No space left|No space left.*/figures/tiny"):
        run_all([notebook], preset="tiny", **places, parameters={})  # the site finds no space either
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert str(disk / "figures") in told
    assert "No space left on device" in told
    assert [path.name for path in (tmp_path / "executed" / "tiny").iterdir()] == ["01_made.failed.ipynb"]
    filler.unlink()
    assert run_all([notebook], preset="tiny", **places, parameters={})
    check_manifest(disk / "figures" / "tiny")
    assert (disk / "figures" / "tiny" / "01_table.csv").read_text() == "x\n1\n"


def test_a_notebook_that_is_kept_on_a_full_disk(tmp_path, disk):
    notebook = write_notebook(tmp_path / "01_made.ipynb", cell="1 + 1")
    fill(disk)
    executed = disk / "executed" / "01_made.ipynb"
    with pytest.raises(OSError, match=r"/disk/executed/01_made\S* cannot be written: No space left on device"):
        execute(notebook, executed, {})
    assert not list(executed.parent.iterdir())


# --- read-only


@pytest.fixture
def read_only(mount):
    """Makes a folder read-only, also for an administrator."""
    changed = []

    def protect(folder):
        if os.geteuid():
            folder.chmod(0o555)
            changed.append(folder)
        else:
            mount(folder, "--bind", str(folder))
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        return folder

    yield protect
    for folder in changed:
        folder.chmod(0o755)


def test_a_read_only_folder_is_told_before_anything_is_computed(tmp_path, read_only, computed, capsys):
    folder = tmp_path / "results"
    assert main(grid_command(folder, 1)) == 0
    read_only(folder)
    del computed[:]
    assert main(grid_command(folder, 2)) == 2
    told = only_complaint(capsys.readouterr().err)
    assert f"the folder {folder} cannot be written to: " in told
    assert ("Read-only file system" in told) or ("Permission denied" in told)
    assert not computed


def test_a_read_only_folder_with_all_runs_is_read(tmp_path, read_only, computed, whole):
    folder, out = tmp_path / "results", tmp_path / "report"
    main(grid_command(folder, 2))
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftover = folder / f".experiment-0~{socket.gethostname()}~{gone.pid}~0123abcd.part.parquet"
    leftover.touch()
    read_only(folder)
    del computed[:]
    assert main(["report", *grid_command(folder, 2)[1:], "--output-dir", str(out)]) == 0
    check_manifest(out)
    assert not computed
    assert leftover.exists()
    assert_same(table(folder, 2), whole(2))


def test_a_report_into_a_read_only_folder(tmp_path, read_only, capsys):
    command = ["report", *grid_command(tmp_path / "results", 2)[1:], "--output-dir", str(tmp_path / "report")]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    read_only(tmp_path / "report")
    assert main(command) == 2
    assert f"{tmp_path / 'report'}/report_learning_curves.png cannot" in only_complaint(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_features_in_a_read_only_cache_are_used(tmp_path, read_only, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    read_only(tmp_path / "disk")
    shutil.rmtree(tmp_path / "out")
    assert main(raw) == 0
    assert extracted(tmp_path) == expected
    (tmp_path / "banking77_test.csv").write_text("text,category\nfees,ask\nlost,tell\n")
    capsys.readouterr()
    assert main(raw) == 2  # other data, which are not there
    assert str(tmp_path / "disk") in only_complaint(capsys.readouterr().err)


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
    assert len({FeatureBank.load(path).digest for path in tmp_path.glob("[ot][nw][eo]/*")}) == 1
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
    monkeypatch.setattr(dal_core.grid, "datetime", Falling)


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
    first, moment = datasets.read_features(path), path.stat().st_mtime_ns
    assert datasets.read_features(path) is first
    np.savez(path, x=draw.normal(size=(20, 3)), y=labels)
    os.utime(path, ns=(moment, moment))
    assert datasets.read_features(path).digest != first.digest


def test_parts_of_an_extraction_count_whatever_their_time(tmp_path, raw, monkeypatch, falling_clock):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureBank, "save", interrupted)
        assert main(raw) == 130
    parts = list((tmp_path / "disk" / "features").glob("*.parts/*"))
    assert len(parts) == 2
    for path, moment in zip(parts, (0, 2**32), strict=True):
        os.utime(path, (moment, moment))
    monkeypatch.setattr("dal_core.extraction.load_encoder", lambda *_: pytest.fail("it is encoded anew"))
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


# --- damaged files


def flips(content, count):
    """The content with a changed byte, at random positions."""
    draw = random.Random(len(content))
    for _ in range(count):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= draw.choice([0xFF, 1 << draw.randrange(8), draw.randrange(1, 256)])
        yield bytes(changed)


def truncations(content, count):
    draw = random.Random(len(content))
    yield from (content[: draw.randrange(len(content))] for _ in range(count))


def holes(content, count):
    """Blocks that never reached the disk, and blocks of another file."""
    draw = random.Random(len(content))
    for _ in range(count):
        size = draw.choice([16, 512, 4096])
        start = draw.randrange(len(content))
        block = draw.choice([bytes(size), draw.randbytes(size)])[: len(content) - start]
        yield content[:start] + block + content[start + len(block) :]


def damages(content, count):
    yield from flips(content, count)
    yield from truncations(content, count // 3)
    yield from holes(content, count // 3)
    yield content + b"x"
    yield content + content


@pytest.fixture
def one_run(tmp_path):
    """The store, the study, its key and its rows, of a folder with one run."""
    grid, (study,) = Grid(tmp_path, jobs=1), experiments(1, ["margin"])
    grid.rows([study], "run")
    (key,) = grid.keys
    return grid.store, study, key, grid.store.read(study, key)


def test_a_result_is_read_as_it_was_written_or_not_at_all(one_run):
    store, study, key, rows = one_run
    path = store.path(study, key)
    content = path.read_bytes()
    refused = 0
    for damaged in damages(content, 900):
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = store.read(study, key)
        if found is None:
            assert f"{path} is damaged and will be computed anew: " in str(told[0].message)
            refused += 1
        else:
            assert_same(found, rows)  # zeros over zeros, or a byte of the seal's own name
    assert refused > 1400


def unsealed(content):
    """As files were written before they had a seal."""
    table, out = pq.read_table(pa.BufferReader(content)), io.BytesIO()
    metadata = {name: text for name, text in table.schema.metadata.items() if name != dal_core.store.SEAL}
    pq.write_table(table.replace_schema_metadata(metadata), out, write_page_checksum=True)
    return out.getvalue()


def test_results_without_a_seal_stay_readable_and_fail_in_order(one_run):
    store, study, key, rows = one_run
    path = store.path(study, key)
    old = unsealed(path.read_bytes())
    assert b"sha256" not in old
    path.write_bytes(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(store.read(study, key), rows)
    for damaged in truncations(old, 100):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged and will be computed anew"):
            assert store.read(study, key) is None
    for damaged in flips(old, 600):
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store.read(study, key)  # without an exception


def test_a_grid_of_damaged_files_says_so_line_by_line_and_is_right_in_the_end(tmp_path, whole, capsys):
    assert main(grid_command(tmp_path, 6)) == 0
    before, draw = stored(tmp_path), random.Random(1)
    hurt = draw.sample(sorted(before), 6)
    for name, damage in zip(hurt, (flips, truncations, holes) * 2, strict=True):
        (content,) = damage(before[name], 1)
        (tmp_path / name).write_bytes(content)
    capsys.readouterr()
    assert main(grid_command(tmp_path, 6)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sorted(line.split()[1] for line in told) == sorted(str(tmp_path / name) for name in hurt)
    assert all("is damaged and will be computed anew" in line for line in told)
    assert {name for name, content in stored(tmp_path).items() if content != before[name]} == set(hurt)
    assert_same(table(tmp_path, 6), whole(6))


def test_a_seal_breaks_with_any_byte():
    content = sealed(b"before " + UNSEALED + b" after")
    assert UNSEALED not in content
    assert is_intact(content)
    assert is_intact(b"never sealed")
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1
        in_its_name = 7 <= i < 7 + len(UNSEALED) - 64
        assert is_intact(bytes(changed)) == in_its_name


def test_a_damaged_manifest_is_told_and_no_file_passes_for_another(tmp_path):
    report = Report(tmp_path, "01_made")
    for name in ("first", "second"):
        report.table(pd.DataFrame({"x": [1]}), name, cell="(a)", keys=["k"])
    path = tmp_path / "manifest.json"
    content, refused = path.read_bytes(), 0
    for damaged in [*damages(content, 300), b""]:
        path.write_bytes(damaged)
        try:
            check_manifest(tmp_path)
        except ManifestError as error:
            refused += "\n" not in str(error)
            continue
        told = {name: entry["digest"] for name, entry in json.loads(damaged).items()}
        assert told == {name: entry["digest"] for name, entry in json.loads(content).items()}
    assert refused > 200
    path.write_bytes(content)
    table = tmp_path / "01_first.csv"
    for damaged in damages(table.read_bytes(), 30):
        table.write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"changed after they were written: 01_first\.csv"):
            check_manifest(tmp_path)


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(size, 3, generator=generator) for size in (12, 7))
    return FeatureBank(train, torch.arange(12) % 2, test, torch.arange(7) % 2, ("no", "yes"), {"source": "made"})


def test_a_damaged_bank_is_refused_in_a_line_that_names_it(tmp_path, bank, unchecked):
    path = tmp_path / "made.safetensors"
    bank.save(path)
    cases, refused, same = list(damages(path.read_bytes(), 900)), 0, 0
    for damaged in cases:
        path.write_bytes(damaged)
        datasets._load.cache_clear()
        try:
            found = datasets.load("made", data_dir=tmp_path)
        except ValueError as error:
            refused += str(path) in str(error)
        else:
            assert found.digest == bank.digest
            same += 1
    assert refused > 1000
    assert refused + same == len(cases)


def test_damaged_features_in_the_cache_are_extracted_anew(tmp_path, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    (path,) = (tmp_path / "disk" / "features").glob("*.safetensors")
    content = path.read_bytes()
    for damaged in [content[:100], *truncations(content, 3), *holes(content, 3)]:
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main(raw) == 0
        assert f"{path} is not used, and will be computed anew" in capsys.readouterr().err
        assert extracted(tmp_path) == expected


def test_damaged_parts_of_an_extraction_are_not_used(tmp_path, raw, monkeypatch):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    (path,) = (tmp_path / "disk" / "features").glob("*.safetensors")
    path.unlink()
    save = FeatureBank.save

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureBank, "save", interrupted)
    assert main(raw) == 130
    (part,) = path.with_suffix(".parts").glob("train*")
    content = part.read_bytes()
    monkeypatch.setattr(FeatureBank, "save", save)
    for damaged in [*flips(content, 4), *truncations(content, 3), *holes(content, 3)]:
        path.unlink(missing_ok=True)
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(damaged)
        assert main(raw) == 0
        assert extracted(tmp_path) == expected


def test_what_is_left_of_an_unfinished_bank_goes_with_its_parts(tmp_path, raw, monkeypatch):
    def killed(_, path, **__):
        Path(path).with_name(".tmpAbCdEf").write_bytes(b"x")  # as safetensors names what it writes to
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dal_core.features.save_file", killed)
        assert main(raw) == 130
    assert [path.name for path in hidden(tmp_path / "disk")] == [".tmpAbCdEf"]
    assert main(raw) == 0
    assert {path.suffix for path in (tmp_path / "disk" / "features").iterdir()} == {".lock", ".safetensors"}


def test_a_damaged_executed_notebook_is_named(tmp_path):
    path = write_notebook(tmp_path / "01_made.ipynb").path
    content = path.read_bytes()
    for damaged in [b"", b"null", b"{}", *truncations(content, 40)]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"01_made\.ipynb is damaged: ") as refusal:
            read_notebook(path)
        assert "\n" not in str(refusal.value)


# --- something else where a file or folder should be


def test_a_folder_in_place_of_a_result_is_told_before_anything_is_computed(tmp_path, one_run, computed, capsys):
    store, study, key, _ = one_run
    path = store.path(study, key)
    path.unlink()
    (path / "something").mkdir(parents=True)
    assert main(grid_command(tmp_path, 1)) == 2
    assert f"{path} is a folder" in only_complaint(capsys.readouterr().err)
    assert not computed
    assert (path / "something").is_dir()


def test_a_dangling_link_in_place_of_a_result_is_a_missing_run(tmp_path, one_run, whole):
    store, study, key, _ = one_run
    path = store.path(study, key)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert main(grid_command(tmp_path, 1)) == 0
    assert not path.is_symlink()
    assert_same(table(tmp_path, 1), whole(1))


def test_results_behind_links_are_read(tmp_path, whole):
    main(grid_command(tmp_path / "there", 1))
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    assert_same(table(tmp_path / "folder", 1), whole(1))
    (tmp_path / "files").mkdir()
    for path in (tmp_path / "there").iterdir():
        (tmp_path / "files" / path.name).symlink_to(path)
    assert_same(table(tmp_path / "files", 1), whole(1))
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    assert main(grid_command(tmp_path / "dangling", 1)) == 0
    assert len(stored(tmp_path / "later")) == 2


@pytest.mark.parametrize("below", ["", "results"])
def test_a_file_in_place_of_the_results_folder_is_told_before_anything_is_computed(tmp_path, below, computed, capsys):
    place = tmp_path / "file"
    place.write_text("mine")
    assert main(grid_command(place / below, 1)) == 2
    assert str(place) in only_complaint(capsys.readouterr().err)
    assert not computed
    assert place.read_text() == "mine"


def test_other_things_in_the_results_folder_do_not_hurt(tmp_path, whole):
    (tmp_path / "notes.parquet").write_text("mine")
    (tmp_path / "experiment-mine.parquet").mkdir()
    (tmp_path / "failures").write_text("no folder")
    assert main(grid_command(tmp_path, 1)) == 0
    assert_same(table(tmp_path, 1), whole(1))
    assert (tmp_path / "notes.parquet").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "rows.csv" / "below").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"rows.csv cannot be written: Is a directory"):
        write_whole(tmp_path / "rows.csv")
    assert not hidden(tmp_path)
    with pytest.raises(OSError, match="the connection broke off"), write_atomically(tmp_path / "x.csv"):
        raise OSError("the connection broke off")  # not about the file


def write_whole(path):
    with write_atomically(path) as temporary:
        temporary.write_text("1,2")


def test_a_folder_is_tried_before_it_is_relied_on(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file is a file; a folder was expected"):
        check_writable(tmp_path / "file")


def test_a_damaged_note_of_a_revision_is_asked_for_again(tmp_path, monkeypatch):
    from dal_core import encoders

    asked = []
    monkeypatch.setattr(encoders, "_commit", lambda encoder: asked.append(encoder) or "a" * 40)
    about = encoders.Encoder("org/model")
    for _ in range(2):
        assert encoders.resolved_revision(about, tmp_path) == "a" * 40
    assert len(asked) == 1
    (note,) = (tmp_path / "revisions").iterdir()
    for damaged in (b"", b"a" * 39, b"\xff" * 40):
        note.write_bytes(damaged)
        assert encoders.resolved_revision(about, tmp_path) == "a" * 40
    assert len(asked) == 4
