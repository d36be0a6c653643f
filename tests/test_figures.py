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
from dal_lab.companion.figures.plane import points_left
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


def of_seeds(values, **columns):
    """Rows of the learning curves {strategy: [a curve of each seed]}, in percent."""
    rows = [
        {"data": "x", "strategy": name, "seed": seed, "n_labeled": 10 * (cycle + 1), "accuracy": value / 100}
        for name, lines in values.items() for seed, line in enumerate(lines) for cycle, value in enumerate(line)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def heights(axes):
    """The y values of the named lines."""
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    return {name: values for name, values in lines.items() if not name.startswith("_")}


def test_gains_of_step_sizes_have_intervals_and_an_outlier_squeezes_nobody():
    steps = {1.0: [3, 4, 5], 2.0: [4, 4, 4], 5.0: [5, 6, 7], 30.0: [-40, -50, -60]}
    levels = {"base": [0, 0, 0], "retraining": [7, 8, 9], **steps}
    rows = pd.DataFrame([
        {"data": "x", "initial_size": 10, "method": how, "gamma": how if how in steps else 0.0, "seed": seed,
         "n_new": n, "accuracy": (50 + level + n) / 100}
        for how, each in levels.items() for seed, level in enumerate(each) for n in (1, 2)
    ])  # fmt: skip
    parts = {name: rows[rows["method"] == name] for name in ("base", "retraining")}
    figure = curves.step_sizes(rows[rows["method"].isin(steps)], **parts)
    (panel,) = figure.axes
    assert panel.get_title() == "x, 10 initial labels"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "2", "5", "30"]
    (points,) = panel.containers
    assert points.lines[0].get_xydata() == pytest.approx(np.array([[0, 4], [1, 4], [2, 6]]))
    ends = [segment[:, 1] for segment in points.lines[2][0].get_segments()]
    half = 4.302652729911275 / 3**0.5  # Student's t, for a standard deviation of 1
    assert np.array(ends) == pytest.approx(np.array([[4 - half, 4 + half], [4, 4], [6 - half, 6 + half]]))
    assert panel.get_ylim()[0] > -10
    assert [text.get_text() for text in panel.texts] == ["-50.0"]
    assert heights(panel) == {"Retraining": [pytest.approx(8)] * 2, "Base (no update)": [0, 0]}
    assert figure.get_label() == (
        "Mean over 3 seeds; bars: 95 % intervals (t over seeds). An arrow with a number: far outside the panel."
    )


def test_bands_of_few_lines_end_where_shares_end_and_many_have_one_bar():
    few = of_seeds({"random": [[40, 99], [60, 100]], "margin": [[50, 99], [50, 98]]})
    figure = curves.learning_curves(few)
    (panel,) = figure.axes
    tops = [band.get_paths()[0].vertices[:, 1] for band in panel.collections]
    assert len(tops) == 2
    assert max(map(max, tops)) == 100
    assert min(map(min, tops)) == 0  # 50 ± 127
    assert figure.get_label() == "Mean over 2 seeds; bands: 95 % intervals (t over seeds)."
    names = ("random", "margin", "badge", "bait", "coreset", "typiclust")
    figure = curves.learning_curves(of_seeds({name: [[40, 90], [60, 92]] for name in names}))
    assert not any(panel.collections for panel in figure.axes)
    bar = figure.axes[0].lines[-1].get_ydata()
    halves = 12.706204736432095 * np.array([10.0, 1.0])  # Student's t of one degree of freedom
    assert bar[1] - bar[0] == pytest.approx(2 * np.median(halves))
    assert "bar at the right: the median 95 % interval of a point (t over seeds)" in figure.get_label()
    assert "band" not in figure.get_label()


def test_many_strategies_stand_below_as_differences_to_a_reference_and_an_outlier_leaves():
    lines = {
        "random": [[40, 50], [42, 54]], "bait_exact": [[40, 90], [42, 92]], "bait_top_1": [[40, 91], [42, 93.5]],
        "bait_top_2": [[40, 90.5], [42, 92]], "bait_top_5": [[41, 90], [42, 92]],
    }  # fmt: skip
    above, below = (figure := curves.learning_curves(of_seeds(lines), reference="bait_exact")).axes
    assert heights(above)["BAIT, c = 1"] == pytest.approx([41, 92.25])
    drawn = heights(below)
    assert list(drawn) == ["Random", "BAIT, c = 1", "BAIT, c = 2", "BAIT, c = 5"]
    assert drawn["BAIT, c = 1"] == pytest.approx([0, 1.25])
    assert drawn["Random"] == pytest.approx([0, -39])
    assert below.get_ylim()[0] > -5
    assert below.get_ylabel() == "Difference to BAIT, exact\n(points)"
    assert "Partly below or above its lower panel: Random." in figure.get_label()
    assert len(curves.learning_curves(of_seeds(lines), reference="margin").axes) == 1
    other = of_seeds({name: values for name, values in lines.items() if name != "bait_exact"}).assign(data="y")
    both = curves.learning_curves(pd.concat([of_seeds(lines), other]), reference="bait_exact")
    assert [axes.get_title() for axes in both.axes] == ["x", "y", ""]
    five = pd.concat([of_seeds(lines).assign(data=name) for name in "abcde"])
    places = {axes.get_subplotspec().rowspan.start for axes in curves.learning_curves(five).axes if axes.get_title()}
    assert places == {0, 2}  # two rows of panels, each with its differences below


