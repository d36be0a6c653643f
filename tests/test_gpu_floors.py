"""What bounds a query from below, the rates that it rests on, and the pool of ImageNet's size."""

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import rates
from benchmarks.gpu import floors, pools
from benchmarks.gpu.floors import Phase, Rates
from benchmarks.gpu.pools import SIZES, oracle_snapshot
from dal_core.models.training import ALIGNMENT
from dal_core.oracles.judging import Judgement, judge

FULL, TINY, CPU = SIZES["full"], SIZES["tiny"], torch.device("cpu")


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
    monkeypatch.setattr(pools, "ROWS", 7)
    torch.testing.assert_close(
        torch.linalg.vector_norm(oracle_snapshot(size, CPU).features, dim=1), torch.full((1000,), 96**0.5)
    )
