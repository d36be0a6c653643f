"""Which committed figures, tables, notebooks and README numbers are not those of now: told without executing anything.

A measurement that is typed into a notebook's prose gets old, too. It is an accuracy (percent, points) or a time, unless
its sentence cites what is published (`CITES`), and a count of seeds, unless its sentence cites or states the protocol:
in a paragraph that begins with **Protocol.**, or with a word of `PROTOCOL`.
"""

import base64
import contextlib
import difflib
import itertools
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dal_core.strategies import registry
from dal_lab.companion.artefacts import MANIFEST, ManifestError, digest_of, faults, read_manifest
from dal_lab.companion.origins import CELLS, changes, numbered, origins
from dal_lab.companion.readme import QUOTED, documents, filled
from dal_lab.runs.committed import ENDING
from dal_lab.runs.files import is_intact
from dal_lab.sources.catalogue import data_sets, load
from dal_lab.sources.scikit_learn import Bundled

PRESET = "quick"  # whose outputs the committed notebooks show, and which has to be fresh
COUNT = r"\b(?:\d[\d.,]*|two|three|four|five|six|seven|eight|nine|ten)\s*"
UNIT = r"(?:points?|[mµ]?s|min|h|(?:milli)?seconds?|minutes?|hours?|times faster)\b"
MEASURED = re.compile(
    # A share of the data that are set aside is none, nor is the level of an interval.
    rf"{COUNT}(?:%(?! of the (?:train|pool|labels)| (?:confidence )?interval)|percent\b|{UNIT})"
    r"|(?:accurac\w+|aulc|nll|win rate)\b[^.;]{0,30}?\s\d*\.\d+",
    flags=re.IGNORECASE,
)
SEEDS = re.compile(rf"{COUNT}seeds?\b", flags=re.IGNORECASE)
CITES = re.compile(r"published|\b(?:table|tab\.|figure|fig\.) ?\d|arxiv|\bpapers?\b|et al\.", flags=re.IGNORECASE)
PROTOCOL = re.compile(r"\bprotocol|\bbatch(?:es)? of\b|\binitial\b|\bepochs?\b|\bheld out\b", flags=re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[.!?])(?<!al\.)(?<!Fig\.)(?<!Tab\.)\s+(?=[A-Z*`(“])|\n(?=\|)")


class Finding(NamedTuple):
    """A file that is not of now."""

    preset: str  # whose it is; notebooks and README count as those of quick
    place: str  # its folder
    file: str
    reason: str


def check(root: Path, *, strict: bool = False) -> int:
    """Print the files of the project `root` that are not of now, each with the reason, and return the exit code.

    It is 1 if something of the preset quick, a notebook or the README is not; with `strict` for every preset.
    """
    folders = sorted(path.parent for path in (root / "figures").glob(f"*/{MANIFEST}"))
    folders = [folder for folder in folders if folder.name != "tiny"]  # which nobody commits
    found = [finding for folder in folders for finding in in_folder(folder, root)]
    found += [*in_notebooks(root), *in_documents(root)]
    for (place, reason), group in itertools.groupby(found, lambda each: (each.place, each.reason)):
        print(f"{place}: {reason}")
        print(
            textwrap.fill(", ".join(each.file for each in group), 120, initial_indent="    ", subsequent_indent="    ")
        )
    late = [each for each in found if strict or each.preset == PRESET]
    counts = Counter(each.preset for each in found)
    words = ", ".join(f"{count} of {preset}" for preset, count in counts.items())
    rest = "" if len(late) == len(found) else f"; only those of {PRESET} count without --strict"
    print(f"not of now: {words}{rest}" if found else "figures, tables, notebooks and README are those of now")
    return 1 if late else 0


def in_folder(folder: Path, root: Path) -> Iterator[Finding]:
    """Return the files of a preset's folder that disagree with its manifest, or rest on what is no longer so."""
    of_folder = folder.name, f"figures/{folder.name}"
    try:
        wrong, manifest, reasons = faults(folder), read_manifest(folder), stale(folder, root)
    except ManifestError as error:
        yield Finding(*of_folder, MANIFEST, str(error))
        return
    damaged = [path.name for path in sorted(folder.glob(f"*{ENDING}")) if not is_intact(path.read_bytes())]
    for what, names in {**wrong, "runs whose bytes are not those that were written": damaged}.items():
        yield from (Finding(*of_folder, name, what) for name in names)
    for notebook, why in reasons.items():
        names = sorted(name for name, entry in manifest.items() if entry["notebook"] == notebook)
        for name in names or [f"{notebook.split('_')[0]}_*"]:
            yield Finding(*of_folder, name, f"notebook {notebook}: {', '.join(why)}")


def stale(folder: Path, root: Path) -> dict[str, list[str]]:
    """Return the notebooks whose figures and tables in a preset's folder are not those of now, with the reasons.

    Data are compared where they come with scikit-learn. The code of the packages counts by its versions.

    Raises:
        ManifestError: if the manifest is damaged.
    """
    entries, found = read_manifest(folder).values(), {}
    texts = {path.stem for path in numbered(root / "notebooks", ".py")[0]}
    strategies = {name: registry.version(name) for name in registry.names()}
    for name in sorted(texts | {entry["notebook"] for entry in entries}):
        before = [entry.get("origins") for entry in entries if entry["notebook"] == name]
        if name not in texts:
            found[name] = ["there is no such notebook"]
        elif not before:
            found[name] = ["it has no figures and tables here"]
        elif before[0] is None:
            found[name] = ["its entries do not say what they rest on: an earlier version wrote them"]
        else:
            now = {"data": _digests(before[0]["data"]), "strategies": strategies}
            if reasons := changes(before[0], origins(name, folder.name, root) | now):
                found[name] = reasons
    return found


def _digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests of those of the data that need neither files nor a network."""
    known = data_sets()
    return {name: load(name).digest for name in names if name in known and isinstance(known[name].sources[0], Bundled)}


def in_notebooks(root: Path) -> Iterator[Finding]:
    """Return what differs between a notebook and its text or the committed figures, and measurements in its prose."""
    folder, manifest = root / "figures" / PRESET, dict[str, Any]()
    with contextlib.suppress(ManifestError):  # which `in_folder` tells
        manifest = read_manifest(folder)
    for text in numbered(root / "notebooks", ".py")[0]:
        cells, name = _cells_of(text.read_text(encoding="utf-8")), f"{text.stem}.ipynb"
        for heading, (kind, source) in zip(_headings(cells), cells, strict=True):
            for sentence in typed(source) if kind == "markdown" else ():
                yield Finding(PRESET, "notebooks", text.name, f"a measurement is typed below “{heading}”: {sentence}")
        try:
            shown = json.loads(text.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
            others = [(cell["cell_type"], "".join(cell["source"])) for cell in shown]
        except (OSError, ValueError, KeyError, TypeError):
            yield Finding(PRESET, "notebooks", name, "it is absent or damaged")
            continue
        for heading, change in _differences(cells, others):
            yield Finding(PRESET, "notebooks", name, f"below “{heading}” its text has {change}")
        for file in _not_shown(shown, folder, manifest):
            if manifest[file]["notebook"] == text.stem:
                yield Finding(PRESET, f"figures/{PRESET}", file, f"notebooks/{name} shows another one")


def _cells_of(text: str) -> list[tuple[str, str]]:
    """Return kind and source of the cells in the text form of a notebook; jupytext would take a second to begin."""
    found = []
    for cell in CELLS.split(text)[1:]:
        head, _, source = cell.partition("\n")
        is_text = "[markdown]" in head
        source = re.sub(r"^# ?", "", source, flags=re.MULTILINE) if is_text else source
        found.append(("markdown" if is_text else "code", source.strip()))
    return found


def _headings(cells: Sequence[tuple[str, str]]) -> list[str]:
    """Return for each cell the heading that it stands below."""
    found = [""]
    for kind, source in cells:
        titles = re.findall(r"^#+ *(.*)", source, flags=re.MULTILINE) if kind == "markdown" else []
        found.append(titles[-1] if titles else found[-1])
    return found[1:]


def _differences(cells: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Return heading and first changed line of the cells that the notebook's own, `others`, differ from."""
    old, new = [(kind, source.strip()) for kind, source in others], list(cells)
    for what, i, j, k, m in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if what != "equal":
            before, after = ("\n".join(source for _, source in part).splitlines() for part in (old[i:j], new[k:m]))
            lines = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
            gone, came = (next((line[2:].strip() for line in lines if line[0] == sign), "") for sign in "-+")
            yield _headings(cells)[min(k, len(cells) - 1)], f"`{came[:80]}` where it has `{gone[:80]}`"


def _not_shown(cells: Sequence[Mapping[str, Any]], folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Return tables and figures without times of which no cell shows the text or the picture."""
    data = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    tables = {"".join(each["text/markdown"]) for each in data if "text/markdown" in each}
    pictures = {digest_of(base64.b64decode("".join(each["image/png"]))) for each in data if "image/png" in each}
    for file, entry in manifest.items():
        if "time" not in file and (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8") if file.endswith(".md") else None
            if (text is not None and text not in tables) or ("shown" in entry and entry["shown"] not in pictures):
                yield file


def typed(text: str) -> Iterator[str]:
    """Return the sentences of a Markdown cell that hold a typed measurement."""
    for paragraph in re.split(r"\n\s*\n", text.replace("\\,", " ").replace("\\%", "%").replace("$", "")):
        protocol = False
        for sentence in SENTENCE.split(paragraph):
            begins = re.findall(r"\*\*(\w+)\.\*\*", sentence)
            protocol = begins[-1] == "Protocol" if begins else protocol
            counted = SEEDS.search(sentence) and not (protocol or PROTOCOL.search(sentence))
            if (counted or MEASURED.search(sentence)) and not CITES.search(sentence):
                yield " ".join(sentence.split())


def in_documents(root: Path) -> Iterator[Finding]:
    """Return the places of README.md and docs/ that quote a number as it no longer is."""
    for path in documents(root):
        for match in QUOTED.finditer(path.read_text(encoding="utf-8")):
            try:
                if filled(match, root) == match[0]:
                    continue
                reason = f"its numbers of {match['path']} are not those of the file"
            except ValueError as error:
                reason = str(error)
            yield Finding(PRESET, str(path.parent.relative_to(root)), path.name, reason)
