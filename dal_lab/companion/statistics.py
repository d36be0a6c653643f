"""Means over seeds, how sure of them one can be, and strategies compared: paired tests, win rates, ranks.

Rows are those of learning curves, one for each data set, seed, strategy and cycle. Nothing depends on their order but
the order in which strategies are listed, that of first appearance.
"""

import gc
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from dal_core.checks import check_choice, check_columns
from dal_lab.companion.figures.style import label

CONFIDENCE = 0.95
SHARES = ("accuracy", "gain", "flips", "difference")
NAMES = ("method", "strategy")
CELL = ["data", "seed", "cycle"]
LISTED = 5  # A message names no more entries than these.


def in_percent(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows for a table: accuracies and other shares in percent, methods and strategies by their names for readers."""
    shares = {name: 100 * rows[name] for name in SHARES if name in rows}
    names = {name: rows[name].map(label) for name in NAMES if name in rows}
    return rows.assign(**shares, **names)


def mean_over_seeds(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Mean of each value over seeds, with the half width of its 95 % confidence interval and the number of seeds.

    Rows of one seed (draws, cycles) are averaged first: they share their data and are not independent. The interval
    is Student's, so that it is honest about three seeds; it is NaN for a single one.

    Returns a frame with the columns `by`, then for each value `value` and `value_ci`, then `seeds`.
    """
    by, values = list(by), list(values)
    check_columns("rows", rows, [*by, "seed", *values])
    per_seed = rows.groupby([*by, "seed"], dropna=False, sort=False)[values].mean().reset_index()
    groups = per_seed.groupby(by, dropna=False, sort=False)[values]
    mean, spread, count = groups.mean(), groups.std(ddof=1), groups.count()
    half = spread / np.sqrt(count) * stats.t.ppf(0.5 + CONFIDENCE / 2, (count - 1).clip(lower=1))
    table = mean.join(half.add_suffix("_ci")).assign(seeds=count[values[0]])
    order = [name for value in values for name in (value, f"{value}_ci")]
    return table[[*order, "seeds"]].reset_index()


def difference_to(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Rows with the difference in accuracy to the strategy `reference` of the same data, seed and cycle.

    Raises:
        ValueError: if rows lack their counterpart.
    """
    check_columns("rows", rows, [*CELL, "strategy", "accuracy"])
    others = rows[rows["strategy"] == reference].set_index(CELL)["accuracy"]
    level = others.reindex(pd.MultiIndex.from_frame(rows[CELL])).to_numpy()
    if np.isnan(level).any():
        raise ValueError(f"rows lack the strategy {reference!r} of some data set, seed or cycle; all were expected")
    return rows.assign(difference=rows["accuracy"] - level)


def paired(
    rows: pd.DataFrame, reference: str, *, by: str = "strategy", value: str = "accuracy", within: str | None = "data"
) -> pd.DataFrame:
    """Each entry of the column `by` against `reference`: mean over a seed's rows, paired by seed.

    Pairing takes out what the two share: initial labels, initial weights, test split. Each entry of `within` is
    compared by itself; None pools all rows of a seed.

    Returns `within`, `by`, difference (to the reference, mean over seeds), difference_ci (half width of Student's 95 %
    interval), p (two-sided paired t test), p_holm (corrected for all comparisons within, Holm 1979) and seeds, the
    number of seeds that both have. A single seed has neither an interval nor a p.

    Raises:
        ValueError: if the reference or seeds to pair are missing, or a curve is not as long as its counterparts.
    """
    means = curve_means(rows, by=by, value=value, within=within)
    check_choice("reference", reference, means.columns)
    others = means.drop(columns=reference)
    differences = others.sub(means[reference], axis=0)
    places = means.index.get_level_values(within) if within else np.repeat("all", len(means))
    found, both = (each.notna().groupby(places, sort=False).any() for each in (others, differences))
    if unpaired := _listed(found & ~both):
        raise ValueError(f"{unpaired} shares no seed with {reference!r}; at least one was expected")
    tidy = pd.DataFrame({"difference": differences.stack(future_stack=True)}).reset_index()
    keys = [within, by] if within else [by]
    table = mean_over_seeds(tidy, keys, ["difference"])
    table = table[table["seeds"] > 0].reset_index(drop=True)
    freedom = (table["seeds"] - 1).clip(lower=1)
    error = table["difference_ci"] / stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)
    p = pd.Series(2 * stats.t.sf((table["difference"] / error).abs(), freedom))
    p = p.mask((table["difference"] == 0) & (error == 0), 1.0)  # 0 / 0: the two never differ
    groups = p.groupby(table[within] if within else np.zeros(len(p)), sort=False)
    table.insert(len(keys) + 2, "p", p)
    table.insert(len(keys) + 3, "p_holm", groups.transform(_holm))
    return table


def _holm(p: pd.Series) -> pd.Series:
    """P values corrected for so many tests; NaN stays NaN and does not count as a test."""
    known = p.dropna()
    return pd.Series(holm(known.to_numpy())[1] if len(known) else known, known.index).reindex(p.index)


def holm(p: np.ndarray, error: float = 1 - CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the tests with these p values are decided at `error`, and the p values corrected (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # Its import takes seconds, and few callers test anything.

    gc.freeze()  # It collects garbage in each call, which takes a second where all of torch and pandas is loaded.
    try:
        decided, corrected, *_ = multipletests(p, error, method="holm")
    finally:
        gc.unfreeze()
    return decided, corrected


def verdict(rows: pd.DataFrame, left: str, right: str, *, by: str = "strategy", form: str = "{}") -> str:
    """Return a sentence on two entries of `by`, accuracies in percent: who is ahead, by how much, and how sure that is.

    `form` is how their names are written, such as "*{}*". Of several at a time, `readings` corrects for their number.
    """
    return readings(rows, [(left, right)], by=by, form=form)[0]


def readings(
    rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, by: str = "strategy", form: str = "{}"
) -> list[str]:  # fmt: skip
    """Return a sentence on each pair of entries of `by`, with one correction for all of them (Holm).

    One is ahead if the seeds' scatter does not explain it; a difference that is printed as 0.00 is none. ± is half the
    width of the 95 % interval of a single comparison.
    """
    found = []
    for left, right in pairs:
        table = paired(rows, right, by=by, within=None).set_index(by)
        check_choice("left", left, table.index)
        found.append(table.loc[left, ["difference", "difference_ci", "seeds", "p"]].to_numpy(dtype=float))
    corrected = _holm(pd.Series([p for *_, p in found]))
    of = f"corrected for {len(pairs)} comparisons" if len(pairs) > 1 else "a single comparison, uncorrected"
    lines = []
    for (left, right), (mean, half, seeds, _), p in zip(pairs, found, corrected, strict=True):
        ahead, behind = (form.format(name) for name in ((left, right) if mean >= 0 else (right, left)))
        size = f"{abs(mean):.2f}" + ("" if np.isnan(half) else f" ± {half:.2f}")
        count = "1 seed, which says nothing about scatter" if np.isnan(half) else f"{seeds:.0f} seeds"
        if f"{mean:.2f}".strip("-") == "0.00":
            lines.append(f"{form.format(left)} is level with {form.format(right)} ({size} points; {count})")
        elif np.isnan(half):
            lines.append(f"{ahead} is {size} points above {behind} ({count})")
        elif p < 1 - CONFIDENCE:
            lines.append(
                f"{ahead} is {size} points ahead of {behind} ({count}; more than their scatter explains, {of})"
            )
        else:
            lines.append(
                f"{ahead} is not told from {behind}: {size} points above it, within the scatter of {count} ({of})"
            )
    return lines


def win_rates(rows: pd.DataFrame, y: str = "accuracy") -> pd.DataFrame:
    """Share of data sets, seeds and cycles in which the row's strategy is strictly above the column's.

    Ties count for neither, so that [i, j] + [j, i] <= 1; the diagonal is 0. Cycle 0 is left out: no strategy has
    chosen anything by then. (REFINE's published matrix seems to count it: its entries are 20/21 of such shares.)
    What only one of the two strategies has does not count for the pair.

    Raises:
        ValueError: if two strategies share no data set, seed and cycle.
    """
    check_columns("rows", rows, [*CELL, "strategy", y])
    _check_once(rows, "strategy")
    cells = rows[rows["cycle"] > 0].pivot(index=CELL, columns="strategy", values=y)
    names = rows["strategy"].drop_duplicates().rename("strategy")
    values = cells.reindex(columns=names).to_numpy(dtype=float).T  # [s, c]
    wins = (values[:, None] > values).sum(axis=-1)  # [s, s]; nothing is above or below NaN
    present = (~np.isnan(values)).astype(float)
    shared = present @ present.T  # [s, s]
    if not shared.all():
        left, right = (repr(names.iloc[i]) for i in np.argwhere(shared == 0)[0])
        raise ValueError(
            f"{left} and {right} share no data set, seed and cycle after cycle 0; at least one was expected"
        )
    return pd.DataFrame(wins / shared, index=pd.Index(names), columns=pd.Index(names))


def blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over the curve, a row for each block (data set and seed), a column for each strategy.

    The seeds of a data set are blocks of their own, as if they were independent: what differs does so on these data
    sets, and need not on others.

    Raises:
        ValueError: if there are fewer than three strategies, or a block lacks one.
    """
    check_columns("rows", rows, CELL)
    means = curve_means(rows)
    if (k := means.shape[1]) < 3:
        raise ValueError(f"rows have {k} strategies; at least 3 were expected, as `paired` compares two")
    if missing := _listed(means.isna()):
        raise ValueError(f"rows lack {missing}; every strategy was expected in every block (data set, seed)")
    return means


def friedman(blocks: pd.DataFrame) -> float:
    """Friedman's p value of "all strategies are equally good", by their ranks in each block."""
    if (blocks.nunique(axis=1) == 1).all():  # The statistic is 0 / 0 where all are tied.
        return 1.0
    return float(stats.friedmanchisquare(*blocks.to_numpy().T).pvalue)


def curve_means(
    rows: pd.DataFrame, *, by: str = "strategy", value: str = "accuracy", within: str | None = "data"
) -> pd.DataFrame:
    """Mean over the curve, a row for each entry of `within` and seed, a column for each of `by`; curves are whole."""
    block = ["seed"] if within is None else [within, "seed"]
    check_columns("rows", rows, [*block, by, value])
    _check_once(rows, by)
    groups = rows.groupby([*block, by])[value]
    counts, means = (each.unstack(by)[list(rows[by].drop_duplicates())] for each in (groups.count(), groups.mean()))
    if short := _listed(counts.gt(0) & counts.lt(counts.max(axis=1), axis=0)):
        raise ValueError(f"{short} has fewer cycles than others there; whole curves were expected")
    if within is not None:
        means = means.reindex(list(rows[within].drop_duplicates()), level=within)
    # Sums of the same numbers in another order differ in their last digits, but are ties.
    return means.dropna(how="all").round(12)


def _check_once(rows: pd.DataFrame, by: str) -> None:
    """Raise ValueError if rows that have cycles hold one twice."""
    cell = [name for name in (*CELL, by) if name in rows]
    if "cycle" in cell and (twice := rows.duplicated(cell)).any():
        raise ValueError(f"rows have {rows.loc[twice, cell].iloc[0].to_dict()} more than once; once was expected")


def _listed(flags: pd.DataFrame) -> str:
    """Column and place of the entries that are true, in words; no more than LISTED of them."""
    found = [(flags.columns[j], np.atleast_1d(flags.index[i])) for i, j in np.argwhere(flags.to_numpy())]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(f"{name!r} on {', seed '.join(map(str, place))}" for name, place in found[:LISTED]) + more
