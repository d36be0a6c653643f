"""The site over a preset's figures, tables and executed notebooks: pages that need neither a server nor a network.

`<folder>/index.html` has the verdicts, of each notebook the headline figure and table, and all others by sections;
`<folder>/<notebook>.html` is the executed notebook. Styles and the script that sorts tables are in the pages.
"""

import os
import re
import tomllib
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import mistune
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from dal_lab.companion.artefacts import PAGES, load_in_words, read_manifest
from dal_lab.companion.site.notebook_page import FILE_DPI, body_of, legible_width, read_notebook
from dal_lab.companion.tables import cells_of, table_of
from dal_lab.companion.verdicts import all_verdicts, counted
from dal_lab.runs.committed import committed_runs
from dal_lab.runs.files import write_text

PROVENANCE = "dal_core"  # key of an executed notebook's metadata: device, versions, commit
PRESETS = Path(str(resources.files("dal_lab.companion"))) / "presets"  # a table a notebook, or none


def write_site(
    folder: Path, executed: Path, sources: Sequence[Path], *, preset: str, about: str = "",
    changed: Container[Path] | None = None,
) -> Path:  # fmt: skip
    """Write the site over `folder` and return its front page; pages of notebooks that are no more are removed.

    Args:
        folder: with figures, tables and their manifest.
        executed: folder with the executed notebooks; of one that failed, `<name>.failed.ipynb`.
        sources: the project's notebooks. Those that were not executed are named with what there is of them.
        preset: the preset's name.
        about: what the preset is for.
        changed: of `sources`, whose pages are written anew; others are kept where they exist. None: all.

    Raises:
        ManifestError: if the folder's manifest is damaged.
    """
    manifest, chapters = read_manifest(folder), []
    seconds = {key: run.about.get("duration_s", 0.0) for key, run in committed_runs([folder]).items()}
    for source in sources:
        chapter, notebook = _chapter(source, executed, folder, manifest)
        chapter["computing"] = sum(seconds.get(key, 0.0) for key in chapter["runs"])
        path = folder / (chapter["page"] or "")
        if chapter["page"] and (changed is None or source in changed or not path.is_file()):
            headings, body = body_of(notebook)
            write_text(path, _page("notebook", chapter=chapter, headings=headings, body=body, preset=preset))
        chapters.append(chapter)
    for page in {path.name for path in folder.glob(f"[0-9][0-9]_*{PAGES}")} - {each["page"] for each in chapters}:
        (folder / page).unlink()
    front, runs = folder / f"index{PAGES}", frozenset().union(*(chapter["runs"] for chapter in chapters))
    content = {"chapters": chapters, "runs": runs, "verdicts": _verdicts(folder), "preset": preset, "about": about}
    readme = sources[0].parent.parent / "README.md" if sources else Path()
    content |= {"readme": _link(readme, folder), "citation": _citation(readme)}
    write_text(front, _page("front", computing=sum(seconds.get(key, 0.0) for key in runs), **content))
    return front


def title_of(notebook: Any) -> str | None:
    """Return the first heading of a notebook; None if it has none."""
    for cell in notebook.cells:
        if found := re.search(r"^# (.+)$", cell.source, flags=re.MULTILINE):
            return found[1]
    return None


