"""Python files that register own strategies, for the commands (--plugin), notebooks and scripts (DAL_PLUGINS)."""

import functools
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterable
from pathlib import Path

import cloudpickle

from dal_core.checks import one_line, shown
from dal_core.strategies import registry
from dal_lab.runs.files import is_file
from dal_lab.strategy_answers import settings_kept

VARIABLE = "DAL_PLUGINS"  # This variable holds paths as PATH does; a notebook's kernel inherits it.


def load_plugin(path: Path) -> list[str]:
    """Execute a Python file, once, and return the names of the strategies that it registered.

    Modules beside the file can be imported. The file may be called as it likes, even like an installed module.

    Raises:
        ValueError: if it cannot be executed, with the line that is to blame.
    """
    if not is_file(path):
        raise ValueError(f"plugin is {shown(str(path))}; an existing Python file was expected")
    return [*_load(path.resolve())]


def load_plugins(paths: Iterable[Path] = ()) -> None:
    """Load the plugins that the environment names, then these."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    for path in [*map(Path, filter(None, named)), *paths]:
        load_plugin(path)


def pass_on(paths: Iterable[Path]) -> None:
    """Load plugins here, and in the notebooks and scripts that this process starts."""
    load_plugins(paths)
    named = [os.environ.get(VARIABLE, ""), *(str(path.resolve()) for path in paths)]
    os.environ[VARIABLE] = os.pathsep.join(filter(None, named))


@functools.cache
def _load(path: Path) -> tuple[str, ...]:
    registry.names()  # A plugin must not take the names of the package's own strategies.
    before, module = registry.own().keys(), types.ModuleType(f"plugin_{path.stem}")
    while module.__name__ in sys.modules:  # A file of another folder has this name.
        module.__name__ += "_"
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:  # The last place, where no file hides an installed module.
        sys.path.append(str(path.parent))
    sys.modules[module.__name__] = module  # Texts of classes are found by it.
    try:
        with settings_kept() as changed:  # Changed settings would hold here, not in workers.
            exec(compile(path.read_bytes(), path, "exec"), vars(module))  # noqa: S102 - as Python would, by its name
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        registry.forget_own(registry.own().keys() - before)
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else path  # An error of syntax names the line itself.
        raise ValueError(f"plugin {place}: {type(error).__name__}: {one_line(error)}") from error
    if changed:
        warnings.warn(
            f"plugin {path} changes settings of the process, which is undone: {'; '.join(changed)}", stacklevel=2
        )
    # Worker processes cannot import the module: they get its functions with their code.
    cloudpickle.register_pickle_by_value(module)
    return tuple(sorted(registry.own().keys() - before))
