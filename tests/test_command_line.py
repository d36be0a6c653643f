import dataclasses
import inspect
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from dal_core.experiment import Experiment, Protocol
from dal_lab.companion.command_line import build_parser, main
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.sources.bank import load_bank

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
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines] == ["stored", "stored", "would run", "would run"]
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


def test_datasets_lists_what_is_known_by_name(capsys):
    assert main(["datasets"]) == 0
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
    assert main(arguments) == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("learning curves: ")]
    assert len(complaints) == 1
    assert complaints[0].startswith("error: ")
    assert message in complaints[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--strateg", "margin"], "unknown --strateg margin; python -m dal_lab run knows --help, --dataset"),
        (["notebooks", "--only"], "argument --only: expected one argument"),
        (["notebooks", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["walk"], "invalid choice: 'walk'"),
        (["compare"], "the following arguments are required: STRATEGY"),
        ([], "the following arguments are required"),
    ],
)
def test_unknown_words_are_refused_with_what_exists(arguments, message, capsys):
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "knows --" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["datasets", "features", "run", "grid", "report", "compare", "notebooks", "publish"]
)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_options_have_the_fields_defaults_and_words_of_the_dataclasses():
    (commands,) = (each.choices for each in build_parser()._actions if isinstance(each.choices, dict))
    given = vars(commands["run"].parse_args([]))
    fields = {each.name: each for kind in (Experiment, Protocol) for each in dataclasses.fields(kind)}
    names = ("encoder", "seed", "device", "allow_oracle", "initial_size", "batch_size", "cycles")
    assert {name: given[name] for name in names} == {name: fields[name].default for name in names}
    usual = inspect.signature(experiment_of).parameters
    assert {name: given[name] for name in ("head", "optimiser")} == {"head": "linear", "optimiser": "sgd"}
    assert given["subset_size"] == str(usual["subset_size"].default)
    helps = {action.dest: action.help for action in commands["run"]._actions}
    assert helps["cycles"] == "number of acquisitions (default: 20)"
    helps = {action.dest: action.help for action in commands["features"]._actions}
    assert helps["batch_size"] == "instances at a time; halved when memory runs out (default: 128)"


def test_help_and_usage_errors_do_not_wait_for_torch():
    code = (
        "import sys; from dal_lab.companion import command_line as c; c.build_parser(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
