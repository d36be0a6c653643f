"""Budgets, leads and records of oracles."""

import json

import numpy as np
import pandas as pd
import pytest

from dal_core import strategies
from dal_core.ensembles import filtering
from dal_lab.companion.budgets import leads, records, side_by_side, standing, with_budget
from dal_lab.companion.figures.style import LOOKS, label
from dal_lab.companion.paper_numbers import SOURCES, published


def curve(strategy, seed, accuracies, data="letters"):
    rows = [{"data": data, "strategy": strategy, "seed": seed, "run": f"{strategy} {seed}", "cycle": cycle,
             "accuracy": value} for cycle, value in enumerate(accuracies)]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("acquisitions", "counts"),
    [
        (20, {"low": 7, "mid": 7, "high": 7}),
        (10, {"low": 4, "mid": 4, "high": 3}),
        (2, {"low": 1, "mid": 1, "high": 1}),
    ],
)
def test_budgets_are_thirds_of_the_curve(acquisitions, counts):
    rows = with_budget(curve("margin", 0, [0.5] * (acquisitions + 1)))
    assert rows["budget"].value_counts(sort=False).to_dict() == counts
    assert rows["budget"].tolist() == [name for name, count in counts.items() for _ in range(count)]


def test_budgets_of_the_paper():
    rows = with_budget(curve("margin", 0, [0.5] * 21)).set_index("cycle")["budget"]
    assert [rows[cycle] for cycle in (0, 6, 7, 13, 14, 20)] == ["low", "low", "mid", "mid", "high", "high"]


def test_leads_are_over_the_strategy_that_is_best_on_average():
    rows = pd.concat([
        curve("margin", 0, [0.1, 0.6, 0.5]), curve("margin", 1, [0.3, 0.2, 0.5]),  # mid: .6 and .2
        curve("badge", 0, [0.2, 0.5, 0.7]), curve("badge", 1, [0.4, 0.5, 0.7]),  # mid: .5 and .5, better on average
        curve("boss", 0, [0.3, 0.7, 0.6]), curve("boss", 1, [0.3, 0.8, 0.9]),
    ])  # fmt: skip
    table = leads(with_budget(rows), "boss").set_index(["budget", "seed"])
    assert set(table["strategy"]) == {"badge"}
    expected = {
        ("low", 0): 0.1,
        ("low", 1): -0.1,
        ("mid", 0): 0.2,
        ("mid", 1): 0.3,
        ("high", 0): -0.1,
        ("high", 1): 0.2,
    }
    assert table["difference"].to_dict() == pytest.approx(expected)


def test_records_are_columns_beside_their_place():
    rows = curve("boss", 3, [0.5, 0.6, 0.7])
    told = [{}, {"supplier": "margin", "loss_after": 0.4}, {"supplier": "badge", "loss_after": 0.3}]
    table = records(rows.assign(record=[json.dumps(each) for each in told]))
    assert table["cycle"].tolist() == [1, 2]
    assert table["supplier"].tolist() == ["margin", "badge"]
    assert table["loss_after"].tolist() == [0.4, 0.3]
    assert set(table["seed"]) == {3}


def test_rows_without_records_are_refused():
    with pytest.raises(ValueError, match="rows lack the column record"):
        records(curve("margin", 0, [0.5, 0.6]))


def test_published_tables_name_strategies_as_the_registry_does():
    table = published("boss_dinov2")
    assert set(table["strategy"]) <= set(strategies.names())
    assert len(table) == 3 * 9 * 10
    assert table["accuracy"].between(0.3, 1).all()
    lead = leads(table.assign(seed=0), "boss").set_index(["data", "budget"])
    assert lead.loc[("CIFAR-10", "low"), "difference"] == pytest.approx(0.829 - 0.796)
    assert lead.loc[("CIFAR-10", "low"), "strategy"] == "bait"


def test_published_win_rates_are_shares_and_name_strategies_as_the_figures_do():
    table = published("refine_win_rates").set_index("strategy")
    assert list(table.index) == list(table.columns)
    assert set(table) <= set(LOOKS)
    assert set(table) & set(strategies.names()) >= set(filtering.STRATEGIES)
    values = table.to_numpy()
    both = (values + values.T)[np.triu_indices(14, 1)]
    assert (np.diag(values) == 0).all()
    assert (both <= 1).all()
    # Cycle 0 of 21 is a tie; TCM and TypiClust are the same for three acquisitions more.
    assert np.median(both) == pytest.approx(20 / 21, abs=0.01)
    assert table.loc["tcm", "typiclust"] + table.loc["typiclust", "tcm"] == pytest.approx(17 / 21, abs=0.01)
    assert table.loc["refine", "random"] == 0.94
    assert table.loc["random", "refine"] == 0.02


@pytest.mark.parametrize("name", SOURCES)
def test_every_published_table_can_be_read(name):
    table = published(name)
    assert len(table)
    assert not table.isna().all().any()
    assert not any(str(column).startswith(("#", "Unnamed")) for column in table)


@pytest.mark.parametrize("name", strategies.names(oracle=True))
def test_the_label_of_every_oracle_says_so(name):
    assert label(name).endswith("(oracle)")


@pytest.mark.parametrize("name", strategies.names(oracle=False))
def test_no_other_label_does(name):
    assert "oracle" not in label(name)


def test_budgets_stand_side_by_side_in_their_order():
    table = pd.DataFrame(
        {"data": "a", "strategy": ["x", "x", "y"], "budget": ["high", "low", "low"], "accuracy": [3, 1, 2]}
    )
    found = side_by_side(table, {"accuracy": "{} (%)"}).set_index("strategy")
    assert [*found] == ["data", "low (%)", "high (%)"]
    assert found["low (%)"].to_dict() == {"x": 1, "y": 2}
    assert found["high (%)"].dropna().to_dict() == {"x": 3}


def test_standing_says_what_is_above_below_and_not_told_apart():
    level = {"boss": [0.9, 0.9, 0.9], "margin": [0.5, 0.51, 0.49], "cdo": [0.7, 1.0, 0.9], "sas": [0.99, 0.98, 1.0]}
    rows = pd.concat(
        [curve(name, seed, [value]) for name, values in level.items() for seed, value in enumerate(values)]
    )
    assert standing(rows, "boss") == (
        "On letters *BoSS (oracle)* is above *Margin*; below *SAS (oracle)*; not told apart from *CDO (oracle)* "
        "(3 seeds, 3 comparisons)."
    )
    assert "not told apart from *BoSS (oracle)*" in standing(rows[rows["strategy"].isin(["boss", "cdo"])], "cdo")
