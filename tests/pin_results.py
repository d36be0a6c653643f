"""Digests of a few tiny runs: what makes sure that numbers do not change unnoticed.

`python tests/pin_results.py` writes `pinned_results.json`, and refuses to as long as RESULTS_VERSION is the pinned one.
"""

import hashlib
import json
import sys
from pathlib import Path

import pandas as pd

from dal_core import RESULTS_VERSION
from dal_lab.runs.files import write_text
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.studies.updating import UpdateStudy

PINS = Path(__file__).with_name("pinned_results.json")
TINY = {"cycles": 3, "subset_size": 100, "device": "cpu", "options": {"epochs": 5}}
RUNS = {
    "margin, sgd": experiment_of(strategy="margin", **TINY),
    "entropy, radam, mlp": experiment_of(strategy="entropy", optimiser="radam", head="mlp", seed=1, **TINY),
    "random, moons": experiment_of(dataset="moons", strategy="random", **TINY),
    "sequential": experiment_of(**TINY | {"options": {"epochs": 5, "update_every": 2}}),
    "lookahead": experiment_of(
        strategy="lookahead", allow_oracle=True, **TINY | {"options": {"epochs": 5, "num_candidates": 9}}
    ),
    "bait": experiment_of(strategy="bait", **TINY),
    "boss": experiment_of(
        strategy="boss",
        allow_oracle=True,
        **TINY | {"options": {"epochs": 5, "num_candidates": 6, "retraining_epochs": 3}},
    ),
    "updating study": UpdateStudy(
        new_sizes=(1, 3), draws=2, num_hypotheses=5, gradient_steps=(2,), device="cpu", options={"epochs": 5}
    ),
}


CONTINUOUS = ("nll", "brier", "ece", "ace")


def digest(rows: pd.DataFrame) -> str:
    """Return the hash of all columns but times and the strategy's record, whose losses have last bits.

    The last bits differ between kinds of processors. Counts and shares of the test split do not feel that; of the other
    columns the mean to two digits counts, which only a change of the computation moves.
    """
    rows = rows.drop(columns=[name for name in rows.columns if name.endswith("_s") or name == "record"])
    means = {name: f"{rows[name].mean():.2g}" for name in CONTINUOUS if name in rows}
    rounded = rows.drop(columns=list(means)).map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    return hashlib.sha256((rounded.to_csv(index=False) + str(means)).encode()).hexdigest()[:16]


def current() -> dict[str, str]:
    """Return the digest of each run as the code is now."""
    return {name: digest(run(experiment)) for name, experiment in RUNS.items()}


def faults(pinned: dict, version: int, found: dict[str, str]) -> list[str]:
    """Return what is wrong between pins and code, in words; empty if all is well."""
    if pinned["results_version"] != version:
        return [f"RESULTS_VERSION is {version}, the pins are of {pinned['results_version']}: run tests/pin_results.py"]
    changed = sorted(name for name in found if pinned["digests"].get(name) != found[name])
    return [
        f"the numbers of {name!r} changed: raise RESULTS_VERSION, then run tests/pin_results.py" for name in changed
    ]


if __name__ == "__main__":
    if PINS.exists() and json.loads(PINS.read_text())["results_version"] == RESULTS_VERSION:
        sys.exit("RESULTS_VERSION is the pinned one; raise it first")
    write_text(PINS, json.dumps({"results_version": RESULTS_VERSION, "digests": current()}, indent=1) + "\n")
