"""Tables for readers: Markdown for files and notebooks, cells with all digits for the site."""

import csv
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tabulate import tabulate

# Headings and formats for readers; other columns keep their name and get two decimals.
with resources.files("dal_lab.companion").joinpath("columns.csv").open(encoding="utf-8") as _file:
    COLUMNS = {row["column"]: row for row in csv.DictReader(_file)}
NAMES = ("data", "strategy", "notebook")


class Cell(NamedTuple):
    """A number or text of a table: as it is read, and with all its digits, for sorting."""

    text: str
    value: str | None = None  # None for a text


def markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown: headings with units, `±` for half the width of the 95 % interval before it."""
    columns = [str(column) for column in table.columns]
    cells = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    cells = [[cell.replace("|", "\\|") if isinstance(cell, str) else cell for cell in row] for row in cells]
    names = [i for i, column in enumerate(columns) if column in NAMES]  # a file may be called 007
    headings, formats = list(map(heading, columns)), list(map(_format, columns))
    return tabulate(cells, headings, "pipe", floatfmt=formats, missingval="", disable_numparse=names) + "\n"


def table_of(path: Path, headings: Sequence[str] | None = None) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """Return headings, each with whether its column has numbers, and rows of a CSV as `markdown` writes them.

    `headings` are those that the manifest has; without them they are made of the columns' names.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""]).rename(columns=str)
    except pd.errors.EmptyDataError:  # a table without columns
        return [], []
    found, rows = cells_of(table)
    return [(text, kind[1]) for text, kind in zip(headings or [text for text, _ in found], found, strict=True)], rows


def cells_of(table: pd.DataFrame) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """Headings, each with whether its column has numbers, and rows of a table as `markdown` writes them."""
    formats = list(map(_format, table.columns))
    rows = [list(map(_cell, row, formats)) for row in table.astype(object).to_numpy().tolist()]
    return [(heading(str(name)), kind.kind in "iuf") for name, kind in table.dtypes.items()], rows


def heading(column: str) -> str:
    """Return a column's name for readers."""
    if column.endswith("_ci"):
        return "±"
    plain = f"{column.removesuffix('_s')} (s)" if column.endswith("_s") else column
    return COLUMNS.get(column, {}).get("heading") or plain.replace("_", " ")


def column_name(column: str) -> str:
    """Return a column's name for programs: no spaces, and its unit as a word.

    >>> column_name("difference (points)_ci"), column_name("published (%)")
    ('difference_points_ci', 'published_percent')
    """
    return re.sub(r"[\W_]+", "_", column.replace("%", "percent")).strip("_")


def _format(column: str) -> str:
    """Return how numbers with decimals in a column are written for readers."""
    return COLUMNS.get(column, {}).get("format") or (".3g" if column.endswith("_s") else ".2f")


def _cell(value: Any, how: str) -> Cell:
    if isinstance(value, float):
        return Cell("", "") if math.isnan(value) else Cell(format(value, how), repr(value))
    return Cell(str(value), str(value) if isinstance(value, int) and not isinstance(value, bool) else None)
