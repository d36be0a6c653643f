"""Whether a notebook would be executed in vain: nothing that its figures and tables depend on has changed since."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat

import dal_core
import dal_lab
from dal_lab.companion.artefacts import digest_of, read_manifest
from dal_lab.companion.site.index import PROVENANCE
from dal_lab.plugins import VARIABLE
from dal_lab.sources.catalogue import data_sets
from dal_lab.sources.scikit_learn import Bundled

DRAWN_WITH = ("torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "scikit-learn", "statsmodels")
FINGERPRINT = "fingerprint"  # of an executed notebook, in its metadata


def fingerprint(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """Return a digest of the notebook's cells, its parameters, the packages, and versions of what draws."""
    settings = {name: value for name, value in parameters.items() if name != "fresh"}
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(notebook, as_version=4).cells]  # without outputs
    return digest_of((json.dumps([settings, cells], sort_keys=True, default=str) + _packages()).encode())


@lru_cache(maxsize=1)
def _packages() -> str:
    digest = hashlib.sha256()
    for package in (dal_core.__file__, dal_lab.__file__):
        for path in sorted(Path(str(package)).parent.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest() + str([importlib.metadata.version(name) for name in DRAWN_WITH])


def is_unchanged(notebook: Path, executed: Path, figures: Path, parameters: Mapping[str, Any]) -> bool:
    """Return whether `executed` is what executing the notebook with these parameters would give again.

    A notebook of the project is, which has a text form, if it and the packages are as they were, its data come with
    scikit-learn, so that no file can have changed, there are no plugins, which may import anything, and its figures and
    tables in the preset's folder are as they were written.
    """
    try:
        entries = {name: each for name, each in read_manifest(figures).items() if each["notebook"] == notebook.stem}
        about = nbformat.read(executed, as_version=4).metadata[PROVENANCE]
        data, known = {name for each in entries.values() for name in each["origins"]["data"]}, data_sets()
        return (
            bool(entries)
            and not os.environ.get(VARIABLE)
            and notebook.with_suffix(".py").is_file()
            and about[FINGERPRINT] == fingerprint(notebook, parameters)
            and all(name in known and isinstance(known[name].sources[0], Bundled) for name in data)
            and all(digest_of((figures / name).read_bytes()) == each["digest"] for name, each in entries.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False  # Something is absent or damaged: executing it tells what.
