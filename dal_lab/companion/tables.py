"""Tables out of the CSV that a report wrote: rounded for readers, with all digits for sorting."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd

from dal_lab.companion.artefacts import heading, number_format


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number or text of a table: as it is read, and with all its digits, for sorting."""

    text: str
    value: str | None = None  # None for a text


def table_of(path: Path) -> tuple[list[tuple[str, bool]], list[list[Cell]]]:
    """Headings, each with whether its column has numbers, and rows of a CSV as `artefacts.markdown` writes them."""
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:  # a table without columns
        return [], []
    numbers = [kind.kind in "iuf" for kind in table.dtypes]
    formats = [number_format(str(column)) for column in table.columns]
    rows = [
        [_cell(value, how) for value, how in zip(row, formats, strict=True)]
        for row in table.astype(object).to_numpy().tolist()
    ]
    return [(heading(str(column)), is_number) for column, is_number in zip(table.columns, numbers, strict=True)], rows


def _cell(value: Any, how: str) -> Cell:
    if isinstance(value, float):
        return Cell("", "") if math.isnan(value) else Cell(format(value, how), repr(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(str(value), str(value))
    return Cell(str(value))
