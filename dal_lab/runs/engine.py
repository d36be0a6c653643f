"""Where tasks are computed: in this process, in processes beside it, or by the workers of a Dask cluster.

An engine takes tasks, functions without arguments, and yields the position of each with its result as soon as that is
there, in the order of completion; a task that ends with an exception yields the exception. A task whose worker is lost
(killed, out of memory, the machine gone) is tried again, `RETRIES` times and no more, and then yields the loss. Closing
an engine ends what it started.

Processes stay an engine of their own beside Dask's: of 20 runs on digits, two at a time, a first call took 7.7 to 8.4 s
with a LocalCluster and 5.4 to 7.3 s with processes, a second one 2.5 to 2.7 and 1.6 to 1.9 s (two cores, alternating).
"""

import atexit
import collections
import concurrent.futures
import contextlib
import importlib
import logging
import os
import platform
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from joblib.externals.loky.process_executor import ProcessPoolExecutor

Task = Callable[[], Any]
Finished = Generator[tuple[int, Any], None, None]

RETRIES = 2
CONNECTING = 20  # seconds until a scheduler that does not answer is given up
IDLE = 300  # seconds after which a process that has nothing to do ends
# Variables that BLAS and OpenMP read when they start threads: runs go side by side, and each computes on one thread.
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")}


class LostWorkerError(RuntimeError):
    """The worker of a task was lost each time that the task was tried."""


class ClusterLostError(RuntimeError):
    """The scheduler of a Dask cluster is no longer there; the message says which."""


class FolderNotSharedError(OSError):
    """A worker does not see the folder that results go to."""


def in_this_process(tasks: Sequence[Task]) -> Finished:
    """Yield the results of tasks that are computed one after another in this process."""
    for position, task in enumerate(tasks):
        try:
            result = task()
        except Exception as error:
            result = error
        yield position, result


# --- processes beside this one

_idle: list[ProcessPoolExecutor] = []  # Processes are kept for the next call, since each takes seconds to start.


