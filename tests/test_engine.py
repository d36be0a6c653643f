import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import tasks
from tasks import failing, killed, noting, process, process_after, sleeping

from dal_lab.runs import engine as module
from dal_lab.runs.engine import RETRIES, LostWorkerError, in_processes, in_this_process


def attempts(folder, name):
    return len(list(folder.glob(f"{name}-*")))


def until(condition, seconds=30):
    """Wait until `condition` holds; whether it came to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(params=["in this process", "in processes"])
def engine(request):
    return in_this_process if request.param == "in this process" else partial(in_processes, jobs=2)


def test_each_task_yields_its_result_and_an_error_stops_no_other(engine):
    found = dict(engine([partial(sleeping, 0.0), failing, partial(sleeping, 0.01)]))
    assert (found[0], found[2]) == (0.0, 0.01)
    assert type(found[1]) is KeyError
    assert found[1].args == ("lost",)


def test_no_tasks_are_done_at_once(engine):
    assert list(engine([])) == []


def test_processes_work_side_by_side_and_yield_in_the_order_of_completion():
    assert [position for position, _ in in_processes([partial(sleeping, 2.0), *[process] * 3], jobs=2)] == [1, 2, 3, 0]
    found = dict(in_processes([partial(process_after, 0.5)] * 2, jobs=2))
    assert len({os.getpid(), *found.values()}) == 3


def test_processes_are_used_again_and_replaced_where_they_were_killed_in_the_meantime():
    (_, first), (_, second) = in_processes([partial(process_after, 0.5)] * 2, jobs=2)
    assert {pid for _, pid in in_processes([partial(process_after, 0.5)] * 2, jobs=2)} == {first, second}
    os.kill(first, signal.SIGKILL)
    found = {pid for _, pid in in_processes([partial(process_after, 0.5)] * 2, jobs=2)}
    assert len(found) == 2
    assert first not in found


def test_in_a_process_libraries_start_no_threads_of_their_own():
    ((_, found),) = in_processes([tasks.threads], jobs=1)
    assert len(found) > 1
    assert set(found) == {1}


def test_a_killed_process_takes_no_other_task_with_it_and_its_task_is_tried_again(tmp_path):
    asked = [partial(noting, tmp_path, "long", 2.0), partial(killed, tmp_path, "unlucky", times=RETRIES)]
    assert sorted(in_processes(asked, jobs=2)) == [(0, "long"), (1, "unlucky")]
    assert attempts(tmp_path, "long") == 1
    assert attempts(tmp_path, "unlucky") == RETRIES + 1


def test_a_task_that_always_loses_its_process_is_given_up_while_the_rest_goes_on(tmp_path):
    asked = [partial(killed, tmp_path, "deadly", times=99), *(partial(noting, tmp_path, f"good{i}") for i in range(4))]
    found = dict(in_processes(asked, jobs=2))
    assert [found[i] for i in range(1, 5)] == ["good0", "good1", "good2", "good3"]
    assert isinstance(found[0], LostWorkerError)
    assert f"was lost {RETRIES + 1} times" in str(found[0])
    assert "SIGKILL" in str(found[0].__cause__)
    assert attempts(tmp_path, "deadly") == RETRIES + 1


def test_closing_ends_the_processes_that_are_at_work(tmp_path):
    finished = in_processes([process, partial(noting, tmp_path, "long", 60.0)], jobs=2)
    assert next(finished)[0] == 0
    assert until(lambda: (tmp_path / "long-0").exists() and (tmp_path / "long-0").read_text())
    at_work = int((tmp_path / "long-0").read_text())
    finished.close()
    assert until(lambda: not psutil.pid_exists(at_work), 5)


ORPHANS = """
import sys
from functools import partial
from tasks import noting
from dal_lab.runs.engine import in_processes

list(in_processes([partial(noting, sys.argv[1], name, 60.0) for name in "ab"], jobs=2))
"""


@pytest.mark.faults
def test_processes_end_soon_after_a_parent_that_is_killed(tmp_path, root):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, str(tmp_path)], env=environment)
    try:
        notes = [tmp_path / "a-0", tmp_path / "b-0"]
        assert until(lambda: all(note.exists() and note.read_text() for note in notes))
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not any(psutil.pid_exists(int(note.read_text())) for note in notes), 10)


def test_a_cluster_says_what_is_to_be_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="a cluster needs distributed: pip install dask distributed dask-jobqueue"):
        list(module.on_dask([process], "tcp://127.0.0.1:1", tmp_path))
