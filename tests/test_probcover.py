import pytest
import torch
from samples import seeded, snapshot_of, unit_points, work_in_blocks

from dal_core import strategies, textbook
from dal_core.strategies import probcover
from dal_core.strategies.probcover import probcover_select, pure_radius
from dal_core.strategies.shared.clustering import k_means


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("radius", [0.5, 0.7, 1.0])
def test_probcover_picks_are_those_of_the_textbook_loop(radius, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, probcover, block_bytes)
    unlabelled, labelled = unit_points()
    expected = textbook.probcover_select(unlabelled, labelled, 23, radius=radius).tolist()
    assert 0 < len(expected) < 23
    picked = probcover_select(unlabelled, labelled, len(expected), seeded(), radius=radius)
    assert picked.tolist() == expected


def test_probcover_draws_what_is_left_where_all_is_covered():
    unlabelled, labelled = unit_points()
    picks = [probcover_select(unlabelled, labelled, 5, seeded(seed), radius=2.0).tolist() for seed in range(3)]
    assert all(len(set(batch)) == 5 for batch in picks)
    assert picks[0] != picks[1] != picks[2]
    whole = probcover_select(unlabelled, labelled, 23, seeded(), radius=0.6)
    expected = textbook.probcover_select(unlabelled, labelled, 23, radius=0.6).tolist()
    assert whole[: len(expected)].tolist() == expected
    assert sorted(whole.tolist()) == list(range(23))


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("purity", [0.5, 0.8, 0.95, 1.0])
def test_pure_radius_is_the_largest_that_leaves_enough_balls_pure(purity, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, probcover, block_bytes)
    features, assignment = unit_points()[0], torch.arange(23) % 3
    distances = torch.cdist(features, features)

    def share_of_pure_balls(radius):
        pure = (distances >= radius) | (assignment.unsqueeze(1) == assignment)
        return float(pure.all(dim=1).double().mean())

    largest = max(radius for radius in distances.flatten().tolist() if share_of_pure_balls(radius) >= purity)
    assert share_of_pure_balls(pure_radius(features, assignment, purity)) >= purity
    assert pure_radius(features, assignment, purity) == pytest.approx(largest, rel=2e-4)


def test_pure_radius_of_one_cluster_reaches_everything():
    assert pure_radius(unit_points()[0], torch.zeros(23, dtype=torch.int64), 0.95) == pytest.approx(2, rel=1e-3)


def test_probcover_chooses_its_radius_by_the_clusters():
    taken = snapshot_of()
    unlabelled, labelled = (torch.nn.functional.normalize(x, dim=1) for x in (taken.features, taken.labelled_features))
    generator = seeded()
    radius = pure_radius(unlabelled, k_means(unlabelled, 3, generator), 0.8)
    expected = probcover_select(unlabelled, labelled, 9, generator, radius=radius)
    assert strategies.get("probcover", {"purity": 0.8})(taken, 9, seeded()).tolist() == expected.tolist()
