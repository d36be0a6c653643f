"""Section 5: the notebooks themselves, executed by papermill on the device."""

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from benchmarks.gpu.inputs import data_folder, names_of
from benchmarks.gpu.processes import end_one
from benchmarks.gpu.settings import Item, Result, Settings, Skipped

ROOT = Path(__file__).resolve().parents[2]
# What papermill and the notebooks need beyond the package's own dependencies, for Python 3.12.
PACKAGES = (
    "asttokens", "beautifulsoup4", "bleach", "comm", "defusedxml", "entrypoints", "executing", "fastjsonschema",
    "ipykernel", "ipython-pygments-lexers", "ipython", "jedi", "jsonschema-specifications", "jsonschema",
    "jupyter-client", "jupyter-core", "jupyterlab-pygments", "latex2mathml", "matplotlib-inline", "mistune",
    "nbclient", "nbconvert", "nbformat", "nest-asyncio2", "pandocfilters", "papermill", "parso", "pexpect",
    "platformdirs", "prompt-toolkit", "ptyprocess", "pure-eval", "pyzmq", "referencing", "rpds-py", "soupsieve",
    "stack-data", "tenacity", "tinycss2", "tornado", "traitlets", "wcwidth", "webencodings", "decorator",
)  # fmt: skip
NOTEBOOKS = ("01", "02", "03", "04")
PRESET = {"cuda": "quick", "cpu": "tiny"}
SEEDS = {"quick": 2, "tiny": 2, "real": 1}  # fewer than the preset's: the notebooks are to run, their numbers are there


def items(settings: Settings) -> list[Item]:
    """Return the measurements of this section: all notebooks quickly, then what the inputs allow of the protocols."""
    preset = PRESET[settings.device]
    found = [Item(f"{preset} {number}", functools.partial(execute, number, preset), 1.0, 0.8) for number in NOTEBOOKS]
    if settings.device == "cuda":
        found += [
            Item(f"real {number}", functools.partial(execute, number, "real"), 2.0, 0.6) for number in ("02", "01")
        ]
    return found


def execute(number: str, preset: str, settings: Settings) -> Result:
    """Execute a notebook with the device as its parameter; one that fails says in which cell."""
    notebooks = _notebooks()
    (notebook,) = notebooks.choose(notebooks.find(ROOT / "notebooks"), number)
    place = settings.work / "notebooks" / preset
    place.mkdir(parents=True, exist_ok=True)
    parameters: dict[str, Any] = {
        "preset": preset, "seeds": SEEDS[preset], "device": settings.device, "output_dir": str(place / "figures"),
        "results_dir": str(settings.work / "results"),
    }  # fmt: skip
    if preset == "real":
        if not names_of(settings):
            raise Skipped("the preset 'real' needs data of the inputs, and there are none")
        parameters |= {"data_dir": str(data_folder(settings))}
    try:
        outcome = notebooks.execute(notebook, place / notebook.path.name, parameters)
    finally:  # a kernel that was interrupted would compute beside the next one
        for child in psutil.Process().children(recursive=True):
            end_one(child)
    if outcome.error is not None:
        raise RuntimeError(outcome.error)
    return {"title": notebook.title, "preset": preset, "notebook_s": outcome.seconds}


def _notebooks() -> ModuleType:
    try:
        from dal_lab.companion import notebooks
    except ModuleNotFoundError as error:
        raise Skipped(
            f"the package {error.name} is not installed: papermill and what it needs can lie in a folder that "
            "PYTHONPATH names, see `python -m benchmarks.gpu --help`"
        ) from error
    return notebooks
