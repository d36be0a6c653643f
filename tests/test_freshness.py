"""What is noticed, without executing anything, once committed figures and the sources of now are apart."""

import base64
import json

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from dal_core.strategies import registry
from dal_lab.companion import origins
from dal_lab.companion.artefacts import MANIFEST, Report, check_manifest, read_manifest
from dal_lab.companion.freshness import check, stale, typed
from dal_lab.companion.origins import numbered
from dal_lab.companion.readme import rendered
from dal_lab.sources.catalogue import load

TEXT = """# ---
# jupyter:
#   about: few
# ---

# %% [markdown]
# # A title

# %% [markdown]
# ## (b) A study
#
# **Protocol.** Batches of 10, 3 seeds.

# %%
gamma = 10.0
print(gamma)
"""
PRESETS = """# few
[all]
batch_size = 10
[quick]
seeds = 3
[real]
seeds = 30
"""
SHOWING = {"cell": "(b) study", "keys": []}
FRESH = "figures, tables, notebooks and README are those of now\n"


def draw(height=1):
    figure, axes = plt.subplots()
    axes.plot([0, height])
    return figure


def outputs_of(report, accuracy=0.5):
    """A table and a figure, written by a report, as a notebook shows them."""
    table = report.table(pd.DataFrame({"strategy": ["margin"], "accuracy": [accuracy]}), "accuracy", **SHOWING)
    png, _ = report.figure(draw(), "curves", **SHOWING)._repr_png_()
    shown = {"text/markdown": table.text}, {"image/png": base64.b64encode(png).decode()}
    return [nbformat.v4.new_output("display_data", data) for data in shown]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose notebook, figures, tables and README are of now."""
    monkeypatch.setenv("DAL_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_it.py").write_text(TEXT)
    (tmp_path / "notebooks" / "01_it.toml").write_text(PRESETS)
    (tmp_path / "requirements.lock").write_text("torch==2\n")
    report = Report(
        tmp_path / "figures" / "quick", "01_it", {"moons": load("moons").digest, "mine": "x"}, {"margin": 1}
    )
    notebook = jupytext.reads(TEXT, fmt="py:percent")
    notebook.cells[-1].outputs = outputs_of(report)
    nbformat.write(notebook, tmp_path / "notebooks" / "01_it.ipynb")
    quoting = "Numbers:\n<!-- table figures/quick/01_accuracy.md -->\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(rendered(quoting, tmp_path))
    return tmp_path


def test_what_is_of_now_is_not_stale(project, capsys):
    folder = project / "figures" / "quick"
    assert check(project, strict=True) == 0
    assert capsys.readouterr().out == FRESH
    (folder / "index.html").write_text("a page of the site")
    check_manifest(folder)
    assert (stale(folder, project), check(project)) == ({}, 0)


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALL = "01_accuracy.csv, 01_accuracy.md, 01_curves.png"
NOTEBOOK, PRESET, TABLE = "notebooks/01_it.py", "notebooks/01_it.toml", "figures/quick/01_accuracy.md"


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (NOTEBOOK, "about: few", "about: many", None),
        (PRESET, "# few", "# many", None),
        (PRESET, "seeds = 30", "seeds = 11", None),  # of the other preset
        (PRESET, "seeds = 3\n", "seeds = 4\n", [ALL, "notebook 01_it: its preset's settings changed"]),
        (PRESET, "batch_size = 10", "batch_size = 20", [ALL, "its preset's settings changed"]),
        (NOTEBOOK, "# # A title", "# # Another title", [ALL, "its text changed", "01_it.ipynb"]),
        (NOTEBOOK, "gamma = 10.0", "gamma = 20.0", [
            ALL, "its text changed", "below “(b) A study” its text has `gamma = 20.0` where it has `gamma = 10.0`",
        ]),
        (NOTEBOOK, "10, 3 seeds.", "10, 3 seeds.\n# It reaches 82.5 % then.", [
            "notebooks: a measurement is typed below “(b) A study”: It reaches 82.5 % then.\n    01_it.py",
        ]),
        (TABLE, "50", "51", [
            "figures/quick: files that were changed after they were written\n    01_accuracy.md\n",
            "figures/quick: notebooks/01_it.ipynb shows another one\n    01_accuracy.md\n",
            "its numbers of figures/quick/01_accuracy.md are not those of the file\n    README.md\n",
        ]),
        ("README.md", "50", "51", ["its numbers of figures/quick/01_accuracy.md are not those of the file"]),
        ("README.md", "01_accuracy", "gone", ["figures/quick/gone.md is quoted, which does not exist"]),
        ("requirements.lock", "2", "3", [ALL, "requirements.lock changed"]),
        ("notebooks/01_it.ipynb", '"cells"', "", ["it is absent or damaged\n    01_it.ipynb"]),
        ("figures/quick/manifest.json", "{", "", ["manifest.json is damaged"]),
    ],
)  # fmt: skip
def test_a_change_is_noticed_by_the_names_of_what_is_no_longer_of_now(project, capsys, file, old, new, told):
    replace(project / file, old, new)
    assert check(project) == (1 if told else 0)
    printed = capsys.readouterr().out
    assert all(each in printed for each in told or [FRESH]), printed


def test_other_data_versions_and_strategies_are_reasons(project, monkeypatch):
    manifest = project / "figures" / "quick" / MANIFEST
    entries = read_manifest(manifest.parent)
    for entry in entries.values():
        entry["origins"] |= {"data": {"moons": "another"}, "version": "0"}
    manifest.write_text(json.dumps(entries))
    monkeypatch.setitem(registry._VERSIONS, "margin", 2)
    reasons = ["RESULTS_VERSION changed", "the data moons changed", "the strategy margin changed"]
    assert stale(manifest.parent, project) == {"01_it": reasons}


def test_files_without_an_entry_and_another_picture_are_noticed(project, capsys):
    folder = project / "figures" / "quick"
    (folder / "01_old.png").write_bytes(b"x")
    assert check(project) == 1
    assert (
        "files without an entry (delete them, or make a cell write them)\n    01_old.png\n" in capsys.readouterr().out
    )
    (folder / "01_old.png").unlink()
    report = Report(folder, "01_it")
    outputs_of(report)
    report.figure(draw(height=2), "curves", **SHOWING)
    assert check(project) == 1
    told = "figures/quick: notebooks/01_it.ipynb shows another one\n    01_curves.png\nnot of now: 1 of quick\n"
    assert capsys.readouterr().out == told


def test_what_another_preset_has_counts_when_it_is_strict(project, capsys):
    folder = project / "figures" / "real"
    Report(folder, "01_it").table(pd.DataFrame({"a": [1]}), "numbers", **SHOWING)
    entries = read_manifest(folder)
    for entry in entries.values():
        del entry["origins"]
    (folder / MANIFEST).write_text(json.dumps(entries))
    check_manifest(folder)
    assert (check(project), check(project, strict=True)) == (0, 1)
    told = "figures/real: notebook 01_it: its entries do not say what they rest on: an earlier version wrote them\n"
    assert capsys.readouterr().out.startswith(f"{told}    01_numbers.csv, 01_numbers.md\nnot of now: 2 of real; only")


def test_the_preset_of_the_tests_is_left_out(project, capsys):
    Report(project / "figures" / "tiny", "02_other").table(pd.DataFrame({"a": [1]}), "numbers", **SHOWING)
    assert check(project, strict=True) == 0
    assert capsys.readouterr().out == FRESH


def test_notebooks_without_figures_and_figures_without_a_notebook_are_named(project):
    (project / "notebooks" / "02_new.py").write_text(TEXT)
    (project / "notebooks" / "01_it.py").unlink()
    assert stale(project / "figures" / "quick", project) == {
        "01_it": ["there is no such notebook"],
        "02_new": ["it has no figures and tables here"],
    }


@pytest.mark.parametrize(
    ("sentence", "is_measured"),
    [
        ("BADGE reaches 82.5 %.", True),
        (r"$82.5\,\%$ are right.", True),
        ("With 50 initial labels the accuracy is 0.825 here.", True),
        ("An update takes 44 s.", True),
        ("An update takes 3 minutes in a batch of 10.", True),
        ("It is 1.3 points ahead.", True),
        ("It is 49 to 93 times faster.", True),
        ("Three seeds say so.", True),
        ("| margin | 82.5 % |", True),
        ("**Protocol.** As in (b). There it is 82.5 %.", True),
        ("**Protocol.** As in (b).\n\nAll 3 seeds agree.", True),
        ("**Protocol.** As in (b), with 3 seeds.", False),
        ("Batches of 10 with 3 seeds.", False),
        ("In Table 3 it takes 44 s.", False),
        ("The paper has 10 seeds.", False),
        ("Published are 82.5 %.", False),
        ("arXiv 2210.06112 names 3.1 points.", False),
        ("Zhou et al. 2021 found 82 %.", False),
        ("Bands are 95 % confidence intervals over seeds.", False),
        ("20 % of the train split is held out.", False),
        ("Batches of 10 and 200 epochs for $d = 5$ rounds.", False),
    ],
)
def test_a_measurement_is_a_number_with_a_unit_that_no_publication_and_no_protocol_explains(sentence, is_measured):
    assert bool([*typed(sentence)]) == is_measured


def test_the_committed_project_is_of_now(root, capsys):
    assert check(root) == 0, capsys.readouterr().out


def test_the_settings_of_each_notebook_are_found(root):
    for path in numbered(root / "notebooks", ".py")[0]:
        found = [origins.origins(path.stem, preset) for preset in ("quick", "real", "paper", "tiny")]
        assert len({each["text"] for each in found}) == 1
        assert len({each["settings"] for each in found}) == 4


@pytest.mark.parametrize(
    ("files", "chosen", "others"),
    [
        ("01_it.ipynb 01_it.py 01_it-Copy1.ipynb 01_backup.ipynb", "01_it", "01_backup 01_it-Copy1"),
        ("01_it.ipynb 01_it.py 01_a.ipynb 05_mine.ipynb", "01_it 05_mine", "01_a"),
        ("05_mine.ipynb 05_mine-Copy1.ipynb", "05_mine", "05_mine-Copy1"),
        ("05_mine.ipynb 05_mine.py 05_mine (1).ipynb 05_mine (1).py", "05_mine", "05_mine (1)"),
    ],
)
def test_a_copy_of_a_notebook_beside_it_is_another_notebook_of_no_number(tmp_path, files, chosen, others):
    for name in files.replace(".py ", ".py|").replace(".ipynb ", ".ipynb|").split("|"):
        (tmp_path / name).touch()
    found = numbered(tmp_path)
    assert [path.stem for path in found[0]] == chosen.split()
    assert sorted(path.stem for path in found[1]) in (others.split(), [others])
