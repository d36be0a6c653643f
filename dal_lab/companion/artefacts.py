"""Figures and tables as files, each with an entry in the folder's manifest that says what it rests on."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from tabulate import tabulate

from dal_lab.checks import check_file_name, check_folder
from dal_lab.companion.description import describe
from dal_lab.runs.files import write_atomically, write_text
from dal_lab.runs.provenance import git_commit

MANIFEST = "manifest.json"
FIGURE_TYPES = ("png", "pdf")
TABLE_TYPES = ("csv", "md")
PAGES = ".html"  # of the site over figures and tables, which keeps them itself


@dataclasses.dataclass(frozen=True)
class ReadableFigure:
    """A figure as PNG with a text for readers who do not see it, which a notebook shows."""

    png: bytes = dataclasses.field(repr=False)
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}


@dataclasses.dataclass(frozen=True)
class ReadableTable:
    """A table in Markdown, which a notebook renders."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


class ManifestError(ValueError):
    """Files and manifest of a figures folder disagree."""


@dataclasses.dataclass
class Report:
    """Writes the figures and tables of one notebook into `folder` and keeps the folder's manifest.

    Entries that an earlier run of the same notebook left are dropped when the first file is written. Files that it
    left stay, without an entry, and make `check_manifest` fail until somebody deletes them: a figure that no cell
    makes any more should not be taken for a result.
    """

    folder: Path | str
    notebook: str
    _entries: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)
    _earlier: dict[str, Any] = dataclasses.field(init=False)  # the manifest before

    def __post_init__(self) -> None:
        check_folder("folder", self.folder)
        check_file_name("notebook", self.notebook)
        self.folder = Path(self.folder).expanduser().resolve()
        self._earlier = read_manifest(self.folder)

    def figure(self, figure: Figure, name: str, *, cell: str, keys: Sequence[str]) -> ReadableFigure:
        """Save `figure` as PNG and PDF, close it, and return it for display, with what its labels say as its text.

        A PDF beside the same PNG as before is kept: drawing it takes about as long as all the rest.

        Args:
            figure: a matplotlib figure.
            name: of the file, without the notebook's number and the ending.
            cell: the experiment or figure of the paper, as the notebook's heading names it.
            keys: of the runs that the figure rests on (`Grid.keys`).
        """
        description = f"dal_core {git_commit()}, runs {_digest(','.join(sorted(keys)).encode())[:16]}"
        # Fixed dates, so that a file changes only with its content.
        metadata = {"png": {"Description": description, "Software": None}}
        metadata["pdf"] = {"Subject": description, "CreationDate": None, "Producer": None, "Creator": None}
        png, pdf = (self._path(name, ending) for ending in FIGURE_TYPES)
        with write_atomically(png) as temporary:
            figure.savefig(temporary, metadata=metadata["png"])
        figure.set_layout_engine("none")  # the next drawings leave all where it is, and need no layout of their own
        if not (self._is_as_before(png) and self._is_as_before(pdf)):
            with write_atomically(pdf) as temporary:
                figure.savefig(temporary, metadata=metadata["pdf"])
        shown = io.BytesIO()
        figure.savefig(shown, format="png", dpi=figure.dpi)  # smaller than the file
        alt = f"{cell}: {describe(figure)}"  # after saving, which places the names at the ticks
        for path in (png, pdf):
            self._enter(path, cell, keys, alt=alt)
        plt.close(figure)
        return ReadableFigure(shown.getvalue(), alt)

    def table(self, table: pd.DataFrame, name: str, *, cell: str, keys: Sequence[str]) -> "ReadableTable":
        """Save `table` as CSV (full precision) and Markdown (for readers), and return the latter for display.

        Raises:
            ValueError: if a table with a column of times (seconds, speed-ups) lacks `time` in its name.
        """
        check_file_name("name", name)
        times = [column for column in map(str, table.columns) if column.endswith("_s") or column.startswith("speedup")]
        if times and "time" not in name:
            raise ValueError(f"table {name!r} has the measured times {times}; its name has to contain 'time'")
        text = {"csv": table.to_csv(index=False, lineterminator="\n"), "md": markdown(table)}
        for ending in TABLE_TYPES:
            write_text(self._path(name, ending), text[ending])
            self._enter(self._path(name, ending), cell, keys)
        return ReadableTable(text["md"])

    def _is_as_before(self, path: Path) -> bool:
        """Whether a file is the one that an earlier run left."""
        return path.is_file() and self._earlier.get(path.name, {}).get("digest") == _digest(path.read_bytes())

    def _path(self, name: str, ending: str) -> Path:
        check_file_name("name", name)
        return Path(self.folder) / f"{self.notebook.split('_')[0]}_{name}.{ending}"

    def _enter(self, path: Path, cell: str, keys: Sequence[str], **more: str) -> None:
        manifest = read_manifest(Path(self.folder))
        others = {name: entry for name, entry in manifest.items() if entry["notebook"] != self.notebook}
        self._entries[path.name] = {
            "notebook": self.notebook,
            "cell": cell,
            "keys": sorted(keys),
            "digest": _digest(path.read_bytes()),
            **more,
        }
        write_text(Path(self.folder) / MANIFEST, json.dumps(others | self._entries, indent=1, sort_keys=True) + "\n")


