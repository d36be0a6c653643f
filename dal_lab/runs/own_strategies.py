"""Strategies that a user registered in a script, a notebook or a module, on their way to a worker process."""

import inspect
import pickle
import sys
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cloudpickle

from dal_core import snapshot
from dal_core.strategies import registry

PROCESS = uuid.uuid4().hex  # A process id may be one of another machine's, too.


class _Packed(NamedTuple):
    name: str
    module: str
    view: str
    required: bool
    source: str
    version: int
    pickled: bytes


class OwnStrategies(NamedTuple):
    """Strategies that are not the package's, as a worker can register them."""

    packed: tuple[_Packed, ...]
    path: tuple[str, ...]  # The folders where Python looks for modules.
    process: str  # The process that registered them.

    def register(self) -> None:
        """Register them in this process, if it is another; those of an earlier call are forgotten.

        Raises:
            ValueError: if one that is required cannot be restored.
        """
        if self.process == PROCESS:
            return
        sys.path.extend(place for place in self.path if place not in sys.path)
        registry.forget_own()
        for each in self.packed:
            try:
                strategy = pickle.loads(each.pickled)  # noqa: S301 - from the process that started this one
            except Exception as error:
                if each.required:
                    raise _stays(each.name, each.module, error) from error
                continue
            # Types that annotations name as text may be missing here.
            function = registry.function_of(strategy)
            function = function.__call__ if inspect.isclass(function) else getattr(function, "__func__", function)
            function.__annotations__ = {"snapshot": getattr(snapshot, each.view, snapshot.Snapshot)}
            registry.adopt(each.name, strategy, each.source, each.version)


def own_strategies(required: Collection[str]) -> OwnStrategies:
    """Return the strategies of this process that are not the package's, for `OwnStrategies.register` in another.

    A function of a script, notebook or plugin is sent with its code, one of a module by its name. One that cannot be
    sent is left out, unless it is among the names in `required`.

    Raises:
        ValueError: if one that is required cannot be sent.
    """
    packed = []
    for name, strategy in registry.own().items():
        module, view = registry.function_of(strategy).__module__, registry.needed_view(name).__name__
        try:
            pickled = cloudpickle.dumps(strategy)  # functions and classes of a script or plugin, too
        except Exception as error:
            if name in required:
                raise _stays(name, module, error) from error
            continue
        source, version = registry.own_source(name), registry.version(name)
        packed.append(_Packed(name, module, view, name in required, source, version, pickled))
    return OwnStrategies(tuple(packed), tuple(place or str(Path.cwd()) for place in sys.path), PROCESS)


def _stays(name: str, module: str, error: Exception) -> ValueError:
    return ValueError(
        f"strategy {name!r} of the module {module!r} does not reach worker processes "
        f"({type(error).__name__}: {error}); put it into a file of its own that can be imported, or compute with jobs=1"
    )
