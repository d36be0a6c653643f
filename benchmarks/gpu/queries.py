"""Single queries: at the sizes of the published protocols, and over a pool of ImageNet's size or what fits of it."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import rates
from benchmarks.case import gigabytes
from benchmarks.gpu import floors
from benchmarks.gpu.measuring import measured, once
from benchmarks.gpu.pools import SIZES, Size, oracle_snapshot
from benchmarks.gpu.settings import ItemTimeoutError, Result, Settings, in_one_line
from dal_core import strategies
from dal_core.context import Context
from dal_core.ensembles.refine import refine
from dal_core.oracles.boss import boss
from dal_core.oracles.sas import sas
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot, Truth
from dal_core.strategies.bait import bait_select

Measure = Callable[[Settings], Result]

# Half way through a run of the protocol: m labelled, n of the pool still to choose from.
PROTOCOLS = {
    "banking77": Size(9579, 424, 77, 77, 3080, 100),
    "clinc150": Size(14_175, 825, 150, 150, 4500, 100),
    "cifar10": Size(49_890, 110, 10, 10, 10_000, 100),
}
FEW = Size(400, 70, 7, 6, 50, 6, 24, 2, {"depth": 2, "num_batches": 9, "initial_size": 200})  # of a CPU
TWIN_SIZE = {"cuda": Size(5000, 300, 77, 77, 0, 0), "cpu": Size(600, 60, 12, 12, 0, 0, 32)}
LETTER = {"cuda": Size(1000, 310, 26, 30, 0, 0, 128), "cpu": Size(200, 60, 6, 10, 0, 0, 16)}
MILLION = {"cuda": SIZES["full"], "cpu": Size(8000, 200, 20, 20, 0, 0, 64)}
GROWTH = {"cuda": (20_000, 80_000, 320_000, 1_281_167), "cpu": (500, 2000, 8000)}
SAS_STEPS = {"cuda": (60, 20), "cpu": (6, 2)}
PUBLISHED_SAS_STEPS = 30_000  # greedy ones among them
GOALS = {"BAIT-binary, ImageNet's size": (15.0, 16e9), "BAIT exact, Letter's size": (5.0, None)}
WARM_UP, WARM_UP_BATCH = 500, 5  # instances of the pool and labelled ones


def words(size: Size) -> str:
    """Return a size for the results."""
    return (
        f"n={size.num_pool:,}, m={size.num_labelled:,}, b={size.batch_size:,}, d={size.num_features}, "
        f"k={size.num_classes:,}, float32"
    )


def snapshot(size: Size, device: torch.device) -> Snapshot:
    """Return a pool of that size, with a head, without the truth."""
    return oracle_snapshot(size, device).without_truth()


@functools.lru_cache(maxsize=1)
def _large_pool(device: str) -> Snapshot:
    """Made once for all queries over it: it takes seconds, and 7 GB on a card."""
    return snapshot(MILLION[device], torch.device(device))


@functools.lru_cache(maxsize=1)
def _rates(device: str) -> rates.Rates:
    return rates.measure(torch.device(device))


def forget_large_pool() -> None:
    """Give back its memory, which would count as that of what is measured next."""
    _large_pool.cache_clear()


def first(at: Snapshot, count: int, labelled: int | None = None) -> Snapshot:
    """Return the first instances of the pool, and of what is labelled."""
    # The whole pool is not copied: on a card its features and logits take 7 GB.
    part = at if count >= len(at.features) else at.at(torch.arange(count, device=at.features.device))
    names = ("labelled_features", "labelled_logits", "labels", "labelled")
    return dataclasses.replace(part, **{name: getattr(at, name)[:labelled] for name in names})


def bait_over_a_million(settings: Settings) -> Result:
    """BAIT-binary over the whole pool, beside what bounds it from below."""
    size, at = MILLION[settings.device], _large_pool(settings.device)
    _bait(first(at, WARM_UP, WARM_UP), WARM_UP_BATCH)
    found = once(lambda: _bait(at, size.batch_size), settings.where)
    floor = floors.seconds(floors.bait(size), _rates(settings.device))
    found |= {"size": words(size), "floor_s": floor, "times_the_floor": found["median_s"] / floor}
    return found | _judged("BAIT-binary, ImageNet's size", found, settings)


def bait_on_letter(settings: Settings) -> Result:
    """Exact BAIT at the size of an acquisition on Letter."""
    size = LETTER[settings.device]
    at = snapshot(size, settings.where)
    found = measured(lambda: _bait(at, size.batch_size, approximation="exact"), settings.where, settings.left() / 2)
    return found | {"size": words(size)} | _judged("BAIT exact, Letter's size", found, settings)


def _bait(at: Snapshot, batch_size: int, **options: Any) -> Tensor:
    return bait_select(at.features, at.logits, at.labelled_features, at.labelled_logits, batch_size, **options)


def _judged(name: str, found: Result, settings: Settings) -> Result:
    """Return the goal in words, and on a card whether it was met: at the size of a CPU it is not judged."""
    seconds, size = GOALS[name]
    goal = f"under {seconds:g} s" + ("" if size is None else f" and {gigabytes(size)}")
    if settings.device != "cuda":
        return {"goal": goal, "met": None}
    met = found["median_s"] < seconds and (size is None or found["peak_bytes"] < size)
    return {"goal": goal, "met": met}


FIRST: tuple[tuple[str, Measure, float], ...] = (
    ("BAIT-binary, ImageNet's size", bait_over_a_million, 4.0),
    ("BAIT exact, Letter's size", bait_on_letter, 1.0),
)


def of_protocols(settings: Settings) -> dict[str, Measure]:
    """REFINE, BoSS and SAS at the sizes of section 3."""
    names = list(PROTOCOLS) if settings.device == "cuda" else ["banking77"]
    found: dict[str, Measure] = {}
    for name in names:
        found[f"REFINE, {name}'s size"] = functools.partial(_refine, name)
        found[f"BoSS, {name}'s size"] = functools.partial(_boss, name)
    return found | {f"SAS, {names[0]}'s size": functools.partial(_sas, names[0])}


def _size(name: str, settings: Settings) -> Size:
    forget_large_pool()
    return FEW if settings.scaled_down else PROTOCOLS[name]


def _oracle_pool(size: Size, settings: Settings) -> Truth:
    return oracle_snapshot(size, settings.where)


def _refine(name: str, settings: Settings) -> Result:
    size = _size(name, settings)
    context, at = Context(), snapshot(size, settings.where)

    def query() -> Tensor:
        return refine(at, size.batch_size, generator_for(0, "refine"), context=context, **size.refine)

    found = measured(query, settings.where, settings.left() / 2)
    floor = floors.seconds(floors.refine(size, context.record["pool_sizes"]), _rates(settings.device))
    return found | {"size": words(size), "pool_sizes": context.record["pool_sizes"], "floor_s": floor}


def _boss(name: str, settings: Settings) -> Result:
    size = _size(name, settings)
    at = _oracle_pool(size, settings)
    options = {"num_candidates": size.num_candidates, "retraining_epochs": size.retraining_epochs}

    def query() -> Tensor:
        return boss(at, size.batch_size, generator_for(0, "boss"), **options)

    found = measured(query, settings.where, settings.left() / 2)
    floor = floors.seconds(floors.boss(size), _rates(settings.device))
    return found | {"size": f"t={size.num_candidates}, {words(size)}", "floor_s": floor}


def _sas(name: str, settings: Settings) -> Result:
    """Measure a search with few steps, and the time that the published number of them would take at this rate."""
    size, (steps, greedy) = _size(name, settings), SAS_STEPS[settings.device]
    at, acquisitions = _oracle_pool(size, settings), 10
    options = {"steps": steps, "greedy_steps": greedy, "retraining_epochs": size.retraining_epochs}

    def query() -> Tensor:
        context = Context(remaining=(size.batch_size,) * acquisitions)
        return sas(at, size.batch_size, generator_for(0, "sas"), context=context, **options)

    found = once(query, settings.where)
    step = found["median_s"] / (steps + greedy)
    about = {"size": f"{acquisitions} acquisitions, {steps} + {greedy} steps, {words(size)}", "step_s": step}
    return found | about | {"published_steps_would_take_s": step * PUBLISHED_SAS_STEPS}


def of_a_million() -> dict[str, Measure]:
    """Strategies over the same million, or the size at which they stop fitting."""
    names = {"BADGE": "badge", "core-set": "coreset", "TypiClust": "typiclust"}
    names |= {"MaxHerding": "max_herding", "UncertaintyHerding": "unc_herding"}
    return {f"{title}, ImageNet's size": functools.partial(growing, name) for title, name in names.items()}


def growing(name: str, settings: Settings) -> Result:
    """Measure a strategy on more and more of the pool, until all of it, the time or the memory is used up."""
    at, batch_size = _large_pool(settings.device), MILLION[settings.device].batch_size
    steps: list[Result] = []
    line = "the whole pool"
    for count in GROWTH[settings.device]:
        expected = _expected(steps, count)
        if steps and expected > settings.left():
            line = f"{count:,} instances would take about {expected:.0f} s; {settings.left():.0f} s were left"
            break
        part = first(at, count, 5000)
        start = time.monotonic()
        try:
            found = once(functools.partial(_query, name, part, batch_size), settings.where)
        except (RuntimeError, ValueError) as error:
            line = f"{count:,} instances do not fit: {in_one_line(error)}"
            break
        except ItemTimeoutError:  # what is measured already is kept
            line = f"{count:,} instances took longer than the {time.monotonic() - start:.0f} s that were left"
            break
        steps.append({"instances": count, "wall_s": time.monotonic() - start} | found)
    return {"largest": steps[-1]["instances"] if steps else 0, "line": line, "steps": steps, "batch_size": batch_size}


def _query(name: str, at: Snapshot, batch_size: int) -> Tensor:
    return strategies.get(name)(at, batch_size, generator_for(0, "strategy"))


def _expected(steps: list[Result], count: int) -> float:
    """Seconds for so many instances, from how the last two sizes grew; quadratic growth after a single one."""
    if not steps:
        return 0.0
    last, exponent = steps[-1], 2.0
    if len(steps) > 1:
        before = steps[-2]
        grown = math.log(max(1.01, last["median_s"] / before["median_s"]))
        exponent = max(0.0, grown / math.log(last["instances"] / before["instances"]))
    return last["median_s"] * (count / last["instances"]) ** max(1.0, exponent)