# Headings and formats for readers; other columns keep their name and get two decimals.
HEADINGS = {
    "initial_size": "initial labels",
    "accuracy": "accuracy (%)",
    "gain": "gain over base (points)",
    "gain of retraining": "gain of retraining (points)",
    "difference": "over random (points)",
    "p_holm": "p, corrected",
    "recovered": "recovered (%)",
    "second_order": "second-order (%)",
    "nll": "NLL (nats)",
    "flips": "flips (%)",
    "query_s": "acquisition (s)",
    "update_s": "time (s)",
    "second_order_s": "second-order time (s)",
    "speedup": "speed-up (times)",
    "peak_mb": "memory (MB)",
}
NAMES = ("data", "strategy")
FORMATS = {
    "seeds": ".0f", "step": "g", "steps": "g", "gamma": "g", "rate": "g", "speedup": ".1f", "recovered": ".0f",
    "p": ".2g", "p_holm": ".2g", "value": "g",
}  # fmt: skip


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown: headings with units, `±` for the half width of the 95 % interval of what is before."""
    columns = [str(column) for column in table.columns]
    headings = [heading(column) for column in columns]
    formats = [number_format(column) for column in columns]
    cells = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    cells = [[cell.replace("|", "\\|") if isinstance(cell, str) else cell for cell in row] for row in cells]
    names = [i for i, column in enumerate(columns) if column in NAMES]  # a file may be called 007
    return tabulate(cells, headings, "pipe", floatfmt=formats, missingval="", disable_numparse=names) + "\n"


def number_format(column: str) -> str:
    """How numbers with decimals in a column are written for readers."""
    return FORMATS.get(column, ".3g" if column.endswith("_s") else ".2f")


def heading(column: str) -> str:
    """A column's name for readers."""
    if column.endswith("_ci"):
        return "±"
    plain = f"{column.removesuffix('_s')} (s)" if column.endswith("_s") else column
    return HEADINGS.get(column, plain.replace("_", " "))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Entries of the manifest by file name; empty if there is none.

    Raises:
        ManifestError: if the file is not what `Report` wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = all({"notebook", "cell", "keys", "digest"} <= set(entry) for entry in manifest.values())
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path} is damaged: {error}; delete it and run the notebooks again") from error
    if not complete:
        raise ManifestError(f"{path} holds incomplete entries; delete it and run the notebooks again")
    return manifest


def check_manifest(folder: Path) -> None:
    """Make sure that every file in `folder` has an entry that fits its content, and every entry its file.

    Raises:
        ManifestError: naming the files.
    """
    manifest = read_manifest(folder)
    files = {path.name: path for path in folder.iterdir() if _counts(path)} if folder.is_dir() else {}
    faults = {
        "files without an entry (delete them, or make a cell write them)": files.keys() - manifest.keys(),
        "entries without a file": manifest.keys() - files.keys(),
        "files that were changed after they were written": {
            name
            for name in files.keys() & manifest.keys()
            if _digest(files[name].read_bytes()) != manifest[name]["digest"]
        },
    }
    found = [f"{what}: {', '.join(sorted(names))}" for what, names in faults.items() if names]
    if found:
        raise ManifestError(f"{folder / MANIFEST} and its folder disagree; {'; '.join(found)}")


def _counts(path: Path) -> bool:
    """No results are hidden files, which a system, an editor or a process that writes leaves, and pages of the site."""
    return path.name != MANIFEST and not path.name.startswith(".") and path.suffix != PAGES


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
