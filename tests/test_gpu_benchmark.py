"""The command for a GPU: what it leaves when it is cut off or fails, and its measurements on a pretended device."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from pretend_device import WAIT, DeviceTensor, PretendedDevice
from samples import points, seeded, unit_points
from test_strategy_contract import on_device

from benchmarks.cases import CASES
from benchmarks.gpu import (
    encoding,
    queries,
    runner,
    runs,
    settings,
    tables,
    times,
    twins,
    what_is_there,
)
from benchmarks.gpu.measuring import measured, moved, side_by_side
from benchmarks.gpu.pools import SIZES, oracle_snapshot
from benchmarks.gpu.protocols import Run, reproducibility, runs_of
from benchmarks.gpu.sections import SECTIONS, Section
from benchmarks.gpu.settings import DEVICE_LOST, Item, Results, Settings, Skipped, run_items
from dal_core.experiment import Experiment, Protocol
from dal_core.models.learners import Mlp
from dal_core.models.training import Training
from dal_core.strategies.badge import badge_select
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.herding import herding_select
from dal_core.strategies.probcover import probcover_select
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.sources.encoders import LoadedEncoder

CPU = torch.device("cpu")
TINY = SIZES["tiny"]


@pytest.fixture
def here(tmp_path):
    """Settings on the CPU with a minute to go."""
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return Settings("cpu", None, tmp_path / "out", tmp_path / "work", time.monotonic() + 60, scaled_down=True)


@pytest.fixture
def device(monkeypatch):
    with PretendedDevice() as pretended:
        for name in ("reset_peak_memory_stats", "max_memory_allocated"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: 1000)
        yield pretended


def measured_items(items, here, name="a section"):
    found = Results(here.out / "gpu.json")
    run_items(items, here, found, name)
    return json.loads((here.out / "gpu.json").read_text())["sections"][name]["items"]


# --- failures


def test_an_item_that_fails_is_a_line_and_does_not_stop_the_others(here):
    def failing(error):
        def measure(settings):
            raise error

        return measure

    items = [
        Item("first", lambda settings: {"value": 1.5}),
        Item("raises", failing(ValueError("two\nlines"))),
        Item("exits", failing(SystemExit("no"))),
        Item("skips", failing(Skipped("there is no card"))),
        Item("last", lambda settings: {"value": float("nan"), "array": np.float32(2)}),
    ]
    found = measured_items(items, here)
    assert [item["status"] for item in found.values()] == ["done", "failed", "failed", "skipped", "done"]
    assert found["first"]["value"] == 1.5
    assert found["raises"]["line"] == "ValueError: two lines"
    assert found["raises"]["where"][-1].endswith(" measure")
    assert found["skips"]["line"] == "there is no card"
    assert (found["last"]["value"], found["last"]["array"]) == (None, 2.0)


def test_an_item_that_takes_too_long_is_ended_even_if_it_catches_everything(here):
    def endless(settings):
        while True:
            try:
                while True:
                    time.sleep(0.01)
            except Exception:  # as strategies do that go on behind a failure
                pass

    short = dataclasses.replace(here, deadline=time.monotonic() + 1.0)
    found = measured_items(
        [Item("endless", endless, 0.3), Item("next", lambda settings: {"left": settings.left()})], short
    )
    assert found["endless"]["status"] == "out of time"
    assert 0 < found["next"]["left"] < 0.8


def test_items_behind_the_deadline_are_left_out(here):
    items = [Item("slow", lambda settings: time.sleep(0.3) or {}, may_take=1.0), Item("b", dict), Item("c", dict)]
    found = measured_items(items, dataclasses.replace(here, deadline=time.monotonic() + 0.2))
    assert found["slow"]["status"] == "out of time"
    assert found["b"] == found["c"] == {"status": "skipped", "line": "no time was left"}
    assert runner._status({"items": found}, 0) == "out of time"


def test_a_section_goes_on_behind_the_items_it_has(here):
    calls = []
    items = [Item(name, lambda settings, name=name: calls.append(name) or {}) for name in ("one", "two")]
    measured_items(items[:1], here)
    assert list(measured_items(items, here)) == ["one", "two"]
    assert calls == ["one", "two"]


# What stands for a section's process: the items it leaves in gpu.json, and how it ends.
LEAVE = """
import json, os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1]) / "gpu.json"
values = json.loads(path.read_text())
items = values["sections"].setdefault("a", {"status": "running", "items": {}})["items"]
calls = len(items)
items["item " + str(calls)] = {"status": "running" if calls < 2 else "done"}
path.write_text(json.dumps(values))
print("a last word", file=sys.stderr)
"""
CRASH = LEAVE + "os.kill(os.getpid(), signal.SIGSEGV) if calls == 0 else sys.exit(7) if calls == 1 else None"
HANG = LEAVE + "time.sleep(60)"


@pytest.fixture
def request_of(here, monkeypatch):
    """A request whose sections are scripts."""

    def made(script, minutes=1.0):
        command = [sys.executable, "-c", script, str(here.out)]
        monkeypatch.setattr(runner, "_command", lambda *_: command)
        monkeypatch.setattr(runner, "GRACE", 0.0)
        monkeypatch.setattr(runner, "SHORTEST", 0.1)
        return runner.Request("cpu", None, here.out, minutes)

    return made


def test_a_section_whose_process_ends_is_started_again_behind_the_item_that_did_it(request_of):
    values = runner.run(request_of(CRASH), {"a": Section(lambda settings: [], {"cpu": 1.0})}).values
    part = values["sections"]["a"]
    assert [item["status"] for item in part["items"].values()] == ["failed", "failed", "done"]
    assert part["items"]["item 0"]["line"] == "its process ended (signal 11): a last word"
    assert part["items"]["item 1"]["line"] == "its process ended (exit code 7): a last word"
    assert part["status"] == "finished"
    assert values["seconds"] < 30


def test_a_section_that_hangs_is_ended_at_its_limit_and_leaves_the_rest_its_time(request_of):
    sections = {name: Section(lambda settings: [], {"cpu": 1.0}) for name in ("a", "b")}
    values = runner.run(request_of(HANG, minutes=0.1), sections).values
    part = values["sections"]["a"]
    assert part["status"] == "out of time"
    assert part["items"]["item 0"]["status"] == "out of time"
    assert part["limit_s"] == pytest.approx(3.0, abs=0.2)
    assert part["log"] == ["a last word"]
    assert 1 < values["sections"]["b"]["limit_s"] <= 6.1 - part["seconds"]


def test_a_section_has_the_time_that_the_start_of_a_process_takes(request_of):
    sections = {name: Section(lambda settings: [], {"cpu": worth}) for name, worth in {"a": 1.0, "b": 99.0}.items()}
    asked_for = dataclasses.replace(request_of("pass", minutes=0.5), start_up=2.0)
    values = runner.run(asked_for, sections).values
    assert values["sections"]["a"]["limit_s"] == pytest.approx(6.0, abs=0.1)


def test_a_section_that_cannot_begin_says_why(request_of):
    values = runner.run(request_of("import no_such_package"), {"a": Section(lambda settings: [], {"cpu": 1.0})}).values
    part = values["sections"]["a"]
    assert (part["status"], part["items"]) == ("failed", {})
    assert part["line"] == "ModuleNotFoundError: No module named 'no_such_package'"


def test_a_lost_device_ends_the_process(here, monkeypatch):
    codes = []
    monkeypatch.setattr(settings, "_usable", lambda: False)
    monkeypatch.setattr(settings.os, "_exit", codes.append)
    measured_items([Item("one", lambda _: {})], dataclasses.replace(here, device="cuda"))
    assert codes == [DEVICE_LOST]


@pytest.mark.slow
def test_killed_after_20_seconds_it_leaves_a_valid_file(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--minutes", "1", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        start = time.monotonic()
        while time.monotonic() - start < 20 or not _done(out):  # longer on a machine with other work
            assert time.monotonic() - start < 70
            time.sleep(0.2)
        assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    values = json.loads((out / "gpu.json").read_text())
    assert values["machine"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert "finished" not in values
    *closed, last = values["sections"].values()
    assert all(part["status"] in ("finished", "out of time") and part["seconds"] > 0 for part in closed)
    assert all(item["status"] != "running" for part in closed for item in part["items"].values())
    assert "seconds" in last or last["status"] == "running"
    assert len(list(out.iterdir())) <= 8
    assert not psutil.wait_procs(family, timeout=5)[1]


def _done(out):
    """Whether something is measured; the file is whole at any moment."""
    if not (out / "gpu.json").is_file():
        return False
    sections = list(json.loads((out / "gpu.json").read_text())["sections"].values())
    items = [item for part in sections for item in part["items"].values()]
    return any(item["status"] == "done" for item in items)


# --- measurements, on the pretended device as far as that goes


def result_of(value):
    """A result of a case as numbers; of heads their weights."""
    tensor = getattr(value, "weight", getattr(value, "positions", value))
    return (tensor.cpu() if isinstance(tensor, DeviceTensor) else tensor).tolist()


@pytest.mark.parametrize(
    "name",
    ["one-head", "many-heads", "bait-binary-large", "bait-diagonal", "boss-query", "badge", "coreset", "typiclust",
     "max_herding", "probcover", "alfamix", "k-means-many", "update-first-order", "lookahead"],
)  # fmt: skip
def test_cases_move_to_the_device_and_find_the_same(device, name):
    case = CASES[name](small=True)
    there = moved(case.ours, device.where)
    device.log.clear()
    found, expected = there(), case.ours()
    parts = (found, expected) if not isinstance(found, tuple) else (found[0], expected[0])
    assert device.count() > 0 or name in ("one-head", "many-heads")  # it was there
    np.testing.assert_allclose(*map(result_of, parts), rtol=1e-5, atol=1e-6)


def test_what_a_function_refers_to_moves_with_it(device):
    weight, names = torch.ones(2), {"weights": [torch.zeros(3)]}

    def outer(x=weight):
        return x, inner(), outer

    def inner():
        return names["weights"][0]

    x, y, itself = moved(outer, device.where)()
    assert isinstance(x, DeviceTensor)
    assert isinstance(y, DeviceTensor)
    assert itself()[0] is x
    assert outer()[0] is weight


def test_measured_is_the_median_of_calls_that_come_after_the_first(device, monkeypatch):
    calls = []
    found = measured(lambda: calls.append(1), device.where, longest=10)
    assert (found["calls"], len(calls)) == (5, 6)
    assert (found["held_bytes"], found["peak_bytes"]) == (1000, 1000)
    assert 0 <= found["median_s"] < 0.1
    assert measured(lambda: time.sleep(0.05), CPU, longest=0.01)["calls"] == 0
    both = side_by_side({"fast": lambda: None, "slow": lambda: time.sleep(0.01)}, CPU, 1.0)
    assert both["slow"]["median_s"] > 10 * both["fast"]["median_s"]


def twin_picks(where, batch_size):
    """What each twin picks, and the package's way."""
    features, labelled = (each.to(where) for each in points(n=97, m=11))
    unit = [each.to(where) for each in unit_points(n=97, m=11)]
    logits = features[:, :3].contiguous()
    return {
        "core-set": (
            lambda: k_center_greedy(features, labelled, batch_size),
            lambda: twins.core_set_without_waiting(features, labelled, batch_size),
        ),
        "BADGE": (
            lambda: badge_select(features, logits, batch_size, seeded()),
            lambda: twins.badge_without_waiting(features, logits, batch_size, seeded()),
        ),
        "herding": (
            lambda: herding_select(*unit, batch_size, gamma=1.0),
            lambda: twins.herding_with_one_look(*unit, batch_size, gamma=1.0),
        ),
        "probcover": (
            lambda: probcover_select(*unit, batch_size, seeded(), radius=0.5),
            lambda: twins.probcover_without_waiting(*unit, batch_size, seeded(), radius=0.5),
        ),
    }


