"""A user's table as a data frame: Parquet, in one file or a folder of parts, or CSV."""

import codecs
import csv
import functools
import gzip
import io
import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq

from dal_core.checks import printable, suggestion
from dal_lab.sources.raw import restated

LABEL, SPLIT = "label", "split"  # Columns of a table that are no features.
ALIASES = ("labels", "target", "class", "y")  # What others call the column `label`.
NUMBERS = {"integer", "floating", "boolean", "decimal", "mixed-integer-float"}  # Columns of features, as pandas says.


def read_table(path: Path, texts: Collection[str] = ()) -> pd.DataFrame:
    """Return the columns of a table; what its writer calls an index is the frame's, unless it is a label or a split.

    In a CSV those of `texts`, however capitals are used, stay as they are written, such as 007.

    Raises:
        ValueError: for what is no such file, and for columns that occur twice.
    """
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path, texts)
    names = table.column_names
    if twice := sorted({name for name in names if name.strip() and names.count(name) > 1}):
        raise ValueError(f"the columns {twice} occur more than once; once was expected")
    with restated(Exception, f"{printable(path)} says of itself to pandas what is not so: "):
        frame = table.to_pandas()
    found = [name for name in frame.index.names if name in (LABEL, SPLIT)]
    frame = frame.reset_index(found) if found else frame
    # Nameless columns are the index of `to_csv`, or follow a comma at the end of each line.
    return frame[[name for name in frame if str(name).strip() and not str(name).startswith("__index_level_")]]


def features_of(frame: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return the columns of features as float32 [n, d], and their names.

    Raises:
        ValueError: naming the columns, if there are none, or not all are finite numbers.
    """
    names = [name for name in frame if name not in (LABEL, SPLIT)]
    others = [_described(frame[name]) for name in names if pd.api.types.infer_dtype(frame[name]) not in NUMBERS]
    if others or not names:
        found = f"{few(others)} hold no numbers" if others else "there are none"
        raise ValueError(f"columns of features: {found}; numbers were expected in all but {LABEL!r} and {SPLIT!r}")
    with np.errstate(over="ignore"):  # What is too large for float32 is infinite.
        features = np.column_stack([frame[name].to_numpy(np.float32, na_value=np.nan) for name in names])
    if (wrong := ~np.isfinite(features)).any():
        found = few([repr(names[i]) for i in np.flatnonzero(wrong.any(axis=0))])
        count = f"{wrong.sum()} cells, the first in row {wrong.any(axis=1).argmax() + 1}"
        raise ValueError(f"columns of features: {found} are empty, NaN or infinite in float32 in {count}")
    return features, [str(name) for name in names]


def check_columns(frame: pd.DataFrame) -> None:
    """Raise ValueError unless a table has rows and a column of labels, and no label or split is missing."""
    names = [str(name) for name in frame]
    if LABEL not in names:
        alias = [repr(name) for name in names if name.casefold() in (LABEL, *ALIASES)]
        meant = f"; did you mean {alias[0]}? Call it {LABEL!r}" if alias else suggestion(LABEL, names)
        raise ValueError(f"the columns are {few(map(repr, names))}; one called {LABEL!r} was expected{meant}")
    if not len(frame):
        raise ValueError("the table has no rows; at least one was expected")
    for name in (LABEL, SPLIT):
        if name in names and (empty := frame[name].isna() | (frame[name].astype(object) == "")).any():
            found = f"the column {name!r} has empty cells: {empty.sum()}, the first in row {empty.argmax() + 1}"
            raise ValueError(f"{found}; none was expected")


def few(names: Sequence[str] | map) -> str:
    """Return the first five in words."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _described(column: pd.Series) -> str:
    """The name of a column, the kind of its values, and of texts the first that is no number."""
    kind = pd.api.types.infer_dtype(column)
    odd = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()] if kind == "string" else column[:0]
    return f"{column.name!r} ({kind}{f', e.g. {odd.iloc[0]!r}' if len(odd) else ''})"


def _parquet(path: Path) -> pa.Table:
    """A file, or the parts in a folder, sorted by their paths; a column that a part lacks is empty there."""
    if not path.is_dir():
        # A file that may not be read is an OSError.
        with path.open("rb") as file, restated((pa.ArrowException, OSError), _damaged(path, "Parquet file")):
            return pq.ParquetFile(file).read()
    with restated((pa.ArrowException, OSError), f"{printable(path)} is no folder of Parquet files of one table: "):
        together = functools.partial(pyarrow.dataset.dataset, path, format="parquet", partitioning="hive")
        parts = together()  # all files but hidden ones
        if not parts.files:
            raise ValueError(f"{printable(path)} is a folder without a Parquet file; at least one was expected")
        schemas = [parts.schema, *(part.physical_schema for part in parts.get_fragments())]
        return together(schema=pa.unify_schemas(schemas, promote_options="permissive")).to_table()


def _csv(path: Path, texts: Collection[str]) -> pa.Table:
    """A line of names, then values between commas, semicolons, tabs or bars; with a decimal comma where it fits."""
    with path.open("rb") as file:
        content = file.read()
    if path.suffix.lower() == ".gz":
        with restated((OSError, EOFError, zlib.error), _damaged(path, "gzip file")):
            content = gzip.decompress(content)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what spreadsheets call Unicode text
        with restated(UnicodeDecodeError, _damaged(path, "text in UTF-16")):
            content = content.decode("utf-16").encode()
    encoding = "utf-8" if _is_text(content, "utf-8") else "cp1252"
    if b"\0" in content or not _is_text(content, encoding):
        raise ValueError(f"{printable(path)} is no text in UTF-8; a CSV with a line of names was expected")
    begin = content[: 2**20].decode(encoding, "ignore").lstrip("\ufeff\r\n")
    header = re.split("[\r\n]", re.sub('"[^"]*"', "", begin), maxsplit=1)[0]  # without names in quotes
    delimiter = max(";\t,|", key=header.count)
    with restated((pa.ArrowException, csv.Error), _damaged(path, "CSV")):
        names = next(csv.reader(io.StringIO(begin, newline=""), delimiter=delimiter), []) if texts else []
        kinds = {name: pa.string() for name in names if name.strip().casefold() in texts}
        tables = [_parsed(content, encoding, delimiter, point, kinds) for point in (".,".replace(delimiter, ""))]
    texts = [sum(pa.types.is_string(kind) for kind in table.schema.types) for table in tables]
    table = tables[texts.index(min(texts))]
    columns = [pc.utf8_trim_whitespace(each) if pa.types.is_string(each.type) else each for each in table.columns]
    return pa.table(columns, names=[name.strip() for name in table.column_names])


def _parsed(content: bytes, encoding: str, delimiter: str, decimal_point: str, kinds: dict[str, Any]) -> pa.Table:
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        pyarrow.csv.ReadOptions(encoding=encoding),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(decimal_point=decimal_point, column_types=kinds),
    )


def _is_text(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _damaged(path: Path, what: str) -> str:
    return f"{printable(path)} is not a whole {what}: "
