"""Own strategies that a file brings to the commands and the notebooks (--plugin, DAL_PLUGINS)."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
from test_bad_input import write_notebook

from dal_core.strategies import registry
from dal_lab import plugins
from dal_lab.companion.command_line import main
from dal_lab.companion.notebooks import execute
from dal_lab.plugins import load_plugin
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from tests.samples import SMALL, STRATEGY


@pytest.fixture(autouse=True)
def scratch(monkeypatch):
    """A registry to add to, and a path and modules as before."""
    registry.names()
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(plugins.VARIABLE, "")
    plugins._load.cache_clear()
    yield
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


def write(path, name="mine", descending=False, before=""):
    path.parent.mkdir(exist_ok=True)
    path.write_text(before + textwrap.dedent(STRATEGY.format(name=name, descending=descending)), encoding="utf-8")
    return path


@pytest.mark.parametrize("file", ["mine.py", "my-strategy.v2.py", "random.py", "torch.py", "no_ending"])
def test_a_plugin_may_be_called_as_it_likes(file, tmp_path):
    assert load_plugin(write(tmp_path / file)) == ["mine"]
    assert load_plugin(tmp_path / file) == ["mine"]  # and may be named twice
    assert registry.get("mine").__module__.rstrip("_") == f"plugin_{(tmp_path / file).stem}"  # one more each
    assert sys.modules["torch"] is torch
    assert [each.name for each in tmp_path.iterdir()] == [file]


def test_modules_beside_a_plugin_can_be_imported(tmp_path):
    (tmp_path / "beside_it.py").write_text("NAME = 'from_beside'")
    path = tmp_path / "mine.py"
    path.write_text("import beside_it\n" + textwrap.dedent(STRATEGY.format(name="{}", descending=True)))
    path.write_text(path.read_text().replace('"{}"', "beside_it.NAME"))
    assert load_plugin(path) == ["from_beside"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ndef f(:\n", "mine.py: SyntaxError: invalid syntax (mine.py, line 2)"),
        ("x = 1\ny = x / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('a')\n\nf()\n", "mine.py, line 2: KeyError: 'a'"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        ("import no_such_module_at_all\n", "mine.py, line 1: ModuleNotFoundError: No module named"),
        ("open('none')\n", "mine.py, line 1: FileNotFoundError: "),
        ("raise ValueError('two\\nlines')\n", "mine.py, line 1: ValueError: two lines"),
        ("x = '\udcff'\n", "mine.py: SyntaxError: "),
        ("from dal_core.strategies import register\n@register('margin')\ndef f(snapshot, batch_size, generator): ...\n",
         "mine.py, line 2: ValueError: strategy 'margin' is registered already, by dal_core"),
    ],
)  # fmt: skip
def test_a_plugin_that_fails_is_one_line_with_the_place(text, words, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["grid", "--plugin", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: plugin {tmp_path}")
    assert words in line


def test_settings_that_a_plugin_changes_are_restored(tmp_path):
    before = "import os, torch\ntorch.set_default_dtype(torch.float64)\nos.chdir('/')\n"
    place = Path.cwd()
    with pytest.warns(
        UserWarning, match=r"mine\.py changes settings of the process, .* default dtype is torch\.float64"
    ):
        assert load_plugin(write(tmp_path / "mine.py", before=before)) == ["mine"]
    assert (torch.get_default_dtype(), Path.cwd()) == (torch.float32, place)


def test_an_object_that_can_be_called_reaches_workers_and_the_exit_waits_for_none(tmp_path, root):
    text = """
        from dal_core.strategies import register

        class BySize:
            def __call__(self, snapshot, batch_size, generator):
                if len(snapshot.labels) > 5:
                    raise ValueError("enough")
                return snapshot.features.norm(dim=1).argsort(stable=True)[:batch_size]

        register("mine")(BySize())
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(text))
    small = ["--cycles", "2", "--initial-size", "5", "--batch-size", "3", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "dal_lab", "grid", "--plugin", "mine.py", "--strategy", "mine", *small]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: 2 of 2 runs failed")
    assert "ValueError: enough" in done.stderr


