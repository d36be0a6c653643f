"""All cores, and the same bits on any number of them."""

import threading

import pandas as pd
import pytest
import torch
from test_strategy_contract import OPTIONS
from threadpoolctl import threadpool_info

import dal_core as dal
from dal_core.models import training
from dal_core.oracles import judging
from dal_core.parallel import fixed_threads, in_parallel, using_workers, workers
from dal_lab.runs import grid as grids
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_fixed_threads_hold_inside_and_are_restored_after():
    with fixed_threads():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        with fixed_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def fail_on_one_thread() -> None:
    with fixed_threads():
        raise RuntimeError("inside")


@pytest.mark.usefixtures("three_threads")
def test_fixed_threads_are_restored_after_an_error():
    with pytest.raises(RuntimeError, match="inside"):
        fail_on_one_thread()
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_run_on_one_thread_finds_as_many_workers_as_there_were_threads():
    assert workers() == 3
    with fixed_threads():
        assert workers() == 3
        with using_workers(2):
            assert workers() == 2
            with using_workers(None):
                assert workers() == 2
        assert in_parallel(lambda _: (workers(), torch.get_num_threads()), range(4)) == [(1, 1)] * 4
        assert workers() == 3
    assert in_parallel(lambda _: workers(), [0]) == [3]  # A single call has all of them to itself.
    assert torch.get_num_threads() == 3


def test_calls_run_side_by_side_and_their_results_keep_their_order():
    meeting = threading.Barrier(3, timeout=10)

    def meet(number):
        meeting.wait()
        return number

    with using_workers(3):
        assert in_parallel(meet, range(3)) == [0, 1, 2]
    assert in_parallel(lambda a, b: a - b, [5, 6], [1, 2]) == [4, 4]
    assert in_parallel(meet, []) == []


def test_the_first_failure_in_the_order_of_the_calls_is_raised():
    def fail(number):
        if number:
            raise ValueError(f"call {number}")

    for count in (1, 2):
        with using_workers(count), pytest.raises(ValueError, match="call 1"):
            in_parallel(fail, range(5))
    assert workers() == torch.get_num_threads()


@pytest.mark.parametrize("count", [2, 4])
def test_heads_and_their_losses_have_the_same_bits_on_any_number_of_workers(count, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_BYTES", {"cpu": 20_000})
    monkeypatch.setattr(judging, "BLOCK_BYTES", 20_000)
    options = {"num_candidates": 12, "retraining_epochs": 3, "epochs": 3, "loss": "cross_entropy"}
    experiment = experiment_of(strategy="boss", allow_oracle=True, cycles=2, subset_size=200, options=options)
    found = []
    for each in (1, count):
        with using_workers(each):
            found.append(run(experiment).drop(columns=["train_s", "query_s"]))
    pd.testing.assert_frame_equal(*found, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_rows_are_the_same_bit_by_bit_on_one_two_and_four_workers(head):
    """Every strategy, oracle and ensemble."""
    differ = []
    for name in dal.names():
        options = {"epochs": 3} | OPTIONS.get(name, {})
        experiment = experiment_of(
            strategy=name, head=head, cycles=2, subset_size=200, allow_oracle=True, device="cpu", options=options
        )
        rows = []
        for count in (1, 2, 4):
            with using_workers(count):
                found = run(experiment)
            rows.append(found[[column for column in found if not column.endswith("_s")]])
        differ += [name for each in rows[1:] if not each.equals(rows[0])]
    assert not differ


@pytest.mark.parametrize(
    ("runs", "jobs", "cores", "share"),
    [(1, None, 4, 4), (2, None, 4, 2), (3, None, 4, 1), (9, None, 4, 1), (9, 1, 4, 4)],
)
def test_a_grid_gives_each_run_its_share_of_the_cores(monkeypatch, tmp_path, runs, jobs, cores, share):
    seen = []
    monkeypatch.setattr(grids.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(grids, "attempt", lambda *arguments: seen.append(arguments[-1]) or [])
    monkeypatch.setattr(grids.engine, "in_processes", lambda tasks, _: ((i, task()) for i, task in enumerate(tasks)))
    missing = {str(seed): experiment_of(seed=seed) for seed in range(runs)}
    list(Grid(tmp_path, jobs=jobs)._outcomes(missing))
    assert seen == [share] * runs
