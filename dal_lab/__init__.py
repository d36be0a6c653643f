"""The laboratory around `dal_core`: data sources, encoders, grids of runs, studies, and the paper companion."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dal_lab.runs.grid import Grid
    from dal_lab.runs.study import run
    from dal_lab.sources.catalogue import load

__all__ = ["Grid", "load", "run"]

# They are imported when they are first asked for, as their libraries take seconds.
_HOMES = {"Grid": "dal_lab.runs.grid", "load": "dal_lab.sources.catalogue", "run": "dal_lab.runs.study"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
