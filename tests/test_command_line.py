import dataclasses
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types

import pandas as pd
import psutil
import pytest
from faulty import wait_until
from PIL import Image
from test_bad_input import write_notebook

import dal_lab.companion
from dal_core.experiment import Experiment, Protocol
from dal_core.strategies import registry
from dal_lab.companion import command_line
from dal_lab.companion import notebooks as companion_notebooks
from dal_lab.companion.command_line import app, features, main
from dal_lab.companion.options import Runs, Setup
from dal_lab.companion.power import seeds_needed
from dal_lab.program import STOPPED
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.sources.bank import load_bank
from dal_lab.sources.extraction import Extraction

PARAMETERS = """\
preset = "quick"
device = "auto"
fresh = False
output_dir = None
results_dir = None
strategies = ["margin"]"""
TINY = ["--cycles", "2", "--subset-size", "50", "--option", "epochs=3"]


def test_run_prints_and_writes_the_rows_that_python_gives(tmp_path, capsys):
    target = tmp_path / "rows.csv"
    assert main(["run", "--strategy", "entropy", "--seed", "1", "--output", str(target), *TINY]) == 0
    expected = run(experiment_of(strategy="entropy", seed=1, cycles=2, subset_size=50, options={"epochs": 3}))
    written = pd.read_csv(target)
    assert written["accuracy"].tolist() == pytest.approx(expected["accuracy"].tolist())
    assert written["acquired"].tolist() == [str(acquired) for acquired in expected["acquired"]]
    printed = capsys.readouterr().out
    assert f"{expected['accuracy'].iloc[-1]:.4f}" in printed


def test_grid_keeps_runs_and_summarises_them(tmp_path, capsys):
    command = ["grid", "--strategy", "random", "margin", "--seeds", "2", "--results-dir", str(tmp_path), "--jobs", "1"]
    assert main([*command, *TINY]) == 0
    first = capsys.readouterr().out
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert "4 runs in" in first
    assert main([*command, *TINY]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("command", ["grid", "report", "compare"])
def test_dry_run_tells_and_computes_nothing(command, tmp_path, capsys):
    strategies, asked = ["random", "margin"], ["--results-dir", str(tmp_path / "r"), "--jobs", "1", *TINY]
    assert main(["grid", "--strategy", *strategies, "--seeds", "2", *asked]) == 0
    capsys.readouterr()
    strategies = strategies if command == "compare" else ["--strategy", *strategies]
    asked += [] if command == "grid" else ["--output-dir", str(tmp_path / "report")]
    assert main([command, *strategies, "--seeds", "3", "--dry-run", *asked]) == 0
    *lines, last, of_random, of_margin = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines] == ["stored", "stored", "would run", "would run"]
    assert of_random.startswith("a query    random on digits: ")
    assert of_margin.startswith("a query    margin on digits: ")
    assert lines[1].endswith("margin, cycles=2, subset_size=50, epochs=3, seeds 0, 1")
    assert "epochs=3, seed 2: about " in lines[3]
    assert last.startswith("4 runs are stored, 2 would run: about ")
    assert len(list((tmp_path / "r").glob("*.parquet"))) == 4
    assert not (tmp_path / "report").exists()


def test_report_draws_what_the_store_holds(tmp_path, capsys):
    out = tmp_path / "report"
    command = ["report", "--seeds", "2", "--results-dir", str(tmp_path / "r"), "--output-dir", str(out), "--jobs", "1"]
    assert main([*command, *TINY]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "manifest.json", "report_accuracy.csv", "report_accuracy.md",
        "report_learning_curves.pdf", "report_learning_curves.png", "report_runs.parquet",
    }  # fmt: skip
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("command", ["data", "datasets"])
def test_data_lists_what_is_known_by_name(command, capsys):
    assert main([command]) == 0
    printed = capsys.readouterr().out
    for words in (
        "cifar10",
        "CIFAR-10",
        "1,281,167",
        "Krizhevsky 2009",
        "CC BY 4.0",
        "facebook/dinov2-small",
        "minilm",
    ):
        assert words in printed


