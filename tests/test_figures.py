"""Figures of the report, where they do more than draw."""

import hashlib
import os

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from benchmarks.gpu.figures import draw_growth
from dal_lab.companion import notebooks
from dal_lab.companion.artefacts import Report
from dal_lab.companion.command_line import main
from dal_lab.companion.explorer.page import picture
from dal_lab.companion.figures import curves
from dal_lab.companion.figures.style import use_style


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


# --- a user's own configuration

CURVES = pd.DataFrame({
    "data": "x", "strategy": np.repeat(["random", "margin"], 4), "seed": [0, 0, 1, 1] * 2,
    "n_labeled": [10, 20] * 4, "accuracy": np.linspace(0.2, 0.9, 8),
})  # fmt: skip
STEPS = [{"instances": 10, "median_s": 0.1}, {"instances": 20, "median_s": 0.2}]


class Frame:
    where, reason = "cycle 1", "It is uncertain."

    def draw(self):
        figure, axes = plt.subplots()
        axes.plot([1, 2], label="margin")
        axes.legend()
        return figure


def drawn(how, folder):
    """The digest of what one of the ways to a figure makes."""
    if how == "picture":
        return hashlib.sha256(picture(Frame()).encode()).hexdigest()
    if how == "report":
        use_style()
        Report(folder, "00_it").figure(curves.learning_curves(CURVES), "it", cell="(a) it", keys=[])
    else:
        draw_growth({"times": {"items": {"BADGE, a size": {"steps": STEPS}}}}, folder / "it.png")
    (found,) = folder.glob("*.png")
    return hashlib.sha256(found.read_bytes()).hexdigest()


@pytest.mark.parametrize("how", ["report", "picture", "benchmark"])
@pytest.mark.parametrize(
    "users",
    [
        {"font.size": 30, "axes.facecolor": "yellow", "legend.loc": "center"},
        {"text.usetex": True},
        {"savefig.bbox": "tight", "savefig.transparent": True, "lines.linestyle": "--", "xtick.direction": "in"},
    ],
)
def test_figures_are_the_same_whatever_the_user_has_configured(users, how, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "users").mkdir()
    with mpl.rc_context():
        mpl.rcdefaults()
        plain = drawn(how, tmp_path / "plain")
    with mpl.rc_context(users):
        assert drawn(how, tmp_path / "users") == plain
        if how != "report":
            assert {name: mpl.rcParams[name] for name in users} == users, "the user's defaults are changed"


def test_a_users_backend_reaches_neither_a_command_nor_a_notebook(monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("IPYTHONDIR", "/somebody/.ipython")
    with notebooks._kernel_environment():
        assert os.environ["MPLBACKEND"].endswith("backend_inline")
        assert os.environ["IPYTHONDIR"] == os.environ["JUPYTER_RUNTIME_DIR"]
    assert os.environ["MPLBACKEND"] == "TkAgg"
    assert main(["datasets"]) == 0
    assert os.environ["MPLBACKEND"] == "agg"
