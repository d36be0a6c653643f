"""The cases by name; each builds its data and checks that both ways agree before anything is measured.

A case is made by a function with the argument `small`, which makes everything so small that it is done in a moment.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Protocol

from benchmarks.case import Case
from benchmarks.cases import bait, coverage, ensembles, metrics, oracles, strategies, updates


class Maker(Protocol):
    """Makes a case."""

    def __call__(self, *, small: bool) -> Case: ...


@dataclasses.dataclass(frozen=True)
class Family:
    """A section of the table; `missing` is the package that its yardsticks lack, whose cases are left out."""

    title: str
    cases: Mapping[str, Maker]
    missing: str = ""


def _beside(title: str, module: str, package: str, cases: Callable[[], Mapping[str, Maker]]) -> Family:
    if importlib.util.find_spec(module) is None:  # of the tests' dependencies
        return Family(title, {}, package)
    return Family(title, cases())


def _activeml() -> Mapping[str, Maker]:
    from benchmarks.cases import activeml

    return activeml.CASES


def _laplacetorch() -> Mapping[str, Maker]:
    from benchmarks.cases import laplacetorch

    return laplacetorch.CASES


def _encoding() -> Mapping[str, Maker]:
    from benchmarks.cases import encoding

    return encoding.CASES if encoding.FOLDER.is_dir() else {}


FAMILIES = [
    Family("Laplace posterior, updates and heads", updates.CASES),
    Family("BAIT", bait.CASES),
    Family("Strategies that look at predictions", strategies.CASES),
    Family("Strategies that spread their picks", coverage.CASES),
    Family("Oracles", oracles.CASES),
    Family("Ensembles", ensembles.CASES),
    Family("Metrics", metrics.CASES),
    _beside("Beside scikit-activeml", "skactiveml", "scikit-activeml", _activeml),
    _beside("Beside timm", "timm", "timm, or the model tf_efficientnet_lite0", _encoding),
    _beside("Beside laplace-torch", "laplace", "laplace-torch", _laplacetorch),
]
CASES: dict[str, Maker] = {name: maker for family in FAMILIES for name, maker in family.cases.items()}
