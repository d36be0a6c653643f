"""What holds for every strategy in the registry."""

import dataclasses

import pytest
import torch

from dal_core import strategies
from dal_core.experiment import Experiment, run
from dal_core.pool import Snapshot

ORDINARY = strategies.names(oracle=False)
SIZES = {"n": 37, "m": 6, "k": 3, "d": 5}
KINDS = ["usual", "identical", "one-hot", "one class", "one feature", "duplicates of labelled"]


def snapshot_of(kind="usual", dtype=torch.float64):
    n, m, k, d = SIZES.values()
    d = 1 if kind == "one feature" else d
    generator = torch.Generator().manual_seed(5)
    features, labelled, weight = (
        torch.randn(size, d, generator=generator, dtype=torch.float64).to(dtype) for size in (n, m, k)
    )
    labels = torch.arange(m) % k
    if kind == "identical":
        features = features[:1].repeat(n, 1)
    if kind == "duplicates of labelled":
        features = labelled.repeat(n // m + 1, 1)[:n].clone()
    if kind == "one class":
        labels = torch.ones(m, dtype=torch.int64)
    if kind == "one-hot":
        weight = weight * 1e6
    return Snapshot(features, features @ weight.T, labelled, labelled @ weight.T, labels, weight, None)


def pick(name, snapshot, batch_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return strategies.query(strategies.get(name), snapshot, batch_size, generator).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ORDINARY)
def test_picks_are_distinct_and_in_range_whatever_the_pool(name, kind, dtype):
    for batch_size in (1, 7, SIZES["n"]):
        picked = pick(name, snapshot_of(kind, dtype), batch_size)
        assert len(set(picked)) == batch_size
        assert set(picked) <= set(range(SIZES["n"]))


@pytest.mark.parametrize("name", ORDINARY)
def test_the_same_generator_gives_the_same_batch(name):
    assert pick(name, snapshot_of()) == pick(name, snapshot_of())


@pytest.mark.parametrize("name", ORDINARY)
def test_the_global_random_state_does_not_matter_and_is_left_alone(name):
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), pick(name, snapshot_of())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert pick(name, snapshot_of()) == first


@pytest.mark.parametrize("name", ORDINARY)
def test_inputs_are_left_alone(name):
    snapshot = snapshot_of()
    before = {field.name: getattr(snapshot, field.name) for field in dataclasses.fields(snapshot)}
    copies = {key: value.clone() for key, value in before.items() if value is not None}
    pick(name, snapshot)
    for key, copy in copies.items():
        assert torch.equal(getattr(snapshot, key), copy), key


@pytest.mark.parametrize("name", ORDINARY)
def test_float32_picks_as_float64_does(name):
    assert pick(name, snapshot_of(dtype=torch.float32)) == pick(name, snapshot_of(dtype=torch.float64))


@pytest.mark.parametrize("name", ORDINARY)
def test_true_labels_are_out_of_reach(name, monkeypatch):
    """A strategy gets no labels but those that were bought, and no type that could hold others."""
    seen = []
    original = strategies.query

    def spying(strategy, snapshot, batch_size, generator):
        seen.append(snapshot)
        return original(strategy, snapshot, batch_size, generator)

    monkeypatch.setattr(strategies, "query", spying)
    run(Experiment(strategy=name, cycles=1, subset_size=30, device="cpu", options={"epochs": 2}))
    (snapshot,) = seen
    assert type(snapshot) is Snapshot
    sizes = {field.name: getattr(snapshot, field.name).shape[0] for field in dataclasses.fields(snapshot)}
    assert sizes["labels"] == 10  # those bought at the start, and no others
    whole = [name for name in ("features", "logits") if sizes[name] == 30]
    assert whole == ["features", "logits"]
    integers = [f.name for f in dataclasses.fields(snapshot) if not getattr(snapshot, f.name).is_floating_point()]
    assert integers == ["labels"]


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("batch_size", [0, 38])
def test_a_batch_that_the_pool_cannot_give_is_refused(name, batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; 1 to 37"):
        pick(name, snapshot_of(), batch_size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ORDINARY)
def test_cuda_picks_as_the_cpu_does(name):
    snapshot = snapshot_of()
    moved = {f.name: getattr(snapshot, f.name) for f in dataclasses.fields(snapshot)}
    on_gpu = Snapshot(**{key: None if value is None else value.cuda() for key, value in moved.items()})
    assert pick(name, on_gpu) == pick(name, snapshot)
