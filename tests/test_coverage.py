import dataclasses

import pytest
import torch

from dal_core import strategies
from dal_core.heads import PROTOCOLS
from dal_core.metrics import ece
from dal_core.pool import Snapshot
from dal_core.strategies import coverage
from dal_core.strategies.clustering import k_means, most_typical
from dal_core.strategies.coverage import (
    HERDING_FORMS,
    TEMPERATURES,
    calibrating_temperature,
    held_out_temperature,
    herding_select,
    k_center_greedy,
    nearest_pair_gamma,
    probcover_select,
    pure_radius,
    typiclust_select,
)
from dal_core.strategies.uncertainty import margin_scores


def textbook_herding(unlabelled, labelled, batch_size, gamma, uncertainty, form):
    """Every gain anew in every step, from the formulas."""
    kernel = torch.exp(-gamma * torch.cdist(unlabelled, unlabelled).square())
    covered = torch.exp(-gamma * torch.cdist(unlabelled, labelled).square()).amax(dim=1)
    picked = []
    for _ in range(batch_size):
        if form == "coverage":
            gains = (uncertainty * (kernel - covered).clamp(min=0)).mean(dim=1)
        else:
            gains = uncertainty * (kernel - covered.unsqueeze(1)).clamp(min=0).mean(dim=1)
        gains[picked] = -1
        tied = gains >= gains.max() - 64 * torch.finfo(gains.dtype).eps * gains.max().abs()
        picked.append(int(tied.nonzero()[0]))
        covered = torch.maximum(covered, kernel[picked[-1]])
    return picked


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


def test_core_set_golden(golden):
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


def unit_points(**sizes):
    return tuple(torch.nn.functional.normalize(each, dim=1) for each in points(**sizes))


