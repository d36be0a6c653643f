"""What the rows of updating studies say, and the figures that show it, on numbers that are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection

import dal_core as dal
from dal_lab.companion.explorer.updates import half_moons
from dal_lab.companion.figures.curves import gradient_steps
from dal_lab.companion.figures.plane import surfaces
from dal_lab.studies.updating_tables import at_equal_time, at_tuned_steps, in_settings, recovered, speedups, studies


def test_studies_of_all_data_sizes_and_seeds_have_what_their_data_say_otherwise():
    own = {"likelihood": "categorical", "gammas": [0.1, 0.5]}
    data = [{"dataset": "digits", "about": {}}, {"dataset": "agnews", "encoder": "bert", "about": {"study": own}}]
    found = studies(data, [10, 50], 2, draws=3, likelihood="gaussian")
    assert [(each.dataset, each.initial_size, each.seed) for each in found[:5]] == [
        ("digits", 10, 0), ("digits", 10, 1), ("digits", 50, 0), ("digits", 50, 1), ("agnews", 10, 0),
    ]  # fmt: skip
    assert [each.likelihood for each in found[3:5]] == ["gaussian", "categorical"]
    assert list(found[4].gammas) == [0.1, 0.5]
    assert {each.draws for each in found} == {3}


def test_recovered_is_a_share_of_what_retraining_gains():
    accuracies = pd.DataFrame(
        {"base": [10.0, 40.0], "first": [11.0, 39.0], "second": [13.0, 42.0], "retraining": [14.0, 42.0]},
        index=pd.Index([100, 500], name="initial_size"),
    )
    table = recovered(accuracies)
    assert table["initial_size"].tolist() == [100, 100, 500, 500]
    assert table["method"].tolist() == ["first", "second"] * 2
    assert table["gain of retraining"].tolist() == [4, 4, 2, 2]
    assert table["recovered"].tolist() == [25, 75, -50, 100]


@pytest.fixture
def rows():
    """Two settings with a base head, an update with two steps, gradient steps and retraining; one seed and draw."""
    cells = [  # method, gamma, steps, rate, accuracy, validation_accuracy, update_s
        ("base", np.nan, np.nan, np.nan, 0.5, 0.5, 0.0),
        ("second_order", 1.0, np.nan, np.nan, 0.6, 0.7, 0.02),
        ("second_order", 5.0, np.nan, np.nan, 0.9, 0.6, 0.02),
        ("gradient_all", np.nan, 1, 0.1, 0.55, 0.5, 0.01),
        ("gradient_all", np.nan, 3, 0.1, 0.65, 0.5, 0.02),
        ("gradient_all", np.nan, 10, 0.1, 0.8, 0.5, 0.09),
        ("gradient_new", np.nan, 1, 0.1, 0.4, 0.5, 0.03),
        ("gradient_new", np.nan, 3, 0.1, 0.3, 0.5, 0.05),
        ("retraining", np.nan, np.nan, np.nan, 0.7, 0.6, 1.0),
    ]
    names = ["method", "gamma", "steps", "rate", "accuracy", "validation_accuracy", "update_s"]
    one = pd.DataFrame(cells, columns=names).assign(data="digits", seed=0, draw=0, n_new=1)
    return pd.concat([one.assign(initial_size=size, run=str(size)) for size in (50, 10)], ignore_index=True)


def test_methods_are_at_the_steps_that_held_out_data_prefer_setting_by_setting(rows):
    found = at_tuned_steps(rows, ["base", "second_order"])
    assert found[["initial_size", "method"]].to_numpy().tolist() == [
        [50, "base"], [50, "second_order"], [10, "base"], [10, "second_order"],
    ]  # fmt: skip
    assert found["step"].fillna(-1).tolist() == [-1, 1, -1, 1]  # not 5, which the test split prefers
    assert found["gain"].tolist() == pytest.approx([0, 0.1, 0, 0.1])
    assert in_settings(found)["data"].unique().tolist() == ["digits, 50 initial labels", "digits, 10 initial labels"]


def test_speedups_are_those_over_retraining_in_the_same_setting(rows):
    slower = rows.assign(update_s=rows["update_s"] * rows["initial_size"].map({50: 1, 10: 2}))
    table = speedups(slower[slower["method"].isin(["second_order", "retraining"])], ["data", "initial_size"])
    assert table["update_s"].tolist() == [0.02, 1.0, 0.04, 2.0]
    assert table["speedup"].tolist() == pytest.approx([50, 1, 50, 1])


def test_at_equal_time_stand_the_most_steps_that_take_no_longer_or_else_the_fewest(rows):
    steps = at_tuned_steps(rows, ["gradient_all", "gradient_new"])
    table = at_equal_time(steps, at_tuned_steps(rows, ["second_order"]))
    assert table["steps"].tolist() == [3, 1, 3, 1]
    assert table["accuracy"].tolist() == pytest.approx([65, 40, 65, 40])
    assert table["second_order"].tolist() == pytest.approx([60] * 4)
    assert table["second_order_s"].tolist() == [0.02] * 4


def test_gradient_steps_are_drawn_with_the_levels_of_their_own_setting(rows):
    levels = at_tuned_steps(rows, ["retraining"])
    levels.loc[levels["initial_size"] == 10, "gain"] = 0.3
    figure = gradient_steps(at_tuned_steps(rows, ["gradient_all"]), levels)
    first, second = figure.axes
    assert first.get_title() == "digits, 50 initial labels"
    assert [line.get_ydata()[0] for line in (first.lines[-1], second.lines[-1])] == pytest.approx([20, 30])
    assert first.lines[0].get_ydata().tolist() == pytest.approx([5, 15, 30])


def test_heads_in_the_plane_know_what_their_panel_marks():
    bank, order, heads = half_moons()
    share = {name: dal.accuracy(head.logits(bank.test_features), bank.test_labels) for name, (head, _) in heads.items()}
    assert share["Before"] < min(share["Second-order update"], share["Retraining"])
    points, labels = bank.train_features[order], bank.train_labels[order]
    identity = torch.eye(2, dtype=torch.float64)
    pictures = {name: (head.logits, known) for name, (head, known) in heads.items()}
    figure = surfaces(pictures, points, labels, [(torch.zeros(2, dtype=torch.float64), 4 * identity)])
    assert [axes.get_title() for axes in figure.axes] == [*heads, "Posterior of class 1"]
    for axes, (_, known) in zip(figure.axes, heads.values(), strict=False):
        hollow, *marked = (len(each.get_offsets()) for each in axes.collections if isinstance(each, PathCollection))
        assert (hollow, sum(marked)) == (20 - known, known)
    ellipse = np.stack(figure.axes[-1].lines[0].get_data())
    assert np.hypot(*ellipse) == pytest.approx(np.full(100, 2.0))
