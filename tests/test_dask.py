"""A real cluster on this machine: a scheduler and two worker processes, which are killed and started again."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch
from stored_runs import contents, files
from tasks import failing, killed, sleeping, threads

from dal_core.strategies import register, registry
from dal_lab.companion.command_line import main
from dal_lab.runs import engine
from dal_lab.runs.engine import FolderNotSharedError, on_dask
from dal_lab.runs.failures import RunError, RunRefusedError
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install dask distributed")
pytestmark = pytest.mark.faults
SETTINGS = {"cycles": 2, "subset_size": 50, "device": "cpu"}
# Long enough that there is a middle.
RUNS = [experiment_of(seed=seed, options={"epochs": 2000}, **SETTINGS) for seed in range(8)]


class Cluster:
    """A scheduler and two workers, each started as a user would start it."""

    def __init__(self, root, place):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        paths = os.pathsep.join([str(root), str(root / "tests")])
        self.environment = os.environ | {"PYTHONPATH": paths, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2"}
        self.place, self.processes = place, []

    def start(self):
        host, port = self.address.removeprefix("tcp://").split(":")
        # Ends by itself where these tests are killed and cannot end it, and its workers with it.
        self.run("scheduler", "--host", host, "--port", port, "--idle-timeout", "90s")
        for _ in range(2):
            self.run("worker", self.address, "--host", host, "--nthreads", "1", "--local-directory", self.place)
        with self.client() as client:
            client.wait_for_workers(2, timeout=60)

    def run(self, what, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *map(str, arguments), "--no-dashboard"]
        with open(self.place / "log.txt", "ab") as log:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def client(self):
        return distributed.Client(self.address, timeout=60, set_as_default=False)

    def workers(self):
        """Process of each worker by its address."""
        with self.client() as client:
            return client.run(os.getpid)

    def stop(self):
        for process in self.processes:
            process.kill()  # a worker would wait for its scheduler to return
            process.wait()
        self.processes.clear()

    def wait_until_idle(self):
        with self.client() as client:
            while any(client.processing().values()):
                time.sleep(0.05)

    @property
    def scheduler(self):
        return self.processes[0]


@pytest.fixture(scope="module")
def cluster(root, tmp_path_factory):
    cluster = Cluster(root, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """What is stored where all runs are computed one after another in this process."""
    folder = tmp_path_factory.mktemp("serial")
    Grid(folder, jobs=1).rows(RUNS, "runs")
    return contents(folder)


@contextlib.contextmanager
def when_stored(folder, count, action):
    """Do something as soon as so many runs are stored."""
    over = threading.Event()

    def watch():
        while len(files(folder)) < count and not over.is_set():
            time.sleep(0.005)
        if not over.is_set():
            action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_worker_killed_in_the_middle_changes_nothing(cluster, serial, tmp_path):
    before, number_then = cluster.workers(), []
    victim = min(before.values())

    def kill():
        number_then.append(len(files(tmp_path)))
        os.kill(victim, signal.SIGKILL)

    grid = Grid(tmp_path, dask=cluster.address)
    with when_stored(tmp_path, 2, kill):
        rows = grid.rows(RUNS, "runs")
    assert number_then[0] < len(RUNS)
    assert rows["seed"].unique().tolist() == list(range(8))
    assert contents(tmp_path) == serial
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}  # no token, nothing half-written


def test_the_scheduler_stopped_and_started_again(cluster, serial, tmp_path):
    with (
        when_stored(tmp_path, 2, cluster.scheduler.kill),
        pytest.raises(
            RunError, match=rf"^the Dask cluster at {cluster.address} was lost: \d of 8 runs are done and kept"
        ),
    ):
        Grid(tmp_path, dask=cluster.address).rows(RUNS, "runs")
    cluster.stop()
    done = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert 2 <= len(done) < len(RUNS)
    cluster.start()
    Grid(tmp_path, dask=cluster.address).rows(RUNS, "runs")
    assert contents(tmp_path) == serial
    assert {path: path.stat().st_mtime_ns for path in done} == done  # what was there was not computed again


def test_ctrl_c_cancels_what_has_not_begun_and_the_same_command_goes_on(cluster, serial, tmp_path):
    asked = ["--seeds", "8", "--cycles", "2", "--subset-size", "50", "--option", "epochs=2000", "--device", "cpu"]
    asked = ["grid", *asked, "--dask", cluster.address, "--results-dir", str(tmp_path)]
    command = [sys.executable, "-m", "dal_lab", *asked]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cluster.environment)
    with when_stored(tmp_path, 2, lambda: process.send_signal(signal.SIGINT)):
        told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    last = r"stopped: \d of 8 runs are done and kept in .*; the same command goes on from there"
    assert re.fullmatch(last, told[-1]), told
    cluster.wait_until_idle()
    done = files(tmp_path)
    assert 2 <= len(done) <= 5  # and what two workers were at
    assert main(asked) == 0
    assert contents(tmp_path) == serial


def test_tasks_that_fail_or_lose_their_workers_are_told_while_the_rest_goes_on(cluster, tmp_path):
    asked = [failing, partial(killed, tmp_path, "deadly", times=99), *[partial(sleeping, 0.01)] * 4, threads]
    found = dict(on_dask(asked, cluster.address, tmp_path))
    assert type(found[0]) is KeyError
    assert type(found[1]) is distributed.KilledWorker
    assert len(list(tmp_path.glob("deadly-*"))) == 6  # allowed-failures and once more, among others and then alone
    assert [found[i] for i in range(2, 6)] == [0.01] * 4
    assert set(found[6]) == {1}


def test_runs_that_fail_on_the_cluster_are_listed(cluster, tmp_path):
    bad = experiment_of(dataset="moons", cycles=200, device="cpu")
    grid = Grid(tmp_path, dask=cluster.address)
    with pytest.raises(RunRefusedError, match=r"^1 of 2 runs failed: moons, margin, cycles=200, seed 0: ValueError"):
        grid.rows([bad, RUNS[0]], "runs")
    (told,) = grid.store.failures.iterdir()
    assert "in instances_for" in told.read_text()
    assert len(files(tmp_path)) == 1


def test_own_strategies_reach_the_cluster(cluster, tmp_path, monkeypatch):
    """One that a script or a notebook's cell defines, and that no worker could import."""
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))
    cell = tmp_path / "cell.py"
    cell.write_text(
        "@register('closest')\n"
        "def closest(snapshot, batch_size, generator):\n"
        "    return torch.argsort(snapshot.features.norm(dim=1), stable=True)[:batch_size]\n"
    )
    names = {"register": register, "torch": torch, "__name__": "__main__"}
    exec(compile(cell.read_text(), str(cell), "exec"), names)
    runs = [experiment_of(strategy="closest", seed=seed, options={"epochs": 3}, **SETTINGS) for seed in range(3)]
    Grid(tmp_path / "cluster", dask=cluster.address).rows(runs, "runs")
    Grid(tmp_path / "alone", jobs=1).rows(runs, "runs")
    assert len(contents(tmp_path / "cluster")) == 3
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")


