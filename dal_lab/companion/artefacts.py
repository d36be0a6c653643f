"""Figures and tables as files, each with an entry in the folder's manifest that says what it rests on."""

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dal_lab.checks import check_file_name, check_folder, expanded
from dal_lab.companion.description import describe
from dal_lab.companion.figures.style import in_style
from dal_lab.companion.origins import origins
from dal_lab.companion.tables import column_name, heading, markdown
from dal_lab.runs.committed import ENDING
from dal_lab.runs.files import write_atomically, write_text
from dal_lab.runs.provenance import git_commit, is_crowded

MANIFEST = "manifest.json"
COUNTS = ("seeds", "n_published")  # Columns of whole numbers, also where some are absent.
# The site keeps its pages itself, and a PDF names the PNG that it shows; neither has an entry.
PAGES, PAPERS = ".html", ".pdf"


@dataclasses.dataclass(frozen=True)
class ReadableFigure:
    """A figure as PNG with a text for readers who do not see it; a notebook shows it with its caption below."""

    png: bytes = dataclasses.field(repr=False)
    alt: str
    caption: str = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display  # Its import takes long, and commands show nothing.

        picture = {"image/png": base64.b64encode(self.png).decode()}
        display(picture, raw=True, metadata={"image/png": {"alt": self.alt}})
        if self.caption:
            display(Markdown(f"**Figure.** {self.caption}"))


@dataclasses.dataclass(frozen=True)
class ReadableTable:
    """A table in Markdown, which a notebook renders."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


class ManifestError(ValueError):
    """Files and manifest of a figures folder disagree."""


class Report:
    """Writes the figures and tables of one notebook into `folder` and keeps the folder's manifest.

    Entries that an earlier run of the same notebook left are dropped when the first file is written. Files that it
    left stay, without an entry, and make `check_manifest` fail until somebody deletes them: a figure that no cell
    makes any more should not be taken for a result. `data` are digests of the data by name, and `strategies`
    versions by name, as a Grid has them: they may grow as long as the notebook runs.
    """

    def __init__(
        self, folder: Path | str, notebook: str, data: Mapping[str, str] | None = None,
        strategies: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        check_folder("folder", folder)
        check_file_name("notebook", notebook)
        self.folder, self.notebook = expanded("folder", folder).resolve(), notebook
        self.data, self.strategies = {} if data is None else data, {} if strategies is None else strategies
        read_manifest(self.folder)  # A damaged one is told before anything is computed.
        self._entries = dict[str, Any]()
        self._origins = origins(notebook, self.folder.name)  # as it is when it begins, not as it is edited later

    @in_style()
    def figure(
        self, figure: Figure, name: str, *, cell: str, keys: Sequence[str], caption: str = ""
    ) -> ReadableFigure:  # fmt: skip
        """Save `figure` as PNG and PDF, close it, and return it for display, with what its labels say as its text.

        Files are kept, with the commit that they name, as long as a later one draws the same from the same runs;
        drawing the PDF takes about as long as all the rest.

        Args:
            figure: a matplotlib figure; its label (`set_label`) says what bands, bars and points are.
            name: of the file, without the notebook's number and the ending.
            cell: the experiment or figure of the paper, as the notebook's heading names it.
            keys: of the runs that the figure rests on (`Grid.keys`).
            caption: a sentence that says what is seen; the figure's label follows it.
        """
        origin = f"dal_core {git_commit()}, runs {digest_of(','.join(sorted(keys)).encode())[:16]}"
        png, pdf = self._path(name, "png"), self._path(name, "pdf")
        # Without dates and versions a file changes only with its content.
        before = png.read_bytes() if png.is_file() else b""
        with write_atomically(png) as temporary:
            figure.savefig(temporary, metadata={"Description": origin, "Software": None})
            if _runs_and_picture(before) == _runs_and_picture(temporary.read_bytes()):
                temporary.write_bytes(before)
        figure.set_layout_engine("none")  # the next drawings leave all where it is, and need no layout of their own
        shows = digest_of(png.read_bytes())
        if not pdf.is_file() or shows.encode() not in pdf.read_bytes():
            undated = dict.fromkeys(("CreationDate", "Producer", "Creator"))
            page = io.BytesIO()  # A PDF that is written onto a full disk ends in an error that hides the reason.
            figure.savefig(page, format="pdf", metadata={"Subject": origin, "Keywords": shows, **undated})
            with write_atomically(pdf) as temporary:
                temporary.write_bytes(page.getvalue())
        shown = io.BytesIO()
        figure.savefig(shown, format="png", dpi=figure.dpi)  # smaller than the file
        alt = f"{cell}: {describe(figure)}"  # after saving, which places the names at the ticks
        caption = " ".join(filter(None, (caption.strip(), str(figure.get_label()))))
        self._enter(png, cell, keys, alt=alt, caption=caption, shown=digest_of(shown.getvalue()))
        plt.close(figure)
        return ReadableFigure(shown.getvalue(), alt, caption)

    def table(self, table: pd.DataFrame, name: str, *, cell: str, keys: Sequence[str]) -> ReadableTable:
        """Save `table` as CSV (twelve digits) and Markdown (for readers), and return the latter for display.

        Raises:
            ValueError: if a table with a column of times (seconds, speed-ups) lacks `time` in its name.
        """
        check_file_name("name", name)
        times = [column for column in map(str, table.columns) if column.endswith("_s") or column.startswith("speedup")]
        if times and "time" not in name:
            raise ValueError(f"table {name!r} has the measured times {times}; its name has to contain 'time'")
        counts = {name: table[name].astype("Int64") for name in COUNTS if name in table}
        # The digits beyond the twelfth are those of the order in which a processor sums.
        table = table.map(_rounded)
        text = markdown(table)
        words = [heading(str(column)) for column in table.columns]
        data = table.assign(**counts).rename(columns=lambda column: column_name(str(column)))
        contents = {"csv": (data.to_csv(index=False, lineterminator="\n"), {"headings": words}), "md": (text, {})}
        for ending, (content, more) in contents.items():
            write_text(path := self._path(name, ending), content)
            self._enter(path, cell, keys, **more)
        return ReadableTable(text)

    def _path(self, name: str, ending: str) -> Path:
        check_file_name("name", name)
        return self.folder / f"{self.notebook.split('_')[0]}_{name}.{ending}"

    def _enter(self, path: Path, cell: str, keys: Sequence[str], **more: Any) -> None:
        entry = {"notebook": self.notebook, "cell": cell, "keys": sorted(keys), "digest": digest_of(path.read_bytes())}
        place = self._entries.get(path.name, {"place": len(self._entries)})["place"]  # in the notebook's order
        self._entries[path.name] = entry | {"place": place} | more
        sources = {**self._origins, "data": dict(self.data), "strategies": dict(self.strategies)}
        entries = {name: {**each, "origins": sources} for name, each in self._entries.items()}
        others = {file: each for file, each in read_manifest(self.folder).items() if each["notebook"] != self.notebook}
        write_text(self.folder / MANIFEST, json.dumps(others | entries, indent=1, sort_keys=True) + "\n")


def _rounded(value: Any) -> Any:
    """Return a float with twelve significant digits at most, and anything else as it is."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _runs_and_picture(png: bytes) -> tuple[bytes, bytes]:
    """Return the digest of runs that a PNG names, and its picture: what it holds, less commit and checksum."""
    return png.partition(b", runs ")[2][:16], png.partition(b"IDAT")[2]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the entries of the manifest by file name; empty if there is none.

    Raises:
        ManifestError: if the file is not what `Report` wrote.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not all({"notebook", "cell", "keys", "digest"} <= set(entry) for entry in manifest.values()):
            raise ValueError("an entry is incomplete")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path} is damaged: {error}; delete it and run the notebooks again") from error
    return manifest


