"""The machine in words and numbers: what does not need the card, and what the first section says of it."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil

import dal_core
from dal_lab.runs.provenance import git_commit

PACKAGES = (
    "torch", "torchvision", "transformers", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow",
    "safetensors", "jaxtyping", "matplotlib", "seaborn", "papermill", "ipykernel", "pytest",
)  # fmt: skip
MANIFEST = "prepared.json"


def software(inputs: Path | None) -> dict[str, Any]:
    """Return commit, versions, processor and memory, without a look at the card: that would take memory on it."""
    return {
        "commit": commit(inputs),
        "python": platform.python_version(),
        "dal_core": dal_core.__version__,
        "packages": {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def commit(inputs: Path | None) -> str:
    """Return the commit of the code; without its history, the one that the inputs were prepared with."""
    found = git_commit()
    manifest = None if inputs is None else inputs / MANIFEST
    if found != "unknown" or manifest is None or not manifest.is_file():
        return found
    prepared = json.loads(manifest.read_text(encoding="utf-8")).get("commit", "unknown")
    return f"{prepared}, as the inputs say"


def version(package: str) -> str | None:
    """Return the version of an installed package; None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the name of the processor, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def card_of(sections: dict[str, Any]) -> dict[str, Any]:
    """Return what the first section found out about the card, for the head of the results."""
    items = sections.get("what_is_there", {}).get("items", {})
    card = items.get("card", {})
    return {"card": {name: card[name] for name in card if name not in ("seconds", "line", "status")}} if card else {}
