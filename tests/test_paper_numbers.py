"""Published tables, and how they stand beside measured ones."""

import numpy as np
import pandas as pd
import pytest

from dal_core.strategies import names
from dal_lab.companion.paper_numbers import SOURCES, bank_names, beside, cell_by_cell, expected_misses, published
from dal_lab.companion.statistics import mean_over_seeds
from dal_lab.sources.catalogue import data_sets


@pytest.mark.parametrize("name", SOURCES)
def test_published_tables_can_be_read(name):
    assert len(published(name)) >= 5


def test_unknown_tables_are_refused():
    with pytest.raises(ValueError, match="name is 'bos'; it has to be one of 'boss_ablations'"):
        published("bos")


def test_published_data_sets_and_strategies_are_known_by_name():
    known = {f"{name} (dinov2)" for name in data_sets()}
    assert set(bank_names(published("boss_dinov2")["data"])) <= known
    assert set(bank_names(published("boss_ablations")["data"])) <= known
    assert set(published("boss_dinov2")["strategy"]) <= set(names())
    assert bank_names(pd.Series(["CIFAR-10", "letter"]), "clip").tolist() == ["cifar10 (clip)", "letter"]


def measured(values):
    """A row a seed."""
    rows = pd.DataFrame({"data": "x", "strategy": "margin", "seed": range(len(values)), "accuracy": values})
    other = rows.assign(strategy="ours alone")
    return mean_over_seeds(pd.concat([rows, other]), ["data", "strategy"], ["accuracy"])


def paper(value):
    return pd.DataFrame({"data": ["x", "y"], "strategy": ["margin", "theirs alone"], "accuracy": [value, 1.0]})


VALUES = [50.0, 51.0, 53.0, 52.0]
MEAN = 51.5
HALF = 3.182446305284263 * np.std(VALUES, ddof=1) / 4**0.5  # Student's t with three degrees of freedom


@pytest.mark.parametrize("n", [10, 3])
@pytest.mark.parametrize(("times", "within"), [(0.0, "yes"), (0.99, "yes"), (-0.99, "yes"), (1.01, "no"), (-3.0, "no")])
def test_each_cell_that_both_have_gets_its_difference_and_a_verdict(times, within, n):
    half = HALF * (1 + 4 / n) ** 0.5  # the published mean of n seeds scatters, too
    value = MEAN - times * half
    table = cell_by_cell(measured(VALUES), paper(value), ["data", "strategy"], n_published=n)
    (row,) = table.to_dict("records")
    expected = {
        "data": "x", "strategy": "margin", "published (%)": value, "measured (%)": MEAN, "measured (%)_ci": HALF,
        "difference (points)": times * half, "difference (points)_ci": half, "within ±": within, "seeds": 4,
        "n_published": n,
    }  # fmt: skip
    numbers = [name for name, each in expected.items() if not isinstance(each, str)]
    assert list(row) == list(expected)
    assert {name: row[name] for name in numbers} == pytest.approx({name: expected[name] for name in numbers})
    assert row["within ±"] == within
    of_table = cell_by_cell(measured(VALUES), paper(value).assign(n_published=n), ["data", "strategy"])
    pd.testing.assert_frame_equal(of_table, table)


@pytest.mark.parametrize(
    "values",
    [[50.0], [50.0, 50.1, 50.2], [0.1, -0.1, 0.2, 0.0], [3.0, -1.0, 2.0, 1.0]],
    ids=["one seed", "three seeds", "around 0", "0 lies within, too"],
)
def test_what_could_not_fail_has_no_verdict(values):
    table = cell_by_cell(measured(values), paper(values[0]), ["data", "strategy"])
    assert table["within ±"].isna().all()
    assert table["difference (points)"].notna().all()
    assert expected_misses(table).startswith('No cell has a "within ±": it takes 4 seeds')


def test_a_perfect_reproduction_misses_as_often_as_is_said():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(50, 1, (4, 2000)), generator.normal(50, 1, (7, 2000)).mean(axis=0)
    cells = pd.DataFrame(
        {"data": np.tile(np.arange(2000), 4), "seed": np.repeat(np.arange(4), 2000), "accuracy": ours.ravel()}
    )
    both = pd.DataFrame({"data": np.arange(2000), "accuracy": theirs})
    table = cell_by_cell(mean_over_seeds(cells, ["data"], ["accuracy"]), both, ["data"], n_published=7)
    misses = (table["within ±"] == "no").sum()
    assert 70 < misses < 130  # 100 are expected, with a standard deviation of 10
    assert expected_misses(table) == (
        f'"No" in {misses} of 2000 cells with a verdict; '
        "if all values were reproduced, chance alone would make it 100.0."
    )


def test_published_rows_stand_beside_measured_ones_of_the_same_data():
    rows, left_out = beside(pd.DataFrame({"data": ["x", "z"]}), paper(1.0))
    assert rows["data"].tolist() == ["x"]
    assert left_out == "The paper has y, too, which are not among the measured data."
    assert beside(paper(1.0), paper(1.0))[1] == ""
    rows, left_out = beside(pd.DataFrame({"data": ["z"]}), paper(1.0))
    assert rows.empty
    assert left_out == "The paper has x, y, which are not among the measured data."


def test_tables_without_a_common_cell_give_an_empty_one():
    table = cell_by_cell(measured([50.0, 51.0]), paper(50.0).iloc[1:], ["data", "strategy"])
    assert table.empty
    assert "published (%)" in table


def test_a_cell_that_is_published_twice_is_refused():
    with pytest.raises(ValueError, match=r"paper holds {'data': 'x', 'strategy': 'margin'} twice"):
        cell_by_cell(measured([50.0]), pd.concat([paper(1.0)] * 2), ["data", "strategy"])
