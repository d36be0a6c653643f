"""Commands in processes of their own, which tests kill, and what is made to go wrong in them."""

import multiprocessing
import multiprocessing.forkserver
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def command(arguments, out, fault=None, *details):
    """Run in a child process one command, its output in the file `out`, in a process group of its own."""
    os.setsid()
    with open(out, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if fault is not None:
        fault(*details)
    from dal_lab.companion.command_line import main

    code = main(list(map(str, arguments)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # multiprocessing would wait for worker processes, which end when this one has


class Commands:
    """Starts commands in forks of one process that has imported the package, which takes seconds."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["faulty", "dal_lab.companion.command_line", "dal_lab.runs.grid", "dal_lab.companion.figures.curves"]
        )
        with pytest.MonkeyPatch.context() as patch:  # the process takes path and threads from the environment
            patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
            patch.setenv("OMP_NUM_THREADS", "1")
            multiprocessing.forkserver.ensure_running()

    def start(self, arguments, *fault):
        out = self.folder / f"{len(self.started)}.txt"
        process = self.context.Process(target=command, args=(arguments, out, *fault))
        process.out = out
        out.touch()
        process.start()
        self.started.append(process)
        return process

    def run(self, arguments, *fault):
        """Return the exit code and the output."""
        process = self.start(arguments, *fault)
        process.join(120)
        return process.exitcode, process.out.read_text()

    def end(self):
        for process in self.started:
            kill_group(process)


def kill_group(process):
    """Kill a child with all that it has started, at once and without a warning."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it is gone, or has not got to having a group yet
        process.kill()
    process.join(20)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


# --- faults


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment, count):
    """Kill this process at a moment of the writing of the file number `count`."""
    calls = iter(range(1, 1000))

    def due():
        return next(calls) == count

    if moment == "half written":
        write_bytes = Path.write_bytes

        def write_half(path, content):
            if due():
                write_bytes(path, content[: len(content) // 2])
                _die()
            return write_bytes(path, content)

        Path.write_bytes = write_half
    elif moment == "written":
        fsync = os.fsync
        os.fsync = lambda descriptor: _die() if due() else fsync(descriptor)
    else:
        replace = Path.replace

        def replace_and_die(path, target):
            last = due()
            if last and moment == "before the renaming":
                _die()
            replace(path, target)
            if last:
                _die()

        Path.replace = replace_and_die


def meet(folder, others):
    """Stop before each of the first renamings until as many other processes have come as far."""
    fsync, calls = os.fsync, iter(range(1000))

    def wait(descriptor):
        fsync(descriptor)
        if (call := next(calls)) < 5:
            (folder / f"{call}-{os.getpid()}").touch()
            wait_until(lambda: len(list(folder.glob(f"{call}-*"))) > others)

    os.fsync = wait


def files_of_at_most(size):
    """Limit the size of files, as a full disk does; Python ignores the signal that would end other programs."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
