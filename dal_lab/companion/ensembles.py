"""Tables and sentences on an ensemble: beside the best of its members, its win rates, and what its filter changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dal_lab.companion.budgets import records
from dal_lab.companion.figures.style import label
from dal_lab.companion.paper_numbers import cell_by_cell
from dal_lab.companion.statistics import CONFIDENCE, curve_means, mean_over_seeds, paired, win_rates
from dal_lab.companion.verdicts import lead_over


def beside_best(rows: pd.DataFrame, name: str, members: Sequence[str]) -> tuple[list[str], str]:
    """Return a line a data set on the lead of `name` over the best of `members`, and a sentence on how many are clear.

    Leads are those of `verdicts.lead_over`; clear are those longer than half their 95 % interval over seeds.
    """
    means = 100 * curve_means(rows)
    best = means[list(members)].groupby(level="data", sort=False).mean().idxmax(axis=1).map(label)
    leads = lead_over(means, name, members).rename("lead").reset_index()
    table = mean_over_seeds(leads, ["data"], ["lead"]).set_index("data")
    lines = [
        f"{data}: {label(name)} − {best[data]}, its best strategy in hindsight: {mean:+.2f} ± {half:.2f} points."
        for data, mean, half in table[["lead", "lead_ci"]].itertuples()
    ]
    above, under = (int((sign * table["lead"] > table["lead_ci"]).sum()) for sign in (1, -1))
    return lines, (
        f"Its lead over the best of its strategies is beyond the scatter of {table['seeds'].min():.0f} seeds on "
        f"{above} of {len(table)} data set{'s' if len(table) > 1 else ''}, its deficit on {under} (uncorrected)."
    )


def below(tests: pd.DataFrame, name: str) -> list[str]:
    """Return a line a data set that names what `tests` (`statistics.paired` against `name`) find to be below `name`."""
    clear = tests[(tests["p_holm"] < 1 - CONFIDENCE) & (tests["difference"] < 0)]
    found = {data: "; ".join(part["strategy"]) for data, part in clear.groupby("data", sort=False)}
    return [
        f"{data}: below {label(name)} after Holm's correction for {len(part)} comparisons: {found.get(data, 'none')}."
        for data, part in tests.groupby("data", sort=False)
    ]


def by_seed(rows: pd.DataFrame, left: str, right: str, by: str) -> pd.DataFrame:
    """Return the accuracy of the entry `left` of `by` less that of `right`, in points, a column a strategy."""
    return 100 * (curve_means(rows[rows[by] == left]) - curve_means(rows[rows[by] == right]))


def by_strategy(rows: pd.DataFrame, left: str, right: str, by: str) -> pd.DataFrame:
    """Return for each strategy the accuracies in percent of two entries of `by`, and their difference, left − right.

    Differences have the columns of `statistics.paired`; p is corrected for the strategies of a data set.
    """
    change = by_seed(rows, left, right, by).assign(nothing=0.0)
    tests = paired(pd.DataFrame({"accuracy": change.stack()}).reset_index(), "nothing")
    means = 100 * rows.groupby(["data", "strategy", by], sort=False)["accuracy"].mean().unstack(by)
    return means[[right, left]].reset_index().merge(tests)


def changes(table: pd.DataFrame, left: str, right: str) -> tuple[list[str], str]:
    """Return a line a data set on a table of `by_strategy`, and a sentence on how many differences are clear."""
    lines = []
    for data, part in table.set_index("strategy").groupby("data", sort=False):
        mean = part["difference"]
        lines.append(
            f"{data}: {left} is at least as good as {right} for {(mean >= 0).sum()} of {len(mean)} strategies, "
            f"{mean.mean():+.2f} points on average; from {mean.min():+.2f} ({label(str(mean.idxmin()))}) to "
            f"{mean.max():+.2f} ({label(str(mean.idxmax()))})."
        )
    clear = table.loc[table["p_holm"] < 1 - CONFIDENCE, "difference"]
    return lines, (
        f"After Holm's correction {left} is better than {right} in {(clear > 0).sum()} of {len(table)} comparisons and "
        f"worse in {(clear < 0).sum()}; the others are open."
    )


def surplus(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return the share of wins of `name` less its losses, in points, of the pair where it is lowest.  [data, seed]"""
    wins = {place: win_rates(part) for place, part in rows.groupby(["data", "seed"], sort=False)}
    lowest = {place: (each.loc[name] - each[name]).drop(name).min() for place, each in wins.items()}
    return 100 * pd.Series(lowest).rename_axis(["data", "seed"])