def in_processes(tasks: Sequence[Task], jobs: int) -> Finished:
    """Yield the results of tasks in `jobs` worker processes: one that is killed takes no other task with it."""
    waiting = collections.deque((position, 0) for position in range(len(tasks)))
    running: dict[concurrent.futures.Future, tuple[ProcessPoolExecutor, int, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                position, losses = waiting.popleft()
                worker, future = _submit(tasks[position])
                running[future] = worker, position, losses
            for future in concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED).done:
                worker, position, losses = running.pop(future)
                error = future.exception()
                if not isinstance(error, concurrent.futures.BrokenExecutor):
                    _idle.append(worker)
                    yield position, future.result() if error is None else error
                    continue
                worker.shutdown(kill_workers=True)
                if losses < RETRIES:
                    waiting.append((position, losses + 1))
                    continue
                lost = LostWorkerError(f"its process was lost {losses + 1} times (killed, or out of memory)")
                lost.__cause__ = error
                yield position, lost
    finally:
        for worker, _, _ in running.values():
            worker.shutdown(kill_workers=True)


@atexit.register
def _end_idle() -> None:
    """End the processes that are kept; otherwise the exit waits for them where it skips the hooks of threads."""
    while _idle:
        _idle.pop().shutdown(kill_workers=True)


def _submit(task: Task) -> tuple[ProcessPoolExecutor, concurrent.futures.Future]:
    while _idle:
        worker = _idle.pop()
        with contextlib.suppress(concurrent.futures.BrokenExecutor):  # killed while it had nothing to do
            return worker, worker.submit(task)
    worker = ProcessPoolExecutor(
        1, timeout=IDLE, initializer=_live_and_die_with, initargs=(os.getpid(),), env=ONE_THREAD
    )
    with _interrupts_later():  # The process leaves Ctrl-C to this one from its start on, amid its imports, too.
        return worker, worker.submit(task)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Block Ctrl-C within the block, and in what is started there for good."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # It unblocks Ctrl-C when it starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_and_die_with(parent: int) -> None:
    """In a worker process: leave Ctrl-C to the parent, and end soon after the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:  # Where a system puts another process in between, there is nothing to watch.
        threading.Thread(target=watch, daemon=True).start()


# --- a Dask cluster


def on_dask(tasks: Sequence[Task], cluster: Any, folder: Path) -> Finished:
    """Yield the results of tasks from the workers of a Dask cluster, which all have to see `folder`.

    Closing it cancels what has not begun; workers finish what they are at. How often a task is tried whose workers are
    lost is a setting of the scheduler, `distributed.scheduler.allowed-failures`; then it is tried as often, alone.

    Raises:
        ClusterLostError: if the scheduler goes away.
        FolderNotSharedError: if a worker does not see the folder.
        OSError: if no scheduler answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".shared~{uuid.uuid4().hex}"
    client, futures = _connect(cluster), dict[Any, int]()
    try:
        token.touch()
        suspects = []
        for position, result in _computed(client, tasks, range(len(tasks)), token, futures):
            if type(result).__name__ == "KilledWorker":
                suspects.append(position)
            else:
                yield position, result
        # The scheduler also blames tasks that only waited in a lost worker: each suspect is tried again, alone.
        for position in suspects:
            yield from _computed(client, tasks, [position], token, futures)
    finally:
        token.unlink(missing_ok=True)
        muted = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # Threads of the client log a traceback if it is closed while they work.
        with contextlib.suppress(Exception):  # The cluster may be gone.
            client.cancel(list(futures), force=True)
        futures.clear()
        client.close(timeout=2)
        logging.disable(muted)


def _connect(cluster: Any) -> Any:
    distributed = _cluster_package("distributed")
    try:
        client = distributed.Client(cluster, timeout=CONNECTING, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {cluster}: {error}") from error
    if isinstance(cluster, str) and not client.nthreads():
        warnings.warn(
            f"the Dask cluster at {cluster} has no workers yet; runs start as soon as one is there", stacklevel=2
        )
    return client


def _computed(
    client: Any, tasks: Sequence[Task], positions: Iterable[int], token: Path, futures: dict[Any, int]
) -> Finished:
    """Yield the tasks at `positions` with their results; `futures` holds those that are not done."""
    from distributed import as_completed

    lost = ClusterLostError(f"the Dask cluster at {client.scheduler.address} was lost")
    for position in positions:  # Without a key of its own, equal tasks would be taken for one.
        future = client.submit(_on_worker, tasks[position], token, key=f"dal_core-{uuid.uuid4().hex}")
        futures[future] = position
    for future in as_completed(list(futures), loop=client.loop):
        if future.status not in ("finished", "error"):  # lost or cancelled, and not by us
            raise lost
        # A future is released at once: if its worker were lost later, the task would be computed again.
        position = futures.pop(future)
        try:
            result = future.result() if future.status == "finished" else future.exception()
        except (concurrent.futures.CancelledError, OSError) as error:  # lost while the result was on its way
            raise lost from error
        if isinstance(result, FolderNotSharedError):
            raise result
        future.release()
        yield position, result


_alone = threading.Lock()


def _on_worker(task: Task, token: Path) -> Any:
    if not token.exists():
        raise FolderNotSharedError(
            f"the Dask worker on {platform.node()} does not see {token.parent}; the results folder has to be on a "
            "file system that all machines share"
        )
    # Two threads of a worker would change each other's number of threads, and with it the last bits of a result.
    with _alone:
        return task()


def on_slurm(tasks: Sequence[Task], options: Mapping[str, Any], folder: Path) -> Finished:
    """Yield the results of tasks from workers that Slurm starts, and that end with the last task.

    `options` are those of dask_jobqueue.SLURMCluster, and `jobs`, the number of Slurm jobs.

    Raises:
        ValueError: if dask_jobqueue or Slurm does not take the options; and as `on_dask`.
    """
    dask, jobqueue = _cluster_package("dask"), _cluster_package("dask_jobqueue")
    settings = {"cores": 1, **options}
    jobs = settings.pop("jobs", 1)
    settings.setdefault("processes", settings["cores"])  # A run computes on one thread.
    # The scheduler runs in this process, and takes its settings from here.
    with dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}):
        try:
            cluster = jobqueue.SLURMCluster(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"slurm is {dict(options)}, which dask_jobqueue refuses: {error}") from error
        with cluster:
            cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # A job that reaches its walltime is replaced.
            yield from on_dask(tasks, cluster, folder)


def _cluster_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"a cluster needs {name}: pip install dask distributed dask-jobqueue") from error
