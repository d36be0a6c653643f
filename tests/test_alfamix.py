import dataclasses

import pytest
import torch
from samples import seeded, snapshot_from, work_in_blocks

from dal_core import strategies, textbook
from dal_core.strategies import alfamix, dropquery
from dal_core.strategies.alfamix import alfamix_candidates, diverse_picks
from dal_core.strategies.dropquery import dropout_disagreements, dropquery_candidates
from dal_core.strategies.shared.clustering import k_means, nearest_to_means

N, M, K, D = 41, 9, 3, 5


def snapshot_of(seed=0, *, sparse=False, with_bias=True, n=N, scale=1.0):
    draw = seeded(seed)
    features, labelled, weight = (torch.randn(size, D, generator=draw, dtype=torch.float64) for size in (n, M, K))
    bias = 0.3 * torch.randn(K, generator=draw, dtype=torch.float64) if with_bias else None
    if sparse:  # as hidden ReLU units are
        features, labelled = features.clamp_min(0), labelled.clamp_min(0)
        labelled[:, 2] = 0
    weight *= scale
    offset = 0 if bias is None else bias
    labels = torch.arange(M) % K
    return snapshot_from(
        features, features @ weight.T + offset, labelled, labelled @ weight.T + offset, labels, weight, bias
    )


def arguments_of(taken):
    return taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features, taken.labels


def candidates_of(taken, **options):
    return alfamix_candidates(*arguments_of(taken), **options).tolist()


# --- ALFA-Mix