@pytest.mark.parametrize("command", [["run"], ["grid", "--seeds", "2", "--jobs", "1"]])
def test_a_strategy_that_ends_the_program_is_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.py")
    path.write_text(
        path.read_text().replace("    return torch.argsort", "    raise SystemExit(3)\n    return torch.argsort")
    )
    small = ["--cycles", "1", "--initial-size", "5", "--batch-size", "3"]
    assert main([*command, "--plugin", str(path), "--strategy", "mine", *small]) in (1, 2)
    assert "SystemExit: 3" in capsys.readouterr().err.splitlines()[-1]


def test_two_plugins_with_a_strategy_of_the_same_name_are_one_line(tmp_path, capsys):
    asked = [f"--plugin={write(tmp_path / file / 'mine.py')}" for file in ("a", "b")]
    assert main(["run", *asked]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"error: plugin {tmp_path}/b/mine.py, line 8: ValueError: strategy 'mine' is registered")
    assert found.count("\n") == 1
    assert sorted(registry.own()) == ["mine"]  # that of the first


def test_what_a_failed_plugin_registered_is_forgotten(tmp_path):
    path = write(tmp_path / "mine.py")
    path.write_text(path.read_text() + "\n1 / 0\n")
    with pytest.raises(ValueError, match=r"line 12: ZeroDivisionError"):
        load_plugin(path)
    assert not registry.own()
    assert load_plugin(write(path)) == ["mine"]


def test_worker_processes_get_plugins_and_keys_count_their_text(tmp_path, monkeypatch):
    """By value: a worker has no module of that name."""
    load_plugin(write(tmp_path / "random.py"))
    load_plugin(write(tmp_path / "my-own.py", "other", descending=True))
    names = ("mine", "other")
    experiments = [experiment_of(strategy=name, seed=seed, **SMALL) for name in names for seed in range(2)]
    rows = Grid(tmp_path / "2", jobs=2).rows(experiments)
    expected = Grid(tmp_path / "1", jobs=1).rows(experiments)
    assert rows["acquired"].map(list).tolist() == expected["acquired"].map(list).tolist()
    assert rows["run"].tolist() == expected["run"].tolist()
    registry.forget_own()
    plugins._load.cache_clear()
    load_plugin(write(tmp_path / "elsewhere" / "random.py"))
    load_plugin(write(tmp_path / "my-own.py", "other", descending=False))
    again = Grid(tmp_path / "1", jobs=1).plan(experiments)
    assert [study.strategy.name for study in again.stored] == ["mine", "mine"]
    assert [study.strategy.name for study, _ in again.missing] == ["other", "other"]


def test_a_command_computes_with_a_plugin(tmp_path, capsys):
    path = write(tmp_path / "my-strategy.py")
    asked = ["--plugin", str(path), "--cycles", "1", "--option", "epochs=2", "--device", "cpu"]
    assert main(["run", "--strategy", "mine", *asked]) == 0
    assert "accuracy" in capsys.readouterr().out
    where = ["--results-dir", str(tmp_path / "r"), "--jobs", "1", "--seeds", "2"]
    assert main(["compare", "random", "mine", *asked, *where, "--dry-run"]) == 0
    assert "would run  digits, mine, cycles=1, epochs=2, seeds 0, 1" in capsys.readouterr().out


def test_a_grid_and_a_notebook_read_the_environment(tmp_path, monkeypatch):
    first, second = write(tmp_path / "a.py"), write(tmp_path / "b.py", "second")
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join([str(first), str(second)]))
    Grid(tmp_path / "r")
    assert sorted(registry.own()) == ["mine", "second"]


@pytest.mark.slow
def test_a_notebook_of_a_batch_knows_the_plugins(tmp_path, monkeypatch):
    plugins.pass_on([write(tmp_path / "my-strategy.py")])
    cells = [
        "from dal_lab.companion.parameters import check_values",
        "check_values(globals())",
        "from dal_core.strategies import names",
        "'mine' in names()",
    ]
    notebook = write_notebook(tmp_path / "01_it.ipynb", 'strategies = ["margin"]', *cells)
    outcome = execute(notebook, tmp_path / "done.ipynb", {"strategies": ["mine"]})
    assert outcome.error is None
    assert nbformat.read(outcome.executed, as_version=4).cells[-1].outputs[0]["data"]["text/plain"] == "True"
