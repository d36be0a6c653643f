"""Many strategies compared: how often one beats another, tests paired by seed, ranks over data sets and seeds.

Rows are those of learning curves, one for each data set, seed, strategy and cycle. Nothing depends on their order but
the order in which strategies are listed, that of first appearance.
"""

import dataclasses

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from dal_core.checks import check_choice, check_columns
from dal_lab.companion.statistics import CONFIDENCE, mean_over_seeds

BLOCK = ["data", "seed"]
CELL = [*BLOCK, "cycle"]
LISTED = 5  # entries that a message names


def win_rates(rows: pd.DataFrame, y: str = "accuracy") -> pd.DataFrame:
    """Share of data sets, seeds and cycles in which the row's strategy is strictly above the column's.

    Ties count for neither, so that [i, j] + [j, i] <= 1; the diagonal is 0. Cycle 0 is left out: no strategy has
    chosen anything by then. (REFINE's published matrix seems to count it: its entries are 20/21 of such shares.)
    What only one of the two strategies has does not count for the pair.

    Raises:
        ValueError: if two strategies share no data set, seed and cycle.
    """
    cells = _cells(rows, y)
    cells = cells[cells.index.get_level_values("cycle") > 0]
    values = cells.to_numpy(dtype=float).T  # [s, c]
    wins = (values[:, None] > values).sum(axis=-1)  # [s, s]; nothing is above or below NaN
    present = (~np.isnan(values)).astype(float)
    shared = present @ present.T  # [s, s]
    if not shared.all():
        left, right = (repr(cells.columns[i]) for i in np.argwhere(shared == 0)[0])
        raise ValueError(
            f"{left} and {right} share no data set, seed and cycle after cycle 0; at least one was expected"
        )
    return pd.DataFrame(wins / shared, index=cells.columns, columns=cells.columns)


def paired_tests(rows: pd.DataFrame, reference: str, *, value: str = "accuracy") -> pd.DataFrame:
    """Each strategy against `reference`, a data set at a time: mean over the curve, paired by seed.

    Returns data, strategy, difference (strategy - reference, mean over seeds), difference_ci (half width of Student's
    95 % interval), p (two-sided paired t test), p_holm (corrected for all comparisons of the data set) and seeds,
    the number of seeds that both have. A single seed has neither an interval nor a p.

    Raises:
        ValueError: if a data set lacks the reference or seeds to pair, or a curve is not as long as its counterparts.
    """
    means = _curve_means(rows, value)
    check_choice("reference", reference, means.columns)
    others = means.drop(columns=reference)
    differences = others.sub(means[reference], axis=0)
    found, paired = (each.notna().groupby(level="data", sort=False).any() for each in (others, differences))
    if unpaired := [f"{name!r} on {data}" for data, name in _where(found & ~paired)]:
        raise ValueError(f"{_listed(unpaired)} shares no seed with {reference!r}; at least one was expected")
    parts = [part.reset_index() for _, part in differences.groupby(level="data", sort=False)]
    tidy = pd.concat([part.melt(BLOCK, var_name="strategy", value_name="difference") for part in parts])
    table = mean_over_seeds(tidy, ["data", "strategy"], ["difference"])
    table = table[table["seeds"] > 0].reset_index(drop=True)  # the others did not run on that data set
    freedom = (table["seeds"] - 1).clip(lower=1)
    error = table["difference_ci"] / stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)
    p = pd.Series(2 * stats.t.sf((table["difference"] / error).abs(), freedom))
    p = p.mask((table["difference"] == 0) & (error == 0), 1.0)  # 0 / 0: the two never differ
    table.insert(4, "p", p)
    table.insert(5, "p_holm", p.groupby(table["data"], sort=False).transform(lambda each: holm(each.to_numpy())))
    return table


