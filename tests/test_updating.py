"""The updating study: its rows, tuning on validation data, and the picture that paper 1 draws, on digits."""

import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from dal_core import textbook
from dal_core.models.training import PROTOCOLS
from dal_lab.runs.study import canonical, run
from dal_lab.sources import catalogue
from dal_lab.studies import updating
from dal_lab.studies.updating import GRADIENT_SAMPLES, UpdateStudy, compared, tuned

KEYS = ["draw", "n_new", "method", "gamma", "steps", "rate"]
NAN = float("nan")


def tiny(**changes) -> UpdateStudy:
    values = {
        "new_sizes": (1, 3), "draws": 2, "gammas": (1.0, 5.0), "first_order_gammas": (0.01,), "num_hypotheses": 20,
        "monte_carlo_gammas": (0.1, 1.0, 3.0), "gradient_steps": (1, 2), "gradient_rates": (0.1,), "device": "cpu",
    }  # fmt: skip
    return UpdateStudy(**(values | {"options": {"epochs": 5}} | changes))


def base_nll(rows: pd.DataFrame) -> float:
    return rows.loc[rows["method"] == "base", "nll"].iloc[0]


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns="update_s").sort_values(KEYS, ignore_index=True)


# --- rows


@pytest.fixture(scope="module")
def rows():
    return run(tiny())


def test_a_row_a_draw_number_method_and_step_size(rows):
    assert list(rows.columns) == [*KEYS, "accuracy", "nll", "flips", "validation_accuracy", "update_s"]
    counts = rows.groupby(["draw", "n_new", "method"]).size().unstack("method")
    assert counts.index.tolist() == [(0, 1), (0, 3), (1, 1), (1, 3)]
    expected = {"base": 1, "first_order": 1, "second_order": 2, "monte_carlo": 3, "retraining": 1}
    expected |= {f"gradient_{name}": 2 for name in GRADIENT_SAMPLES}
    assert counts.iloc[0].to_dict() == expected
    assert (counts == counts.iloc[0]).all(axis=None)
    assert not rows.duplicated(KEYS).any()


def test_steps_and_step_sizes_stand_where_they_apply(rows):
    gradient = rows["method"].str.startswith("gradient_")
    with_gamma = rows["method"].isin(["first_order", "second_order", "monte_carlo"])
    assert (rows["gamma"].notna() == with_gamma).all()
    assert (rows["steps"].notna() == gradient).all()
    assert (rows["rate"].notna() == gradient).all()


def test_base_is_the_same_head_in_every_draw(rows):
    base = rows[rows["method"] == "base"]
    assert (base["flips"] == 0).all()
    assert (base["update_s"] == 0).all()
    assert base["accuracy"].nunique() == 1
    assert (rows.loc[rows["method"] != "base", "update_s"] > 0).all()


@pytest.mark.parametrize("column", ["accuracy", "validation_accuracy", "flips"])
def test_shares_are_shares_of_the_split(rows, column):
    samples = 269 if column == "validation_accuracy" else 450  # a fifth of 1347, and the test split
    counts = rows[column] * samples
    assert rows[column].between(0, 1).all()
    assert np.allclose(counts, counts.round())


def test_a_vanishing_step_is_the_base_head():
    vanishing = {"gammas": (1e-12,), "first_order_gammas": (1e-12,), "gradient_rates": (1e-12,)}
    found = run(tiny(**vanishing))
    base = found[found["method"] == "base"].iloc[0]
    updated = found[~found["method"].isin(["base", "monte_carlo", "retraining"])]
    assert set(updated["method"]) == {"first_order", "second_order", *(f"gradient_{name}" for name in GRADIENT_SAMPLES)}
    assert (updated["flips"] == 0).all()
    assert np.allclose(updated["nll"], base["nll"], atol=1e-6)


def test_same_configuration_same_rows(rows):
    pd.testing.assert_frame_equal(comparable(run(tiny())), comparable(rows), check_exact=True)


