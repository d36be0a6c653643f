import matplotlib.pyplot as plt
import pandas as pd
import pytest

from dal_lab.companion.description import describe
from dal_lab.companion.figures.comparisons import win_rates
from dal_lab.companion.figures.curves import panels, shared_legend


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_axes_panels_and_legend_are_named_once():
    figure, axes = panels(2)
    for each, title in zip(axes, ("digits", "letter"), strict=True):
        each.plot([0, 1], label="Random")
        each.plot([1, 0], label="BAIT, c = 1")
        each.set(title=title, xlabel="Labelled instances", ylabel="Test accuracy (%)")
    shared_legend(figure, axes)
    assert describe(figure) == (
        "Test accuracy (%) against Labelled instances. Panels: digits; letter. Shown: Random; BAIT, c = 1"
    )


def test_one_value_against_several_is_one_sentence():
    figure, axes = panels(2)
    for each, size in zip(axes, ("Pool size N", "Features D"), strict=True):
        each.set(xlabel=size, ylabel="Time (s)")
    assert describe(figure) == "Time (s) against Pool size N, Features D"


def test_names_at_the_ticks_count_and_numbers_do_not():
    rates = pd.DataFrame(
        [[float("nan"), 0.7], [0.3, float("nan")]], index=["margin", "bait"], columns=["margin", "bait"]
    )
    text = describe(win_rates({"measured": rates}))
    assert text == "Share in which the row is above the column. Panel: measured. Shown: Margin; BAIT, binary"


def test_powers_of_ten_are_no_names():
    figure, axes = plt.subplots()
    axes.plot([1, 1e6], [1, 1e6])
    axes.set(xscale="log", yscale="log", ylabel="Time (s)")
    figure.canvas.draw()
    assert describe(figure) == "Time (s)"


def test_a_figure_without_words_is_a_drawing():
    assert describe(plt.figure()) == "a drawing"
