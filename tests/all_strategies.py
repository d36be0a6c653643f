"""A tiny run of every strategy, and digests to the last bit of its rows: what processes are compared by."""

import hashlib
import json

import pandas as pd
from test_strategy_contract import OPTIONS

from dal_core import strategies
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run


def digest(rows: pd.DataFrame) -> str:
    """Return the hash of all columns but times, every digit counted."""
    exact = rows[[name for name in rows if not name.endswith("_s")]].map(repr)
    return hashlib.sha256(exact.to_csv(index=False).encode()).hexdigest()


def digests() -> dict[str, str]:
    """Return the digest of a run of each strategy, oracle and ensemble of the package."""
    tiny = {"cycles": 2, "subset_size": 60, "device": "cpu", "allow_oracle": True}
    return {
        name: digest(run(experiment_of(strategy=name, options={"epochs": 3} | OPTIONS.get(name, {}), **tiny)))
        for name in strategies.names()
    }


if __name__ == "__main__":
    print(json.dumps(digests()))
