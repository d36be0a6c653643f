import warnings

import pytest
import torch
from samples import work_in_blocks
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from dal_core import textbook
from dal_core.parallel import using_workers
from dal_core.strategies.shared import clustering
from dal_core.strategies.shared.clustering import (
    first_of_smallest,
    k_means,
    most_typical,
    nearest_to_means,
    typicality,
)

N, C, D = 211, 7, 5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=N, d=D, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64).to(dtype)


def blobs(offset=0.0, dtype=torch.float32):
    """Four groups far from each other, and which group a point is of."""
    group = torch.arange(90) % 4
    return (points(90, 3) + offset + 100 * torch.eye(4, 3)[group]).to(dtype), group


# --- k-means


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("offset", "dtype"), [(0, torch.float32), (1e5, torch.float32), (1e7, torch.float64)])
def test_groups_far_from_each_other_are_found(seed, offset, dtype):
    features, group = blobs(offset, dtype)
    assignment = k_means(features, 4, seeded(seed))
    assert sorted(assignment.unique().tolist()) == [0, 1, 2, 3]
    assert len({(int(a), int(g)) for a, g in zip(assignment, group, strict=True)}) == 4


def test_every_instance_is_nearest_to_the_mean_of_its_own_cluster():
    features = points()
    assignment = k_means(features, C, seeded())
    means = torch.stack([features[assignment == cluster].mean(dim=0) for cluster in range(C)])
    assert torch.equal(torch.cdist(features, means).argmin(dim=1), assignment)


def test_clusters_are_those_of_scikit_learn_from_the_same_seeds():
    centred = (points() - points().mean(dim=0)).float()
    seeds = clustering._seeds(centred, C, seeded(3))
    expected = KMeans(C, init=centred[seeds].numpy(), n_init=1, tol=0).fit_predict(centred.numpy())
    assert k_means(points(), C, seeded(3)).tolist() == expected.tolist()


def test_lloyd_stops_after_as_many_steps(monkeypatch):
    monkeypatch.setattr(clustering, "ITERATIONS", 2)
    centred = (points() - points().mean(dim=0)).float()
    expected = textbook.lloyd(centred, centred[clustering._seeds(centred, C, seeded())], 2)
    assert k_means(points(), C, seeded()).tolist() == expected.tolist()
    assert expected.tolist() != textbook.lloyd(centred, centred[clustering._seeds(centred, C, seeded())], 3).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_seeds_are_those_of_the_textbook_loop(seed):
    features = points(41, dtype=torch.float32)
    expected = textbook.k_means_seeds(features.double(), 9, seeded(seed))
    assert clustering._seeds(features, 9, seeded(seed)).tolist() == expected.tolist()


def test_seeds_start_anywhere():
    first = [int(clustering._seeds(points(11, dtype=torch.float32), 1, seeded(seed))) for seed in range(200)]
    assert set(first) == set(range(11))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_clusters_are_no_more_than_the_distinct_instances(distinct, dtype):
    different = 3 + points(distinct, 40, dtype=dtype)
    kind = torch.arange(30) % distinct
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assignment = k_means(different[kind], 9, seeded())
    assert len({(int(a), int(k)) for a, k in zip(assignment, kind, strict=True)}) == distinct
    assert sorted(assignment.unique().tolist()) == list(range(distinct))


def test_as_many_clusters_as_instances_hold_one_each():
    for num_clusters in (11, 12, 500):
        assert sorted(k_means(points(11), num_clusters, seeded()).tolist()) == list(range(11))


@pytest.mark.parametrize("seed", range(3))
def test_no_cluster_is_empty(seed):
    assignment = k_means(points(60).round(), 40, seeded(seed))  # many duplicates
    assert sorted(assignment.unique().tolist()) == list(range(int(assignment.max()) + 1))


def test_float32_and_float64_give_the_same_clusters():
    features = points(dtype=torch.float32)
    assert torch.equal(k_means(features, C, seeded()), k_means(features.double(), C, seeded()))


