import pytest
import torch
from samples import points, seeded, snapshot_of, unit_points, work_in_blocks

from dal_core import strategies, textbook
from dal_core.parallel import using_workers
from dal_core.strategies import coreset, herding
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.herding import herding_select, nearest_pair_gamma
from dal_core.strategies.shared import greedy
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

FORMS = ("rowwise", "coverage")


@pytest.mark.parametrize("seed", range(3))
def test_picks_are_those_of_the_textbook_loop(seed):
    unlabelled, labelled = points(seed=seed)
    assert (
        k_center_greedy(unlabelled, labelled, 9).tolist() == textbook.k_center_greedy(unlabelled, labelled, 9).tolist()
    )


def test_core_set_golden(golden):
    picked = k_center_greedy(golden["x_unlabeled"], golden["x_labeled"], 10)
    assert picked.tolist() == golden["coreset_selected"].tolist()


def test_block_size_makes_no_difference(monkeypatch):
    unlabelled, labelled = points()
    whole = k_center_greedy(unlabelled, labelled, 9)
    work_in_blocks(monkeypatch, coreset, 100)
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
    with pytest.raises(ValueError, match=r"features_l has shape \(0, 5\); 1 or more labelled instances were expected"):
        k_center_greedy(unlabelled, labelled[:0], 3)
    with pytest.raises(ValueError, match="batch_size is 24; 1 to 23"):
        k_center_greedy(unlabelled, labelled, 24)
    with pytest.raises(ValueError, match="features_l has dtype"):
        k_center_greedy(unlabelled, labelled.float(), 3)
    labelled[1, 0] = torch.inf
    with pytest.raises(ValueError, match=r"features_l holds 1 values that are NaN or infinite, the first at \(1, 0\)"):
        k_center_greedy(unlabelled, labelled, 3)


