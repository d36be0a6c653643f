"""Bookkeeping of what is labelled, and the snapshot."""

import dataclasses

import pytest
import torch

from dal_core.models.heads import Head
from dal_core.models.training import Training
from dal_core.snapshot import LabelledSet, OracleSnapshot, Pool, Snapshot, long_tailed


def test_start_labels_distinct_instances_and_leaves_the_rest_ascending(generator):
    pool = Pool.start(11, 4, generator)
    assert len(pool.labelled) == 4
    assert pool.unlabelled.tolist() == sorted(set(range(11)) - set(pool.labelled.tolist()))


def test_start_draws_from_the_generator_alone():
    starts = [Pool.start(100, 10, torch.Generator().manual_seed(seed)).labelled.tolist() for seed in (0, 0, 1)]
    assert starts[0] == starts[1]
    assert starts[0] != starts[2]


def test_everything_can_be_labelled_at_once(generator):
    pool = Pool.start(11, 11, generator)
    assert sorted(pool.labelled.tolist()) == list(range(11))
    assert len(pool.unlabelled) == 0


@pytest.mark.parametrize("size", [0, -1, 12])
def test_start_refuses_an_initial_size_that_does_not_fit(generator, size):
    with pytest.raises(ValueError, match=rf"initial_size is {size}; 1 to 11, the size of the pool, was expected"):
        Pool.start(11, size, generator)


def test_among_labels_and_leaves_only_what_it_is_given(generator):
    given = torch.tensor([3, 8, 20, 21, 40])
    pool = Pool.among(given, 2, generator)
    assert sorted(pool.labelled.tolist() + pool.unlabelled.tolist()) == given.tolist()
    assert len(pool.labelled) == 2
    assert pool.unlabelled.tolist() == sorted(pool.unlabelled.tolist())


def test_a_long_tail_thins_classes_by_factors_up_to_the_imbalance(generator):
    labels = torch.arange(5).repeat(160)[torch.randperm(800, generator=generator)]
    kept = long_tailed(labels, 16, generator)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert sorted(torch.bincount(labels[kept]).tolist()) == [10, 20, 40, 80, 160]
    assert len(long_tailed(labels, 1, generator)) == 800


def test_a_long_tail_keeps_one_of_each_class_and_draws_classes_and_instances():
    labels = torch.arange(4).repeat(3)
    drawn = [long_tailed(labels, 100, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(sorted(torch.bincount(labels[kept]).tolist()) == [1, 1, 1, 3] for kept in drawn)
    assert {int(torch.bincount(labels[kept]).argmax()) for kept in drawn} == {0, 1, 2, 3}
    assert len({tuple(kept.tolist()) for kept in drawn}) > 10
    assert long_tailed(labels, 100, torch.Generator().manual_seed(3)).tolist() == drawn[3].tolist()


@pytest.mark.parametrize("imbalance", [0.5, 0, float("inf"), float("nan")])
def test_an_imbalance_below_1_is_refused(imbalance, generator, unchecked):
    with pytest.raises(ValueError, match=r"^imbalance is .*; a finite number of at least 1 was expected"):
        long_tailed(torch.arange(3), imbalance, generator)


def test_buy_appends_in_order_and_leaves_the_old_pool_alone():
    pool = Pool(torch.tensor([9, 2]), torch.tensor([0, 1, 3, 4, 5]))
    bought = pool.buy(torch.tensor([5, 0, 4]))
    assert bought.labelled.tolist() == [9, 2, 5, 0, 4]
    assert bought.unlabelled.tolist() == [1, 3]
    assert pool.labelled.tolist() == [9, 2]
    assert pool.unlabelled.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([1, 9, 2], r"instances holds \[9, 2\]; only unlabelled instances can be bought"),
        ([1, 99], r"instances holds \[99\]; only unlabelled"),
        ([1, 3, 1], "instances holds 3 entries, but only 2 distinct ones"),
    ],
)
def test_buy_refuses_labelled_unknown_and_repeated_instances(instances, message):
    pool = Pool(torch.tensor([9, 2]), torch.tensor([0, 1, 3, 4, 5]))
    with pytest.raises(ValueError, match=message):
        pool.buy(torch.tensor(instances))