def test_a_line_on_another_one_is_dashed_and_the_caption_says_so():
    rows = of_seeds({"margin": [[40, 90]], "badge": [[40, 90]], "bait": [[40, 91]]})
    figure = curves.learning_curves(rows)
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--", "-"]
    assert figure.get_label() == ("A single seed: no intervals. A dashed line on another one: the two are equal.")


LEADS = pd.DataFrame([
    {"data": data, "budget": budget, "seed": seed, "difference": value / 100, "source": source}
    for data, source, found in (
        ("x", "measured", {"mid": [1, 3], "high": [0, 0], "low": [2, 4]}),
        ("x", "published", {"low": [5], "high": [1]}),
        ("y", "published", {"low": [9], "high": [9]}),
    )
    for budget, values in found.items() for seed, value in enumerate(values)
])  # fmt: skip


def test_leads_have_intervals_and_published_ones_only_beside_the_same_data():
    figure = curves.leads(LEADS)
    (panel,) = figure.axes
    assert panel.get_title() == "x"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["low", "mid", "high"]
    points, _, (bars,) = panel.containers[0].lines
    assert list(points.get_ydata()) == pytest.approx([3, 2, 0])
    assert points.get_linestyle() == "None"  # budgets are no scale
    half = 12.706204736432095
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(np.array([[3 - half, 3 + half], [2 - half, 2 + half], [0, 0]]))
    (paper,) = [line for line in panel.lines if line.get_label() == "published"]
    assert list(paper.get_ydata()) == pytest.approx([5, float("nan"), 1], nan_ok=True)
    assert paper.get_markerfacecolor() == "none"
    (panel,) = curves.leads(LEADS[LEADS["source"] == "measured"].drop(columns="source")).axes
    assert "published" not in heights(panel)


def test_shares_stand_with_their_counts():
    index = pd.MultiIndex.from_tuples([("x", "low"), ("x", "high")], names=["data", "budget"])
    counts = pd.DataFrame({"margin": [3, 0], "badge": [1, 2]}, index)
    figure = curves.shares(counts, expected=50)
    (panel,) = figure.axes
    assert [bar.get_height() for group in panel.containers for bar in group] == [75, 25, 0, 100]
    assert [text.get_text() for text in panel.texts] == ["3", "1", "", "2"]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["if all were equally good", "low budget (4 batches)", "high budget (2 batches)"]
    (panel,) = curves.shares(counts.astype(float) * 10, expected=50).axes  # shares already
    assert [bar.get_height() for group in panel.containers for bar in group] == [30, 10, 0, 20]
    assert not panel.texts


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.02, 3], ["0.03", "0.1", "0.3", "1"]),
        ([60, 90], ["70"]),
        ([20, 200], ["20", "50", "100", "200"]),
        ([2, 80000], ["10", "100", "1,000", "10,000"]),
    ],
)
def test_logarithmic_axes_have_values_at_a_few_ticks(values, ticks):
    figure, panel = plt.subplots()
    panel.plot([0, 1], values)
    curves.logarithmic(panel.yaxis)
    figure.canvas.draw()
    texts = [text.get_text() for text in panel.get_yticklabels()]
    assert set(ticks) <= set(texts)
    assert len(texts) <= 7
    assert not panel.yaxis.get_minorticklocs().size


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


def test_points_that_a_round_leaves_are_large_and_as_dark_as_before():
    positions, values = np.arange(8.0).reshape(4, 2), [0.0, 0.5, 0.8, 1.0]
    figure = points_left([[1, 2, 3], [1, 2]], values, [2], positions, positions[:1], [0])
    panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["all 4", "after round 1: 3 left", "after round 2: 2 left"]
    pool = [panel.collections[0] for panel in panels]
    large = [(each.get_sizes() == max(each.get_sizes())).tolist() for each in pool]
    assert large == [[True] * 4, [False, True, True, True], [False, True, True, False]]
    assert [each.get_array()[1] for each in pool] == [pool[0].get_array()[1]] * 3  # not relative to what is left
    assert [text.get_text() for panel in panels for text in panel.texts] == ["1"]
