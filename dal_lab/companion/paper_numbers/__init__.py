"""Figures from the papers, to stand beside the measured ones."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dal_core.checks import check_choice, check_columns
from dal_lab.sources.catalogue import data_sets

TABLES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.csv"))}
# Where each table is from: its first line, a comment.
SOURCES = {name: TABLES[name].read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name in TABLES}


def published(name: str) -> pd.DataFrame:
    """Return a published table as the papers print it; `SOURCES[name]` says where.

    Raises:
        ValueError: for an unknown name, with the list of what exists.
    """
    check_choice("name", name, SOURCES)
    return pd.read_csv(TABLES[name], comment="#")


def bank_names(data: pd.Series, encoder: str = "dinov2") -> pd.Series:
    """Return data sets, given by their papers' titles, as measured rows name them: CIFAR-10 is "cifar10 (dinov2)"."""
    known = {each.title: name for name, each in data_sets().items()}
    return data.map(lambda title: f"{known[title]} ({encoder})" if title in known else title)


def cell_by_cell(
    measured: pd.DataFrame, paper: pd.DataFrame, by: Sequence[str], value: str = "accuracy", unit: str = "%"
) -> pd.DataFrame:
    """Return published beside measured values for the cells that both tables have; empty if there are none.

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