@pytest.mark.parametrize("name", ["core-set", "BADGE", "herding", "probcover"])
def test_twins_pick_as_the_package_does_and_wait_as_often_whatever_the_batch(device, name):
    waits = []
    for batch_size in (8, 60):
        expected, found = twin_picks("cpu", batch_size)[name]
        assert found().tolist() == expected().tolist()
        there = twin_picks(device.where, batch_size)[name][1]
        device.log.clear()
        picked = there()
        waits.append(device.count(WAIT))
        assert picked.tolist() == expected().tolist()
    assert waits[0] == waits[1], device.report()


def test_herding_asks_the_package_where_one_look_was_not_enough(monkeypatch):
    monkeypatch.setattr(twins, "BLOCK_BYTES", 97 * 8)  # one instance at a time
    expected, found = twin_picks("cpu", 40)["herding"]
    assert found().tolist() == expected().tolist()


def test_a_growing_pool_stops_where_time_or_memory_ends(here, device, monkeypatch):
    pool = on_device(oracle_snapshot(TINY, CPU).without_truth(), device.where)
    monkeypatch.setattr(queries, "_large_pool", lambda device: pool)
    monkeypatch.setitem(queries.GROWTH, "cpu", (100, 300, 600))
    monkeypatch.setattr(queries, "MILLION", {"cpu": TINY})
    there = dataclasses.replace(here)
    found = queries.growing("badge", there)
    assert [step["instances"] for step in found["steps"]] == [100, 300, 600]
    assert (found["largest"], found["line"]) == (600, "the whole pool")
    # As the card would: refused in one line.
    query = queries._query

    def with_little_memory(name, at, batch_size):
        if len(at.features) > 200:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return query(name, at, batch_size)

    monkeypatch.setattr(queries, "_query", with_little_memory)
    found = queries.growing("badge", there)
    assert (found["largest"], found["line"]) == (
        100, "300 instances do not fit: OutOfMemoryError: CUDA out of memory. Tried to allocate",
    )  # fmt: skip
    monkeypatch.setattr(queries, "_expected", lambda steps, count: 1e6)
    assert "300 instances would take about 1000000 s" in queries.growing("badge", there)["line"]