def holm(p: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """p values of c tests, corrected so that the chance of any false alarm stays below the level.

        p_(i) -> max_{j <= i} min(1, (c - j + 1) p_(j))        step-down, Holm 1979

    NaN stays NaN and does not count as a test.
    """
    order = np.argsort(p)  # NaN last
    factors = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


@dataclasses.dataclass(frozen=True, eq=False)
class Rankings:
    """Average ranks of strategies over `blocks` data sets and seeds, the best (lowest) first.

    `friedman_p` is the p value of "all are equal"; ranks further apart than `critical_difference` differ at 5 %.
    """

    ranks: pd.Series
    friedman_p: float
    critical_difference: float
    blocks: int

    def groups(self) -> list[list[str]]:
        """The largest groups of two or more strategies whose ranks differ by less than the critical difference."""
        names, ranks = list(self.ranks.index), self.ranks.to_numpy()
        ends = np.searchsorted(ranks, ranks + self.critical_difference)  # the first that is too far away
        before = np.concatenate(([0], ends[:-1]))
        return [names[i:end] for i, end in enumerate(ends) if end > before[i] and end - i > 1]


def rankings(rows: pd.DataFrame) -> Rankings:
    """Ranks by mean accuracy over the curve (1 is best, ties averaged) in each block, a data set and seed.

        CD = q_0.95(k, inf) / sqrt(2) * sqrt(k (k + 1) / (6 N))        k strategies, N blocks; Demsar 2006, 3.2.2

    The seeds of a data set are blocks of their own, as if they were independent: what differs does so on these data
    sets, and need not on others.

    Raises:
        ValueError: if there are fewer than three strategies, or a block lacks one.
    """
    means = _curve_means(rows, "accuracy")
    if (k := means.shape[1]) < 3:
        raise ValueError(f"rows have {k} strategies; at least 3 were expected, as paired_tests compares two")
    if missing := [f"{name!r} on {data}, seed {seed}" for (data, seed), name in _where(means.isna())]:
        raise ValueError(f"rows lack {_listed(missing)}; every strategy was expected in every block (data set, seed)")
    ranks = means.rank(axis=1, ascending=False).mean().rename("rank").sort_values(kind="stable")
    all_tied = bool((means.nunique(axis=1) == 1).all())  # where Friedman's statistic is 0 / 0
    friedman_p = 1.0 if all_tied else float(stats.friedmanchisquare(*means.to_numpy().T).pvalue)
    q = stats.studentized_range.ppf(CONFIDENCE, k, np.inf) / np.sqrt(2)
    return Rankings(ranks, friedman_p, float(q * np.sqrt(k * (k + 1) / (6 * len(means)))), len(means))


def _cells(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """A row for each data set, seed and cycle, a column for each strategy, NaN where there is none."""
    check_columns("rows", rows, [*CELL, "strategy", value])
    twice = rows.duplicated([*CELL, "strategy"])
    if twice.any():
        data, seed, cycle, name = rows.loc[twice, [*CELL, "strategy"]].iloc[0]
        raise ValueError(f"rows have {name!r} on {data}, seed {seed}, cycle {cycle} more than once; once was expected")
    cells = rows.pivot(index=CELL, columns="strategy", values=value)[list(rows["strategy"].drop_duplicates())]
    return cells.reindex(list(rows["data"].drop_duplicates()), level="data")


def _curve_means(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean over the curve, a row for each data set and seed, a column for each strategy; curves have to be whole."""
    cells = _cells(rows, value).dropna(how="all")  # times have no cycle 0
    curves = cells.groupby(level=BLOCK, sort=False)
    counts, sizes = curves.count(), curves.size()
    for block, name in _where(counts.gt(0) & counts.lt(sizes, axis=0)):
        found = f"{name!r} on {block[0]}, seed {block[1]} has {counts.loc[block, name]} cycles of {sizes[block]}"
        raise ValueError(f"{found}; whole curves were expected")
    # Sums of the same numbers in another order differ in their last digits, but are ties.
    return curves.mean().round(12)


def _where(flags: pd.DataFrame) -> list[tuple]:
    """Index and column of the entries that are true."""
    return [(flags.index[i], flags.columns[j]) for i, j in np.argwhere(flags.to_numpy())]


def _listed(places: list[str]) -> str:
    more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
    return ", ".join(places[:LISTED]) + more