def test_clusters_follow_from_the_generator_alone():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), k_means(points(), C, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(k_means(points(), C, seeded()), first)
    assert not torch.equal(k_means(points(), C, seeded(1)), first)


def test_clusters_do_not_depend_on_the_number_of_threads():
    features, before, found = points(1500, 60), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with threadpool_limits(threads):
                found.append(k_means(features, 40, seeded()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", ["plain", "duplicates", "float64"])
def test_clusters_have_the_same_bits_on_any_number_of_workers(kind, monkeypatch):
    monkeypatch.setattr(clustering, "SEEDED_AT_ONCE", 100)
    monkeypatch.setattr(clustering, "CLUSTERED_AT_ONCE", 70)
    features, found = points(511, 20, dtype=torch.float64 if kind == "float64" else torch.float32), []
    features = features[torch.arange(511) % 90] if kind == "duplicates" else features
    for count in (1, 2, 4):
        with using_workers(count):
            found.append(k_means(features, 40, seeded()))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["plain", "duplicates", "constant columns", "far away"])
def test_seeds_in_parts_are_those_of_the_textbook_loop(kind, seed, monkeypatch):
    monkeypatch.setattr(clustering, "SEEDED_AT_ONCE", 9)
    features = points(41, seed=seed, dtype=torch.float32)
    if kind == "duplicates":
        features = features[torch.arange(41) // 2]
    elif kind == "constant columns":
        features[:, 2:] = 0
    elif kind == "far away":
        features[:3] += 50
    expected = textbook.k_means_seeds(features.double(), 9, seeded(seed))
    assert torch.equal(features[clustering._seeds(features, 9, seeded(seed))], features[expected])


@pytest.mark.parametrize("clusters", [7, 60])
@pytest.mark.parametrize("at_once", [10, 1000])
def test_lloyd_moves_centres_as_the_textbook_does(clusters, at_once, monkeypatch):
    monkeypatch.setattr(clustering, "CLUSTERED_AT_ONCE", at_once)
    features = points(600, dtype=torch.float32)
    seeds = clustering._seeds(features, clusters, seeded())
    expected = textbook.lloyd(features.double(), features[seeds].double(), clustering.ITERATIONS)
    assert torch.equal(clustering._lloyd(features, seeds), expected)


def test_a_cluster_that_loses_all_its_instances_is_gone():
    places = [(-8.0, -4.0), (-6.0, 1.0), (-5.0, -1.0), (1.0, 7.0), (2.0, 6.0), (3.0, 4.0), (4.0, 0.0)]
    found = clustering._lloyd(torch.tensor(places), torch.tensor([4, 6, 3]))
    assert found.tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_features_are_left_alone():
    features = points()
    k_means(features, C, seeded())
    assert torch.equal(features, points())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_clusters_of_the_cpu_on_its_own_device():
    assignment = k_means(points().cuda(), C, seeded())
    assert assignment.is_cuda
    assert assignment.tolist() == k_means(points(), C, seeded()).tolist()


def test_k_means_faults_name_the_argument():
    with pytest.raises(ValueError, match="num_clusters is 0; a whole number of at least 1 was expected"):
        k_means(points(), 0, seeded())
    with pytest.raises(ValueError, match=r"features has shape \(0, 5\); 1 or more instances were expected"):
        k_means(points()[:0], 3, seeded())
    broken = points()
    broken[4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"features holds 1 values that are NaN or infinite, the first at \(4, 2\)"):
        k_means(broken, 3, seeded())


# --- what is picked from clusters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_to_means_are_those_of_the_loop(dtype):
    features, assignment = points(dtype=dtype), torch.arange(N) * 5 % C
    expected = []
    for cluster in range(C):
        members = [i for i in range(N) if assignment[i] == cluster]
        mean = features[members].double().mean(dim=0)
        expected.append(min(members, key=lambda i: float((features[i].double() - mean).norm())))
    assert nearest_to_means(features, assignment).tolist() == expected


def test_the_two_instances_of_a_cluster_are_equally_near_to_its_mean():
    for seed in range(20):
        features = points(8, 40, seed, torch.float32)
        assert nearest_to_means(features, torch.tensor([3, 1, 0, 2, 2, 0, 3, 1])).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("num_neighbours", [1, 3, 20, 500])
@pytest.mark.parametrize("n", [5, 23, 61])
def test_most_typical_is_that_of_the_loop(n, num_neighbours, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, clustering, block_bytes)
    for seed in range(3):
        features = points(n, seed=seed)
        assert int(most_typical(features, num_neighbours)) == textbook.most_typical(features, num_neighbours)


@pytest.mark.parametrize("by_differences", [False, True])
def test_typicality_is_that_within_the_group(by_differences):
    features, groups = points(60), torch.arange(60) % 4
    groups[7] = 9
    found = typicality(features, groups, 5, by_differences=by_differences)
    for group in range(4):
        members = (groups == group).nonzero().flatten()
        distances = torch.cdist(features[members], features[members]).sort(dim=1).values[:, 1:6].mean(dim=1)
        torch.testing.assert_close(found[members], 1 / distances, rtol=1e-9, atol=0)
    assert found[7] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_of_identical_instances_the_first_is_most_typical(n, dtype):
    assert int(most_typical(points(1, 40, dtype=dtype).repeat(n, 1), 20)) == 0


def test_the_middle_of_a_line_is_most_typical():
    line = torch.tensor([[0.0], [1.0], [2.0], [2.9], [3.9], [4.9], [50.0]])
    assert int(most_typical(line, 20)) == 2


def test_first_of_smallest_counts_what_is_within_the_tolerance():
    values = torch.tensor([3.0, 1.05, 1.0, 1.0])
    assert int(first_of_smallest(values, torch.tensor(0.1))) == 1
    assert int(first_of_smallest(values, torch.tensor(0.0))) == 2
