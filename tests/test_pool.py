"""Bookkeeping of what is labelled, and which instances a pool has."""

import pytest
import torch

from dal_core.pool import Pool, long_tailed


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


def test_instances_left_out_of_a_pool_cannot_be_bought():
    pool = Pool(torch.tensor([9, 2]), torch.tensor([0, 1, 3, 4, 5]))
    smaller = pool.without(torch.tensor([4, 0]))
    assert smaller.labelled.tolist() == [9, 2]
    assert smaller.unlabelled.tolist() == [1, 3, 5]
    assert pool.unlabelled.tolist() == [0, 1, 3, 4, 5]
    with pytest.raises(ValueError, match=r"instances holds \[4\]; only unlabelled instances can be bought"):
        smaller.buy(torch.tensor([3, 4]))
