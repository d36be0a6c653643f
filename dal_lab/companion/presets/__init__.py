"""What each notebook runs on: a table a notebook, `<notebook>.toml`, with a part for each preset.

`[all]` holds the settings that presets share, `[quick]`, `[real]`, `[paper]` and `[tiny]` those of one, which win;
`[about]` which figure and table stand for the paper, and `[choices]` what its own parameters may be. Data are a list
`[[<preset>.data]]` of settings of an Experiment or a study; see `data_of` for the keys that are none.
"""

import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dal_core.checks import check_choice
from dal_lab.sources import protocols
from dal_lab.sources.catalogue import data_sets

_HERE = Path(str(resources.files("dal_lab.companion.presets")))
# The presets in their order, and what each is for.
PRESETS: dict[str, str] = tomllib.loads((_HERE / "presets.toml").read_text(encoding="utf-8"))
EACH = "each"  # the encoder of an entry that is repeated for each encoder of the notebook's parameters


def table(notebook: str, beside: Path | None = None) -> dict[str, Any]:
    """Return the table of a notebook: the package's, else `<notebook>.toml` in the folder `beside`.

    Raises:
        ValueError: if there is none.
    """
    name = f"{notebook}.toml"
    paths = [path for folder in (_HERE, beside) if folder is not None and (path := folder / name).is_file()]
    if not paths:
        raise ValueError(f"notebook {notebook!r} has no table of presets; {name} beside it was expected")
    return tomllib.loads(paths[0].read_text(encoding="utf-8"))


def settings(notebook: str, preset: str, beside: Path | None = None) -> dict[str, Any]:
    """Return the settings of a notebook's preset.

    Raises:
        ValueError: if the notebook has no such preset, with those that it has.
    """
    found = table(notebook, beside)
    check_choice("preset", preset, [name for name in found if name in PRESETS])
    return found.get("all", {}) | found[preset]


def text_of(notebook: str, preset: str, beside: Path | None = None) -> str:
    """Return a preset's settings as a text that changes exactly if they do; empty where there are none."""
    try:
        found = settings(notebook, preset, beside)
    except ValueError:
        return ""
    rows = protocols.rows(found["protocols"]) if "protocols" in found else []
    return json.dumps([found, rows], sort_keys=True)


def data_of(setting: dict[str, Any], encoders: Sequence[str]) -> list[dict[str, Any]]:
    """Return the data of a preset, each with the settings of its runs and, as `about`, what the notebook knows of it.

    With `protocols`, the name of a paper, they are those of its protocols (`dal_lab.sources.protocols`): image sets
    with each of `encoders`, others with the paper's own. Of the list `data`, an entry whose `dataset` is a list stands
    for each of them, and one whose `encoder` is "each" for each of `encoders`. `[<preset>.of]` adds to the `about` of a
    data set.
    """
    found = _of_paper(setting["protocols"], encoders) if "protocols" in setting else []
    for entry in setting.get("data", []):
        names = [entry["dataset"]] if isinstance(entry["dataset"], str) else entry["dataset"]
        for encoder in encoders if entry.get("encoder") == EACH else [entry.get("encoder")]:
            found += [entry | {"dataset": name} | ({} if encoder is None else {"encoder": encoder}) for name in names]
    more = setting.get("of", {})
    return [each | {"about": each.get("about", {}) | more.get(each["dataset"], {})} for each in found]


def _of_paper(paper: str, encoders: Sequence[str]) -> list[dict[str, Any]]:
    """Return the data of a paper's protocols, with the options that it has for BAIT, alone and in BoSS and REFINE."""
    images = [row for encoder in encoders for row in protocols.settings(paper, encoder)]
    others = [row for row in protocols.settings(paper) if data_sets()[row["dataset"]].kind != "image"]
    bait = {row["data"]: row["methods"].get("bait", {}) for row in protocols.rows(paper)}
    inside = {data: {"strategy_options": {"bait": options}} for data, options in bait.items()}
    return [
        row | {"about": {"options": {"bait": bait[name], "boss": inside[name], "refine": inside[name]}}}
        for row in (*images, *others)
        for name in [row["dataset"]]
    ]
