"""Tables and sentences on an ensemble, on rows small enough to work out by hand."""

import json

import pandas as pd
import pytest

from dal_lab.companion.ensembles import (
    below,
    beside_best,
    beside_published,
    by_seed,
    by_strategy,
    changes,
    pool_sizes,
    surplus,
    win_rate_cells,
    win_rate_means,
    win_rate_reading,
)
from dal_lab.companion.statistics import paired

# Accuracies in percent after one acquisition, three seeds each; all strategies start at 50 %.
CURVES = {"margin": (60, 62, 64), "badge": (58, 70, 61), "refine": (62, 64, 66.3)}


def rows_of(curves, **others):
    return pd.DataFrame([
        {"run": f"{name}{seed}", "data": "digits", "strategy": name, "seed": seed, "cycle": cycle, "accuracy": share}
        | others
        for name, reached in curves.items()
        for seed, last in enumerate(reached)
        for cycle, share in enumerate((0.5, last / 100))
    ])  # fmt: skip


@pytest.fixture
def rows():
    return rows_of(CURVES)


@pytest.fixture
def paper():
    names = ["margin", "badge", "refine"]
    return pd.DataFrame([[0, 0.5, 0.1], [0.4, 0, 0.2], [0.8, 0.7, 0]], pd.Index(names, name="strategy"), names)


@pytest.mark.parametrize(
    ("curves", "lead", "counts"),
    [
        ({}, "REFINE − BADGE, its best strategy in hindsight: +0.55 ± 7.68", "on 0 of 1 data set, its deficit on 0"),
        ({"badge": (1, 2, 3)}, "REFINE − Margin, its best strategy in hindsight: +1.05 ± 0.22", "on 1 of 1"),
        ({"refine": (50, 52, 54.3)}, "REFINE − BADGE", "on 0 of 1 data set, its deficit on 0"),
        ({"badge": (1, 2, 3), "refine": (50, 52, 54.3)}, "REFINE − Margin", "on 0 of 1 data set, its deficit on 1"),
    ],
)
def test_the_lead_over_the_best_member(curves, lead, counts):
    lines, sentence = beside_best(rows_of(CURVES | curves), "refine", ["margin", "badge"])
    assert [line.startswith(f"digits: {lead}") for line in lines] == [True]
    assert f"scatter of 3 seeds {counts}" in sentence


def test_what_is_below_after_the_correction():
    tests = paired(rows_of(CURVES | {"random": (1, 3, 5.3)}), "refine")
    assert below(tests, "refine") == [
        "digits: below REFINE after Holm's correction for 3 comparisons: margin; random."
    ]  # fmt: skip


def test_two_variants_of_each_strategy():
    both = pd.concat([rows_of(CURVES, pool="whole"), rows_of(CURVES | {"badge": (64, 76, 67)}, pool="filtered")])
    difference = by_seed(both, "filtered", "whole", "pool")
    assert difference["badge"].tolist() == pytest.approx([3, 3, 3])  # 6 points in one of two cycles
    table = by_strategy(both, "filtered", "whole", "pool").set_index("strategy")
    assert table.loc["badge", ["whole", "filtered", "difference", "difference_ci"]].tolist() == pytest.approx(
        [56.5, 59.5, 3, 0]
    )
    assert table.loc["margin", ["difference", "p", "p_holm"]].tolist() == [0, 1, 1]
    lines, sentence = changes(table.reset_index(), "*filtered*", "*whole*")
    assert lines == [
        "digits: *filtered* is at least as good as *whole* for 3 of 3 strategies, +1.00 points on average; from +0.00 "
        "(Margin) to +3.00 (BADGE)."
    ]
    assert "better than *whole* in 1 of 3 comparisons and worse in 0" in sentence


def test_win_rates_beside_published_ones(rows, paper):
    sides = beside_published(rows_of(CURVES | {"mine": (1, 2, 3)}), paper)
    assert list(sides) == ["measured, digits", "published, the paper's data sets"]
    assert sides["measured, digits"].loc["refine"].tolist() == pytest.approx([1, 2 / 3, 0])  # "mine" is not published
    table = win_rate_means(sides, "refine").set_index("strategy")
    assert table["beaten by REFINE, measured, digits"].tolist() == pytest.approx([1, 2 / 3, float("nan")], nan_ok=True)
    assert table["mean win rate, published, the paper's data sets"].tolist() == pytest.approx([0.3, 0.3, 0.75])
    lines, sentence = win_rate_reading(sides, "refine")
    assert lines[:2] == [
        "REFINE wins more often than it loses against 2 of 2 strategies.",
        "Its lowest win rate is 0.67, against BADGE; published: 0.70, against BADGE.",
    ]
    assert "add up to 0.90 in the median" in lines[2]
    assert "REFINE is number 1 of 3 (0.83); of the others Margin has most, 0.33" in sentence
    assert surplus(rows, "refine").tolist() == pytest.approx([100, -100, 100])


@pytest.mark.parametrize("same_data", [True, False])
def test_cells_have_a_verdict_on_the_same_data_only(rows, paper, same_data):
    cells = win_rate_cells(rows, paper, same_data=same_data).set_index(["strategy", "against"])
    assert len(cells) == 6
    assert cells.loc[("refine", "Margin"), "measured (share)"] == pytest.approx(0.5)  # of two cycles the first is a tie
    assert cells.loc[("refine", "Margin"), "published (share)"] == pytest.approx(0.8)
    assert ("within ±" in cells) == ("difference (share)_ci" in cells) == same_data


def test_sizes_of_the_filtered_pool(rows):
    rows["record"] = [json.dumps({"pool_sizes": [9 + 3 * seed, 4]}) for seed in rows["seed"]]
    sizes = pool_sizes(rows)
    assert sizes.to_dict("records") == [{"data": "digits", "after round 1": 12, "after round 2": 4}]