def uncertainties(n=23):
    return torch.rand(n, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_herding_picks_are_those_of_the_full_evaluation(form, gamma, seed, monkeypatch):
    monkeypatch.setattr(greedy, "CHECKED_AT_ONCE", 2)
    unlabelled, labelled = unit_points(seed=seed)
    arguments = (unlabelled, labelled, 9)
    options = {"gamma": gamma, "uncertainty": uncertainties(), "form": form}
    expected = textbook.herding_select(*arguments, **options)
    assert herding_select(*arguments, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("form", FORMS)
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


@pytest.mark.parametrize("form", FORMS)
def test_herding_does_not_depend_on_block_sizes(form, monkeypatch):
    unlabelled, labelled = unit_points()
    whole = herding_select(unlabelled, labelled, 9, gamma=1.0, form=form)
    work_in_blocks(monkeypatch, herding, 400)
    monkeypatch.setattr(greedy, "CHECKED_AT_ONCE", 1)
    assert herding_select(unlabelled, labelled, 9, gamma=1.0, form=form).tolist() == whole.tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["plain", "duplicates", "constant", "float32"])
@pytest.mark.parametrize("kept", [0, 2**20])
def test_herding_by_tiles_gives_the_picks_of_small_pools_on_any_number_of_workers(form, kind, kept, monkeypatch):
    unlabelled, labelled = unit_points(n=61)
    if kind == "duplicates":
        unlabelled = unlabelled[torch.arange(61) // 2]
    elif kind == "constant":
        unlabelled = unlabelled[:1].expand(61, -1)
    elif kind == "float32":
        unlabelled, labelled = unlabelled.float(), labelled.float()
    options = {"gamma": 3.0, "uncertainty": uncertainties(61).to(unlabelled.dtype), "form": form}
    expected = herding_select(unlabelled, labelled, 9, **options)
    monkeypatch.setattr(herding, "CACHE_BYTES", 0)
    monkeypatch.setattr(herding, "KEPT_BYTES", kept)
    monkeypatch.setattr(herding, "TILE", 16)
    for count in (1, 2, 4):
        with using_workers(count):
            assert herding_select(unlabelled, labelled, 9, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.5, 20.0])
def test_herding_by_tiles_gives_the_picks_of_the_textbook(form, gamma, monkeypatch):
    monkeypatch.setattr(herding, "CACHE_BYTES", 0)
    monkeypatch.setattr(herding, "TILE", 7)
    unlabelled, labelled = unit_points()
    options = {"gamma": gamma, "uncertainty": uncertainties(), "form": form}
    expected = textbook.herding_select(unlabelled, labelled, 9, **options)
    assert herding_select(unlabelled, labelled, 9, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_herding_starts_without_labels_and_ends_with_the_pool(form):
    unlabelled, labelled = unit_points()
    picked = herding_select(unlabelled, labelled[:0], 23, gamma=1.0, form=form)
    assert sorted(picked.tolist()) == list(range(23))


def test_without_uncertainty_nothing_is_gained_and_the_order_is_that_of_the_pool():
    unlabelled, labelled = unit_points()
    for form in FORMS:
        nothing = torch.zeros(23, dtype=torch.float64)
        picked = herding_select(unlabelled, labelled, 5, gamma=1.0, uncertainty=nothing, form=form)
        assert picked.tolist() == [0, 1, 2, 3, 4]


def test_herding_forms_differ():
    unlabelled, labelled = unit_points()
    rowwise, covering = (herding_select(unlabelled, labelled, 9, gamma=1.0, form=form).tolist() for form in FORMS)
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


def test_gamma_comes_from_the_nearest_pair(golden):
    expected = golden["uncertainty_herding/min_dist"].item()
    assert nearest_pair_gamma(golden["x_labeled"]) ** -0.5 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("block_bytes", [1, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_leaves_duplicates_out(dtype, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, herding, block_bytes)
    labelled = points(dtype=dtype)[1]
    unit = torch.nn.functional.normalize(labelled, dim=1)
    nearest = min(float((unit[i] - unit[j]).norm()) for i in range(4) for j in range(i))
    twice = torch.cat((labelled, labelled, 2 * labelled))
    assert nearest_pair_gamma(twice) == pytest.approx(nearest**-2, rel=1e-5)


def test_gamma_is_1_without_two_distinct_labelled_instances():
    labelled = points()[1]
    for few in (labelled[:0], labelled[:1], labelled[:1].repeat(9, 1)):
        assert nearest_pair_gamma(few) == 1.0


@pytest.mark.parametrize("form", FORMS)
def test_unc_herding_weighs_herding_with_the_calibrated_margin(form):
    taken = snapshot_of()
    temperature, gamma = held_out_temperature(taken, seeded(3)), nearest_pair_gamma(taken.labelled_features)
    unit = torch.nn.functional.normalize
    unlabelled, labelled = unit(taken.features, dim=1), unit(taken.labelled_features, dim=1)
    uncertainty = margin_scores((taken.logits / temperature).softmax(dim=1))
    options = {"gamma": gamma, "uncertainty": uncertainty, "form": form}
    expected = textbook.herding_select(unlabelled, labelled, 9, **options)
    assert strategies.get("unc_herding", {"form": form})(taken, 9, seeded(3)).tolist() == expected.tolist()


def test_unc_herding_takes_a_temperature_and_a_gamma():
    taken = snapshot_of()
    options = {"temperature": held_out_temperature(taken, seeded(3))}
    options |= {"gamma": nearest_pair_gamma(taken.labelled_features)}
    own = strategies.get("unc_herding")(taken, 9, seeded(3))
    assert strategies.get("unc_herding", options)(taken, 9, seeded(4)).tolist() == own.tolist()
    assert strategies.get("unc_herding", options | {"gamma": 0.1})(taken, 9, seeded(3)).tolist() != own.tolist()
    assert strategies.get("unc_herding", options | {"temperature": 19.0})(taken, 9, seeded()).tolist() != own.tolist()
