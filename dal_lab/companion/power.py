"""How many seeds a comparison of two strategies needs, and for how long they compute, by runs that are there."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from dal_lab.companion.statistics import curve_means
from dal_lab.runs.grid import Grid
from dal_lab.runs.plan import but_for_seed, duration_in_words
from dal_lab.runs.study import bank_name, configuration

LEVEL = 0.05  # of the test
FEWEST = 3  # paired seeds that tell a standard deviation


def seeds_needed(deviation: float, effect: float, power: float) -> int:
    """Return the seeds with which a two-sided paired t test finds a mean difference of `effect` with that power.

    `deviation` is the standard deviation of the paired differences, in the unit of `effect`.

    >>> seeds_needed(deviation=1.0, effect=1.0, power=0.8)
    10
    """
    from statsmodels.stats.power import TTestPower  # Its import takes seconds.

    if deviation == 0 or TTestPower().power(effect / deviation, 2, LEVEL) >= power:
        return 2  # The solver finds nothing below.
    return math.ceil(TTestPower().solve_power(effect / deviation, alpha=LEVEL, power=power))


def plan_lines(
    grid: Grid, experiments_of: Callable[[Sequence[int]], Sequence[Any]], effect: float, power: float
) -> list[str]:
    """Return a line a data set: seeds, time of computing, and what they rest on.

    `experiments_of` gives those of two strategies, the reference first, for seeds.

    Raises:
        ValueError: if effect or power is out of range, or too few seeds of both strategies are stored or committed.
    """
    if not 0 < effect < 100:
        raise ValueError(f"--effect is {effect}; points above 0 and below 100 were expected")
    if not LEVEL < power < 1:
        raise ValueError(f"--power is {power}; a probability above {LEVEL} and below 1 was expected")
    asked = {but_for_seed(configuration(each)): each for each in experiments_of([0])}
    records = [each for each in grid.records() if but_for_seed(each["configuration"]) in asked]
    seeds = sorted({each["seed"] for each in records})
    finished = grid.plan(experiments_of(seeds)).stored if seeds else []
    reference, other = dict.fromkeys(each.strategy.name for each in asked.values())
    lines = []
    for data in dict.fromkeys(map(bank_name, asked.values())):
        some = [each for each in finished if bank_name(each) == data]
        means = curve_means(grid.rows(some)) if some else pd.DataFrame()
        both = means.reindex(columns=[reference, other]).dropna()  # a row a seed
        differences = 100 * (both[other] - both[reference])
        if len(differences) < FEWEST:
            found = f"{data} has {len(differences)} seeds of both {reference} and {other}"
            way_out = f"`dal grid --strategy {reference} {other} --seeds 5` with the same options computes them"
            raise ValueError(f"{found} that are finished; at least {FEWEST} were expected: {way_out}")
        deviation = float(differences.std(ddof=1))
        count = seeds_needed(deviation, effect, power)
        times = [
            statistics.median(each["duration_s"] for each in records if but_for_seed(each["configuration"]) == key)
            for key, study in asked.items()
            if bank_name(study) == data
        ]
        lines.append(
            f"{count} seeds, {duration_in_words(count * sum(times))} of computing: {data}, a difference of {effect:g} "
            f"points between {reference} and {other} is found with a power of {power:g}, if its standard deviation is "
            f"{deviation:.2f} points, as over the {len(differences)} seeds that are finished"
        )
    return lines