def test_expected_seconds_follow_the_growth():
    steps = [{"instances": 100, "median_s": 1.0}]
    assert queries._expected([], 100) == 0
    assert queries._expected(steps, 300) == pytest.approx(9.0)
    assert queries._expected([*steps, {"instances": 200, "median_s": 2.0}], 800) == pytest.approx(8.0)
    assert queries._expected([*steps, {"instances": 200, "median_s": 1.1}], 800) == pytest.approx(
        4.4
    )  # not below linear


def test_goals_are_judged_on_a_card_alone(here):
    on_card = dataclasses.replace(here, device="cuda")
    name = "BAIT-binary, ImageNet's size"
    fast = {"median_s": 14.0, "peak_bytes": 15e9}
    assert queries._judged(name, fast, here) == {"goal": "under 15 s and 16 GB", "met": None}
    assert queries._judged(name, fast, on_card)["met"] is True
    assert queries._judged(name, fast | {"peak_bytes": 17e9}, on_card)["met"] is False
    assert queries._judged("BAIT exact, Letter's size", {"median_s": 6.0, "peak_bytes": 0}, on_card)["met"] is False


def test_the_sections_hold_what_they_are_for(here):
    names = {name: [item.name for item in section.items(here)] for name, section in SECTIONS.items()}
    assert list(names) == ["what_is_there", "times", "runs", "encoding", "notebooks"]
    assert {f"case {name}" for name in CASES if not name.startswith(times.FOREIGN)} <= set(names["times"])
    assert {"REFINE, banking77's size", "BoSS, banking77's size", "SAS, banking77's size"} <= set(names["times"])
    assert {f"twin of {name}" for name in times.TWINS} <= set(names["times"])
    assert names["runs"] == ["inputs", "the same grid again"]  # without inputs
    assert all(len(set(each)) == len(each) for each in names.values())


