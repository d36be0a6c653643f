"""How far strategies are from an oracle, and what strategies record about their choices."""

import json

import pandas as pd

from dal_core.checks import check_choice, check_columns

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