def test_seeds_differ(rows):
    assert base_nll(run(tiny(seed=1))) != base_nll(rows)


@pytest.mark.parametrize("selection", ["random", "margin"])
def test_new_samples_of_a_draw_are_nested(selection):
    small, large = (run(tiny(new_sizes=sizes, selection=selection)) for sizes in ((2,), (2, 5)))
    first = large[large["n_new"] == 2]
    # Up to float32's rounding, since more hypotheses' weights are worked on together.
    pd.testing.assert_frame_equal(comparable(first), comparable(small), rtol=1e-5)


def test_margin_selects_other_samples(rows):
    margin = run(tiny(selection="margin"))
    second, other = (frame[frame["method"] == "second_order"] for frame in (rows, margin))
    assert (second["nll"].to_numpy() != other["nll"].to_numpy()).all()
    assert base_nll(margin) == base_nll(rows)


def test_gradient_steps_that_diverge_have_rows():
    found = run(tiny(gradient_rates=(0.1, 1e30)))
    diverged = found["rate"] == 1e30
    assert found.loc[diverged & (found["steps"] == 2), "nll"].isna().all()
    assert found.loc[~diverged, "nll"].notna().all()
    assert found["accuracy"].between(0, 1).all()


@pytest.mark.parametrize("changes", [{"head": "mlp"}, {"likelihood": "categorical"}])
def test_heads_and_likelihoods_are_taken_up(rows, changes):
    other = run(tiny(**changes))
    assert other.groupby("method").size().to_dict() == rows.groupby("method").size().to_dict()
    second, changed = (frame.loc[frame["method"] == "second_order", "nll"] for frame in (rows, other))
    assert (second.to_numpy() != changed.to_numpy()).all()


# --- tuning


def grid(method: str, values: dict[float, tuple[float, float]], step: str = "gamma", **columns) -> list[dict]:
    """Two draws a step size, with the validation accuracies `values[step]`."""
    return [
        {"method": method, "gamma": NAN, "rate": NAN, "steps": NAN, "validation_accuracy": accuracy}
        | {step: size, "draw": draw}
        | columns
        for size, accuracies in values.items()
        for draw, accuracy in enumerate(accuracies)
    ]


def chosen(rows: list[dict], step: str = "gamma", by: tuple[str, ...] = ()) -> list[tuple]:
    best = tuned(pd.DataFrame(rows), by)
    return [tuple(row) for row in best[[*by, "method", step]].drop_duplicates().itertuples(index=False)]


def test_tuned_takes_the_step_size_with_the_best_mean_over_draws():
    # 10 wins one draw, 5 has the better mean; each method is tuned by itself.
    rows = grid("second_order", {1.0: (0.5, 0.5), 5.0: (0.7, 0.7), 10.0: (0.9, 0.4)})
    rows += grid("first_order", {0.1: (0.2, 0.1), 0.01: (0.3, 0.3)})
    assert sorted(chosen(rows)) == [("first_order", 0.01), ("second_order", 5.0)]
    best = tuned(pd.DataFrame(rows))
    assert len(best) == 4
    assert sorted(best["draw"]) == [0, 0, 1, 1]


def test_tuned_does_not_look_at_the_test_accuracy():
    rows = pd.DataFrame(grid("second_order", {1.0: (0.5, 0.5), 5.0: (0.7, 0.7)}))
    rows["accuracy"] = [1.0, 1.0, 0.0, 0.0]
    assert tuned(rows)["accuracy"].tolist() == [0.0, 0.0]


def test_tuned_breaks_ties_for_the_smaller_step():
    assert chosen(grid("second_order", {5.0: (0.6, 0.6), 1.0: (0.6, 0.6), 3.0: (0.6, 0.6)})) == [("second_order", 1.0)]


def test_tuned_keeps_methods_without_a_step_size():
    rows = grid("base", {NAN: (0.5, 0.6)}) + grid("retraining", {NAN: (0.8, 0.9)})
    assert sorted(tuned(pd.DataFrame(rows))["validation_accuracy"]) == [0.5, 0.6, 0.8, 0.9]


