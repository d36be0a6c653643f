import pytest
import torch
from samples import points, seeded

from dal_core import textbook
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.typiclust import typiclust_select


@pytest.mark.parametrize("limits", [(500, 5), (500, 1), (4, 5), (9, 30)])
@pytest.mark.parametrize("batch_size", [3, 17, 61])
def test_typiclust_picks_are_those_of_the_textbook_loop(batch_size, limits):
    unlabelled, labelled = points(n=61, m=8)
    max_clusters, smallest = limits
    clusters = k_means(torch.cat((unlabelled, labelled)), min(8 + batch_size, max_clusters), seeded())
    expected = textbook.typiclust_select(unlabelled, clusters, batch_size, min_cluster_size=smallest)
    options = {"max_clusters": max_clusters, "min_cluster_size": smallest}
    assert typiclust_select(unlabelled, labelled, batch_size, seeded(), **options).tolist() == expected.tolist()


def groups(*sizes):
    """Tight groups of these sizes, far from each other, and the first position of each."""
    centres = 100 * torch.eye(len(sizes), dtype=torch.float64)
    spread = 0.01 * torch.randn(sum(sizes), len(sizes), generator=seeded(), dtype=torch.float64)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return centres[group] + spread, group


def test_typiclust_asks_the_largest_clusters_without_labels_first():
    features, group = groups(7, 12, 30, 9, 20)
    picked = typiclust_select(features, features[19:21], 3, seeded())  # two labels in the largest group
    assert group[picked].tolist() == [4, 1, 3]


def test_typiclust_passes_small_clusters_over_until_the_others_are_empty():
    features, group = groups(4, 6, 5, 3)
    picked = typiclust_select(features, features[:0], 18, seeded(), max_clusters=4)
    assert group[picked].tolist() == [1, 2] * 5 + [1] + [0, 3] * 3 + [0]


def test_typiclust_takes_the_middle_of_a_cluster():
    features, group = groups(30, 30)
    for position in typiclust_select(features, features[:0], 2, seeded()).tolist():
        members = features[group == group[position]]
        distances = (features[position] - members).norm(dim=1).sort().values[1:16]
        assert all((x - members).norm(dim=1).sort().values[1:16].mean() >= distances.mean() for x in members)


def test_typiclust_faults_name_the_argument():
    unlabelled, labelled = points()
    with pytest.raises(ValueError, match="batch_size is 24; 1 to 23"):
        typiclust_select(unlabelled, labelled, 24, seeded())
    with pytest.raises(ValueError, match="min_cluster_size is 0; a whole number of at least 1 was expected"):
        typiclust_select(unlabelled, labelled, 3, seeded(), min_cluster_size=0)
    with pytest.raises(ValueError, match="features_l has dtype"):
        typiclust_select(unlabelled, labelled.float(), 3, seeded())
