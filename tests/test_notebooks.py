"""The notebooks themselves, and the rules of reproduction that the runner holds them to."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import joblib
import jupytext
import nbformat
import pandas as pd
import pytest
import torch

from dal_lab.companion import notebooks as batch
from dal_lab.companion import unchanged
from dal_lab.companion.artefacts import check_manifest
from dal_lab.companion.as_committed import as_committed
from dal_lab.companion.command_line import main
from dal_lab.companion.notebooks import (
    LocalKernelManager,
    Notebook,
    check_parameters,
    choose,
    execute,
    find,
    times_left,
)
from dal_lab.companion.parameters import check_values
from dal_lab.companion.readme import documents, publish_notebooks, rendered
from dal_lab.companion.site.notebook_page import WIDGET
from dal_lab.companion.unchanged import is_unchanged
from dal_lab.companion.verdicts import COLUMNS

# Of each notebook its experiments, and what its progress tells a terminal.
EXPERIMENTS = {"01": "0abcdefgh", "02": "0abcdef", "03": "0abcdef", "04": "0abcdefgh"}  # 0 is the method
PROGRESS = {"01": "updating study", "02": "bait_exact, N", "03": "BoSS (oracle)", "04": "REFINE"}
NUMBERS = list(EXPERIMENTS)
PARAMETERS = 'preset = "quick"\noutput_dir = None\ndevice = "auto"\nfresh = False\nresults_dir = None\n'


@pytest.fixture(scope="module")
def notebooks(root):
    return {notebook.number: notebook for notebook in find(root / "notebooks")}


def write_notebook(path, cells, parameters='preset = "quick"\noutput_dir = None\n', title="# A title"):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell(title), nbformat.v4.new_code_cell(parameters.strip())]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return Notebook(path)


def test_all_notebooks_are_there(notebooks):
    assert sorted(notebooks) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_text_and_notebook_have_the_same_cells(notebooks, number):
    path = notebooks[number].path
    text, notebook = jupytext.read(path.with_suffix(".py")), nbformat.read(path, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in text.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ]
    assert [cell.metadata.get("tags", []) for cell in text.cells] == [
        cell.metadata.get("tags", []) for cell in notebook.cells
    ]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_is_short_and_shows_its_method_before_its_experiments(notebooks, number):
    """Up to the first experiment the reader sees parameters, the textbook's functions, and no page of settings."""
    path = notebooks[number].path.with_suffix(".py")
    assert len(path.read_text().splitlines()) <= 350
    cells = [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
    first = next(i for i, (kind, source) in enumerate(cells) if kind == "markdown" and source.startswith("## (a)"))
    before = [source for kind, source in cells[:first] if kind == "code"]
    assert len(before[0].splitlines()) <= 7
    assert max(len(source.splitlines()) for source in before[1:]) <= 25
    assert any("session.method(textbook" in source for source in before)
    assert any("session.figure(" in source for source in before)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_committed_notebook_holds_the_outputs_of_a_whole_run(notebooks, number):
    cells = [cell for cell in nbformat.read(notebooks[number].path, as_version=4).cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == sorted(counts)
    assert None not in counts
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "preset quick" in "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert sum("**Reading.**" in output.get("data", {}).get("text/markdown", "") for output in outputs) >= len(
        EXPERIMENTS[number].strip("0")
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_the_committed_notebook_shows_nobodys_folders(notebooks, number, root):
    text = notebooks[number].path.read_text()
    assert str(root) not in text
    assert "/home/" not in text


@pytest.fixture(scope="module")
def project_states(root, tmp_path_factory):
    """Roots with a `figures` folder: the working tree, and what is committed, where there is a checkout.

    A user's own run rewrites figures/quick, on another processor with other last digits. What is committed then counts.
    """
    states, folder = [root], tmp_path_factory.mktemp("committed")
    command = ["git", "-C", str(root), "archive", "--format=tar", "--output", str(folder / "a.tar"), "HEAD", "figures"]
    with contextlib.suppress(OSError):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            shutil.unpack_archive(folder / "a.tar", folder)
            states.append(folder)
    return states


@pytest.mark.parametrize("number", NUMBERS)
def test_committed_tables_come_from_the_committed_run(notebooks, number, project_states):
    shown = {
        output["data"]["text/markdown"]
        for cell in nbformat.read(notebooks[number].path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    }
    tables = [
        {path.read_text() for path in (state / "figures" / "quick").glob(f"{number}_*.md") if "time" not in path.name}
        for state in project_states
    ]
    assert all(tables)
    assert any(each <= shown for each in tables), "run the quick preset and `dal publish`"


def alternatives(path):
    """The texts of a notebook's figures for readers who do not see them, by letters."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return sorted(output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {}))


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_every_cell_runs_and_the_tables_depend_on_the_settings_alone(notebooks, number, tmp_path, capfd):
    """The tiny preset twice from nothing, and once more on stored runs: the same tables byte for byte."""
    tables, stores = [], {}
    for attempt, results in (("first", "one"), ("second", "other"), ("redrawn", "one")):
        folder = tmp_path / attempt
        parameters = {
            "preset": "tiny", "output_dir": str(folder), "results_dir": str(tmp_path / results), "jobs": 1,
        }  # fmt: skip
        outcome = execute(notebooks[number], tmp_path / f"{attempt}.ipynb", parameters)
        assert outcome.error is None
        files = sorted((folder / "tiny").glob("*.csv"))
        tables.append({path.name: path.read_bytes() for path in files if "time" not in path.name})
        stores[attempt] = {path.name: path.stat().st_mtime_ns for path in (tmp_path / results).iterdir()}
        check_manifest(folder / "tiny")
        entries = json.loads((folder / "tiny" / "manifest.json").read_text()).items()
        assert alternatives(outcome.executed) == sorted(each["alt"] for name, each in entries if name.endswith(".png"))
    assert len(tables[0]) >= len(EXPERIMENTS[number]) - 2  # method and closer look have figures alone
    assert tables[0] == tables[1] == tables[2]
    assert stores["first"] == stores["redrawn"]  # drawing again computed nothing
    assert stores["first"].keys() == stores["second"].keys()
    assert PROGRESS[number] in capfd.readouterr().err  # progress reaches the terminal


@pytest.mark.parametrize("number", NUMBERS)
def test_a_misspelt_parameter_is_refused_with_what_exists(notebooks, number, tmp_path):
    with pytest.raises(ValueError, match=r"has no parameter sedes; it has preset, seeds, datasets"):
        check_parameters(notebooks[number], {"sedes": 3})
    with pytest.raises(ValueError, match="sedes"):
        execute(notebooks[number], tmp_path / "executed.ipynb", {"sedes": 3})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "name", "value"), [("01", "preset", "quik"), ("04", "datasets", ["digit"])])
def test_a_misspelt_value_fails_in_one_line_that_names_it(notebooks, tmp_path, number, name, value):
    settings = {"preset": "tiny", "results_dir": str(tmp_path / "r"), "output_dir": str(tmp_path / "f"), name: value}
    outcome = execute(notebooks[number], tmp_path / "executed.ipynb", settings)
    assert f"{name} is " in outcome.error
    assert not (tmp_path / "executed.ipynb").exists()


def test_a_failing_notebook_is_kept_aside_and_an_old_success_is_withdrawn(tmp_path):
    notebook = write_notebook(tmp_path / "01_fails.ipynb", ["x = 1", "raise RuntimeError('no luck')", "x = 2"])
    target = tmp_path / "executed.ipynb"
    target.write_text("of an earlier run")
    outcome = execute(notebook, target, {})
    assert "no luck" in outcome.error
    assert not target.exists()
    assert outcome.executed == tmp_path / "executed.failed.ipynb"
    assert "no luck" in outcome.executed.read_text()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two quick notebooks, one of which writes a table."""
    lines = [
        "import pandas as pd\nfrom dal_lab.companion.artefacts import Report",
        "report = Report(f'{output_dir}/{preset}', '01_good')",
        "report.table(pd.DataFrame({'a': [1]}), 'numbers', cell='(a)', keys=[])",
    ]
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", lines, PARAMETERS)
    write_notebook(tmp_path / "notebooks" / "02_other.ipynb", ["assert preset != 'real'"], PARAMETERS)
    monkeypatch.setenv("DAL_ROOT", str(tmp_path))
    return tmp_path


def test_run_all_says_where_everything_is(project, capsys, monkeypatch):
    page, done, run = project / "figures" / "quick" / "index.html", [], batch.execute

    def seen(*arguments):
        done.append(page.is_file() and page.read_text().count("<td>done</td>"))
        return run(*arguments)

    monkeypatch.setattr(batch, "execute", seen)
    assert main(["notebooks"]) == 0
    assert done == [False, 1]  # The page is written after each notebook.
    printed = capsys.readouterr().out
    assert "cells as committed" not in printed  # there is no repository
    assert f"figures and tables:  {project / 'figures' / 'quick'}" in printed
    assert f"executed notebooks:  {project / 'results' / 'notebooks' / 'quick'}" in printed
    assert f"to read in a browser: {project / 'figures' / 'quick' / 'index.html'}" in printed
    front = (project / "figures" / "quick" / "index.html").read_text()
    assert front.count("<td>done</td>") == 2
    assert f"torch {torch.__version__}" in front
    assert (project / "figures" / "quick" / "02_other.html").is_file()
    assert (project / "figures" / "quick" / "01_numbers.csv").read_text() == "a\n1\n"
    assert (project / "results" / "notebooks" / "quick" / "02_other.ipynb").is_file()


def test_an_orphan_in_the_figures_fails_the_run(project, capsys):
    orphan = project / "figures" / "quick" / "01_gone.png"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    assert main(["notebooks"]) == 1
    assert "01_gone.png" in capsys.readouterr().err


@pytest.fixture
def failing_project(project):
    """The same, but that the first notebook fails."""
    write_notebook(project / "notebooks" / "01_good.ipynb", ["1 / 0"], PARAMETERS)
    return project


@pytest.mark.slow
def test_run_all_does_the_other_notebooks_and_its_exit_code_tells_of_the_failure(failing_project, root):
    """The script itself, on a project of its own and with the environment of this test."""
    if not list(metadata.distributions(name="dal-core")):
        pytest.skip("dal_core is not installed here: the script would make an environment")
    project = failing_project
    (project / "tools").mkdir()
    for name in ("run_all.sh", "tools/setup.sh", "tools/usage.txt", "pyproject.toml", "requirements.lock"):
        shutil.copy(root / name, project / name)
    for package in ("dal_core", "dal_lab"):
        (project / package).symlink_to(root / package)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    ran = [
        subprocess.run([project / "run_all.sh", *only], env=environment, capture_output=True, text=True, timeout=300)
        for only in ([], ["--only", "02"])
    ]
    assert [each.returncode for each in ran] == [1, 0], ran[0].stderr + ran[1].stderr
    assert ran[0].stdout.endswith("1 of 2 notebooks failed:  01\n")
    assert "ZeroDivisionError" in ran[0].stdout
    assert (project / "results" / "notebooks" / "quick" / "02_other.ipynb").is_file()


def test_a_failing_notebook_does_not_stop_the_others(failing_project, capsys):
    project = failing_project
    assert main(["notebooks"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert printed.endswith("1 of 2 notebooks failed:  01\n")
    assert (project / "results" / "notebooks" / "quick" / "02_other.ipynb").is_file()
    page = (project / "figures" / "quick" / "01_good.html").read_text()
    assert "ZeroDivisionError" in page
    assert "papermill" not in page  # the marks that it leaves in a failed notebook
    assert "&lt;span" not in page


def test_what_another_run_made_stays_on_the_site(project):
    assert main(["notebooks"]) == 0
    pages = [project / "figures" / "quick" / f"{name}.html" for name in ("01_good", "02_other")]
    made = [page.stat().st_mtime_ns for page in pages]
    (project / "results" / "notebooks" / "quick" / "02_other.ipynb").unlink()
    assert main(["notebooks", "--only", "02"]) == 0
    assert [page.stat().st_mtime_ns == before for page, before in zip(pages, made, strict=True)] == [True, False]
    front = (project / "figures" / "quick" / "index.html").read_text()
    assert all(f'href="{page.name}"' in front for page in pages)


def test_list_and_dry_run_run_nothing(project, capsys):
    assert main(["notebooks", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "01  A title" in listed
    assert "quick" in listed
    assert main(["notebooks", "--dry-run", "--only", "02"]) == 0
    planned = f"would run 02  A title, preset quick\nwith device auto, fresh no, results dir {project / 'results'}\n"
    assert capsys.readouterr().out == planned
    assert not (project / "figures").exists()
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quik"], "--preset is 'quik'; it has to be one of 'quick', 'real', 'paper', 'tiny'"),
        (["--only", "07"], "there is no notebook '07'; there is 01, 02"),
        (["--jobs", "0"], "jobs is 0"),
        (["--seeds", "-1"], "seeds is -1"),
        (["--data-dir", "nowhere"], "--data-dir is nowhere; an existing folder was expected"),
        (["--seeds", "3"], "01_good.ipynb has no parameter seeds"),
    ],
)
def test_faults_of_the_caller_are_one_line_and_exit_code_2(project, capsys, arguments, message):
    assert main(["notebooks", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_copy_beside_a_notebook_is_named_and_not_run(project, capsys):
    for name in ("01_good-Copy1.ipynb", "01_a_much_longer_backup.ipynb"):
        shutil.copy(project / "notebooks" / "01_good.ipynb", project / "notebooks" / name)
    shutil.copy(project / "notebooks" / "02_other.ipynb", project / "notebooks" / "05_mine.ipynb")
    assert [each.number for each in find(project / "notebooks")] == ["01", "02", "05"]
    assert main(["notebooks", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12] for line in lines] == [
        "would run 01",
        "would run 02",
        "would run 05",
        "with device ",
        "left out, as",
    ]
    assert lines[-1].endswith("another notebook has the number: 01_a_much_longer_backup.ipynb, 01_good-Copy1.ipynb")


def test_a_notebook_is_executed_again_only_if_something_has_changed(project, capsys, monkeypatch):
    notebook, table = project / "notebooks" / "01_good.ipynb", project / "figures" / "quick" / "01_numbers.csv"
    asked: list[tuple] = []
    monkeypatch.setattr(batch, "is_unchanged", lambda *about: asked.append(about) or is_unchanged(*about))
    notebook.with_suffix(".py").touch()
    assert main(["notebooks", "--only", "1"]) == 0
    assert "done in" in capsys.readouterr().out
    assert main(["notebooks", "--only", "1"]) == 0
    assert "01  A title\n    nothing has changed since it was executed\n" in capsys.readouterr().out
    *places, parameters = asked[0]
    assert is_unchanged(*places, parameters)
    assert is_unchanged(*places, parameters | {"fresh": True})  # how it was computed, not what
    assert not is_unchanged(*places, parameters | {"device": "cuda"})
    for path, changed in ((notebook, "numbers"), (table, "1"), (places[1], '"fingerprint"')):
        before = path.read_text()
        path.write_text(before.replace(changed, "2"))
        assert not is_unchanged(*places, parameters)
        path.write_text(before)
    monkeypatch.setattr(unchanged, "_packages", lambda: "another version")
    assert not is_unchanged(*places, parameters)
    monkeypatch.undo()
    assert is_unchanged(*places, parameters)
    monkeypatch.setenv("DAL_PLUGINS", "mine.py")
    assert not is_unchanged(*places, parameters)
    monkeypatch.undo()
    notebook.with_suffix(".py").unlink()  # somebody's own notebook, which may read anything
    assert not is_unchanged(*places, parameters)


def executed_in(path, seconds):
    """A notebook whose last execution took so long."""
    notebook = write_notebook(path, [])
    content = nbformat.read(path, as_version=4)
    content.metadata["dal_core"] = {"duration": seconds}
    nbformat.write(content, path)
    return notebook


def test_the_time_that_is_left_is_that_of_the_last_execution_here_or_of_the_committed_quick_preset(tmp_path):
    notebooks = [executed_in(tmp_path / "notebooks" / f"0{number}_it.ipynb", 60.0 * number) for number in (1, 2, 3)]
    executed_in(tmp_path / "executed" / "03_it.ipynb", 600.0)

    def left(preset="quick", fresh=False):
        return times_left(notebooks, tmp_path / "executed", tmp_path / "figures" / preset, fresh=fresh)

    assert left() == ["about 13 min", "about 12 min", "about 10 min"]
    assert left("real") == ["", "", "about 10 min"]
    (tmp_path / "figures" / "quick").mkdir(parents=True)
    runs = pd.DataFrame({"run_key": ["a", "a", "b"], "run_duration_s": [30.0, 30.0, 170.0]})
    runs.to_parquet(tmp_path / "figures" / "quick" / "03_runs.parquet")
    assert left(fresh=True) == ["", "", "about 10 min"]
    runs.assign(run_duration_s=joblib.cpu_count() * runs["run_duration_s"] * 10).to_parquet(
        tmp_path / "figures" / "quick" / "03_runs.parquet"
    )
    assert left(fresh=True) == ["", "", "about 33 min"]


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_a_run_says_how_far_its_tables_are_those_of_the_last_commit(tmp_path):
    folder = tmp_path / "figures" / "quick"
    folder.mkdir(parents=True)
    before = pd.DataFrame({"strategy": ["margin", "bait"], "accuracy": [50.0, 60.0], "nll": [1.0, float("nan")]})
    for name in ("01_it", "01_it_time", "02_other"):
        before.to_csv(folder / f"{name}.csv", index=False)
    assert as_committed(folder, ["01", "02"]) is None
    git(tmp_path, "init")
    assert as_committed(folder, ["01", "02"]) is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "tables")
    assert as_committed(folder, ["01", "02"]) == "12 of 12 cells as committed (tables of times left out)"
    assert as_committed(folder, ["03"]) is None
    after = before.assign(accuracy=[50.0 + 1e-9, 60.38], nll=[0.9, float("nan")])
    for name in ("01_it", "01_it_time"):
        after.to_csv(folder / f"{name}.csv", index=False)
    before.head(1).to_csv(folder / "02_other.csv", index=False)
    told = "4 of 6 cells as committed; largest difference 0.38 points in 01_it.md, row bait, column accuracy (%)"
    assert as_committed(folder, ["01"]) == f"{told} (tables of times left out)"
    both = f"{told}; other rows or columns in 02_other.md (tables of times left out)"
    assert as_committed(folder, ["01", "02"]) == both


def test_a_parameter_that_papermill_does_not_know_is_refused_by_the_notebook():
    cells = [
        "",
        "import os",
        "preset = 'quick'\nseeds = None  # a comment",
        "# Parameters\nseeds = 3\n",
        "check_values()",
    ]
    check_values({"In": cells, "preset": "quick"})
    cells[3] = "# Parameters\nseed = 3\nseeds = 2\n"
    with pytest.raises(ValueError, match="there is no parameter seed; there is preset, seeds"):
        check_values({"In": cells, "preset": "quick"})


def test_choose_keeps_the_order_of_the_notebooks(project):
    found = find(project / "notebooks")
    assert [each.number for each in choose(found, "02, 01")] == ["01", "02"]
    assert choose(found, None) == found


def test_publish_takes_outputs_and_leaves_out_what_belongs_to_one_run(tmp_path, capfd):
    cells = ["print(preset)", "import sys\nprint('progress', file=sys.stderr)"]
    notebook = write_notebook(tmp_path / "01_it.ipynb", cells, title="# A title\n\n## (a) A study")
    jupytext.write(nbformat.read(notebook.path, as_version=4), tmp_path / "01_it.py", fmt="py:percent")
    seconds = execute(notebook, tmp_path / "executed" / "01_it.ipynb", {"preset": "quick"}).seconds
    assert "(a) progress\n" in capfd.readouterr().err
    publish_notebooks(tmp_path, tmp_path / "executed")
    published = nbformat.read(notebook.path, as_version=4)
    assert [output.text for cell in published.cells for output in cell.get("outputs", [])] == ["quick\n"]
    assert "injected-parameters" not in notebook.path.read_text()
    assert "papermill" not in published.metadata
    assert published.metadata["dal_core"] == {"duration": round(seconds, 1)}

    (tmp_path / "01_it.py").write_text((tmp_path / "01_it.py").read_text() + "\n# %%\nprint('new')\n")
    with pytest.raises(ValueError, match="has other cells"):
        publish_notebooks(tmp_path, tmp_path / "executed")


def test_publish_leaves_out_what_only_a_live_notebook_can_show(tmp_path):
    notebook = write_notebook(tmp_path / "01_it.ipynb", ["print(preset)"])
    jupytext.write(nbformat.read(notebook.path, as_version=4), tmp_path / "01_it.py", fmt="py:percent")
    live = nbformat.read(notebook.path, as_version=4)
    live.metadata["widgets"] = {WIDGET.replace("view", "state"): {"state": {}}}
    slider = {WIDGET: {"model_id": "1", "version_major": 2, "version_minor": 0}, "text/plain": "VBox(children=())"}
    live.cells[2].outputs = [
        nbformat.v4.new_output("display_data", slider),
        nbformat.v4.new_output("display_data", slider | {"text/markdown": "a *text*"}),
        nbformat.v4.new_output("stream", name="stdout", text="quick"),
    ]
    (tmp_path / "executed").mkdir()
    nbformat.write(live, tmp_path / "executed" / "01_it.ipynb")
    publish_notebooks(tmp_path, tmp_path / "executed")
    published = nbformat.read(notebook.path, as_version=4)
    assert [output.output_type for output in published.cells[2].outputs] == ["display_data", "stream"]
    assert "jupyter.widget" not in notebook.path.read_text()


def test_quotes_are_replaced_by_their_tables(tmp_path):
    (tmp_path / "table.md").write_text("| a |\n|---|\n| 1 |\n")
    text = "before\n<!-- table table.md -->\nold\n<!-- end -->\nafter\n"
    once = rendered(text, tmp_path)
    assert once == "before\n<!-- table table.md -->\n\n| a |\n|---|\n| 1 |\n\n<!-- end -->\nafter\n"
    assert rendered(once, tmp_path) == once
    with pytest.raises(ValueError, match=r"absent\.md is quoted, which does not exist"):
        rendered(text.replace("table.md", "absent.md"), tmp_path)


def test_the_readme_lists_the_verdicts_of_all_notebooks(tmp_path):
    for name, verdict in (("02_verdicts", "holds"), ("01_verdicts_time", "open")):
        (tmp_path / f"{name}.csv").write_text(f"{','.join(COLUMNS)}\nIt is fast,table 1,s,1,0,2,3,{verdict}\n")
    text = rendered("<!-- table verdicts -->\n<!-- end -->\n", tmp_path)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert "\nClaims that hold: 1 of 2; contradicted: 0; open: 1.\n" in text
    assert lines[0] == ["notebook", "claim", "verdict"]
    assert lines[2:] == [["01", "It is fast", "open"], ["02", "It is fast", "holds"]]
    with pytest.raises(ValueError, match="none/verdicts is quoted, which does not exist"):
        rendered("<!-- table none/verdicts -->\n<!-- end -->\n", tmp_path)


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("accuracy: data=x; seeds=3", "60.8"),
        ("accuracy: data=x", "has 2 rows with data=x; one"),
        ("accuracy: data=z", "has 0 rows"),
        ("accuracy: size=1", "has 0 rows"),
        ("error: data=x; seeds=3", "one with a column error"),
    ],
)
def test_a_cell_is_quoted_with_one_decimal_and_refused_unless_there_is_one(tmp_path, where, shown):
    pd.DataFrame({"data": ["x", "x", "y"], "seeds": [3, 10, None], "accuracy": [60.77, 61, 62]}).to_csv(
        tmp_path / "a.csv", index=False
    )
    text = f"It reaches <!-- value a.csv {where} -->0<!-- end --> %, <!-- value a.csv {where} -->1<!-- end --> %."
    if shown == "60.8":
        quoted = f"<!-- value a.csv {where} -->60.8<!-- end -->"
        assert rendered(text, tmp_path) == f"It reaches {quoted} %, {quoted} %."
    else:
        with pytest.raises(ValueError, match=shown):
            rendered(text, tmp_path)


def test_the_documents_quote_the_committed_tables(root, project_states):
    texts = {path: path.read_text() for path in documents(root)}
    assert sum(text.count("<!-- value ") for path, text in texts.items() if path.name == "README.md") >= 1
    for text in texts.values():
        assert any(rendered(text, state) == text for state in project_states), "run `dal publish`"


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_cell_installs_only_when_the_package_is_missing(notebooks, number):
    first = next(cell for cell in nbformat.read(notebooks[number].path, as_version=4).cells if cell.cell_type == "code")
    calls = []
    for present in (True, False):
        import importlib.util

        spec = object() if present else None
        namespace = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
            patch.setattr(subprocess, "run", lambda command, check: calls.append(command))
            patch.setenv("DAL_REPOSITORY", "git+https://example.org/project")
            patch.chdir("/")
            exec(first.source, namespace)
    assert len(calls) == 1
    assert calls[0][-1] == "git+https://example.org/project"


def test_kernels_that_run_at_the_same_time_have_sockets_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    managers = LocalKernelManager(), LocalKernelManager()
    assert [manager.transport for manager in managers] == ["ipc", "ipc"]
    assert [Path(manager.ip).parent for manager in managers] == [tmp_path, tmp_path]
    assert managers[0].ip != managers[1].ip


def test_manifest_of_the_committed_figures_names_the_notebooks_cells(notebooks, root):
    manifest = json.loads((root / "figures" / "quick" / "manifest.json").read_text())
    assert {entry["notebook"] for entry in manifest.values()} == {each.path.stem for each in notebooks.values()}
    for number, notebook in notebooks.items():
        drawn = {entry["cell"][1] for entry in manifest.values() if entry["notebook"] == notebook.path.stem}
        assert drawn == set(EXPERIMENTS[number])
