"""An ensemble beside its members, and strategies on the pool that progressive filtering leaves."""

from collections.abc import Sequence

import pandas as pd

from dal_lab.companion.budgets import records
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import cell_by_cell
from dal_lab.companion.statistics import curve_means, mean_over_seeds, win_rates
from dal_lab.companion.verdicts import lead_over


def beside_best(rows: pd.DataFrame, name: str, members: Sequence[str]) -> tuple[list[str], str]:
    """Return a line a data set on the lead of `name` over the best of `members`, and how often it is clear.

    Leads are those of `verdicts.lead_over`, in points; clear are those longer than half their 95 % interval over seeds.
    """
    means = 100 * curve_means(rows)
    best = means[list(members)].groupby(level="data", sort=False).mean().idxmax(axis=1).map(label)
    leads = lead_over(means, name, members).rename("lead").reset_index()
    table = mean_over_seeds(leads, ["data"], ["lead"]).set_index("data")
    lines = [
        f"{data}: {label(name)} − {best[data]}, its best strategy in hindsight: {mean:+.2f} ± {half:.2f} points."
        for data, mean, half in table[["lead", "lead_ci"]].itertuples()
    ]
    above, below = (int((sign * table["lead"] > table["lead_ci"]).sum()) for sign in (1, -1))
    total, seeds = len(table), table["seeds"].min()
    return lines, (
        f"Its lead over the best of its strategies is beyond the scatter of {seeds} seeds on {above} of {total} data "
        f"set{'s' if total > 1 else ''}, its deficit on {below}."
    )


def surplus(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return the share of wins of `name` less its losses, in points, of the pair where it is lowest.  [data, seed]"""
    wins = {place: win_rates(part) for place, part in rows.groupby(["data", "seed"], sort=False)}
    lowest = {place: (each.loc[name] - each[name]).drop(name).min() for place, each in wins.items()}
    return 100 * pd.Series(lowest).rename_axis(["data", "seed"])


def win_rate_cells(rows: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Return published beside measured win rates, a row a pair of strategies (`paper_numbers.cell_by_cell`).

    As in the `paper` matrix, the cycle before the first acquisition counts as a tie.
    """
    cycles, by = rows["cycle"].max(), ["strategy", "against"]
    rates = {seed: cycles / (cycles + 1) * win_rates(part) for seed, part in rows.groupby("seed")}
    measured = pd.concat([_pairs(each).assign(seed=seed) for seed, each in rates.items()])
    cells = cell_by_cell(mean_over_seeds(measured, by, ["rate"]), _pairs(paper), by, "rate", "share")
    return cells[cells["strategy"] != cells["against"]].assign(against=lambda table: table["against"].map(label))


def pool_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many instances each round of the filter leaves, mean over seeds and acquisitions of a data set."""
    found = records(rows)
    sizes = pd.DataFrame(found["pool_sizes"].tolist(), index=found["data"]).groupby("data", sort=False).mean()
    sizes.columns = [f"after round {number + 1}" for number in sizes.columns]
    return sizes.round(0).astype(int).reset_index()


def _pairs(matrix: pd.DataFrame) -> pd.DataFrame:
    return matrix.rename_axis(index="strategy", columns="against").stack().rename("rate").reset_index()
