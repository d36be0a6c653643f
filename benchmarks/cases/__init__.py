"""The cases by name; each builds its data and checks that both ways agree before anything is measured."""

import importlib.util
from collections.abc import Callable

from benchmarks.case import Case
from benchmarks.cases import bait, coverage, ensembles, oracles, updates

CASES: dict[str, Callable[[], Case]] = {
    **updates.CASES, **bait.CASES, **coverage.CASES, **oracles.CASES, **ensembles.CASES,
}  # fmt: skip
if importlib.util.find_spec("skactiveml"):  # of the tests' dependencies
    from benchmarks.cases import activeml

    CASES |= activeml.CASES
