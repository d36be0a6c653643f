"""Published tables, and how they stand beside measured ones."""

import numpy as np
import pandas as pd
import pytest

from dal_core.strategies import names
from dal_lab.companion.paper_numbers import SOURCES, bank_names, cell_by_cell, published
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


@pytest.mark.parametrize(("value", "within"), [(51.0, "yes"), (55.1, "yes"), (55.2, "no"), (40.0, "no")])
def test_each_cell_that_both_have_gets_its_difference_and_a_verdict(value, within):
    table = cell_by_cell(measured([50.0, 51.0, 53.0]), paper(value), ["data", "strategy"])
    (row,) = table.to_dict("records")
    half = 4.302652729911275 * np.std([50, 51, 53], ddof=1) / 3**0.5  # Student's t with two degrees of freedom
    assert row["strategy"] == "margin"
    assert row["published (%)"] == value
    assert row["measured (%)"] == pytest.approx(154 / 3)
    assert row["measured (%)_ci"] == pytest.approx(half)
    assert row["difference (points)"] == pytest.approx(154 / 3 - value)
    assert row["within ±"] == within
    assert row["seeds"] == 3


def test_a_single_seed_has_no_verdict():
    table = cell_by_cell(measured([50.0]), paper(50.0), ["data", "strategy"])
    assert table["within ±"].isna().all()
    assert table["difference (points)"].tolist() == [0]


def test_tables_without_a_common_cell_give_an_empty_one():
    table = cell_by_cell(measured([50.0, 51.0]), paper(50.0).iloc[1:], ["data", "strategy"])
    assert table.empty
    assert "published (%)" in table


def test_a_cell_that_is_published_twice_is_refused():
    with pytest.raises(ValueError, match=r"paper holds {'data': 'x', 'strategy': 'margin'} twice"):
        cell_by_cell(measured([50.0]), pd.concat([paper(1.0)] * 2), ["data", "strategy"])
