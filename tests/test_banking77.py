"""Strategies on real texts: the order that three seeds agree on."""

import pytest
from joblib import Parallel, delayed

from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run


@pytest.mark.slow
def test_covering_strategies_lead_on_banking77(shared_data):
    common = {"dataset": "banking77", "encoder": "minilm", "device": "cpu", "seed": 0}
    sizes = {"initial_size": 77, "batch_size": 77, "cycles": 10, "subset_size": 2500}
    names = ["random", "margin", "bait", "typiclust", "unc_herding"]
    experiments = [experiment_of(**common, **sizes, strategy=name) for name in names]
    curves = Parallel(n_jobs=2)(delayed(run)(experiment, data_dir=shared_data) for experiment in experiments)
    means = {name: 100 * curve["accuracy"].mean() for name, curve in zip(names, curves, strict=True)}
    assert means["random"] == pytest.approx(70, abs=1.5)
    assert means["random"] + 2 < min(means["margin"], means["bait"])
    assert max(means["margin"], means["bait"]) < min(means["typiclust"], means["unc_herding"])