def uncertainties(n=23):
    return torch.rand(n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("form", HERDING_FORMS)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_herding_picks_are_those_of_the_full_evaluation(form, gamma, seed, monkeypatch):
    monkeypatch.setattr(coverage, "CHECKED_AT_ONCE", 2)
    unlabelled, labelled = unit_points(seed=seed)
    expected = textbook_herding(unlabelled, labelled, 9, gamma, uncertainties(), form)
    picked = herding_select(unlabelled, labelled, 9, gamma=gamma, uncertainty=uncertainties(), form=form)
    assert picked.tolist() == expected


@pytest.mark.parametrize("form", HERDING_FORMS)
def test_herding_golden(golden, form):
    unlabelled, labelled = (
        torch.nn.functional.normalize(golden[f"x_{name}"], dim=1) for name in ("unlabeled", "labeled")
    )
    picked = herding_select(unlabelled, labelled, 10, gamma=1.0, form=form)
    assert picked.tolist() == golden[f"max_herding/selected_{form}"].tolist()

    top = (golden["logits_unlabeled"] / golden["uncertainty_herding/temperature"]).softmax(-1).topk(2).values
    gamma = 1 / golden["uncertainty_herding/min_dist"].item() ** 2
    picked = herding_select(unlabelled, labelled, 10, gamma=gamma, uncertainty=1 - top[:, 0] + top[:, 1], form=form)
    assert picked.tolist() == golden[f"uncertainty_herding/selected_{form}"].tolist()


@pytest.mark.parametrize("form", HERDING_FORMS)
def test_herding_does_not_depend_on_block_sizes(form, monkeypatch):
    unlabelled, labelled = unit_points()
    whole = herding_select(unlabelled, labelled, 9, gamma=1.0, form=form)
    monkeypatch.setattr(coverage, "BLOCK_BYTES", 400)
    monkeypatch.setattr(coverage, "CHECKED_AT_ONCE", 1)
    assert herding_select(unlabelled, labelled, 9, gamma=1.0, form=form).tolist() == whole.tolist()


@pytest.mark.parametrize("form", HERDING_FORMS)
def test_herding_starts_without_labels_and_ends_with_the_pool(form):
    unlabelled, labelled = unit_points()
    picked = herding_select(unlabelled, labelled[:0], 23, gamma=1.0, form=form)
    assert sorted(picked.tolist()) == list(range(23))


def test_without_uncertainty_nothing_is_gained_and_the_order_is_that_of_the_pool():
    unlabelled, labelled = unit_points()
    for form in HERDING_FORMS:
        nothing = torch.zeros(23, dtype=torch.float64)
        assert herding_select(unlabelled, labelled, 5, gamma=1.0, uncertainty=nothing, form=form).tolist() == [
            0,
            1,
            2,
            3,
            4,
        ]


def test_herding_forms_differ():
    unlabelled, labelled = unit_points()
    rowwise, covering = (
        herding_select(unlabelled, labelled, 9, gamma=1.0, form=form).tolist() for form in HERDING_FORMS
    )
    assert rowwise != covering


def test_herding_faults_name_the_argument():
    unlabelled, labelled = unit_points()
    with pytest.raises(ValueError, match="form is 'row'; it has to be one of 'rowwise', 'coverage'"):
        herding_select(unlabelled, labelled, 3, gamma=1.0, form="row")
    with pytest.raises(ValueError, match=r"gamma is 0\.0; a finite number above 0"):
        herding_select(unlabelled, labelled, 3, gamma=0.0)
    with pytest.raises(ValueError, match="batch_size is 24; 1 to 23"):
        herding_select(unlabelled, labelled, 24, gamma=1.0)
    with pytest.raises(ValueError, match=r"uncertainty holds values down to -1\.0"):
        herding_select(unlabelled, labelled, 3, gamma=1.0, uncertainty=-torch.ones(23, dtype=torch.float64))
    with pytest.raises(ValueError, match="uncertainty has dtype"):
        herding_select(unlabelled, labelled, 3, gamma=1.0, uncertainty=torch.ones(23))


# --- uncertainty herding


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def snapshot_of(n=31, m=13, k=3, d=5, **changes):
    draw = seeded(7)
    features, labelled, weight, truth = (
        torch.randn(size, d, generator=draw, dtype=torch.float64) for size in (n, m, k, k)
    )
    labels = (labelled @ truth.T).argmax(dim=1)
    values = {"features": features, "logits": features @ weight.T, "labelled_features": labelled}
    values |= {"labelled_logits": labelled @ weight.T, "labels": labels, "weight": weight, "bias": None}
    return Snapshot(**(values | changes))


def drawn_predictions(n, k=4, sharpness=3.0, seed=0):
    """Logits that are `sharpness` times those that the labels are drawn from."""
    draw = seeded(seed)
    logits = 1.5 * torch.randn(n, k, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw).squeeze(1)
    return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [2.0, 5.0, 12.0])
def test_temperature_undoes_how_much_too_sharp_predictions_are(sharpness):
    logits, labels = drawn_predictions(40_000, sharpness=sharpness)
    assert calibrating_temperature(logits, labels) == pytest.approx(sharpness, rel=0.1)


