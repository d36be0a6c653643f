"""Figures of the report, where they do more than draw."""

import numpy as np
import pandas as pd
import pytest

from dal_lab.companion.figures import curves


def test_accuracy_against_time_keeps_data_sets_apart_whatever_the_index():
    rows = pd.DataFrame({
        "data": ["x", "x", "y", "y"], "strategy": "margin", "seed": [0, 1, 0, 1],
        "accuracy": [0.2, 0.4, 0.7, 0.9], "query_s": [1.0, 3.0, 10.0, 30.0],
    }).set_index(np.array([0, 1, 0, 1]))  # fmt: skip
    figure = curves.accuracy_against_time(rows)
    drawn = [panel.containers[0].lines[0].get_xydata()[0] for panel in figure.axes[:2]]
    assert drawn[0] == pytest.approx([2, 30])
    assert drawn[1] == pytest.approx([20, 80])


def test_step_sizes_have_a_line_each_between_dashed_ones_of_base_and_retraining():
    rows = pd.DataFrame([
        {"data": "x", "initial_size": 10, "method": method, "gamma": gamma, "seed": 0, "n_new": n, "accuracy": n / 10}
        for method, gamma in (("second_order", 10.0), ("second_order", 1.0), ("base", 0.0), ("retraining", 0.0))
        for n in (1, 2)
    ])  # fmt: skip
    parts = dict(list(rows.groupby("method")))
    figure = curves.step_sizes(parts["second_order"], base=parts["base"], retraining=parts["retraining"])
    (panel,) = figure.axes
    assert panel.get_title() == "x, 10 initial labels"
    styles = {line.get_label(): line.get_linestyle() for line in panel.lines}
    assert styles == {"γ = 10": "-", "γ = 1": "-", "Base": "--", "Retraining": "--"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(styles)
    assert [line.get_linestyle() for line in figure.legends[0].get_lines()] == list(styles.values())