def _chapter(source: Path, executed: Path, folder: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return what the pages say about the notebook `source`, and the notebook itself, executed where it was.

    The state is "done", "failed", or why there is no page.
    """
    ways = {"done": executed / source.name, "failed": executed / f"{source.stem}.failed.ipynb"}
    state = next((state for state, path in ways.items() if path.is_file()), "not executed on this machine")
    ran, number = state in ways, source.stem.split("_")[0]
    notebook = read_notebook(ways.get(state, source))
    run = notebook.metadata.get("papermill", {}) if ran else {}
    entries = {name: each for name, each in sorted(manifest.items()) if each["notebook"] == source.stem}
    entries = {name: each for name, each in entries.items() if (folder / name).is_file()}
    drawings, tables = [], []
    # Sections begin with their letter; within one, what stood first in the notebook is first.
    for file, entry in sorted(entries.items(), key=lambda each: (each[1]["cell"], each[1].get("place", 0))):
        stem, words = file.rpartition(".")[0], Path(file).stem.split("_", 1)[-1].replace("_", " ")
        about = {"name": words, "alt": f"{entry['cell']}: {words}", "caption": "", **entry}
        about["load"] = load_in_words(entry["load"]) if "load" in entry else ""
        if file.endswith(".png"):
            files = {ending: f"{stem}.{ending}" for ending in ("png", "pdf") if (folder / f"{stem}.{ending}").is_file()}
            drawings.append(about | {"files": files, "width": legible_width((folder / file).read_bytes(), FILE_DPI)})
        elif file.endswith(".csv"):
            headings, rows = table_of(
                folder / file, entry.get("headings")
            )  # headings are (text, whether the column has numbers)
            tables.append(about | {"csv": file, "headings": headings, "rows": rows})
    wanted = _headlines(source)
    return {
        "number": number,
        "title": title_of(notebook) or source.stem,
        "paper": _paper(notebook),
        "state": state,
        "page": f"{source.stem}{PAGES}" if ran else None,
        "about": _about(notebook.metadata) if ran else {},
        "finished": f"{datetime.fromisoformat(run['end_time']):%Y-%m-%d %H:%M} UTC" if run.get("end_time") else "",
        "runs": frozenset(key for entry in entries.values() for key in entry["keys"]),
        "drawings": drawings,
        "tables": tables,
        "headline": _first(drawings, wanted.get("headline_figures", [])),
        "headline_table": _first(tables, wanted.get("headline_tables", [])),
        "code": _link(source.with_suffix(".py"), folder),
    }, notebook  # fmt: skip


def _headlines(source: Path) -> dict[str, Any]:
    """Return which figures and tables stand for a notebook, as its table of presets says; empty if it does not."""
    for path in (PRESETS / f"{source.stem}.toml", source.with_suffix(".toml")):
        if path.is_file():
            return dict(tomllib.loads(path.read_text(encoding="utf-8")).get("about", {}))
    return {}


def _link(path: Path, folder: Path) -> str:
    """Return the address of a file as pages in `folder` link to it; empty if there is no such file."""
    return Path(os.path.relpath(path, folder)).as_posix() if path.is_file() else ""


def _citation(readme: Path) -> str:
    """Return the BibTeX entries of the README; empty if there are none."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.search(r"^```bibtex\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def _paper(notebook: Any) -> Markup:
    """Return the paragraph below the title, which names paper, authors and venue; any HTML in it stays text."""
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    paragraphs = [part for part in text.split("\n\n") if part.strip() and not part.startswith("#")]
    return Markup(mistune.create_markdown(escape=True)(paragraphs[0])) if paragraphs else Markup("")


def _about(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return device, versions, commit, and the settings that differ from the preset's, of an executed notebook."""
    kept = metadata.get(PROVENANCE, {})
    versions = kept.get("versions", {})
    names = {"dal_core": "dal_core", "torch": "torch", "python": "Python"}
    commit, _, changed = kept.get("commit", "").partition("-")
    about = {
        "Device": kept.get("device", ""),
        "Versions": ", ".join(f"{text} {versions[name]}" for name, text in names.items() if name in versions),
        "Commit": commit[:12] + (" with changes" if changed else ""),
        "Seeds": str(metadata.get("papermill", {}).get("parameters", {}).get("seeds") or ""),
    }
    return {name: text for name, text in about.items() if text}


def _verdicts(folder: Path) -> dict[str, Any] | None:
    """The verdicts of all notebooks, and a sentence that counts them; None where there are none."""
    table = all_verdicts(folder)
    first = ["notebook", "claim", "verdict"]  # which a narrow window shows
    headings, rows = cells_of(table[[*first, "value", "low", "high", "seeds", "measure", "source"]])
    return {"counted": counted(table), "headings": headings, "rows": rows} if len(table) else None


def duration(seconds: float) -> str:
    """Return a time for readers: 13 s, 4 min 10 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _first(items: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the first item with one of the names, in their order; else the first item."""
    return min(items, key=lambda item: [*names, item["name"]].index(item["name"]), default=None)


def _page(template: str, **content: Any) -> str:
    loader = PackageLoader("dal_lab.companion.site", "pages")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["duration"] = duration
    day, night = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "native"))
    assets = {"style": "style.css", "script": "sort.js"}
    content |= {name: Markup(loader.get_source(pages, file)[0]) for name, file in assets.items()}
    return pages.get_template(f"{template}.html.jinja").render(day=Markup(day), night=Markup(night), **content)
