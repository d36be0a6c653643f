import numpy as np
import pandas as pd
import pytest
import torch

from dal_lab.runs.grid import Grid
from dal_lab.runs.study import run
from dal_lab.studies.scaling import LiveTensors, ScalingStudy, peak_bytes, slope, synthetic_snapshot

SMALL = {"num_unlabelled": 60, "num_labelled": 7, "num_features": 9, "num_classes": 4, "batch_size": 5, "repeats": 2}


def test_the_snapshot_has_the_sizes_asked_for_and_unsure_predictions():
    study = ScalingStudy(**SMALL | {"num_unlabelled": 3000, "num_features": 200})
    snapshot = synthetic_snapshot(study, torch.device("cpu"))
    assert snapshot.features.shape == (3000, 200)
    assert snapshot.labelled_logits.shape == (7, 4)
    assert torch.linalg.vector_norm(snapshot.features, dim=1).numpy() == pytest.approx(np.sqrt(200), rel=1e-5)
    assert 0.35 < float(snapshot.probabilities.amax(dim=1).mean()) < 0.95
    assert torch.equal(snapshot.features, synthetic_snapshot(study, torch.device("cpu")).features)


def test_one_row_with_time_and_memory():
    rows = run(ScalingStudy(**SMALL, device="cpu"))
    assert list(rows.columns) == ["query_s", "peak_bytes"]
    assert len(rows) == 1
    assert rows["query_s"][0] > 0
    assert rows["peak_bytes"][0] == run(ScalingStudy(**SMALL, device="cpu"))["peak_bytes"][0]


def test_the_grid_keeps_it_under_a_key_of_its_own(tmp_path):
    studies = [ScalingStudy(**SMALL, device="cpu"), ScalingStudy(**SMALL | {"num_classes": 3}, device="cpu")]
    grid = Grid(tmp_path, jobs=1)
    rows = grid.rows(studies, "cost")
    assert rows["num_classes"].tolist() == [4, 3]
    assert rows["data"].unique().tolist() == ["synthetic"]
    assert rows["run"].nunique() == 2
    assert grid.rows(studies, "cost")["query_s"].tolist() == rows["query_s"].tolist()  # read, not measured again


def test_memory_is_what_lives_at_the_same_time():
    given = torch.zeros(1000)

    def work():
        first = given + 1  # 4000 bytes
        view = first[10:].view(-1, 3)
        first += 1  # the same storage
        del first
        second = view * 2  # 3960 more, while the view keeps the first alive
        del view
        third = second.double()  # 7920: together with the second the most
        del second
        return third.sum()

    assert peak_bytes(work, torch.device("cpu")) == 3960 + 7920
    with LiveTensors() as live:
        assert given.view(10, 100).shape == (10, 100)  # nothing new
    assert live.peak == 0


def test_memory_of_binary_bait_grows_with_the_pool_as_a_few_vectors():
    sizes = (4000, 8000)
    base = SMALL | {"num_features": 64, "repeats": 1}
    peaks = [run(ScalingStudy(**base | {"num_unlabelled": n}, device="cpu"))["peak_bytes"][0] for n in sizes]
    assert peaks[1] - peaks[0] < 4000 * 64 * 4 * 2  # bytes: at most two blocks as large as the features


def test_slopes_are_exponents_of_the_upper_half():
    sizes = pd.Series([1, 10, 100, 1000])
    assert slope(sizes, 3.0 * sizes**2) == pytest.approx(2)
    assert slope(sizes, pd.Series([1000, 1000, 100, 1000])) == pytest.approx(1)  # the fixed costs of small sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "marginn"}, "strategy is 'marginn'; it has to be one of"),
        ({"strategy": "typiclass"}, "strategy is 'typiclass'"),
        ({"options": {"approx": 1}}, "option"),
        ({"num_classes": 1}, "num_classes is 1; a whole number of at least 2"),
        ({"repeats": 0}, "repeats is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ScalingStudy(**SMALL | changes)
