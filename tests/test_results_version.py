"""Numbers cannot change without a raised RESULTS_VERSION (rule of reproduction 2)."""

import json

import pandas as pd
from pin_results import PINS, current, digest, faults

from dal_core import RESULTS_VERSION


def test_tiny_runs_have_their_pinned_numbers():
    assert faults(json.loads(PINS.read_text()), RESULTS_VERSION, current()) == []


def test_changed_numbers_are_found():
    rows = pd.DataFrame({"accuracy": [0.5, 0.6], "nll": [1.0, 2.0], "query_s": [1.0, 2.0]})
    pinned = {"results_version": 1, "digests": {"a": digest(rows)}}
    assert faults(pinned, 1, {"a": digest(rows.assign(query_s=9.0))}) == []
    assert "raise RESULTS_VERSION" in faults(pinned, 1, {"a": digest(rows.assign(accuracy=[0.5, 0.61]))})[0]
    assert "raise RESULTS_VERSION" in faults(pinned, 1, {"a": digest(rows.assign(nll=rows["nll"] * 1.05))})[0]
    assert "raise RESULTS_VERSION" in faults(pinned, 1, {"a": digest(rows), "b": digest(rows)})[0]
    assert "pin_results" in faults(pinned, 2, {"a": digest(rows)})[0]