def beside_published(rows: pd.DataFrame, paper: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return measured and published win rates of the strategies that both have, by titles that name their data."""
    measured, data = win_rates(rows), rows["data"].unique()
    order = [name for name in paper.index if name in measured.index]
    title = f"measured, {', '.join(data) if len(data) < 4 else f'{len(data)} data sets'}"
    return {title: measured.loc[order, order], "published, the paper's data sets": paper.loc[order, order]}


def win_rate_means(sides: Mapping[str, pd.DataFrame], name: str) -> pd.DataFrame:
    """Return for each strategy how often `name` beats it, and its mean win rate, by each of the matrices `sides`."""
    beaten = {f"beaten by {label(name)}, {side}": rates.loc[name].drop(name) for side, rates in sides.items()}
    means = {f"mean win rate, {side}": rates.sum(axis=1) / (len(rates) - 1) for side, rates in sides.items()}
    (first, *_) = sides.values()
    return pd.DataFrame(beaten | means, index=first.index).rename_axis("strategy").reset_index()


def win_rate_reading(sides: Mapping[str, pd.DataFrame], name: str) -> tuple[list[str], str]:
    """Return lines on the win rates of `name`, measured and published (`sides`), and a sentence on all of them."""
    measured, paper = sides.values()
    wins, theirs = (rates.loc[name].drop(name) for rates in (measured, paper))
    above, sums = (wins > measured[name].drop(name)).sum(), (paper + paper.T).to_numpy()
    means, of_paper = (rates.sum(axis=1) / (len(rates) - 1) for rates in (measured, paper))
    others, rank = means.drop(name), means.corr(of_paper, method="spearman")
    return [
        f"{label(name)} wins more often than it loses against {above} of {len(wins)} strategies.",
        f"Its lowest win rate is {wins.min():.2f}, against {label(str(wins.idxmin()))}; published: {theirs.min():.2f}, "
        f"against {label(str(theirs.idxmin()))}.",
        f"The published rates of a pair add up to {np.median(sums[sums > 0]):.2f} in the median: as if one cycle of 21 "
        "counted as a tie.",
    ], (
        f"By mean win rate {label(name)} is number {(others > means[name]).sum() + 1} of {len(means)} "
        f"({means[name]:.2f}); of the others {label(str(others.idxmax()))} has most, {others.max():.2f}. The order of "
        f"all has a rank correlation of {rank:.2f} with the published one."
    )


def win_rate_cells(rows: pd.DataFrame, paper: pd.DataFrame, *, same_data: bool) -> pd.DataFrame:
    """Return published beside measured win rates, a row a pair of strategies (`paper_numbers.cell_by_cell`).

    As in the `paper` matrix, the cycle before the first acquisition counts as a tie. Without `same_data` published
    rates are context: their difference has no interval, and there is no verdict.
    """
    cycles, by = rows["cycle"].max(), ["strategy", "against"]
    rates = {seed: cycles / (cycles + 1) * win_rates(part) for seed, part in rows.groupby("seed")}
    measured = pd.concat([_pairs(each).assign(seed=seed) for seed, each in rates.items()])
    cells = cell_by_cell(mean_over_seeds(measured, by, ["rate"]), _pairs(paper), by, "rate", "share")
    if not same_data:
        cells = cells.drop(columns=["difference (share)_ci", "within ±", "n_published"])
    return cells[cells["strategy"] != cells["against"]].assign(against=lambda table: table["against"].map(label))


def pool_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many instances each round of the filter leaves, mean over seeds and acquisitions of a data set."""
    found = records(rows)
    sizes = pd.DataFrame(found["pool_sizes"].tolist(), index=found["data"]).groupby("data", sort=False).mean()
    sizes.columns = [f"after round {number}" for number, _ in enumerate(sizes.columns, 1)]
    return sizes.round(0).astype(int).reset_index()


def _pairs(matrix: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rate": matrix.rename_axis(index="strategy", columns="against").stack()}).reset_index()
