import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from dal_core.strategies.shared import clustering
from dal_core.strategies.shared.clustering import first_of_smallest, k_means, most_typical, nearest_to_means

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


@pytest.mark.parametrize("block_bytes", [1, 100 * C, 2**26])
def test_the_steps_in_torch_are_those_of_scikit_learn(block_bytes, monkeypatch):
    monkeypatch.setattr(clustering, "BLOCK_BYTES", block_bytes)
    features, centres = points(dtype=torch.float32), points(C, seed=1, dtype=torch.float32)
    expected = clustering._scikit_lloyd(features, centres)
    assert len(expected.unique()) == C
    assert clustering._torch_lloyd(features, centres).tolist() == expected.tolist()


def test_a_cluster_that_loses_all_instances_keeps_its_centre_in_torch():
    line = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
    assignment = clustering._torch_lloyd(line, torch.tensor([[0.0], [5.0], [-90.0], [12.0]]))
    assert assignment.tolist() == [0, 0, 3, 3]


def test_both_ways_stop_after_as_many_steps(monkeypatch):
    monkeypatch.setattr(clustering, "ITERATIONS", 2)
    features, centres = points(dtype=torch.float32), points(C, seed=1, dtype=torch.float32)
    moved = centres
    for _ in range(2):
        nearest = torch.cdist(features, moved).argmin(dim=1)
        moved = torch.stack([features[nearest == cluster].mean(dim=0) for cluster in range(C)])
    assert clustering._scikit_lloyd(features, centres).tolist() == torch.cdist(features, moved).argmin(dim=1).tolist()
    assert clustering._torch_lloyd(features, centres).tolist() == torch.cdist(features, moved).argmin(dim=1).tolist()


def textbook_seeds(features, count, generator):
    """Greedy k-means++ with every distance from the difference of two instances."""
    trials = 2 + int(np.log(count))
    draws = torch.rand(count, trials, generator=generator, dtype=torch.float64)
    seeds = [int(draws[0, 0] * len(features))]
    for i in range(1, count):
        nearest = [min(float((x - features[s]).square().sum()) for s in seeds) for x in features]
        cumulated, best, drawn = np.cumsum(nearest), np.inf, []
        for u in draws[i].tolist():
            drawn.append(int(np.searchsorted(cumulated, u * cumulated[-1])))
            new = (features - features[drawn[-1]]).square().sum(dim=1).tolist()
            total = sum(map(min, nearest, new))
            if total < best:
                best, choice = total, drawn[-1]
        seeds.append(choice)
    return seeds


@pytest.mark.parametrize("seed", range(4))
def test_seeds_are_those_of_the_textbook_loop(seed):
    features = points(41, dtype=torch.float32)
    expected = textbook_seeds(features.double(), 9, seeded(seed))
    assert clustering._seeds(features, 9, seeded(seed)).tolist() == expected


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


def test_everything_on_a_cpu_runs_on_one_thread(monkeypatch):
    seen, before, original = [], torch.get_num_threads(), clustering._k_means

    def spying(*arguments):
        seen.append(torch.get_num_threads())
        return original(*arguments)

    monkeypatch.setattr(clustering, "_k_means", spying)
    try:
        torch.set_num_threads(2)
        k_means(points(), C, seeded())
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_features_are_left_alone():
    features = points()
    k_means(features, C, seeded())
    assert torch.equal(features, points())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_clusters_of_the_cpu_and_stays_there():
    assignment = k_means(points().cuda(), C, seeded())
    assert assignment.is_cuda
    assert assignment.tolist() == k_means(points(), C, seeded()).tolist()


def test_k_means_faults_name_the_argument():
    with pytest.raises(ValueError, match="num_clusters is 0; a whole number of at least 1 was expected"):
        k_means(points(), 0, seeded())
    with pytest.raises(ValueError, match="features is empty; k_means needs at least one instance"):
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


def textbook_typical(features, num_neighbours):
    count = min(num_neighbours, len(features) // 2)
    means = []
    for i, x in enumerate(features):
        distances = sorted(float((x - y).norm()) for j, y in enumerate(features) if j != i)
        means.append(sum(distances[:count]) / count)
    return means.index(min(means))


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("num_neighbours", [1, 3, 20, 500])
@pytest.mark.parametrize("n", [5, 23, 61])
def test_most_typical_is_that_of_the_loop(n, num_neighbours, block_bytes, monkeypatch):
    monkeypatch.setattr(clustering, "BLOCK_BYTES", block_bytes)
    found = {seed: int(most_typical(points(n, seed=seed), num_neighbours)) for seed in range(3)}
    for seed, position in found.items():
        features, count = points(n, seed=seed), min(num_neighbours, n // 2)
        if count > 1:
            assert position == textbook_typical(features, num_neighbours)
        else:  # two instances are each other's neighbour: the first of them
            distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
            assert position == int(distances.amin(dim=1).argmin())


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
