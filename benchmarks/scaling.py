"""Measures how the cost of an algorithm grows: time and memory against the pool N, features D, classes K and batch b.

One of the four is varied, the others stay at the algorithm's base size. Everything runs on one thread.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
import torch

from benchmarks import data
from benchmarks.timing import compare
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.oracles.boss import boss
from dal_core.parallel import fixed_threads
from dal_core.randomness import generator_for
from dal_lab.runs.study import run
from dal_lab.studies.scaling import ScalingStudy, slope

AXES = {"n": "pool size N", "d": "features D", "k": "classes K", "b": "batch size b"}
NUM_LABELLED, NUM_TEST, NUM_CANDIDATES, EPOCHS = 100, 500, 10, 5
REPEATS = {False: 3, True: 1}  # Keyed by whether everything is small.

Sizes = dict[str, int]  # Keyed by axis.
Cost = tuple[float, float]  # seconds, bytes


@dataclasses.dataclass(frozen=True)
class Curve:
    """An algorithm, what it is measured at, and the sizes along each axis that its cost depends on."""

    measure: Callable[[Sizes, int], Cost]  # It measures so many times.
    base: Mapping[str, int]
    along: Mapping[str, tuple[int, ...]]


def strategy(name: str, **options: Any) -> Callable[[Sizes, int], Cost]:
    """Return a query, measured as in notebook 2."""

    def measure(sizes: Sizes, repeats: int) -> Cost:
        study = ScalingStudy(
            name, num_unlabelled=sizes["n"], num_labelled=NUM_LABELLED, num_features=sizes["d"],
            num_classes=sizes["k"], batch_size=sizes["b"], repeats=repeats, device="cpu", options=options,
        )  # fmt: skip
        cost = run(study).iloc[0]
        return float(cost["query_s"]), float(cost["peak_bytes"])

    return measure


def update(sizes: Sizes, repeats: int) -> Cost:
    """Return a gaussian second-order update; b are the new samples."""
    draw = generator_for(0, "update")
    features = torch.randn(NUM_LABELLED + sizes["b"], sizes["d"], generator=draw)
    weight = torch.randn(sizes["k"], sizes["d"], generator=draw) / sizes["d"]
    targets = torch.randint(sizes["k"], (sizes["b"],), generator=draw)
    covariance = covariance_matrix(precision_matrix(features[:NUM_LABELLED]))
    return _cost(lambda: second_order_update(weight, covariance, features[NUM_LABELLED:], targets), repeats)


def oracle(sizes: Sizes, repeats: int) -> Cost:
    """Return a query of BoSS with few candidates and epochs."""
    at = data.oracle_snapshot(data.Size(sizes["n"], NUM_LABELLED, sizes["b"], sizes["k"], sizes["d"], NUM_TEST))
    options = {"num_candidates": NUM_CANDIDATES, "retraining_epochs": EPOCHS}
    return _cost(lambda: boss(at, sizes["b"], generator_for(0, "boss"), **options), repeats)


def _cost(call: Callable[[], object], repeats: int) -> Cost:
    with fixed_threads():
        timing = compare(call, None, repeats, shortest=0.02)
    assert timing.memory is not None
    return timing.ours, float(timing.memory)


BASE = {"n": 4000, "d": 64, "k": 10, "b": 20}
ALONG = {
    "n": (1000, 2000, 4000, 8000, 16_000, 32_000),
    "d": (16, 32, 64, 128, 256, 512),
    "k": (5, 10, 20, 40, 80, 160),
    "b": (5, 10, 20, 40, 80, 160),
}
EXACT = {
    "n": ALONG["n"],
    "d": ALONG["d"],
    "k": (5, 10, 20, 40),
    "b": ALONG["b"],
}
UPDATE = {axis: ALONG[axis] for axis in ("d", "k", "b")}
CURVES = {
    "bait": Curve(strategy("bait"), BASE, ALONG),
    "bait_exact": Curve(strategy("bait", approximation="exact"), {"n": 1000, "d": 16, "k": 5, "b": 10}, EXACT),
    "badge": Curve(strategy("badge"), BASE, ALONG),
    "typiclust": Curve(strategy("typiclust"), BASE, ALONG),
    "unc_herding": Curve(strategy("unc_herding"), BASE, ALONG | {"n": ALONG["n"][:-1]}),
    "coreset": Curve(strategy("coreset"), BASE, ALONG),
    "second_order": Curve(update, {"n": 0, "d": 384, "k": 10, "b": 20}, UPDATE),
    "boss": Curve(oracle, BASE, ALONG),
}
TINY: Mapping[str, tuple[int, ...]] = {"n": (40, 80), "d": (4, 8), "k": (2, 4), "b": (2, 4)}


def costs(*, small: bool) -> pd.DataFrame:
    """Return a row a point: algorithm, axis, size, seconds, bytes, and all of its sizes."""
    return pd.DataFrame(_points(small=small))


def _points(*, small: bool) -> Iterator[dict[str, Any]]:
    for name, curve in CURVES.items():
        print(f"measuring how {name} grows", file=sys.stderr, flush=True)
        for axis, along in curve.along.items():
            base = {key: min(size, TINY[key][-1]) for key, size in curve.base.items()} if small else dict(curve.base)
            for size in TINY[axis] if small else along:
                sizes = base | {axis: size}
                seconds, held = curve.measure(sizes, REPEATS[small])
                yield {"algorithm": name, "axis": axis, "size": size, "seconds": seconds, "bytes": held, **sizes}


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Return exponents a of cost ~ size^a by algorithm: of seconds and of bytes along each axis."""
    rows = {}
    for (name, axis), curve in points.groupby(["algorithm", "axis"], sort=False):
        for value in ("seconds", "bytes"):
            rows.setdefault(name, {})[(axis, value)] = slope(curve["size"], curve[value])
    return pd.DataFrame.from_dict(rows, orient="index")