def test_a_worker_that_does_not_see_the_results_is_told_in_a_line(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine.Path, "touch", lambda _: None)
    asked = ["--dask", cluster.address, "--results-dir", str(tmp_path), "--cycles", "1", "--option", "epochs=3"]
    assert main(["grid", "--seeds", "1", *asked]) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("learning curves: ")]
    assert told.startswith("error: the Dask worker on ")
    assert told.endswith(
        f"does not see {tmp_path}; the results folder has to be on a file system that all machines share"
    )
    assert not files(tmp_path)
    with pytest.raises(FolderNotSharedError):
        list(on_dask([threads], cluster.address, tmp_path))


def test_a_scheduler_that_does_not_answer_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "CONNECTING", 0.5)
    assert (
        main(["grid", "--dask", "tcp://127.0.0.1:1", "--cycles", "3", "--seeds", "1", "--results-dir", str(tmp_path)])
        == 2
    )
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: no Dask scheduler answers at tcp://127.0.0.1:1: ")


SBATCH = """#!/bin/sh
# As Slurm: the script is read at once, since it is gone soon, the job runs on its own, and its number is said.
script=$(cat "$1")
setsid sh -c "$script" >/dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -- "-$1"
"""


def test_workers_from_slurm(root, tmp_path, monkeypatch, capsys):
    """With sbatch and scancel that start and end processes on this machine."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(root))
    asked = ["grid", "--seeds", "3", "--cycles", "2", "--subset-size", "50", "--option", "epochs=3"]
    alone, slurm = tmp_path / "alone", "cores=1,memory=2GB,walltime=00:10:00,jobs=2,interface=lo"
    assert main([*asked, "--results-dir", str(alone), "--jobs", "1"]) == 0
    table = capsys.readouterr().out.splitlines()[:2]
    folder = tmp_path / "results"
    assert main([*asked, "--results-dir", str(folder), "--slurm", slurm]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == table
    assert len(contents(folder)) == 3
    assert contents(folder) == contents(alone)


def test_options_that_slurm_does_not_have_are_refused(tmp_path):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with pytest.raises(ValueError, match=r"which dask_jobqueue refuses: .*nodes"):
        Grid(tmp_path, slurm={"cores": 1, "memory": "1GB", "nodes": 3}).rows(RUNS[:1], "runs")
