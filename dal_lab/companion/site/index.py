"""The site over a preset's figures, tables and executed notebooks: pages that need neither a server nor a network.

`<folder>/index.html` has of each notebook the headline figure and table, and links to everything;
`<folder>/<notebook>.html` is the executed notebook. Styles and the script that sorts tables are in the pages.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import mistune
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from dal_lab.companion.artefacts import PAGES, read_manifest
from dal_lab.companion.site.notebook_page import body_of, read_notebook
from dal_lab.companion.tables import Cell, table_of
from dal_lab.runs.files import write_text

PROVENANCE = "dal_core"  # key of an executed notebook's metadata: device, versions, commit
# What stands for a paper, by the notebook's number: names of figures and tables, the first that there is.
HEADLINES = {
    "01": (("updating_gain",), ("updating_cells", "recovered_gain", "updating_study")),
    "02": (("benchmark_differences", "top_classes"), ("top_classes_cells", "top_classes")),
    "03": (("leads",), ("leads",)),
    "04": (("win_rates",), ("win_rate_cells", "win_rates")),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as CSV; headings are (text, whether the column has numbers)."""

    name: str
    cell: str
    csv: str
    headings: list[tuple[str, bool]]
    rows: list[list[Cell]]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure; `files` are its endings with their file names."""

    name: str
    cell: str
    alt: str
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Chapter:
    """What the site says about one notebook."""

    number: str
    title: str
    paper: Markup
    state: str  # "done", "failed", or why there is no page
    page: str | None
    about: Mapping[str, str]
    finished: str
    seconds: float | None
    runs: frozenset[str]
    drawings: list[Drawing]
    tables: list[Table]

    @property
    def headline(self) -> Drawing | None:
        return _first(self.drawings, HEADLINES.get(self.number, ((), ()))[0])

    @property
    def headline_table(self) -> Table | None:
        return _first(self.tables, HEADLINES.get(self.number, ((), ()))[1])


def write_site(folder: Path, executed: Path, sources: Sequence[Path], *, preset: str, about: str = "") -> Path:
    """Write the site over `folder` and return its front page; pages of notebooks that are no more are removed.

    Args:
        folder: with figures, tables and their manifest.
        executed: folder with the executed notebooks; of one that failed, `<name>.failed.ipynb`.
        sources: the project's notebooks. Those that were not executed are named with what there is of them.
        preset: the preset's name.
        about: what the preset is for.

    Raises:
        ManifestError: if the folder's manifest is damaged.
    """
    manifest = read_manifest(folder)
    chapters = []
    for source in sources:
        chapter, notebook = _chapter(source, executed, folder, manifest)
        if chapter.page is not None:
            headings, body = body_of(notebook)
            write_text(
                folder / chapter.page, _page("notebook", chapter=chapter, headings=headings, body=body, preset=preset)
            )
        chapters.append(chapter)
    kept = {chapter.page for chapter in chapters}
    for page in folder.glob(f"[0-9][0-9]_*{PAGES}"):
        if page.name not in kept:
            page.unlink()
    front = folder / f"index{PAGES}"
    write_text(front, _page("front", chapters=chapters, facts=_facts(chapters, preset, about), preset=preset))
    return front


def title_of(notebook: Any) -> str | None:
    """The first heading of a notebook; None if it has none."""
    for cell in notebook.cells:
        if found := re.search(r"^# (.+)$", cell.source, flags=re.MULTILINE):
            return found[1]
    return None


def _chapter(source: Path, executed: Path, folder: Path, manifest: Mapping[str, Any]) -> tuple[Chapter, Any]:
    """What is known about the notebook `source`, and the notebook itself, executed where it was."""
    ways = {"done": executed / source.name, "failed": executed / f"{source.stem}.failed.ipynb"}
    state = next((state for state, path in ways.items() if path.is_file()), "not executed on this machine")
    notebook = read_notebook(ways.get(state, source))
    run = notebook.metadata.get("papermill", {})
    entries = {name: entry for name, entry in manifest.items() if entry["notebook"] == source.stem}
    entries = {name: entry for name, entry in entries.items() if (folder / name).is_file()}
    return Chapter(
        number=source.stem.split("_")[0],
        title=title_of(notebook) or source.stem,
        paper=_paper(notebook),
        state=state,
        page=f"{source.stem}{PAGES}" if state in ways else None,
        about=_about(notebook.metadata) if state in ways else {},
        finished=_minute(run.get("end_time")) if state in ways else "",
        seconds=run.get("duration") if state in ways else None,
        runs=frozenset(key for entry in entries.values() for key in entry["keys"]),
        drawings=list(_drawings(entries)),
        tables=list(_tables(entries, folder)),
    ), notebook  # fmt: skip


def _paper(notebook: Any) -> Markup:
    """The paragraph below the title, which names paper, authors and venue; any HTML in it stays text."""
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    paragraphs = [part for part in text.split("\n\n") if part.strip() and not part.startswith("#")]
    return Markup(mistune.create_markdown(escape=True)(paragraphs[0])) if paragraphs else Markup("")


def _about(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Device, versions, commit, and the settings that differ from the preset's, of an executed notebook."""
    kept = metadata.get(PROVENANCE, {})
    versions = kept.get("versions", {})
    names = {"dal_core": "dal_core", "torch": "torch", "python": "Python"}
    commit, *changed = kept.get("commit", "").split("-", 1)
    about = {
        "Device": kept.get("device", ""),
        "Versions": ", ".join(f"{text} {versions[name]}" for name, text in names.items() if name in versions),
        "Commit": commit[:12] + (" with changes" if changed else ""),
        "Seeds": str(metadata.get("papermill", {}).get("parameters", {}).get("seeds") or ""),
    }
    return {name: text for name, text in about.items() if text}


