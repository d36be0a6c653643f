"""Walking through a run: what its strategy was asked, saw and picked."""

import itertools
import json

import pandas as pd
import pytest
import torch

from dal_core.parallel import fixed_threads
from dal_core.randomness import generator_for
from dal_core.strategies import registry
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run, walk
from dal_lab.sources import catalogue

ONE_BY_ONE = {"update_every": 1, "update_gamma": 5.0}
RUNS = [
    ("random", {}), ("margin", {}), ("badge", {}), ("coreset", {}), ("typiclust", {}), ("bait", {}),
    ("bait", {"approximation": "exact"}), ("bait", {"approximation": "diagonal"}), ("unc_herding", {}),
    ("margin", ONE_BY_ONE), ("badge", ONE_BY_ONE), ("bait", ONE_BY_ONE), ("margin", {"update_every": 2}),
    ("boss", {"num_candidates": 4, "retraining_epochs": 3}), ("refine", {"num_batches": 9, "depth": 2}),
    ("tcm", {}), ("tailor", {}),
]  # fmt: skip


def experiment(strategy="margin", options=None, **changes):
    settings = {"dataset": "blobs", "head": "mlp", "optimiser": "radam", "device": "cpu", "initial_size": 5,
                "batch_size": 4, "cycles": 3, "subset_size": 60, "seed": 2}  # fmt: skip
    allowed = registry.needs_oracle(strategy)
    options = {"epochs": 7} | (options or {})
    return experiment_of(strategy=strategy, allow_oracle=allowed, options=options, **settings | changes)


@pytest.mark.parametrize(("strategy", "options"), RUNS)
@pytest.mark.parametrize("subset_size", [60, None])
def test_a_walk_picks_what_the_run_acquires(strategy, options, subset_size):
    asked = experiment(strategy, options, subset_size=subset_size, cycles=1 if strategy == "refine" else 3)
    rows, steps = run(asked), walk(asked)
    for cycle, acquired in enumerate(rows["acquired"].iloc[1:]):
        assert torch.cat([step.instances for step in steps if step.context.cycle == cycle]).tolist() == acquired
    assert len(steps) == (1 if strategy == "refine" else 3) * (4 // options.get("update_every", 4))


@pytest.mark.parametrize("strategy", ["margin", "refine"])
def test_watching_changes_nothing(strategy):
    asked = experiment(strategy, {"num_batches": 9, "depth": 1} if strategy == "refine" else {})
    times = ["query_s", "train_s"]
    before = run(asked).drop(columns=times)
    walk(asked)
    pd.testing.assert_frame_equal(run(asked).drop(columns=times), before)


@pytest.mark.parametrize("options", [{}, ONE_BY_ONE, {"update_every": 3}])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_step_holds_what_the_strategy_saw(options, head):
    asked, bank = experiment("badge", options, head=head), catalogue.load("blobs")
    for step in walk(asked):
        seen = step.snapshot
        assert not torch.isin(seen.instances, seen.labelled).any()
        assert seen.instances[step.picked].equal(step.instances)
        torch.testing.assert_close(seen.features, step.head.embed(bank.train_features[seen.instances]))
        torch.testing.assert_close(seen.labelled_features, step.head.embed(bank.train_features[seen.labelled]))
        torch.testing.assert_close(seen.logits, step.head.logits(bank.train_features[seen.instances]))
        assert seen.labels.equal(bank.train_labels[seen.labelled])


def test_the_head_learns_within_a_batch_when_it_is_updated():
    steps = walk(experiment("margin", ONE_BY_ONE, cycles=1))
    assert [len(step.snapshot.labelled) for step in steps] == [5, 6, 7, 8]
    assert [len(step.snapshot.instances) for step in steps] == [60, 59, 58, 57]
    for earlier, later in itertools.pairwise(steps):
        assert later.snapshot.labelled[-1:].equal(earlier.instances)
        assert not later.head.weight.equal(earlier.head.weight)
        assert later.head.hidden_weight.equal(earlier.head.hidden_weight)


@pytest.mark.parametrize("strategy", ["random", "badge", "typiclust", "boss"])
def test_asked_again_with_what_it_drew_from_a_strategy_picks_the_same(strategy):
    asked = experiment(strategy, {"num_candidates": 4, "retraining_epochs": 3} if strategy == "boss" else {})
    with fixed_threads():
        for step in walk(asked):
            generator = generator_for(asked.seed, "strategy", step.context.cycle)
            assert registry.query(asked.strategy.function, step.snapshot, 4, generator).equal(step.picked)


def test_each_step_keeps_the_record_of_its_own_cycle():
    asked = experiment("boss", {"num_candidates": 4, "retraining_epochs": 3})
    told = [step.context.record for step in walk(asked)]
    assert [json.loads(record)["losses"] for record in run(asked)["record"].iloc[1:]] == (
        [each["losses"] for each in told]
    )
    assert len({id(each) for each in told}) == 3


def test_a_strategy_of_ones_own_is_walked_through():
    @registry.register("first_ones")
    def first_ones(snapshot, batch_size, generator):
        return torch.arange(batch_size)

    try:
        steps = walk(experiment("first_ones"))
    finally:
        registry.forget_own()
    assert all(step.instances.equal(step.snapshot.instances[:4]) for step in steps)
