"""What the tests of this folder share."""

import pytest
from faulty import Commands
from small_grid import STRATEGIES, experiments, table

from dal_lab.runs.grid import Grid


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    started = Commands(tmp_path_factory.mktemp("commands"))
    assert started.run(["datasets"])[0] == 0  # waits for the imports
    yield started
    started.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the table of a grid that nothing disturbs, for some number of seeds."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def rows(seeds, strategies=STRATEGIES):
        Grid(folder, jobs=1).rows(experiments(seeds, strategies), "runs")
        return table(folder, seeds, strategies)

    return rows


@pytest.fixture
def one_run(tmp_path):
    """Return the store, the study, its key and its rows, of a folder with one run."""
    grid, (study,) = Grid(tmp_path, jobs=1), experiments(1, ["margin"])
    grid.rows([study], "run")
    (key,) = grid.keys
    return grid.store, study, key, grid.store.read(study, key)


@pytest.fixture
def raw(tmp_path, monkeypatch, model_folders):
    """Return a command that extracts features, with its cache in `tmp_path/disk`."""
    (tmp_path / "banking77_train.csv").write_text("text,category\n" + "how do i,ask\nlost card,tell\nfees,ask\n" * 10)
    (tmp_path / "banking77_test.csv").write_text("text,category\nhow,ask\ncard,tell\n")
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "disk"))
    about = ["--dataset", "banking77", "--encoder", str(model_folders / "bert"), "--data-dir", str(tmp_path)]
    return ["features", *about, "--device", "cpu", "--output-dir", str(tmp_path / "out")]
