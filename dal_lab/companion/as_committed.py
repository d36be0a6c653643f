"""How far the tables of a run are those that the repository has."""

import io
import subprocess
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dal_lab.companion.tables import heading


def as_committed(folder: Path, numbers: Collection[str]) -> str | None:
    """Return a line that compares the tables in `folder` of the notebooks with these numbers with those of git's HEAD.

    Tables of times are left out. None where there is no git, or nothing is committed there.
    """
    same, total, other, largest = 0, 0, list[str](), (0.0, "")
    for name, before in _committed_tables(folder):
        if name[:2] not in numbers or "time" in name or not (folder / name).is_file():
            continue
        after = _read(folder / name)
        if list(after) != list(before) or len(after) != len(before):
            other.append(Path(name).with_suffix(".md").name)
            continue
        for column in before:
            alike, differences = _compared(before[column], after[column])
            same, total = same + int(alike.sum()), total + len(alike)
            if len(differences) and (size := float(np.max(differences))) > largest[0]:
                words = heading(str(column))
                points = " points" if "(%)" in words or "points" in words else ""
                row = after.iloc[int(np.argmax(differences))]
                named = ", ".join(str(value) for value in row if isinstance(value, str)) or f"{row.name}"
                where = f"{Path(name).with_suffix('.md').name}, row {named}, column {words}"
                largest = size, f"; largest difference {size:.2g}{points} in {where}"
    if not total and not other:
        return None
    others = f"; other rows or columns in {', '.join(other)}" if other else ""
    return f"{same} of {total} cells as committed{largest[1]}{others} (tables of times left out)"


def _compared(before: Any, after: Any) -> tuple[Any, Any]:
    """Return for two columns which cells are alike, but for a processor's last digits, and how far numbers differ."""
    if before.dtype.kind in "iuf" and after.dtype.kind in "iuf":
        alike = np.isclose(after, before, rtol=1e-6, atol=1e-9, equal_nan=True)
        return alike, np.where(alike, 0.0, np.nan_to_num(np.abs(after - before)))
    return (before == after).to_numpy() | (before.isna() & after.isna()).to_numpy(), np.zeros(0)


def _committed_tables(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    command = ["git", "--no-optional-locks", "-C", str(folder), "archive", "--format=tar", "HEAD", "*.csv"]
    try:
        archive = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return
    with tarfile.open(fileobj=io.BytesIO(archive)) as tables:
        for member in tables:
            if (file := tables.extractfile(member)) is not None:
                yield member.name, _read(file)


def _read(source: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(source, keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:  # a table without columns
        return pd.DataFrame()
