"""Python files that register strategies of one's own."""

import runpy
from pathlib import Path

from dal_core.checks import one_line
from dal_core.strategies import registry


def load_plugin(path: Path) -> list[str]:
    """Execute a Python file and return the names of the strategies that it registered.

    Raises:
        ValueError: if it is not there or fails.
    """
    before = registry.own()
    try:
        runpy.run_path(str(path), run_name=path.stem)
    except Exception as error:
        raise ValueError(f"{path} does not load: {type(error).__name__}: {one_line(error)}") from error
    return [name for name, strategy in registry.own().items() if before.get(name) is not strategy]
