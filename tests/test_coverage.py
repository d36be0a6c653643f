import pytest
import torch

from dal_core.strategies import coverage
from dal_core.strategies.coverage import k_center_greedy


def textbook(unlabelled, labelled, batch_size):
    """Every distance anew in every step."""
    centres, picked = list(labelled), []
    for _ in range(batch_size):
        nearest = [
            -1.0 if i in picked else min(float((x - c).norm()) for c in centres) for i, x in enumerate(unlabelled)
        ]
        picked.append(nearest.index(max(nearest)))
        centres.append(unlabelled[picked[-1]])
    return picked


def points(n=23, m=4, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(m, d, generator=generator, dtype=dtype)


@pytest.mark.parametrize("seed", range(3))
def test_picks_are_those_of_the_textbook_loop(seed):
    unlabelled, labelled = points(seed=seed)
    assert k_center_greedy(unlabelled, labelled, 9).tolist() == textbook(unlabelled, labelled, 9)


def test_golden(golden):
    picked = k_center_greedy(golden["x_unlabeled"], golden["x_labeled"], 10)
    assert picked.tolist() == golden["coreset_selected"].tolist()


def test_block_size_makes_no_difference(monkeypatch):
    unlabelled, labelled = points()
    whole = k_center_greedy(unlabelled, labelled, 9)
    monkeypatch.setattr(coverage, "BLOCK_BYTES", 100)
    assert k_center_greedy(unlabelled, labelled, 9).tolist() == whole.tolist()


def test_permuting_the_pool_permutes_the_picks():
    unlabelled, labelled = points()
    order = torch.randperm(len(unlabelled), generator=torch.Generator().manual_seed(3))
    picked = k_center_greedy(unlabelled[order], labelled, 9)
    assert order[picked].tolist() == k_center_greedy(unlabelled, labelled, 9).tolist()


def test_small_distances_far_from_the_origin_count_in_float32():
    line = torch.tensor([[1000.0, 0.0], [1000.01, 0.0], [1000.04, 0.0], [1000.02, 0.0]])
    assert k_center_greedy(line, line[:1], 3).tolist() == [2, 3, 1]


def test_duplicates_of_labelled_instances_come_last():
    unlabelled, labelled = points()
    unlabelled[:3] = labelled[:3]
    assert sorted(k_center_greedy(unlabelled, labelled, 23)[-3:].tolist()) == [0, 1, 2]


def test_identical_instances_are_picked_in_order():
    same = torch.ones(7, 3)
    assert k_center_greedy(same, same[:2], 7).tolist() == list(range(7))


def test_faults_name_the_argument():
    unlabelled, labelled = points()
    with pytest.raises(ValueError, match="features_l is empty; k_center_greedy needs at least one labelled instance"):
        k_center_greedy(unlabelled, labelled[:0], 3)
    with pytest.raises(ValueError, match="batch_size is 24; 1 to 23"):
        k_center_greedy(unlabelled, labelled, 24)
    with pytest.raises(ValueError, match="features_l has dtype"):
        k_center_greedy(unlabelled, labelled.float(), 3)
    labelled[1, 0] = torch.inf
    with pytest.raises(ValueError, match=r"features_l holds 1 values that are NaN or infinite, the first at \(1, 0\)"):
        k_center_greedy(unlabelled, labelled, 3)
