"""CDO: the greedy oracle equals a plain loop that trains one head at a time."""

import dataclasses
import functools
import itertools

import pytest
import torch

from dal_core import strategies, textbook
from dal_core.context import Context
from dal_core.data import FeatureData
from dal_core.models.learners import Mlp
from dal_core.models.training import Training
from dal_core.oracles.cdo import cdo
from dal_core.randomness import integer_seed
from dal_core.snapshot import Truth
from tests.samples import oracle_snapshot_of, seeded

N, M, B, K, D, N_TEST, N_VALIDATION = 29, 7, 6, 3, 5, 17, 19
EPOCHS, CANDIDATES = 4, 5
TRAINING = Training("sgd", learning_rate=0.2, weight_decay=0.01, batch_size=4, epochs=200, drop_last=True)
BRIEF = {"num_candidates": CANDIDATES, "retraining_epochs": EPOCHS}


def snapshot(**changes) -> Truth:
    return oracle_snapshot_of(N, M, K, D, N_TEST, N_VALIDATION, **{"training": TRAINING} | changes)


def bought(taken: Truth, seed: int = 0, batch_size: int = B, record: dict | None = None, **options) -> list[int]:
    context = None if record is None else Context(record=record)
    strategy = functools.partial(cdo, **(BRIEF | options))
    return strategies.query(strategy, taken, batch_size, seeded(seed), context).tolist()


def test_options_and_what_it_asks_for():
    assert strategies.needs_oracle("cdo")
    assert strategies.option_names("cdo") == ["num_candidates", "retraining_epochs", "performance_on"]


@pytest.mark.parametrize("performance_on", ["test", "validation"])
@pytest.mark.parametrize("seed", range(3))
def test_picks_and_record_are_those_of_the_plain_loop(seed, performance_on):
    taken, record = snapshot(), {}
    picked, losses, improved = textbook.cdo(taken, B, seeded(seed), performance_on=performance_on, **BRIEF)
    assert bought(taken, seed, performance_on=performance_on, record=record) == picked
    assert record["loss_before"] == pytest.approx(losses[0], abs=1e-10)
    assert record["loss_after"] == pytest.approx(losses[-1], abs=1e-10)
    assert record["improvements"] == sum(improved)
    assert set(record) == {"loss_before", "loss_after", "improvements"}


def test_improving_picks_and_those_of_the_margin_strategy_both_occur():
    taken = snapshot()
    improved = [textbook.cdo(taken, B, seeded(seed), **BRIEF)[2] for seed in range(3)]
    assert {each for row in improved for each in row} == {True, False}
    # One follows the other, both ways round: the next pick starts from the head of whatever was taken.
    assert {pair for row in improved for pair in itertools.pairwise(row)} >= {(True, False), (False, True)}


def test_where_everything_improves_no_pick_is_the_margin_strategys():
    # One class is left to learn, and everything teaches it.
    ones = torch.ones(N_TEST, D, dtype=torch.float64)
    taken = snapshot(
        features=torch.rand(N, D, generator=seeded(), dtype=torch.float64) + 0.5,
        labelled_features=torch.zeros(M, D, dtype=torch.float64),
        labels=torch.arange(M) % K,
        hidden_labels=torch.full((N,), 2),
        test=(ones, torch.full((N_TEST,), 2)),
        training=dataclasses.replace(TRAINING, batch_size=100, weight_decay=0.0),
    )
    record: dict = {}
    bought(taken, record=record)
    assert record["improvements"] == B
    assert record["loss_after"] < record["loss_before"]


def test_where_nothing_improves_all_picks_are_the_margin_strategys():
    # No epochs: the head stays what it was at the start, and so does its loss.
    taken, record = snapshot(), {}
    start = taken.learner.initial(taken.features, K, taken.draw)
    top = start.logits(taken.features).softmax(dim=1).topk(2).values
    by_margin = (top[:, 0] - top[:, 1]).argsort()
    assert bought(taken, retraining_epochs=0, record=record) == by_margin[:B].tolist()
    assert record["improvements"] == 0
    assert record["loss_before"] == record["loss_after"]


def test_where_fewer_remain_than_candidates_all_of_them_are_candidates():
    # With all that remain as candidates, the first pick is the best of the pool, whatever the generator.
    taken = snapshot()
    first = {bought(taken, seed, batch_size=1, num_candidates=1000, retraining_epochs=8)[0] for seed in range(1)}
    seed = integer_seed(seeded(0))
    losses = []
    for i in range(N):
        weight, bias = textbook.retrain(taken, [i], 8, seed)
        logits = taken.test.inputs() @ weight.T + bias
        losses.append(float(textbook.mean_loss(logits, taken.test.labels, "cross_entropy")))
    assert first == {losses.index(min(losses))}


def test_the_whole_pool_can_be_bought():
    assert sorted(bought(snapshot(), batch_size=N)) == list(range(N))


def test_a_head_with_a_hidden_layer_sees_the_inputs_alone():
    taken = snapshot(learner=Mlp(TRAINING, hidden=4))

    def with_features(value: float) -> Truth:
        features, labelled, weight = (torch.full((n, 4), value, dtype=torch.float64) for n in (N, M, K))
        return dataclasses.replace(taken, features=features, labelled_features=labelled, weight=weight)

    assert bought(with_features(0.0)) == bought(with_features(1.0)) == bought(taken)
    assert bought(taken) != bought(dataclasses.replace(taken, data=FeatureData(taken.data.features.flip(0))))


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "num_candidates is 0; a whole number of at least 1 was expected"),
        ({"retraining_epochs": -1}, "retraining_epochs is -1; a whole number of at least 0 was expected"),
        ({"performance_on": "train"}, "performance_on is 'train'; it has to be one of 'test', 'validation'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        cdo(snapshot(), B, seeded(), **options)


@pytest.mark.parametrize("batch_size", [0, N + 1])
def test_a_batch_that_the_pool_cannot_give_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size is {batch_size}; 1 to {N}"):
        cdo(snapshot(), batch_size, seeded())


@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize("nothing", [None, (torch.empty(0, D).double(), torch.empty(0).long())])
def test_a_set_that_is_not_there_is_named(name, nothing):
    found = "None" if nothing is None else "empty"
    with pytest.raises(ValueError, match=f"^snapshot.{name} is {found}; instances to judge models by were expected"):
        cdo(snapshot(**{name: nothing}), B, seeded(), performance_on=name)
