"""Figures from the papers, to stand beside the measured ones."""

from collections.abc import Sequence
from importlib import resources

import pandas as pd

from dal_core.checks import check_choice, check_columns
from dal_lab.sources.catalogue import data_sets

SOURCES = {
    "laplace_updates": "Huseljic et al. 2025, arXiv 2210.06112, updating study; test accuracy in percent",
    "fast_fishing": "Huseljic et al. 2024, arXiv 2404.08981; accuracy in percent, mean over the curve and 10 seeds; "
    "time of an acquisition, mean (letter) or longest (snacks)",
    "boss_dinov2": "Huseljic et al., BoSS, arXiv 2603.13109, DINOv2-S; mean accuracy, as a share, over the cycles 0-6 "
    "(low), 7-13 (mid) and 14-20 (high)",
    "boss_ablations": "Huseljic et al., BoSS, arXiv 2603.13109; accuracy in percent, mean over the curve",
    "refine_win_rates": "Huseljic et al., REFINE, arXiv 2511.22344; pairwise win rates, share of data sets, seeds and "
    "cycles in which the row is above the column; cycle 0 seems to be among them, as pairs sum to 20/21",
}


def published(name: str) -> pd.DataFrame:
    """A published table as the papers print it; `SOURCES[name]` says where.

    Raises:
        ValueError: for an unknown name, with the list of what exists.
    """
    check_choice("name", name, SOURCES)
    with resources.files("dal_lab.companion.paper_numbers").joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")


def bank_names(data: pd.Series, encoder: str = "dinov2") -> pd.Series:
    """Data sets under their papers' titles as measured rows name them: CIFAR-10 is "cifar10 (dinov2)"."""
    known = {each.title: name for name, each in data_sets().items()}
    return data.map(lambda title: f"{known[title]} ({encoder})" if title in known else title)


def cell_by_cell(
    measured: pd.DataFrame, paper: pd.DataFrame, by: Sequence[str], value: str = "accuracy", unit: str = "%"
) -> pd.DataFrame:
    """Published beside measured for the cells that both tables have; empty if there are none.

    `measured` is what `mean_over_seeds` returns: keys, among them `by`, then `value`, `value_ci` and seeds. `paper` has
    `by` and `value`, in the same unit. "within ±" says whether the published value lies in the 95 % interval of the
    measured one; a single seed has none, and says nothing.

    Raises:
        ValueError: if `paper` holds a cell twice.
    """
    by = list(by)
    check_columns("measured", measured, [*by, value, f"{value}_ci", "seeds"])
    check_columns("paper", paper, [*by, value])
    if paper.duplicated(by).any():
        raise ValueError(f"paper holds {paper.loc[paper.duplicated(by), by].iloc[0].to_dict()} twice")
    cells = measured.merge(paper[[*by, value]].rename(columns={value: "published"}), on=by)
    difference = cells[value] - cells["published"]
    half = cells[f"{value}_ci"]
    within = (difference.abs() <= half).map({True: "yes", False: "no"}).where(half.notna())
    points = "points" if unit == "%" else unit
    keys = [name for name in measured.columns if name not in (value, f"{value}_ci", "seeds")]
    return cells[keys].assign(**{
        f"published ({unit})": cells["published"],
        f"measured ({unit})": cells[value],
        f"measured ({unit})_ci": half,
        f"difference ({points})": difference,
        "within ±": within,
        "seeds": cells["seeds"],
    })  # fmt: skip