def test_subset_is_ascending_distinct_and_unlabelled(generator):
    pool = Pool.start(50, 9, generator)
    subset = pool.subset(13, generator).tolist()
    assert len(subset) == 13
    assert subset == sorted(set(subset))
    assert set(subset) <= set(pool.unlabelled.tolist())
    assert subset != pool.subset(13, generator).tolist()  # drawn anew


def test_subset_draws_every_instance_with_the_same_probability(generator):
    pool = Pool(torch.tensor([0]), torch.arange(1, 6))
    drawn = torch.cat([pool.subset(2, generator) for _ in range(3000)])
    shares = torch.bincount(drawn, minlength=6)[1:] / 3000
    torch.testing.assert_close(shares, torch.full((5,), 0.4), atol=0.04, rtol=0)  # 4 deviations are 0.036


@pytest.mark.parametrize("size", [None, 5, 6, 1000])
def test_subset_is_everything_when_there_is_no_more(generator, size):
    pool = Pool(torch.tensor([2]), torch.tensor([0, 1, 3, 4, 5]))
    assert pool.subset(size, generator).tolist() == [0, 1, 3, 4, 5]


def snapshot(**changes) -> Snapshot:
    draw = torch.Generator().manual_seed(0)
    features, labelled = torch.randn(11, 5, generator=draw), torch.randn(4, 5, generator=draw)
    weight, bias = torch.randn(3, 5, generator=draw), torch.randn(3, generator=draw)
    values = {
        "features": features,
        "logits": features @ weight.mT + bias,
        "labelled_features": labelled,
        "labelled_logits": labelled @ weight.mT + bias,
        "labels": torch.tensor([0, 1, 2, 0]),
        "weight": weight,
        "bias": bias,
    }
    return Snapshot(**(values | changes))


def test_snapshot_probabilities_are_the_softmax_over_classes_computed_once():
    taken = snapshot()
    exponentials = taken.logits.exp()
    torch.testing.assert_close(taken.probabilities, exponentials / exponentials.sum(dim=1, keepdim=True))
    assert taken.probabilities is taken.probabilities
    assert taken.num_classes == 3


def test_snapshot_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot().logits = torch.zeros(11, 3)


def test_ground_truth_is_in_the_oracle_snapshot_alone():
    plain = {field.name for field in dataclasses.fields(Snapshot)}
    oracle = {field.name for field in dataclasses.fields(OracleSnapshot)}
    tensors = {"features", "logits", "labelled_features", "labelled_logits", "labels", "weight", "bias"}
    assert plain == tensors | {"training", "initial", "inputs", "labelled_inputs", "cycle", "instances"}
    assert oracle - plain == {"hidden_labels", "test", "validation"}
    assert not hasattr(snapshot(), "hidden_labels")


def oracle_snapshot(*, hidden_layer: bool = False, **changes) -> OracleSnapshot:
    """With what a head of 7 hidden units takes, or a linear one."""
    draw = torch.Generator().manual_seed(1)
    plain = snapshot(training=Training("radam"))
    values = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    values |= {"hidden_labels": torch.arange(11) % 3}
    inputs = torch.randn(6, 2, generator=draw)
    values["test"] = LabelledSet(
        torch.randn(6, 5, generator=draw), torch.arange(6) % 3, inputs if hidden_layer else None
    )
    if hidden_layer:
        hidden = {"hidden_weight": torch.randn(5, 2, generator=draw), "hidden_bias": torch.randn(5, generator=draw)}
        values |= {"initial": Head(plain.weight, None, **hidden)}
        values |= {"inputs": torch.randn(11, 2, generator=draw), "labelled_inputs": torch.randn(4, 2, generator=draw)}
    return OracleSnapshot(**(values | changes))