@pytest.mark.parametrize("block_bytes", [1, 191 * 4 * 8 * 10, 2**26])
@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_that_with_the_smallest_calibration_error_of_all(seed, block_bytes, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK_BYTES", block_bytes)
    logits, labels = drawn_predictions(37, seed=seed)
    errors = [ece(logits / temperature, labels) for temperature in TEMPERATURES]
    assert calibrating_temperature(logits, labels) == pytest.approx(TEMPERATURES[errors.index(min(errors))].item())
    assert calibrating_temperature(logits.float(), labels) == calibrating_temperature(logits, labels)


def test_temperatures_are_the_grid_of_the_paper():
    assert TEMPERATURES.tolist() == pytest.approx([1 + 0.1 * i for i in range(191)])


def test_ties_go_to_the_lowest_temperature():
    assert calibrating_temperature(torch.zeros(6, 3), torch.arange(6) % 3) == 1.0


def test_temperature_faults_name_the_argument():
    with pytest.raises(ValueError, match="logits is empty; at least one sample was expected"):
        calibrating_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels holds labels from 0 to 3; 0 to 2 was expected"):
        calibrating_temperature(torch.zeros(4, 3), torch.arange(4))


def test_temperature_is_found_on_a_fifth_that_the_layer_was_not_trained_on(monkeypatch):
    seen = []
    original_training, original_temperature = coverage.train_head, coverage.calibrating_temperature

    def training(initial, features, labels, indices, protocol, generator):
        head = original_training(initial, features, labels, indices, protocol, generator)
        seen.append((initial, head, features, indices, protocol))
        return head

    def temperature(logits, labels):
        seen.append((logits, labels))
        return original_temperature(logits, labels)

    monkeypatch.setattr(coverage, "train_head", training)
    monkeypatch.setattr(coverage, "calibrating_temperature", temperature)
    protocol = dataclasses.replace(PROTOCOLS["radam"], epochs=3)
    taken = snapshot_of(training=protocol)
    found = held_out_temperature(taken, seeded())
    (initial, head, features, indices, used), (logits, labels) = seen
    assert used == protocol
    assert torch.equal(features, taken.labelled_features)
    held_out = sorted(set(range(13)) - set(indices.tolist()))
    assert (len(indices), len(held_out)) == (11, 2)
    assert not torch.equal(initial.weight, taken.weight)
    assert sorted(labels.tolist()) == sorted(taken.labels[held_out].tolist())
    by_row = {tuple(row.tolist()) for row in head.logits(taken.labelled_features)[held_out]}
    assert {tuple(row.tolist()) for row in logits} == by_row
    assert found == original_temperature(logits, labels)
    assert held_out_temperature(taken, seeded()) == found


def test_the_temperature_follows_how_the_head_is_trained():
    taken = snapshot_of(m=60)
    found = {held_out_temperature(dataclasses.replace(taken, training=PROTOCOLS[name]), seeded()) for name in PROTOCOLS}
    assert len(found) == 2


@pytest.mark.parametrize("m", [0, 4])
def test_temperature_is_1_where_there_is_no_fifth(m):
    assert held_out_temperature(snapshot_of(m=m), seeded()) == 1.0


def test_gamma_comes_from_the_nearest_pair(golden):
    expected = golden["uncertainty_herding/min_dist"].item()
    assert nearest_pair_gamma(golden["x_labeled"]) ** -0.5 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_leaves_duplicates_out(dtype, block_bytes, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK_BYTES", block_bytes)
    labelled = points(dtype=dtype)[1]
    unit = torch.nn.functional.normalize(labelled, dim=1)
    nearest = min(float((unit[i] - unit[j]).norm()) for i in range(4) for j in range(i))
    twice = torch.cat((labelled, labelled, 2 * labelled))
    assert nearest_pair_gamma(twice) == pytest.approx(nearest**-2, rel=1e-5)


def test_gamma_is_1_without_two_distinct_labelled_instances():
    labelled = points()[1]
    for few in (labelled[:0], labelled[:1], labelled[:1].repeat(9, 1)):
        assert nearest_pair_gamma(few) == 1.0


@pytest.mark.parametrize("form", HERDING_FORMS)
def test_unc_herding_weighs_herding_with_the_calibrated_margin(form):
    taken = snapshot_of()
    temperature, gamma = held_out_temperature(taken, seeded(3)), nearest_pair_gamma(taken.labelled_features)
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(taken.features, dim=1), unit(taken.labelled_features, dim=1)
    uncertainty = margin_scores((taken.logits / temperature).softmax(dim=1))
    expected = textbook_herding(unlabelled, labelled, 9, gamma, uncertainty, form)
    assert strategies.get("unc_herding", {"form": form})(taken, 9, seeded(3)).tolist() == expected


def test_unc_herding_takes_a_temperature_and_a_gamma():
    taken = snapshot_of()
    options = {"temperature": held_out_temperature(taken, seeded(3))}
    options |= {"gamma": nearest_pair_gamma(taken.labelled_features)}
    own = strategies.get("unc_herding")(taken, 9, seeded(3))
    assert strategies.get("unc_herding", options)(taken, 9, seeded(4)).tolist() == own.tolist()
    assert strategies.get("unc_herding", options | {"gamma": 0.1})(taken, 9, seeded(3)).tolist() != own.tolist()
    assert strategies.get("unc_herding", options | {"temperature": 19.0})(taken, 9, seeded()).tolist() != own.tolist()


# --- TypiClust


def textbook_typiclust(unlabelled, labelled, batch_size, generator, max_clusters=500, min_cluster_size=5):
    """Look at all clusters anew for every pick."""
    n, m = len(unlabelled), len(labelled)
    clusters = k_means(torch.cat((unlabelled, labelled)), min(m + batch_size, max_clusters), generator).tolist()
    picked = []
    for _ in range(batch_size):

        def order(cluster):
            seen = sum(clusters[i] == cluster for i in [*picked, *range(n, n + m)])
            return clusters.count(cluster) < min_cluster_size, seen, -clusters.count(cluster), cluster

        left = [i for i in range(n) if i not in picked]
        chosen = min({clusters[i] for i in left}, key=order)
        members = [i for i in left if clusters[i] == chosen]
        picked.append(members[int(most_typical(unlabelled[members], 20))])
    return picked


@pytest.mark.parametrize("limits", [(500, 5), (500, 1), (4, 5), (9, 30)])
@pytest.mark.parametrize("batch_size", [3, 17, 61])
def test_typiclust_picks_are_those_of_the_textbook_loop(batch_size, limits):
    unlabelled, labelled = points(n=61, m=8)
    expected = textbook_typiclust(unlabelled, labelled, batch_size, seeded(), *limits)
    options = dict(zip(("max_clusters", "min_cluster_size"), limits, strict=True))
    picked = typiclust_select(unlabelled, labelled, batch_size, seeded(), **options)
    assert picked.tolist() == expected


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


# --- ProbCover


def textbook_probcover(unlabelled, labelled, radius):
    """Counts anew in every step, until all is covered."""
    near = torch.cdist(unlabelled, unlabelled) <= radius
    covered = (torch.cdist(unlabelled, labelled) <= radius).any(dim=1)
    picked = []
    while not covered.all():
        counts = (near & ~covered).sum(dim=1)
        counts[picked] = -1
        picked.append(int(counts.argmax()))
        covered |= near[picked[-1]]
    return picked


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("radius", [0.5, 0.7, 1.0])
def test_probcover_picks_are_those_of_the_textbook_loop(radius, block_bytes, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK_BYTES", block_bytes)
    unlabelled, labelled = unit_points()
    expected = textbook_probcover(unlabelled, labelled, radius)
    assert 0 < len(expected) < 23
    picked = probcover_select(unlabelled, labelled, len(expected), seeded(), radius=radius)
    assert picked.tolist() == expected


def test_probcover_draws_what_is_left_where_all_is_covered():
    unlabelled, labelled = unit_points()
    picks = [probcover_select(unlabelled, labelled, 5, seeded(seed), radius=2.0).tolist() for seed in range(3)]
    assert all(len(set(batch)) == 5 for batch in picks)
    assert picks[0] != picks[1] != picks[2]
    whole = probcover_select(unlabelled, labelled, 23, seeded(), radius=0.6)
    expected = textbook_probcover(unlabelled, labelled, 0.6)
    assert whole[: len(expected)].tolist() == expected
    assert sorted(whole.tolist()) == list(range(23))


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("purity", [0.5, 0.8, 0.95, 1.0])
def test_pure_radius_is_the_largest_that_leaves_enough_balls_pure(purity, block_bytes, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK_BYTES", block_bytes)
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
