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