def note_load(folder: Path, notebook: str, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Put the highest load beside the `runs` (what is recorded with them, by key) into the entries of measured times.

    Returns a line for each load that makes times unreliable, with the files.
    """
    manifest, lines = read_manifest(folder), dict[str, list[str]]()
    for name, entry in manifest.items():
        loads = [runs[key] for key in entry["keys"] if "load" in runs.get(key, {})]
        if entry["notebook"] == notebook and "time" in name and loads:
            worst = max(loads, key=lambda about: about["load"] / about["cores"])
            entry["load"] = {part: worst[part] for part in ("load", "cores")}
            if is_crowded(**entry["load"]):
                lines.setdefault(load_in_words(entry["load"]), []).append(name)
    if any("load" in entry for entry in manifest.values()):
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return [f"{words} ({', '.join(names)})" for words, names in lines.items()]


def load_in_words(load: Mapping[str, float]) -> str:
    """Return the load beside measured times as people say it, and whether the times can be relied on."""
    return f"load {load['load']:g} on {load['cores']:g} cores" + ": times unreliable" * is_crowded(**load)


def check_manifest(folder: Path) -> None:
    """Make sure that every file in `folder` has an entry that fits its content, and every entry its file.

    Raises:
        ManifestError: naming the files.
    """
    if found := "; ".join(f"{what}: {', '.join(names)}" for what, names in faults(folder).items()):
        raise ManifestError(f"{folder / MANIFEST} and its folder disagree; {found}")


def faults(folder: Path) -> dict[str, list[str]]:
    """Return the names of files on which manifest and folder disagree, by what is wrong with them.

    Raises:
        ManifestError: if the manifest is damaged.
    """
    entries = {name: entry["digest"] for name, entry in read_manifest(folder).items()}
    # Hidden files, which a system, an editor or a process that writes leaves, and pages of the site are no results.
    # Committed runs know themselves whether they were changed.
    places = [path for path in folder.glob("*") if not path.name.startswith(".")]
    files = {path.name: path for path in places if not path.name.endswith((MANIFEST, PAGES, PAPERS, ENDING))}
    changed = {name for name in files.keys() & entries.keys() if digest_of(files[name].read_bytes()) != entries[name]}
    found = {
        "files without an entry (delete them, or make a cell write them)": files.keys() - entries.keys(),
        "entries without a file": entries.keys() - files.keys(),
        "files that were changed after they were written": changed,
    }
    return {what: sorted(names) for what, names in found.items() if names}


def digest_of(content: bytes) -> str:
    """Return what tells the content of a file from others."""
    return hashlib.sha256(content).hexdigest()