def test_a_part_of_a_snapshot_has_the_rows_of_its_positions_and_nothing_else_changed():
    taken, positions = oracle_snapshot(hidden_layer=True), torch.tensor([7, 0, 9])
    part = taken.at(positions)
    assert type(part) is OracleSnapshot
    of_pool = {"features", "logits", "inputs", "hidden_labels"}
    for field in dataclasses.fields(taken):
        whole, found = getattr(taken, field.name), getattr(part, field.name)
        if field.name in of_pool:
            assert torch.equal(found, whole[positions]), field.name
        else:
            assert found is whole, field.name


def test_probabilities_of_a_part_are_its_own():
    taken, positions = snapshot(), torch.tensor([7, 0, 9])
    whole = taken.probabilities  # kept by the snapshot from now on
    assert type(taken.at(positions)) is Snapshot
    torch.testing.assert_close(taken.at(positions).probabilities, whole[positions], atol=0, rtol=0)


def test_without_truth_an_oracle_snapshot_is_a_plain_one():
    taken = oracle_snapshot(hidden_layer=True)
    plain = taken.without_truth()
    assert type(plain) is Snapshot
    for field in dataclasses.fields(Snapshot):
        assert getattr(plain, field.name) is getattr(taken, field.name), field.name
    assert not {"hidden_labels", "test", "validation"} & set(vars(plain))


def test_a_head_with_a_hidden_layer_needs_its_inputs():
    taken = oracle_snapshot(hidden_layer=True)
    for name in ("inputs", "labelled_inputs"):
        with pytest.raises(ValueError, match="inputs or labelled_inputs is None; initial has a hidden layer, which ta"):
            dataclasses.replace(taken, **{name: None})


@pytest.mark.parametrize("name", ["test", "validation"])
def test_a_head_with_a_hidden_layer_needs_the_inputs_of_labelled_sets_too(name):
    features, labels = torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"^{name}.inputs is None; initial has a hidden layer, which takes them"):
        oracle_snapshot(hidden_layer=True, **{name: LabelledSet(features, labels)})
    with pytest.raises(ValueError, match=rf"^{name}.inputs has shape \(6, 3\); \(6, 2\) was expected"):
        oracle_snapshot(hidden_layer=True, **{name: LabelledSet(features, labels, torch.zeros(6, 3))})


def labelled_set(d: int = 5, highest: int = 2, dtype: torch.dtype = torch.float32) -> LabelledSet:
    return LabelledSet(torch.zeros(6, d, dtype=dtype), torch.full((6,), highest))


@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (labelled_set(d=4), r"features has shape \(6, 4\); \(any, 5\) was expected"),
        (labelled_set(highest=3), "labels holds labels from 3 to 3; 0 to 2 was expected"),
        (labelled_set(dtype=torch.float64), "features has dtype torch.float64, but features has torch.float32"),
        (LabelledSet(torch.full((1, 5), torch.nan), torch.zeros(1).long()), "features holds 5 values that are NaN"),
    ],
)
def test_a_labelled_set_that_does_not_fit_is_refused(name, broken, message):
    with pytest.raises(ValueError, match=rf"^{name}\.{message}"):
        oracle_snapshot(**{name: broken})


def test_instances_left_out_of_a_pool_cannot_be_bought():
    pool = Pool(torch.tensor([9, 2]), torch.tensor([0, 1, 3, 4, 5]))
    smaller = pool.without(torch.tensor([4, 0]))
    assert smaller.labelled.tolist() == [9, 2]
    assert smaller.unlabelled.tolist() == [1, 3, 5]
    assert pool.unlabelled.tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(ValueError, match=r"instances holds \[4\]; only unlabelled instances can be bought"):
        smaller.buy(torch.tensor([3, 4]))