def test_features_are_extracted_written_and_used_by_a_run(tmp_path, monkeypatch, capsys, model_folders):
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "banking77_train.csv").write_text("text,category\n" + "how do i,ask\nlost card,tell\nfees,ask\n" * 10)
    (tmp_path / "banking77_test.csv").write_text("text,category\nhow,ask\ncard,tell\n")
    encoder, out = str(model_folders / "bert"), tmp_path / "out"
    about = ["--dataset", "banking77", "--encoder", encoder, "--data-dir", str(tmp_path)]
    assert main(["features", *about, "--device", "cpu", "--batch-size", "4", "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "30 + 2 instances, 16 features, 2 classes, 0 skipped" in printed
    (written,) = out.iterdir()
    assert str(written) in printed
    bank = load_bank(written)
    assert bank.class_names == ("ask", "tell")
    run_it = [
        "run",
        *about[:5],
        str(out),
        "--initial-size",
        "2",
        "--batch-size",
        "2",
        "--cycles",
        "1",
        "--subset-size",
        "all",
    ]
    assert main([*run_it, "--option", "epochs=2"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_what_is_left_out_is_told_in_a_line(tmp_path, monkeypatch, capsys, model_folders):
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (30, 30), (90 * i, 40, 7)).save(tmp_path / "pets" / split / name / f"{i}.png")
    broken = tmp_path / "pets" / "train" / "cat" / "0.png"
    broken.write_bytes(b"no image")
    about = ["features", "--dataset", "pets", "--encoder", str(model_folders / "clip"), "--data-dir", str(tmp_path)]
    assert main(about) == 2
    assert f"error: dataset 'pets': {broken} cannot be decoded" in capsys.readouterr().err
    assert main([*about, "--unreadable", "skip", "--workers", "0"]) == 0
    printed = capsys.readouterr()
    assert "3 + 4 instances, 16 features, 2 classes, 1 skipped" in printed.out
    (told,) = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert told.startswith(f"warning: dataset 'pets': {broken} cannot be decoded (")
    assert told.endswith("; it is left out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["features", "--dataset", "cifar10", "--encoder", "minilm"],
            "encoder 'minilm' reads texts; one for images was",
        ),
        (
            ["features", "--dataset", "pets", "--encoder", "dinov2"],
            "dataset 'pets' with encoder 'dinov2': no pets_dinov2",
        ),
        (["features", "--dataset", "digits", "--encoder", "dinov2"], "dataset 'digits' consists of features already"),
        (["features", "--dataset", "sst2", "--encoder", "bert:max"], "the pooling of encoder 'bert:max' is 'max'"),
        (["features", "--dataset", "sst2", "--encoder", "bert", "--batch-size", "0"], "batch_size is 0"),
        (["features", "--dataset", "sst2", "--encoder", "bert", "--unreadable", "no"], "unreadable is 'no'"),
        (["features", "--dataset", "sst2", "--encoder", "bert", "--device", "tpu"], "device is 'tpu'"),
        (["run", "--strategy", "margn"], "strategy is 'margn'; it has to be one of"),
        (["run", "--dataset", "digit"], "dataset is 'digit'; it has to be one of"),
        (["run", "--strategy", "lookahead"], "looks at true labels"),
        (["run", "--option", "epochs"], "--option is 'epochs'; NAME=VALUE was expected"),
        (["run", "--option", "epoch=3"], "has no option 'epoch'"),
        (["run", "--subset-size", "many"], "--subset-size is 'many'"),
        (["run", "--cycles", "-1"], "cycles is -1"),
        (["run", "--cycles", "2000"], "buys 20010 instances, but the pool has 1347"),
        (["run", "--output", "rows.pkl"], "a name that ends in .csv or .parquet"),
        (["notebooks", "--strict"], "--strict is given without --check"),
        (["run", "--output", "folder.csv"], "--output is folder.csv, which is a folder"),
        (["run", "--data-dir", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["grid", "--seeds", "0"], "--seeds is 0"),
        (["grid", "--jobs", "0"], "jobs is 0"),
        (["grid", "--cycles", "2000", "--seeds", "2", "--jobs", "1"], "buys 20010 instances"),
        (["grid", "--cycles", "2000", "--seeds", "2", "--jobs", "2"], "buys 20010 instances"),
        (["grid", "--jobs", "2", "--dask", "tcp://h:1"], "jobs and dask are given; one of them was expected"),
        (["grid", "--slurm", "cores"], "--slurm is 'cores'; NAME=VALUE was expected"),
        (["grid", "--slurm", "jobs=0,memory=1GB"], "jobs of slurm is 0"),
        (["report", "--strategy", "margn"], "strategy is 'margn'"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    assert main(arguments) == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("learning curves: ")]
    assert len(complaints) == 1
    assert complaints[0].startswith("error: ")
    assert message in complaints[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--strateg", "margin"],
            "unknown option: --strateg. Did you mean --strategy? dal run knows --strategy, --seed, ",
        ),
        (["walk"], 'unknown command "walk". dal knows data, datasets, features, run, grid, '),
        ([], "a COMMAND is missing; dal knows data, datasets, features, run, grid, "),
        (["notebooks", "--only"], 'command "notebooks" parameter --only requires an argument'),
        (["run", "--dataset"], 'command "run" parameter --dataset requires at least 1 element'),
        (["features", "--dataset", "sst2"], 'command "features" parameter --encoder requires an argument'),
        (["run", "--seed", "2.5"], "invalid value for --seed: '2.5' is no whole number"),
        (
            ["run", "--batch-size", "5,x"],
            "invalid value for --batch-size: '5,x' is no whole number, nor a list of them",
        ),
        (["compare"], "the strategies are ; two or more different ones were expected"),
    ],
)
def test_unknown_words_and_values_are_refused_with_what_exists(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}")
    assert printed.count("\n") == 1


def test_the_script_that_stands_for_a_command_is_called_by_its_name(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "PROGRAM", "run_all.sh")
    assert main(["notebooks", "now"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown: now. ./run_all.sh knows --preset, --only, ")


COMMANDS = [name for name in app if not name.startswith("-")]


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_each_command_explains_itself(command, capsys):
    assert main([*filter(None, [command]), "--help"]) == 0
    printed = capsys.readouterr().out
    usage, first, *_ = filter(None, printed.splitlines())
    assert usage.startswith(f"Usage: dal {'data' if command == 'datasets' else command}".rstrip())
    assert first[0].isupper()
    if command:
        options = app[command].assemble_argument_collection(default_parameter=app.default_parameter)
        options = [each for each in options if not each.children]
        assert all(each.parameter.help for each in options)
        assert all(name in printed for each in options for name in each.names)


def test_options_have_the_defaults_of_what_they_are_for():
    setup, runs = Setup(), Runs()
    usual = inspect.signature(experiment_of).parameters
    assert {name: getattr(setup, name) for name in ("head", "optimiser")} == {"head": "linear", "optimiser": "sgd"}
    assert setup.subset_size == str(usual["subset_size"].default)
    for mine, kind, names in (
        (setup, Experiment, ("encoder", "device", "allow_oracle")),
        (setup, Protocol, ("initial_size", "batch_size", "cycles")),
        (runs, Grid, ("jobs", "dask", "slurm", "fresh")),
    ):
        fields = {each.name: each.default for each in dataclasses.fields(kind)}
        assert {name: getattr(mine, name) for name in names} == {name: fields[name] for name in names}
    assert str(runs.results_dir) == Grid.folder
    given = inspect.signature(features).parameters
    for each in dataclasses.fields(Extraction):
        assert given[each.name].default == each.default


def test_help_and_usage_errors_do_not_wait_for_large_libraries():
    code = """
        import sys
        from dal_lab.companion.command_line import main
        asked = ("--help", "run --help", "--version", "walk", "grid --bad", "run --seed x")
        print([main(each.split()) for each in asked])
        print({"torch", "numpy", "pandas", "matplotlib"} & sys.modules.keys())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["[0, 0, 0, 2, 2, 2]", "set()"]


def test_a_batch_size_for_each_cycle(capsys):
    assert main(["run", "--batch-size", "5,10,20", "--option", "epochs=2", "--subset-size", "50"]) == 0
    labelled = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert labelled == ["n_labeled", "10", "15", "25", "45"]


@pytest.mark.parametrize(("asked", "strict"), [([], False), (["--strict"], True)])
def test_notebooks_check_is_that_of_freshness(asked, strict, root, monkeypatch):
    stand_in = types.SimpleNamespace(check=lambda place, *, strict: 40 + strict if place == root else 0)
    monkeypatch.setattr(dal_lab.companion, "freshness", stand_in, raising=False)
    assert main(["notebooks", "--check", *asked]) == 40 + strict


@pytest.mark.parametrize(("text", "code"), [("scores.argsort()[:batch_size]", 0), ("scores.argsort()[:1]", 1)])
def test_check_is_that_of_the_contract(text, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))
    head = "import dal_core as dal\n@dal.register('checked')\ndef checked(snapshot, batch_size, generator):\n"
    (tmp_path / "my-own.py").write_text(f"{head}    scores = snapshot.features.sum(1)\n    return {text}\n")
    assert main(["check", str(tmp_path / "my-own.py")]) == code
    assert capsys.readouterr().out.startswith("checked: ")


# --- what the notebooks are given


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["strategies=margin,bait"], {"strategies": ["margin", "bait"]}),
        (["strategies=margin"], {"strategies": ["margin"]}),
        (
            ["strategies=['margin', 'bait']", "num_candidates=3"],
            {"strategies": ["margin", "bait"], "num_candidates": 3},
        ),
        (["datasets=digits"], {"datasets": ["digits"]}),
        (["datasets=None", "results_dir=a,b"], {"datasets": None, "results_dir": "a,b"}),
    ],
)
def test_set_reaches_the_parameters_of_the_notebooks_that_have_them(given, expected, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("DAL_ROOT", str(tmp_path))
    monkeypatch.setattr(companion_notebooks, "execute", lambda notebook, place, values: asked.append(values) or 1 / 0)
    write_notebook(tmp_path / "notebooks" / "01_it.ipynb", PARAMETERS)
    write_notebook(tmp_path / "notebooks" / "02_other.ipynb", f"{PARAMETERS}\nnum_candidates = None\ndatasets = None")
    with pytest.raises(ZeroDivisionError):
        main(["notebooks", "--only", "2", "--preset", "tiny", *(f"--set={each}" for each in given)])
    (values,) = asked
    assert {name: values[name] for name in expected} == expected
    with pytest.raises(ZeroDivisionError):
        main(["notebooks", "--only", "1,2", "--preset", "tiny", *(f"--set={each}" for each in given)])
    others = {"num_candidates", "datasets"}
    assert {name: asked[1].get(name) for name in expected.keys() - others} == {
        n: expected[n] for n in expected.keys() - others
    }
    assert not others & asked[1].keys()


# --- the number of seeds


@pytest.mark.parametrize(
    ("deviation", "effect", "power", "seeds"),
    [(1.0, 1.0, 0.8, 10), (2.0, 1.0, 0.8, 34), (1.0, 1.0, 0.9, 13), (0, 1, 0.8, 2), (0.001, 9, 0.8, 2)],
)
def test_seeds_needed_are_those_of_the_tables_of_the_paired_t_test(deviation, effect, power, seeds):
    assert seeds_needed(deviation, effect, power) == seeds


def test_plan_study_tells_seeds_and_time_from_stored_runs(tmp_path, capsys):
    asked = [
        "--dataset",
        "moons",
        "--cycles",
        "2",
        "--batch-size",
        "3",
        "--results-dir",
        str(tmp_path),
        "--option",
        "epochs=2",
    ]
    plan = ["plan-study", "random", "margin", "--effect", "0.5", *asked]
    assert main(["grid", "--strategy", "random", "margin", "--seeds", "2", "--jobs", "1", *asked]) == 0
    capsys.readouterr()
    assert main(plan) == 2
    assert "moons has 2 seeds of both random and margin that are finished; at least 3" in capsys.readouterr().err
    assert main(["grid", "--strategy", "random", "margin", "--seeds", "5", "--jobs", "1", *asked]) == 0
    capsys.readouterr()
    assert main(plan) == 0
    rows = Grid(tmp_path).rows(
        Setup(("moons",), cycles=2, batch_size=3, option=("epochs=2",)).experiments(["random", "margin"], range(5))
    )
    means = 100 * rows.groupby(["seed", "strategy"])["accuracy"].mean().unstack()
    deviation = (means["margin"] - means["random"]).std()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{seeds_needed(deviation, 0.5, 0.8)} seeds, ")
    assert f"standard deviation is {deviation:.2f} points, as over the 5 seeds" in printed


def test_verify_names_what_is_not_as_published(tmp_path, root, capsys):
    for name in ("manifest.json", "01_runs.parquet", *json.loads((root / "figures/quick/manifest.json").read_text())):
        (tmp_path / "quick").mkdir(exist_ok=True)
        shutil.copy(root / "figures" / "quick" / name, tmp_path / "quick")
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'quick'}: as published\n"
    runs = tmp_path / "quick" / "01_runs.parquet"
    runs.write_bytes(runs.read_bytes()[:-9] + b"x" + runs.read_bytes()[-8:])
    (tmp_path / "quick" / "02_benchmark.csv").write_text("changed")
    assert main(["verify", str(tmp_path / "quick")]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "files that were changed after they were written: 02_benchmark.csv" in line
    assert "01_runs.parquet is damaged" in line


# --- how the program ends


def start(arguments, root, **more):
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"} | more.pop("env", {})
    command = [sys.executable, "-m", "dal_lab", *arguments]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipe)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--bad"]])
def test_a_closed_pipe_ends_quietly(arguments, root):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(arguments, root, stdout=writing, stderr=writing if "--bad" in arguments else subprocess.PIPE)
    os.close(writing)
    assert process.communicate(timeout=60)[1] in (b"", None)
    assert process.returncode == 141


@pytest.mark.parametrize(("coding", "name"), [("ascii", "donn?es_??"), ("cp1252", "données_??")])
def test_what_a_terminal_cannot_write_is_replaced(coding, name, tmp_path, monkeypatch):
    table = pd.DataFrame({f"f{i}": range(40) for i in range(3)} | {"label": ["a", "b"] * 20})
    table.to_parquet(path := tmp_path / "données_日本.parquet")
    monkeypatch.setattr(sys, "stdout", terminal := io.TextIOWrapper(io.BytesIO(), encoding=coding))
    small = ["--initial-size", "2", "--batch-size", "2", "--cycles", "1", "--option", "epochs=1", "--seeds", "2"]
    asked = ["random", "margin", "--features", str(path), *small, "--results-dir", str(tmp_path / "r"), "--jobs", "1"]
    assert main(["compare", *asked, "--output-dir", str(tmp_path / "comparison")]) == 0
    printed = terminal.buffer.getvalue().decode(coding)
    assert printed.startswith(f"{name}\n----------\nstrategy ")
    assert "margin  ??" in printed  # the curve as bars


def output_of(process):
    """What the program wrote to stderr itself, without what Python tells about imports."""
    told = (
        process.stderr.read().decode().replace(STOPPED, f"\n{STOPPED}")
    )  # amid an import it follows what is told of it
    return [line for line in told.splitlines() if line and not line.startswith(("#", "import "))]


@pytest.mark.parametrize("module", ["inspect", "numpy", pytest.param("dal_core.loop", marks=pytest.mark.faults)])
def test_ctrl_c_is_one_line_from_the_first_imports_on(module, root, tmp_path):
    """Of the whole group, as by a terminal."""
    asked = ["run", "--cycles", "100", "--subset-size", "all", "--option", "epochs=500"]
    process = start(asked, root, cwd=tmp_path, env={"PYTHONVERBOSE": "1"})
    next(line for line in process.stderr if line.startswith(f"import '{module}'".encode()))
    if module == "dal_core.loop":
        time.sleep(0.5)  # until it computes
    os.killpg(process.pid, signal.SIGINT)
    assert output_of(process) == [STOPPED]
    assert process.wait(60) == 130


@pytest.mark.faults
def test_ctrl_c_ends_a_batch_of_notebooks_with_its_kernel(root, tmp_path):
    mark = tmp_path / "begun"
    cells = ["import time, pathlib", f"pathlib.Path({str(mark)!r}).touch()", "time.sleep(60)"]
    write_notebook(tmp_path / "notebooks" / "01_it.ipynb", PARAMETERS, *cells)
    process = start(["notebooks"], root, env={"DAL_ROOT": str(tmp_path)})
    wait_until(mark.exists)
    kernels = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    assert output_of(process) == [STOPPED]
    assert process.wait(60) == 130
    assert kernels
    assert psutil.wait_procs(kernels, timeout=10)[1] == []