def test_training_again_is_compared_bit_by_bit(device, here):
    found = what_is_there.repeated_training(here)
    assert found["sgd"]["same_bits"] is True
    assert found["sgd"]["largest_difference_to_cpu"] == 0
    there = what_is_there._trained(device.where, "sgd")
    assert isinstance(there.weight, DeviceTensor)
    assert there.weight.tolist() == what_is_there._trained(CPU, "sgd").weight.tolist()


def test_outcomes_of_tests_are_read_by_name(tmp_path):
    lines = [
        {"name": "a", "outcome": "passed", "line": ""},
        {"name": "b", "outcome": "failed", "line": "1 != 2"},
        {"name": "c", "outcome": "skipped", "line": "no transformers"},
    ]
    path = tmp_path / "outcomes.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), '{"name": "half']))
    found = what_is_there._summary(path, "", cut_off=True)
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["failed"] == ["b"]
    assert found["reasons"] == {"b": "1 != 2", "c": "no transformers"}
    with pytest.raises(RuntimeError, match="no test ran: ImportError: no pytest"):
        what_is_there._summary(tmp_path / "none", "...\nImportError: no pytest\n", cut_off=False)


class Linear(torch.nn.Module):
    """A model whose outputs are linear, from [n, 3] to [n, 5]."""

    def __init__(self, device):
        super().__init__()
        self.matrix = torch.arange(15.0).view(3, 5).to(device)

    def forward(self, pixel_values):
        return type("Outputs", (), {"pooler_output": pixel_values @ self.matrix})


