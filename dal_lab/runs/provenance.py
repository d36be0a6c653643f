"""The commit and the versions that a result or a figure comes from."""

import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import psutil
import torch

import dal_core

PACKAGE = Path(__file__).resolve().parent.parent
# Paths that numbers depend on. Figures and notebook outputs, which a run rewrites, do not make the code dirty.
CODE = ("dal_core", "dal_lab", "notebooks/*.py", "pyproject.toml")


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Return the commit of the code in use, with `-dirty` when the code differs; "unknown" outside a checkout."""
    root = PACKAGE.parent
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", *CODE)
        tracked = _git(root, "ls-files", "--", str(PACKAGE))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # An installed copy below some other project's checkout has nothing to do with that project's commits.
    return "unknown" if not tracked else commit + ("-dirty" if changes else "")


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "dal_core": dal_core.__version__}


def load_beside(seconds: float) -> dict[str, float]:
    """Return how many processes wanted a core, on average over about the last `seconds`, and the number of cores."""
    minute, five, quarter = psutil.getloadavg()
    load = minute if seconds <= 60 else five if seconds <= 300 else quarter
    return {"load": round(load, 1), "cores": psutil.cpu_count() or 1}


def is_crowded(load: float, cores: float) -> bool:
    """Return whether processes waited for a core during a measurement; a grid has no more of them than cores."""
    return load > 1.25 * cores


def _git(root: Path, *arguments: str) -> str:
    # Without locks: a process that is killed while git refreshes its index would leave one behind, and block the user.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