def test_tuned_takes_a_learning_rate_for_each_budget_of_steps():
    rows = grid("gradient_new", {0.1: (0.5, 0.5), 1.0: (0.6, 0.6)}, "rate", steps=1)
    rows += grid("gradient_new", {0.1: (0.7, 0.7), 1.0: (0.4, 0.4)}, "rate", steps=10)
    best = tuned(pd.DataFrame(rows)).drop_duplicates(["steps", "rate"])
    assert sorted(zip(best["steps"], best["rate"], strict=True)) == [(1, 1.0), (10, 0.1)]


def test_tuned_chooses_anew_within_each_group():
    rows = grid("second_order", {1.0: (0.5, 0.5), 5.0: (0.7, 0.7)}, n_new=1)
    rows += grid("second_order", {1.0: (0.8, 0.8), 5.0: (0.7, 0.7)}, n_new=3)
    assert sorted(chosen(rows, by=("n_new",))) == [(1, "second_order", 5.0), (3, "second_order", 1.0)]
    assert chosen(rows) == [("second_order", 5.0)]


# --- configurations and errors


def test_is_frozen_and_survives_pickling():
    study = tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.seed = 1
    assert pickle.loads(pickle.dumps(study)) == study
    assert canonical(study) == canonical(tiny())
    assert canonical(study) != canonical(tiny(draws=3))


def test_a_study_is_stored_under_what_was_written():
    written = {"prior_precision": 2, "gammas": (1, 0.5), "seed": np.int64(3), "new_sizes": [1, np.int64(2)]}
    kept = {"prior_precision": 2, "gammas": [1, 0.5], "seed": 3, "new_sizes": [1, 2]}
    stored = json.loads(canonical(UpdateStudy(**written)))
    assert {name: repr(stored[name]) for name in kept} == {name: repr(value) for name, value in kept.items()}


def test_training_is_the_papers_protocol_with_changes():
    assert UpdateStudy().training == PROTOCOLS["laplace_updates"]
    assert UpdateStudy().num_hypotheses == 10_000
    assert tiny().training == dataclasses.replace(PROTOCOLS["laplace_updates"], epochs=5)
    assert not UpdateStudy(options={"drop_last": False}).training.drop_last


@pytest.mark.parametrize("predictions_bytes", [1, 2**30], ids=["one step a pass", "all in one pass"])
def test_hypotheses_in_blocks_predict_what_all_of_them_do(predictions_bytes, monkeypatch):
    """The weighted mean is over all hypotheses, of which few are held at a time."""
    held = []
    original = updating.laplace.monte_carlo_probabilities
    monkeypatch.setattr(
        updating.laplace, "monte_carlo_probabilities",
        lambda hypotheses, *others, **options: held.append(hypotheses) or original(hypotheses, *others, **options),
    )  # fmt: skip
    monkeypatch.setattr(updating, "HYPOTHESES_AT_ONCE", 8)
    monkeypatch.setattr(updating, "PREDICTIONS_BYTES", predictions_bytes)
    study = tiny(new_sizes=(3,), draws=1, monte_carlo_gammas=(0.5,))
    setting = updating._prepare(study, catalogue.load("digits"), 200)
    new = updating._draw_new_samples(setting)
    (row,) = updating._monte_carlo_updates(setting, new)
    assert [len(each) for each in held] == [8, 8, 4]
    everything, bias = torch.cat(held), setting.base.bias
    weights = textbook.monte_carlo_weights(everything, *setting.samples(new[0]), gamma=0.5, bias=bias)
    mean = textbook.monte_carlo_probabilities(everything, weights, setting.judged_features, bias=bias)
    expected = setting.score(mean.log(), 0.0)
    assert row["accuracy"] == expected["accuracy"]
    assert row["nll"] == pytest.approx(expected["nll"], rel=1e-4)