def test_models_are_measured_in_instances_and_operations_a_second(device, here, monkeypatch):
    monkeypatch.setattr(LoadedEncoder, "precision", torch.float32)
    monkeypatch.setattr(encoding, "_ceiling", lambda device, dtype: 1000.0)
    seconds = iter([0.5, 0.25])
    monkeypatch.setattr(encoding, "fastest", lambda way, *_: (way(), next(seconds))[1])
    on_card = dataclasses.replace(here, device="cuda")
    encoder = LoadedEncoder(dict, Linear(device.where), "pooler", False, device.where)
    found = encoding._rates(encoder, {"pixel_values": torch.ones(4, 3).to(device.where)}, on_card)
    assert (found["plain_per_s"], found["ours_per_s"], found["times_faster"]) == (8, 16, 2)
    assert found["operations_each"] == 2 * 3 * 5
    assert found["ours_share_of_peak"] == pytest.approx(4 * 30 / 0.25 / 1000)
    assert found["peak_bytes"] == 1000


# --- runs


def test_every_protocol_is_a_valid_experiment_and_the_first_seed_comes_first():
    images = [{"dataset": "cifar10", "encoder": "dinov2", "initial_size": 10, "batch_size": 10}]
    whole = list(runs_of(3, "cpu", images))
    assert {each.study.seed for each in whole} == {3}
    assert {each.grid for each in whole} == {"boss", "refine", "fast_fishing", "laplace_updates"}
    assert len({each.title for each in whole}) == len(whole)
    boss = whole[0].study
    assert (boss.strategy.name, boss.protocol) == ("boss", Protocol(77, 77, 10, None))
    exact = next(each.study for each in whole if each.name == "bait_exact")
    assert (exact.learner, exact.protocol.batch_size, exact.protocol.cycles) == (Mlp(Training("radam")), 30, 20)
    smaller = list(runs_of(3, "cpu", images, scaled_down=True))
    assert len(smaller) == len(whole) - 2 * 4  # two initial sizes of the updating study less
    assert max(each.study.protocol.cycles for each in smaller if isinstance(each.study, Experiment)) == 1


def test_a_run_has_the_same_rows_on_the_device_and_lands_in_one_parquet(device, here, monkeypatch):
    study = experiment_of(strategy="badge", cycles=1, subset_size=60, device="cpu", options={"epochs": 3})
    expected = run(study)
    monkeypatch.setattr("dal_core.loop.resolve_device", lambda _: device.where)
    for seed in (0, 1):
        found = runs.one(Run("boss", "badge", dataclasses.replace(study, seed=seed)), here)
        assert (found["rows"], found["grid"]) == (2, "boss")
    table = pd.read_parquet(here.work / "tables" / runs.RUNS)
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert table["accuracy"].tolist()[:2] == expected["accuracy"].tolist()
    assert json.loads(table["acquired"][1]) == expected["acquired"][1]
    assert (here.out / tables.ARCHIVE).is_file()
    assert found["curve"]["n_labeled"] == [10, 20]


def test_the_spread_is_between_repeats_and_the_difference_to_the_cpu():
    rows = [
        ("device", 0, 0.50, "[]"), ("device", 1, 0.53, "[]"), ("device", 2, 0.50, "[1]"), ("cpu", 0, 0.50, "[]"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["where", "repeat", "accuracy", "acquired"])
    found = runs.spread_of(table.assign(method="margin", seed=0, cycle=1))
    assert found["largest_spread"] == pytest.approx(0.03)
    assert found["largest_difference_to_cpu"] == pytest.approx(0.01)
    assert (found["same_batches_each_time"], found["same_batches_as_the_cpu"]) == (0.0, 1.0)


def test_the_repeated_grid_agrees_with_itself_on_a_cpu(here, monkeypatch):
    few = [each for each in reproducibility([0], "cpu", scaled_down=True) if each.name in ("margin", "badge")]
    monkeypatch.setattr(runs, "reproducibility", lambda *_, **__: few)
    found = runs.the_same_grid_again(here)
    assert (found["largest_spread"], found["largest_difference_to_cpu"]) == (0, 0)
    assert (found["same_batches_each_time"], found["points"], found["repeats"]) == (1.0, 4, 3)


def test_repeats_that_there_was_no_time_for_leave_those_that_are_done(here, monkeypatch):
    few = [each for each in reproducibility([0], "cpu", scaled_down=True) if each.name == "margin"]
    calls = []

    def twice(*_, **__):
        calls.append(1)
        if len(calls) == 4:
            raise settings.ItemTimeoutError
        return few

    monkeypatch.setattr(runs, "reproducibility", twice)
    found = runs.the_same_grid_again(here)
    assert (found["repeats"], found["largest_spread"], found["largest_difference_to_cpu"]) == (2, 0, 0)
    assert found["line"].startswith("3 of 4 repeats")
