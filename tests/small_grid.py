"""A small grid, and what tests look at in its folder; features to extract, and a notebook to execute."""

import warnings

import nbformat
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dal_lab.runs.grid
from dal_lab.companion.notebooks import Notebook
from dal_lab.runs.files import is_intact
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.sources.bank import load_bank

TIMES = ["query_s", "train_s"]
SETTINGS = {"dataset": "blobs", "cycles": 2, "device": "cpu", "options": {"epochs": 3}}
OPTIONS = ["--dataset", "blobs", "--cycles", "2", "--device", "cpu", "--option", "epochs=3"]
STRATEGIES = ("random", "margin")


def experiments(seeds, strategies=STRATEGIES):
    return [experiment_of(strategy=name, seed=seed, **SETTINGS) for name in strategies for seed in range(seeds)]


def grid_command(folder, seeds, *more, strategies=STRATEGIES, jobs=1):
    about = ["--strategy", *strategies, "--seeds", seeds, "--results-dir", folder, "--jobs", jobs]
    return list(map(str, ["grid", *about, *OPTIONS, *more]))


def stored(folder):
    """Return the content of all files that count as results."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.parquet")}


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def table(folder, seeds, strategies=STRATEGIES):
    """Return what the folder holds, without computing anything, and without a doubt about any file."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr(dal_lab.runs.grid, "compute", lambda group, *_: pytest.fail(f"{group} is not stored"))
        return Grid(folder, jobs=1).rows(experiments(seeds, strategies), "runs").drop(columns=TIMES)


def assert_all_whole(folder):
    """Assert that each file under the name of a result holds all of one."""
    for name, content in stored(folder).items():
        assert is_intact(content), name
        assert pq.read_table(pa.BufferReader(content)).num_rows == 3


def only_complaint(text):
    """Return the error in the output of a command, which has to be one line."""
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def extracted(tmp_path):
    (path,) = (tmp_path / "out").iterdir()
    return load_bank(path).digest


REPORTING = """
import pandas as pd
from dal_lab.companion.artefacts import Report
Report(f"{output_dir}/{preset}", "01_made").table(pd.DataFrame({"x": [1]}), "table", cell="(a)", keys=["k"])
"""


def write_notebook(path, cell=REPORTING):
    notebook = nbformat.v4.new_notebook()
    settings = 'preset = "tiny"\noutput_dir = "."'
    notebook.cells = [nbformat.v4.new_markdown_cell("# A title"), nbformat.v4.new_code_cell(settings)]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.cells.append(nbformat.v4.new_code_cell(cell))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return Notebook(path)
