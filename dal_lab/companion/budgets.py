"""How far strategies are from an oracle, and what strategies record about their choices."""

import json
from collections.abc import Mapping

import pandas as pd

from dal_core.checks import check_choice, check_columns
from dal_lab.companion.figures.style import label
from dal_lab.companion.statistics import CONFIDENCE, paired

BUDGETS = ("low", "mid", "high")
PLACE = ["run", "data", "strategy", "seed", "cycle"]


def with_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of learning curves with the column `budget`: low, mid or high, thirds of the curve.

    Of 20 acquisitions, low are the cycles 0-6, mid 7-13, high 14-20 (BoSS, benchmark).
    """
    check_columns("rows", rows, ("run", "cycle"))
    third = rows["cycle"] * len(BUDGETS) // (rows.groupby("run")["cycle"].transform("max") + 1)
    return rows.assign(budget=third.map(dict(enumerate(BUDGETS))))


def leads(rows: pd.DataFrame, oracle: str) -> pd.DataFrame:
    """Return the best other strategy for each data set and budget, and the oracle's lead over it, paired by seed.

    `rows` have data, seed, budget, strategy and accuracy (a share); rows of one strategy, seed and budget are
    averaged. Returns data, budget, strategy (the best one), difference (a share) and seed.
    """
    by = ["data", "budget"]
    check_columns("rows", rows, [*by, "seed", "strategy", "accuracy"])
    check_choice("oracle", oracle, rows["strategy"].unique())
    means = rows.groupby([*by, "seed", "strategy"], sort=False)["accuracy"].mean().unstack("strategy")
    others = means.drop(columns=oracle)
    # The best strategy is that of the mean over seeds: a best one for every seed would be a choice in hindsight.
    best = others.groupby(level=by, sort=False).mean().idxmax(axis=1)
    rows = others.reset_index().melt([*by, "seed"], var_name="strategy", value_name="other")
    rows = rows.merge(best.rename("best").reset_index(), on=by)
    rows = rows[rows["strategy"] == rows["best"]].merge(means[oracle].rename("oracle").reset_index())
    return rows.assign(difference=rows["oracle"] - rows["other"])[[*by, "strategy", "seed", "difference"]]


def side_by_side(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a table of budgets with a row for each entry of its other columns data and strategy.

    `columns` are those of the table that each budget has, with their new names, in which {} stands for the budget.

    >>> table = pd.DataFrame({"data": ["letter"] * 2, "budget": ["low", "high"], "accuracy": [60.7, 79.5]})
    >>> side_by_side(table, {"accuracy": "{} (%)"}).to_dict("list")
    {'data': ['letter'], 'low (%)': [60.7], 'high (%)': [79.5]}
    """
    by = [name for name in ("data", "strategy") if name in table and name not in columns]
    parts = {each: table[table["budget"] == each].set_index(by) for each in BUDGETS if each in set(table["budget"])}
    found = {name.format(each): part[column] for each, part in parts.items() for column, name in columns.items()}
    return pd.DataFrame(found).reset_index()


def standing(rows: pd.DataFrame, name: str, by: str = "strategy") -> str:
    """Return a sentence a data set: which entries of `by` the entry `name` is above, below, or not told apart from.

    Mean accuracies over the curve are compared, paired by seed and corrected for the number of comparisons (Holm).
    """
    table = paired(rows, name, by=by)
    table["side"] = (table["difference"] > 0).map({True: "below", False: "above"})
    table["side"] = table["side"].where(table["p_holm"] < 1 - CONFIDENCE, "not told apart from")
    said = []
    for data, part in table.groupby("data", sort=False):
        names = part.groupby("side")[by].agg(lambda entries: ", ".join(f"*{label(entry)}*" for entry in entries))
        sides = "; ".join(f"{side} {names[side]}" for side in names.index)
        said.append(f"On {data} *{label(name)}* is {sides} ({part['seeds'].max()} seeds, {len(part)} comparisons).")
    return " ".join(said)


def records(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the records of each acquisition, a column for each entry, beside run, data, seed and cycle.

    Raises:
        ValueError: if the rows hold no records.
    """
    check_columns("rows", rows, PLACE)
    if "record" not in rows:
        raise ValueError("rows lack the column record; runs of a strategy that keeps records were expected")
    acquired = rows[rows["cycle"] > 0].reset_index(drop=True)
    return acquired[PLACE].join(pd.DataFrame([json.loads(text) for text in acquired["record"]]))