@pytest.mark.parametrize("block_bytes", [1, 8 * (D + K) * 7, 2**26], ids=["1 a block", "7 a block", "one block"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("undefined", ["limit", "published", "released"])
@pytest.mark.parametrize("seed", range(1, 3))
def test_candidates_are_those_of_the_formula(seed, undefined, sparse, with_bias, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, alfamix, block_bytes)
    taken = snapshot_of(seed, sparse=sparse, with_bias=with_bias)
    expected = textbook.alfamix_candidates(*arguments_of(taken), undefined=undefined).tolist()
    assert 0 < len(expected) < N
    assert candidates_of(taken, undefined=undefined) == expected


def test_a_dead_coordinate_or_a_class_without_labels_makes_nearly_everything_a_candidate_as_released():
    """By default neither does: they say nothing about how far an instance is from flipping."""
    dense = snapshot_of(1)
    dead = dataclasses.replace(
        dense, features=dense.features.index_fill(1, torch.tensor(2), 0.5),
        labelled_features=dense.labelled_features.index_fill(1, torch.tensor(2), 0.5),
    )  # fmt: skip
    later = dataclasses.replace(dense, labels=dense.labels % 2 + 1)  # nothing of class 0 is labelled
    elsewhere = (dense.logits.argmax(dim=1) != 0).sum()
    for taken, undefined in ((dead, "published"), (dead, "released"), (later, "released")):
        assert len(candidates_of(taken, undefined=undefined)) >= elsewhere > 2 * len(candidates_of(taken))
    assert candidates_of(later, undefined="published") == candidates_of(later)


def test_alfamix_golden(golden):
    found = alfamix_candidates(
        *(golden[name] for name in ("x_unlabeled", "logits_unlabeled", "weight", "bias", "x_labeled", "y_labeled")),
        undefined="published",
    )
    assert found.tolist() == golden["alfamix_candidates"].tolist()


def test_a_shared_coordinate_counts_in_the_published_form_alone():
    taken = snapshot_of()
    assert candidates_of(taken, undefined="published") == candidates_of(taken)
    features = taken.features.clone()
    features[:, 0] = taken.labelled_features[taken.labels == 1].mean(dim=0)[0]
    shared = dataclasses.replace(taken, features=features)
    limit, published = candidates_of(shared), candidates_of(shared, undefined="published")
    nearly = dataclasses.replace(taken, features=features + 1e-12)
    assert limit == candidates_of(nearly)
    elsewhere = (shared.logits.argmax(dim=1) != 0).nonzero().flatten().tolist()
    assert set(published) >= set(elsewhere)
    assert set(limit) != set(published)


@pytest.mark.parametrize(("scale", "reach"), [(1, 1), (20, 3), (25, 6)])
def test_float32_finds_the_candidates_of_float64(scale, reach):
    """Also where the largest probability rounds to 1, and only far anchors flip the prediction."""
    taken = snapshot_of(scale=scale)
    taken = dataclasses.replace(taken, labelled_features=reach * taken.labelled_features)
    assert (taken.logits.float().softmax(dim=1).amax(dim=1) == 1).any() == (scale > 1)
    assert 0 < len(candidates_of(taken)) < N
    single = [taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features]
    assert alfamix_candidates(*(x.float() for x in single), taken.labels).tolist() == candidates_of(taken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_without_any_doubt_move_towards_the_second_class(dtype):
    """All other probabilities vanish beside it, and it vanishes itself in floating point."""
    taken, expected = snapshot_of(scale=1e5), []
    for i, z in enumerate(taken.features):
        first, second = taken.logits[i].topk(2).indices
        direction = torch.nn.functional.normalize(taken.weight[second] - taken.weight[first], dim=0)
        reach = max(float((taken.labelled_features[taken.labels == k].mean(dim=0) - z).norm()) for k in range(K))
        logits = taken.weight @ (z + 0.2 / D**0.5 * reach * direction) + taken.bias
        if logits.argmax() != first:
            expected.append(i)
    assert 0 < len(expected) < N
    tensors = (taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features)
    assert alfamix_candidates(*(tensor.to(dtype) for tensor in tensors), taken.labels).tolist() == expected


def test_classes_that_share_their_weights_do_not_flip():
    taken = snapshot_of(with_bias=False)
    weight = taken.weight[:1].repeat(K, 1)
    same = dataclasses.replace(taken, weight=weight, logits=taken.features @ weight.T)
    assert candidates_of(same) == []


def test_alfamix_faults_name_the_argument():
    taken = snapshot_of()
    with pytest.raises(ValueError, match="undefined is 'nan'; it has to be one of 'limit', 'published', 'released'"):
        candidates_of(taken, undefined="nan")
    none = (taken.labelled_features[:0], taken.labels[:0])
    with pytest.raises(ValueError, match=r"labels_l has shape \(0,\); 1 or more labelled instances were expected"):
        alfamix_candidates(taken.features, taken.logits, taken.weight, taken.bias, *none)
    with pytest.raises(ValueError, match="labels_l holds labels from 1 to 3; 0 to 2 was expected"):
        alfamix_candidates(
            taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features, taken.labels + 1
        )
    with pytest.raises(ValueError, match=r"features_l has dtype torch\.float32"):
        alfamix_candidates(
            taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features.float(), taken.labels
        )


@pytest.mark.parametrize("name", ["alfamix", "dropquery"])
def test_picks_are_diverse_candidates(name):
    taken, replay = snapshot_of(1), seeded(5)
    picked = strategies.get(name)(taken, 4, seeded(5))
    if name == "alfamix":
        candidates = torch.tensor(candidates_of(taken))
    else:
        candidates = dropquery_candidates(taken, 25 * 4, replay)
    assert len(candidates) > 4
    assert picked.tolist() == diverse_picks(taken.features, candidates, 4, replay).tolist()


# --- DropQuery


@pytest.mark.parametrize("block_bytes", [1, 8 * (D + K) * 7, 2**26], ids=["1 a block", "7 a block", "one block"])
@pytest.mark.parametrize(("num_passes", "dropout"), [(3, 0.75), (4, 0.5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_disagreements_are_those_of_the_loop(num_passes, dropout, with_bias, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, dropquery, block_bytes)
    arguments, options = (
        arguments_of(snapshot_of(with_bias=with_bias))[:4],
        {"num_passes": num_passes, "dropout": dropout},
    )
    expected = textbook.dropout_disagreements(*arguments, seeded(2), **options).tolist()
    assert len(set(expected)) > 2
    assert dropout_disagreements(*arguments, seeded(2), **options).tolist() == expected


def test_without_dropout_nothing_disagrees():
    assert len(dropquery_candidates(snapshot_of(), 10, seeded(), dropout=0)) == 0


@pytest.mark.parametrize("num_passes", [3, 4])
def test_the_threshold_is_lowered_until_there_are_enough_candidates(num_passes, monkeypatch):
    counts = torch.tensor([0, 1, 2, 3, 2, 1, 0, num_passes, 1])
    monkeypatch.setattr(dropquery, "dropout_disagreements", lambda *_, **__: counts)

    def candidates(enough):
        return dropquery_candidates(snapshot_of(), enough, seeded(), num_passes=num_passes).tolist()

    more_than_half = [i for i in range(9) if counts[i] > num_passes / 2]
    assert candidates(1) == candidates(len(more_than_half)) == more_than_half
    assert candidates(4) == [2, 3, 4, 7]
    assert candidates(5) == [1, 2, 3, 4, 5, 7, 8]
    assert candidates(1000) == [1, 2, 3, 4, 5, 7, 8]  # never those that always agree


def test_a_batch_asks_for_25_candidates_a_pick(monkeypatch):
    asked = []

    def spying(snapshot, enough, generator, **options):
        asked.append((enough, options))
        return torch.arange(9)

    monkeypatch.setattr(dropquery, "dropquery_candidates", spying)
    strategies.get("dropquery", {"num_passes": 5, "dropout": 0.5})(snapshot_of(), 4, seeded())
    assert asked == [(100, {"num_passes": 5, "dropout": 0.5})]


def test_dropout_faults_name_the_argument():
    taken = snapshot_of()
    arguments = (taken.features, taken.logits, taken.weight, taken.bias, seeded())
    with pytest.raises(ValueError, match="num_passes is 0; a whole number of at least 1"):
        dropout_disagreements(*arguments, num_passes=0)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"dropout is {dropout}; a number of at least 0 and below 1"):
            dropout_disagreements(*arguments, dropout=dropout)


# --- picks among candidates


def test_diverse_picks_are_the_nearest_to_the_means_of_unit_vectors():
    features, candidates = snapshot_of().features, torch.arange(3, 35, 2)
    unit = features[candidates] / features[candidates].norm(dim=1, keepdim=True)
    expected = candidates[nearest_to_means(unit, k_means(unit, 6, seeded()))]
    picked = diverse_picks(features, candidates, 6, seeded())
    assert picked.tolist() == expected.tolist()
    scaled = features * torch.linspace(0.5, 20, N, dtype=torch.float64).unsqueeze(1)
    assert diverse_picks(scaled, candidates, 6, seeded()).tolist() == picked.tolist()


def test_few_candidates_are_all_picked_and_the_rest_is_drawn():
    features, candidates = snapshot_of().features, torch.tensor([4, 7, 19])
    assert diverse_picks(features, candidates, 3, seeded()).tolist() == [4, 7, 19]
    fillers = set()
    for seed in range(60):
        picked = diverse_picks(features, candidates, 8, seeded(seed)).tolist()
        assert picked[:3] == [4, 7, 19]
        assert len(set(picked)) == 8
        fillers |= set(picked[3:])
    assert fillers == set(range(N)) - {4, 7, 19}


def test_duplicates_among_candidates_leave_room_for_others():
    features = snapshot_of().features.clone()
    features[10:20] = features[10]
    picked = diverse_picks(features, torch.arange(10, 20), 4, seeded()).tolist()
    assert picked[0] == 10
    assert len(set(picked)) == 4


def test_without_candidates_the_batch_is_drawn():
    none = torch.arange(0)
    picks = [tuple(diverse_picks(snapshot_of().features, none, 5, seeded(seed)).tolist()) for seed in range(5)]
    assert len(set(picks)) == 5
