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
        return json.dumps(settings(notebook, preset, beside), sort_keys=True)
    except ValueError:
        return ""


def data_of(setting: dict[str, Any], encoders: Sequence[str]) -> list[dict[str, Any]]:
    """Return the data of a preset, each with the settings of its runs and, as `about`, what the notebook knows of it.

    An entry whose `dataset` is a list stands for each of them, one whose `encoder` is "each" for each of `encoders`,
    and one with `protocol` has the initial size, batch size and cycles of the papers.
    """
    found = []
    for entry in setting["data"]:
        names = [entry["dataset"]] if isinstance(entry["dataset"], str) else entry["dataset"]
        for encoder in encoders if entry.get("encoder") == EACH else [entry.get("encoder")]:
            for name in names:
                one = {key: value for key, value in entry.items() if key != "protocol"}
                one |= {"dataset": name} | ({} if encoder is None else {"encoder": encoder})
                one |= data_sets()[name].protocol() if entry.get("protocol") else {}
                found.append(one | {"about": entry.get("about", {}) | setting.get("of", {}).get(name, {})})
    return found
