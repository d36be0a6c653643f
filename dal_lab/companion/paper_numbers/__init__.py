"""Figures from the papers, to stand beside the measured ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dal_core.checks import check_choice, check_columns
from dal_lab.companion.statistics import CONFIDENCE
from dal_lab.sources.catalogue import data_sets

FEWEST = 4  # Of three seeds the interval is 2.8 standard deviations of one seed wide, to each side: it holds anything.
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


def beside(measured: pd.DataFrame, paper: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the published rows whose data are measured, too, and a sentence that says which data are left out.

    The sentence is empty if none are. Both frames have the column `data`, with the same names (`bank_names`).

    >>> paper = pd.DataFrame({"data": ["letter", "snacks"], "accuracy": [60.7, 79.5]})
    >>> rows, left_out = beside(pd.DataFrame({"data": ["letter"]}), paper)
    >>> rows["data"].tolist(), left_out
    (['letter'], 'The paper has snacks, too, which are not among the measured data.')
    """
    check_columns("measured", measured, ["data"])
    check_columns("paper", paper, ["data"])
    shared = paper["data"].isin(measured["data"])
    others, too = ", ".join(paper.loc[~shared, "data"].unique()), ", too" * bool(shared.any())
    return paper[shared], f"The paper has {others}{too}, which are not among the measured data." if others else ""


def cell_by_cell(
    measured: pd.DataFrame, paper: pd.DataFrame, by: Sequence[str], value: str = "accuracy", unit: str = "%",
    n_published: int = 10,
) -> pd.DataFrame:  # fmt: skip
    """Return published beside measured values for the cells that both tables have; empty if there are none.

    `measured` is what `mean_over_seeds` returns: keys, among them `by`, then `value`, `value_ci` and seeds. `paper` has
    `by` and `value`, in the same unit, and a column n_published where the paper says how many seeds its means are over.

    "within ±" says whether the difference lies within its ±. Both means scatter: the half width is that of the measured
    one times sqrt(1 + n / n_published), as if single values scattered alike. It says nothing where the measured mean is
    not told from 0, which a method that does nothing would reach, nor below `FEWEST` seeds.

    Raises:
        ValueError: if `paper` holds a cell twice.
    """
    by = list(by)
    check_columns("measured", measured, [*by, value, f"{value}_ci", "seeds"])
    check_columns("paper", paper, [*by, value])
    if paper.duplicated(by).any():
        raise ValueError(f"paper holds {paper.loc[paper.duplicated(by), by].iloc[0].to_dict()} twice")
    paper = paper if "n_published" in paper else paper.assign(n_published=n_published)
    cells = measured.merge(paper[[*by, value, "n_published"]].rename(columns={value: "published"}), on=by)
    difference = cells[value] - cells["published"]
    half = cells[f"{value}_ci"] * np.sqrt(1 + cells["seeds"] / cells["n_published"])
    says = half.notna() & (cells["seeds"] >= FEWEST) & (cells[value].abs() > half)
    points = "points" if unit == "%" else unit
    keys = [name for name in measured.columns if name not in (value, f"{value}_ci", "seeds")]
    return cells[keys].assign(**{
        f"published ({unit})": cells["published"],
        f"measured ({unit})": cells[value],
        f"measured ({unit})_ci": cells[f"{value}_ci"],
        f"difference ({points})": difference,
        f"difference ({points})_ci": half,
        "within ±": (difference.abs() <= half).map({True: "yes", False: "no"}).where(says),
        "seeds": cells["seeds"],
        "n_published": cells["n_published"],
    })  # fmt: skip


def expected_misses(cells: pd.DataFrame) -> str:
    """Return a sentence on a table of `cell_by_cell`: how many cells are "no", and how many chance alone makes so."""
    said = cells["within ±"].dropna()
    if said.empty:
        return (
            f'No cell has a "within ±": it takes {FEWEST} seeds, and a measured value whose interval does not reach 0.'
        )
    chance = (1 - CONFIDENCE) * len(said)
    return (
        f'"No" in {(said == "no").sum()} of {len(said)} cells with a verdict; if all values were reproduced, '
        f"chance alone would make it {chance:.1f}."
    )