@pytest.mark.usefixtures("unchecked")  # as users run the package
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": "entropy"}, "selection is 'entropy'; it has to be one of 'random', 'margin'"),
        ({"likelihood": "probit"}, "likelihood is 'probit'; it has to be one of 'gaussian', 'categorical'"),
        ({"head": "conv"}, "head is 'conv'; it has to be one of 'linear', 'mlp'"),
        ({"draws": 0}, "draws is 0; a whole number of at least 1 was expected"),
        ({"initial_size": 0}, "initial_size is 0; a whole number of at least 1"),
        ({"num_hypotheses": 0}, "num_hypotheses is 0; a whole number of at least 1"),
        ({"new_sizes": ()}, r"new_sizes is \(\); ascending whole numbers of at least 1"),
        ({"new_sizes": (3, 1)}, r"new_sizes is \(3, 1\); ascending whole numbers"),
        ({"new_sizes": (1, 1)}, r"new_sizes is \(1, 1\); ascending whole numbers"),
        ({"new_sizes": (0, 1)}, r"new_sizes\[0\] is 0; a whole number of at least 1"),
        ({"gammas": (1.0, 0.0)}, r"gammas\[1\] is 0\.0; .* a finite number above 0 was expected"),
        ({"gradient_rates": (-1.0,)}, r"gradient_rates\[0\] is -1\.0; .* a finite number above 0 was expected"),
        ({"prior_precision": 0.0}, r"prior_precision is 0\.0; .* a finite number above 0 was expected"),
        ({"validation_share": 1.0}, r"validation_share is 1\.0; a number between 0 and 1"),
        ({"options": {"epochs": -1}}, "epochs is -1; a whole number of at least 0"),
        ({"options": {"epoch": 3}}, "option.*'epoch'"),
    ],
    ids=str,
)
def test_configuration_refuses_what_is_unknown_or_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        UpdateStudy(**changes)


def test_run_refuses_a_pool_that_is_too_small():
    # 1347 instances of which 269 are for validation.
    with pytest.raises(ValueError, match="the study needs 1079 instances; the pool of digits has 1078 to train on"):
        run(tiny(initial_size=1076))


# --- the picture of the paper, on digits: initial 10, RAdam


@pytest.fixture(scope="module")
def picture():
    return pd.concat([run(UpdateStudy(seed=seed, new_sizes=(5, 10), device="cpu")) for seed in range(3)])


def test_a_second_order_update_comes_closer_to_retraining_than_the_others(picture):
    accuracy = tuned(picture).groupby("method")["accuracy"].mean()
    assert accuracy["base"] + 0.03 < accuracy["second_order"] < accuracy["retraining"]
    assert accuracy["base"] < accuracy["first_order"] < accuracy["second_order"]
    assert accuracy["base"] < accuracy["monte_carlo"] < accuracy["second_order"]


def test_the_step_size_matters(picture):
    second_order = picture[picture["method"] == "second_order"].groupby("gamma")["accuracy"].mean()
    assert second_order[5.0] > second_order[30.0] + 0.05


def test_more_new_samples_help(picture):
    accuracy = tuned(picture).groupby(["method", "n_new"])["accuracy"].mean()
    for method in ("second_order", "retraining"):
        assert accuracy[method, 10] > accuracy[method, 5] + 0.01


def test_compared_pairs_each_row_with_the_base_head_of_its_draw():
    keys = {"run": ["r"] * 4 + ["q"] * 2, "draw": [0, 1, 0, 1, 0, 0], "n_new": [2] * 6}
    methods = ["base", "base", "second_order", "second_order", "retraining", "base"]
    rows = pd.DataFrame({**keys, "method": methods, "accuracy": [0.1, 0.2, 0.4, 0.7, 0.9, 0.5]})
    table = compared(rows, ["second_order", "base"])
    assert table["method"].tolist() == ["second_order", "second_order", "base", "base", "base"]
    assert table["gain"].tolist() == pytest.approx([0.3, 0.5, 0.0, 0.0, 0.0])
