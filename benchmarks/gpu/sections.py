"""The sections by name, in the order of their worth."""

import dataclasses
from collections.abc import Callable

from benchmarks.gpu import encoding, papermilled, runs, times, what_is_there
from benchmarks.gpu.settings import Item, Settings


@dataclasses.dataclass(frozen=True)
class Section:
    """`items(settings)` are its measurements; `worth` its share of the minutes, on CUDA and on a CPU."""

    items: Callable[[Settings], list[Item]]
    worth: dict[str, float]


# On a CPU it is the notebooks that take their time whatever the size.
SECTIONS = {
    "what_is_there": Section(what_is_there.items, {"cuda": 1.5, "cpu": 1.0}),
    "times": Section(times.items, {"cuda": 2.5, "cpu": 1.3}),
    "runs": Section(runs.items, {"cuda": 2.0, "cpu": 1.3}),
    "encoding": Section(encoding.items, {"cuda": 0.7, "cpu": 0.8}),
    "notebooks": Section(papermilled.items, {"cuda": 2.0, "cpu": 2.2}),
}
