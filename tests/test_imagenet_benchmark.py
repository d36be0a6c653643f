"""The benchmark at ImageNet's size, at a tiny one: what it tells, and what its floors count."""

import dataclasses
import re
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import rates
from benchmarks.imagenet import __main__ as command
from benchmarks.imagenet import data, floors, queries
from benchmarks.imagenet.data import SIZES, oracle_snapshot
from benchmarks.imagenet.floors import Phase, Rates
from dal_core.models.training import ALIGNMENT
from dal_core.oracles.judging import Judgement, judge

FULL, TINY, CPU = SIZES["full"], SIZES["tiny"], torch.device("cpu")


@pytest.fixture
def quick_rates(monkeypatch):
    monkeypatch.setattr(floors, "measure", lambda device: Rates(bandwidth=2e9, throughput=5e9))


def table(text):
    """The rows below the header, by the name of the query."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header == list(command.COLUMNS)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_command_measures_in_a_process_of_its_own(monkeypatch, capsys, tmp_path, quick_rates):
    output = tmp_path / "table.md"
    arguments = ["--device", "cpu", "--size", "tiny", "--only", "bait", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["imagenet", *arguments])
    assert command.main() == 0
    text = capsys.readouterr().out
    assert output.read_text() == text
    assert "none of what follows has been run on a GPU" in text
    (row,) = table(text).values()
    assert row["size"] == "n=600, m=80, b=6, d=24, k=7, float32"
    floor = float(row["floor"].removesuffix(" s"))
    assert floor == pytest.approx(floors.seconds(floors.bait(TINY), Rates(2e9, 5e9)), rel=0.01)
    assert float(row["time / floor"]) == pytest.approx(float(row["time"].removesuffix(" s")) / floor, rel=0.02)
    assert (row["goal"], row["met"]) == ("-", "-")


def test_all_queries_are_in_the_table(monkeypatch, capsys, quick_rates):
    monkeypatch.setattr(sys, "argv", ["imagenet", "--device", "cpu", "--size", "tiny"])
    monkeypatch.setattr(
        command, "_in_a_process", lambda name, size, device: queries.measure(name, queries.size_of(name, size), device)
    )
    assert command.main() == 0
    rows = table(capsys.readouterr().out)
    assert list(rows) == list(queries.DEFAULT)
    assert rows["boss"]["size"].startswith("t=10, 2 epochs, 50 test, n=600")
    for row in rows.values():
        assert float(row["time / floor"]) > 1


@pytest.mark.parametrize(("seconds", "peak", "met"), [(14.0, 7e9, "yes"), (16.0, 7e9, "NO"), (14.0, 9e9, "NO")])
def test_the_goal_is_judged_on_cuda_at_the_full_size(monkeypatch, capsys, quick_rates, seconds, peak, met):
    monkeypatch.setattr(command, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device")
    monkeypatch.setattr(command, "_in_a_process", lambda *parts: queries.Measured(seconds, int(peak), 10**6, {}))
    monkeypatch.setattr(sys, "argv", ["imagenet", "--only", "bait"])
    assert command.main() == (met == "NO")
    text = capsys.readouterr().out
    assert "n=1,281,167, m=20,000, b=1,000" in text
    assert "GPU" not in text
    assert (table(text)["bait"]["goal"], table(text)["bait"]["met"]) == ("< 15 s, < 8 GB", met)


def test_phases_follow_each_other_and_overlap_within():
    rates = Rates(bandwidth=10.0, throughput=100.0)
    assert Phase(20.0, 100.0).seconds(rates) == 2.0
    assert Phase(20.0, 300.0).seconds(rates) == 3.0
    assert floors.seconds([Phase(20.0, 100.0), Phase(20.0, 300.0)], rates) == 5.0


def test_floor_of_bait():
    set_up, forward = floors.bait(FULL)
    assert forward.size == 2000 * 1_281_167 * 384 * 4
    assert set_up.size == 1_281_167 * (384 + 1000) * 4
    assert set_up.operations == 3 * 2 * 1_281_167 * 384 * 384
    assert floors.bait(dataclasses.replace(FULL, num_pool=1500))[1].size == 1500 * 1500 * 384 * 4  # no more steps


def test_floor_of_boss_counts_the_products_of_training_and_judging():
    candidates = torch.arange(3 * 6).view(3, 6)
    size = dataclasses.replace(TINY, num_candidates=len(candidates), batch_size=6)
    counter = FlopCounterMode(display=False)
    with counter:
        judge(
            oracle_snapshot(size, CPU), candidates, Judgement(retraining_epochs=size.retraining_epochs),
            torch.Generator().manual_seed(0),
        )  # fmt: skip
    made = 2 * size.num_classes * size.num_features * (size.num_pool + size.num_labelled)  # the snapshot's logits
    made += 2 * 32 * size.num_features * size.num_classes + 2 * size.num_features**2 * 730  # centres, features
    training, judging = (phase.operations for phase in floors.boss(size))
    width = -(-(size.num_features + 1) // ALIGNMENT) * ALIGNMENT  # with the bias's column
    assert training == 4 * 3 * 2 * 64 * 7 * 24  # 86 labelled: one minibatch of 64 an epoch, the rest is dropped
    assert counter.get_total_flops() == training * width / size.num_features + judging + made


def test_floor_of_refine_follows_its_rounds():
    temperature, *phases = floors.refine(FULL, [10_000, 9000, 2000, 1500, 1200])
    assert temperature.operations == 4 * 200 * 16_000 * 1000 * 384
    assert len(phases) == 5 * 99 + 1
    margins = [phase.size / (4 * 1000) for phase in phases[2 - 1 : -1 : 9]]
    assert margins == [5000] * 11 + [4000] * 11 + [3600] * 11 + [1000] * 22
    assert phases[-1] == floors.query("unc_herding", 1200, FULL)
    assert floors.query("bait", 5000, FULL).size == 4 * (5000 * 1000 + 2000 * 5000 * 384)
    assert floors.query("max_herding", 5000, FULL).operations == 2 * 5000 * 5000 * 384


def test_measured_rates_leave_the_precision_alone(monkeypatch):
    monkeypatch.setattr(rates, "BUFFER_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(rates, "SIDE", {"cpu": 64})
    before = torch.get_float32_matmul_precision()
    measured = rates.measure(CPU)
    assert measured.bandwidth > 0
    assert measured.throughput > 0
    assert measured.with_tf32 is None
    assert torch.get_float32_matmul_precision() == before


def test_data_are_structured_and_the_head_is_unsure(monkeypatch):
    size = dataclasses.replace(TINY, num_pool=1000, num_classes=50, num_features=96)
    at = oracle_snapshot(size, CPU)
    assert torch.equal(at.logits, oracle_snapshot(size, CPU).logits)
    torch.testing.assert_close(torch.linalg.vector_norm(at.features, dim=1), torch.full((1000,), 96**0.5))
    assert 0.2 < at.probabilities.amax(dim=1).median() < 0.95
    assert (at.logits.argmax(dim=1) == at.hidden_labels).float().mean() > 0.5
    spectrum = torch.linalg.eigvalsh(at.features.T.cov())
    assert spectrum[-32:].sum() / spectrum.sum() > 0.55  # 0.46 of so many draws without structure
    monkeypatch.setattr(data, "ROWS", 7)
    torch.testing.assert_close(
        torch.linalg.vector_norm(oracle_snapshot(size, CPU).features, dim=1), torch.full((1000,), 96**0.5)
    )


def test_the_memory_query_has_the_full_pool():
    assert queries.size_of("bait-memory", "small") == dataclasses.replace(FULL, batch_size=20)
    assert re.match(r"n=1,281,167, .* b=20,", queries.words_of("bait-memory", queries.size_of("bait-memory", "small")))
