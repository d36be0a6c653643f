"""One experiment on real data from end to end, at the accuracy that its protocol is known for."""

import pytest
from joblib import Parallel, delayed

from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run


@pytest.mark.slow
def test_learning_curve_on_letter(shared_data):
    # Eight such runs reach 60.4 percent (60.9 on rows in UCI's order, which are split otherwise); 60.72 is printed.
    common = {"dataset": "letter", "strategy": "random", "head": "mlp", "optimiser": "radam", "device": "cpu"}
    sizes = {"initial_size": 10, "batch_size": 30, "cycles": 20, "subset_size": 1000}
    experiments = [experiment_of(**common, **sizes, seed=seed) for seed in range(8)]
    curves = Parallel(n_jobs=2)(delayed(run)(experiment, data_dir=shared_data) for experiment in experiments)
    assert all(curve["n_labeled"].tolist() == list(range(10, 611, 30)) for curve in curves)
    assert 100 * sum(curve["accuracy"].mean() for curve in curves) / 8 == pytest.approx(60.4, abs=0.5)
