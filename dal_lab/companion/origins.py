"""What a notebook's figures and tables rest on beside their runs, as digests that are told without executing it.

The code of the packages is not among them: its versions count, which change when numbers do.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from dal_core import RESULTS_VERSION
from dal_lab.companion import presets

LOCK = "requirements.lock"
CELLS = re.compile(r"^(?=# %%)", flags=re.MULTILINE)


def project_root() -> Path:
    """Return the folder that holds notebooks and figures: the environment's `DAL_ROOT`, else that of this checkout."""
    return Path(os.environ.get("DAL_ROOT") or Path(__file__).resolve().parents[2])


def numbered(folder: Path, ending: str = ".ipynb") -> tuple[list[Path], list[Path]]:
    """Return the notebooks `NN_*` in a folder, one a number, and the others: copies and backups beside them.

    Of several with a number it is the one that has both forms, .ipynb and .py; if that leaves a choice, the shortest.
    """
    twin = ".py" if ending == ".ipynb" else ".ipynb"
    found = sorted(folder.glob(f"[0-9][0-9]_*{ending}"), key=lambda path: (len(path.stem), path.stem))
    found.sort(key=lambda path: (path.stem[:2], not path.with_suffix(twin).is_file()))
    first = {path.stem[:2]: path for path in reversed(found)}
    return sorted(first.values()), [path for path in found if path not in first.values()]


def origins(notebook: str, preset: str, root: Path | None = None) -> dict[str, str]:
    """Return digests of the notebook's cells, of the preset's settings, and of the lock; and the version.

    What this project does not have, such as a notebook in another place, is left out.
    """
    found = {"version": str(RESULTS_VERSION)}
    root = root or project_root()
    text, lock = root / "notebooks" / f"{notebook}.py", root / LOCK
    if text.is_file():
        _, *cells = CELLS.split(text.read_text(encoding="utf-8"))
        found["text"] = digest(json.dumps([cell.rstrip() for cell in cells]))
        found["settings"] = digest(presets.text_of(notebook, preset, text.parent))
    if lock.is_file():
        found["lock"] = digest(lock.read_text(encoding="utf-8"))
    return found


def digest(text: str) -> str:
    """Return what tells a text from others, short enough to stand with every entry of a manifest."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two origins, in words; data and strategies that one of them lacks do not count."""
    words = {"text": "its text", "settings": "its preset's settings", "lock": LOCK, "version": "RESULTS_VERSION"}
    changed = [f"{words[name]} changed" for name in words if before.get(name) != now.get(name)]
    for what, part in (("the data", "data"), ("the strategy", "strategies")):
        old, new = before.get(part, {}), now.get(part, {})
        changed += [f"{what} {name} changed" for name in sorted(old.keys() & new) if old[name] != new[name]]
    return changed