def _drawings(entries: Mapping[str, Any]) -> Iterator[Drawing]:
    for name in sorted(name for name in entries if name.endswith(".png")):
        stem, entry = Path(name).stem, entries[name]
        files = {ending: f"{stem}.{ending}" for ending in ("png", "pdf") if f"{stem}.{ending}" in entries}
        yield Drawing(_readable(stem), entry["cell"], entry.get("alt") or f"{entry['cell']}: {_readable(stem)}", files)


def _tables(entries: Mapping[str, Any], folder: Path) -> Iterator[Table]:
    for name in sorted(name for name in entries if name.endswith(".csv")):
        headings, rows = table_of(folder / name)
        yield Table(_readable(Path(name).stem), entries[name]["cell"], name, headings, rows)


def _facts(chapters: Sequence[Chapter], preset: str, about: str) -> dict[str, list[str]]:
    """What holds for the whole site; several entries where the notebooks come from several runs that differ."""
    done = [chapter for chapter in chapters if chapter.seconds is not None]
    facts = {
        "Preset": [f"{preset}: {about}" if about else preset],
        "Last run": [max(chapter.finished for chapter in done)] if done else [],
        "Took": [duration(sum(chapter.seconds or 0 for chapter in done))] if done else [],
        "Runs behind it": [f"{len(frozenset().union(*(chapter.runs for chapter in chapters))):,}"],
    }
    for name in ("Device", "Versions", "Commit", "Seeds"):
        facts[name] = list(dict.fromkeys(chapter.about[name] for chapter in done if name in chapter.about))
    return {name: texts for name, texts in facts.items() if texts}


def duration(seconds: float) -> str:
    """A time for readers: 13 s, 4 min 10 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _minute(moment: str | None) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC" if moment else ""


def _readable(stem: str) -> str:
    """The name of a figure or table in words: 01_updating_gain is "updating gain"."""
    return stem.split("_", 1)[-1].replace("_", " ")


def _first(items: Sequence[Any], names: Sequence[str]) -> Any:
    """The first item with one of the names, in their order; else the first item."""
    known = {item.name: item for item in items}
    wanted = [known[name] for name in (name.replace("_", " ") for name in names) if name in known]
    return next(iter([*wanted, *items]), None)


def _page(template: str, **content: Any) -> str:
    pages = Environment(
        loader=PackageLoader("dal_lab.companion.site", "pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["duration"] = duration
    return pages.get_template(f"{template}.html.jinja").render(
        style=Markup(_file("style.css")), script=Markup(_file("sort.js")), code_style=_code_style(), **content
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files("dal_lab.companion.site").joinpath("pages", name).read_text(encoding="utf-8")


def _code_style() -> Markup:
    """Colours of code, by day and by night."""
    day, night = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "native"))
    return Markup(f"{day}\n@media (prefers-color-scheme: dark) {{\n{night}\n}}")
