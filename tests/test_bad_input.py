"""Bad input on the command line and in the notebooks' parameters: one line, exit code 2, nothing written."""

import ast
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from refusals import checked, refusal_of

from dal_lab.companion.command_line import app, main
from dal_lab.companion.notebooks import Notebook, check_parameters, execute, find
from dal_lab.companion.parameters import CHECKS, check_values

pytestmark = pytest.mark.usefixtures("unchecked")
moderate = settings(
    deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DEEP = "-" * 100_000 + "1"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory with an empty cache, in a folder of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    return folder


def refused(capsys, arguments, *words):
    """The one line on stderr with which the command is refused."""
    capsys.readouterr()
    code = main(arguments)
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    complaints = [line for line in printed.err.split("\n") if not line.startswith("learning curves: ")]  # progress
    assert complaints[-1] == ""
    assert complaints[0].startswith("error: ")
    return checked("\n".join(complaints[:-1]), *words)


# --- options of one run, which `run`, `grid`, `report` and `compare` share

RUN = [
    (["--dataset", "digit"], "dataset is 'digit'"), (["--dataset", ""], "dataset is ''"), (["--dataset"], "--dataset"),
    (["--dataset", "../digits"], "dataset is '../digits'"), (["--dataset", "a\nb"], "dataset is 'a\\nb'"),
    (["--dataset", "\0"], "dataset is '\\x00'"), (["--dataset", "x" * 5000], "dataset is 'xxx"),
    (["--dataset", "\udcff"], "dataset is '\\udcff'"), (["--dataset", "sst2"], "encoder is None"),
    (["--features", "none.npz"], "none.npz"), (["--features", "a\nb.npz"], "a\\nb.npz"),
    (["--features", ""], "ends in ''"),
    (["--features", "my.pkl"], "my.pkl ends in '.pkl'"), (["--features", "x" * 5000 + ".npz"], "no feature file"),
    (["--encoder", ""], "encoder is ''"), (["--encoder", "a\nb"], "encoder is 'a\\nb'"),
    (["--encoder", "minilm"], "encoder is 'minilm'"),
    (["--dataset", "cifar10", "--encoder", "bert"], "encoder 'bert' reads texts"),
    (["--dataset", "sst2", "--encoder", "x" * 5000], "encoder is 'xxx"),
    (["--batch-size", "0"], "batch_size is 0"), (["--batch-size", "-1"], "batch_size is -1"),
    (["--batch-size", "2.5"], "--batch-size: '2.5' is no whole number"), (["--batch-size", "9" * 5000], "--batch-size"),
    (["--batch-size", "1e3"], "--batch-size"), (["--batch-size", "2000"], "subset_size is 1000"),
    (["--batch-size", ""], "--batch-size"),
    (["--initial-size", "0"], "initial_size is 0"), (["--initial-size", "nan"], "--initial-size"),
    (["--initial-size", "1347"], "buys 1547 instances"), (["--cycles", "x"], "--cycles"),
    (["--cycles", "9" * 40], "instances"),
    (["--subset-size", "²"], "--subset-size is '²'"), (["--subset-size", "-3"], "--subset-size is '-3'"),
    (["--subset-size", ""], "--subset-size is ''"), (["--subset-size", "9" * 5000], "--subset-size is '999"),
    (["--subset-size", "5"], "subset_size is 5"), (["--subset-size", "None"], "--subset-size is 'None'"),
    (["--head", "conv"], "head is 'conv'"), (["--head", ""], "head is ''"),
    (["--optimiser", "adam"], "optimiser is 'adam'"),
    (["--optimiser", "sgd\n"], "optimiser is 'sgd\\n'"), (["--device", "gpu"], "device is 'gpu'"),
    (["--device", "cuda:99"], "device is 'cuda:99'"), (["--allow-oracle=perhaps"], "--allow-oracle"),
    (["--data-dir", "none"], "data_dir"), (["--data-dir", __file__], "data_dir"),
    (["--data-dir", "a\nb"], "a\\nb is not a folder"),
    (["--data-dir", "\0"], "data_dir"), (["--data-dir", "x" * 5000], "data_dir"),
    (["--bach-size", "3"], "unknown option: --bach-size"),
    (["--option"], "--option"),
    (["--option", "epochs"], "--option is 'epochs'"), (["--option", "=3"], "--option is '=3'"),
    (["--option", ""], "--option is ''"),
    (["--option", "epochs=" + "(" * 10_000], "epochs is '((("), (["--option", "epochs=" + DEEP], "--option epochs"),
    (["--option", "epochs=" + "[" * 300 + "]" * 300], "epochs"),
    (["--option", "epochs=" + "9" * 10_000], "epochs is '999"),
    (["--option", "epochs=__import__('os').system('touch marker')"], "epochs is \"__import__"),
    (["--option", "epochs=open('marker','w')"], "epochs is \"open("),
    (["--option", "epochs=1e999"], "options['epochs'] is inf"),
    (["--option", "epochs=b'3'"], "options['epochs'] is b'3'"),
    (["--option", "epochs={1,2}"], "options['epochs'] is {1, 2}"),
    (["--option", "epochs=1j"], "options['epochs'] is 1j"),
    (["--option", "epochs=..."], "options['epochs'] is Ellipsis"),
    (["--option", "epochs=True"], "epochs is True"), (["--option", "epochs=\0"], "epochs is '\\x00'"),
    (["--option", "epochs=-1"], "epochs is -1"),
    (["--option", "epochs=3", "--option", "epochs=4"], "--option epochs is given 2 times"),
    (["--option", "epoch=3"], "has no option 'epoch'"), (["--option", "learning_rate=0"], "learning_rate is 0"),
    (["--option", "learning_rate=nan"], "learning_rate is 'nan'"),
    (["--option", "learning_rate=1e300"], "learning_rate is 1e+300"),
    (["--option", "drop_last=no"], "drop_last is 'no'"), (["--option", "update_gamma=3"], "update_gamma"),
    (["--option", "update_every=0"], "update_every is 0"), (["--option", "imbalance=0"], "imbalance is 0"),
    (["--option", "validation_size=-1"], "validation_size is -1"), (["--option", "validation_size=1300"], "has 47"),
    (["--batch-size", "10,x"], "--batch-size"), (["--batch-size", "10,0"], "batch_size"),
    (["--batch-size", ","], "--batch-size"),
    (["--cycles", "2", "--batch-size", "5,5,5"], "cycles is 2; 3, the sizes in batch_size"),
    (["--plugin", "none.py"], "plugin is 'none.py'"), (["--plugin", "."], "plugin is '.'"),
    (["--plugin", "a\0"], "plugin is"), (["--plugin"], "--plugin"),
]  # fmt: skip
ONE = [
    (["--strategy", "margn"], "did you mean 'margin'?"), (["--strategy", ""], "strategy is ''"),
    (["--strategy", "a\nb"], "strategy is 'a\\nb'"), (["--strategy", "boss"], "allow_oracle"),
    (["--seed", "-1"], "seed is -1"),
    (["--seed", "x"], "--seed"), (["--seed", "1.0"], "--seed"), (["--output", "rows.pkl"], "--output is rows.pkl"),
    (["--output", ""], "--output is"), (["--output", f"{__file__}/x.csv"], "the folder of --output is"),
    (["--output", "a\0/x.csv"], "the folder of --output is 'a\\x00'"),
    (["--features", "a.npz", "b.npz"], "--dataset and --features name a.npz, b.npz; one was expected"),
    (["--strategy", "margin", "random"], "unknown: random"), (["more"], "unknown: more"), (["--", "-x"], "unknown"),
    (["--strategy", "bait", "--option", "top_classes=3"], "top_classes is 3"),
    (["--strategy", "bait", "--option", "renormalise=no"], "renormalise is 'no'"),
    (["--strategy", "sas", "--allow-oracle", "--subset-size", "20"], "all that sas plans to buy"),
]  # fmt: skip
MANY = [
    (["--seeds", "0"], "--seeds is 0"), (["--seeds", "-1"], "--seeds is -1"), (["--seeds", "three"], "--seeds"),
    (["--jobs", "0"], "jobs is 0"), (["--jobs", "-2"], "jobs is -2"), (["--jobs", "x"], "--jobs"),
    (["--results-dir", __file__], "--results-dir is"), (["--results-dir", f"{__file__}/x"], "--results-dir is"),
    (["--results-dir", "~no user/r"], "--results-dir is"),
    (["--results-dir", "a\0b"], "--results-dir is"), (["--results-dir", "x" * 5000], "--results-dir is"),
    (["--fresh=2"], "--fresh"), (["--dask", "tcp://host:8786"], "jobs and dask are given"),
    (["--slurm", ""], "--slurm is ''"), (["--slurm", "cores"], "--slurm is 'cores'"),
    (["--slurm", "cores=1"], "jobs and slurm are given"),
]  # fmt: skip
CLUSTERS = [
    *(
        (["--dask", address], f"dask is {address!r}; the address")
        for address in ("", "host", "host:8786", "tcp://", "tcp://host", "tcp://host:x", "x://host:1", "tcp://a b:1", "tcp://a:1\n")
    ),
    (["--slurm", "cores=0"], "cores of slurm is 0"), (["--slurm", "cores=x"], "cores of slurm is 'x'"),
    (["--slurm", "jobs=-1"], "jobs of slurm is -1"), (["--slurm", "processes=1.5"], "processes of slurm is 1.5"),
    (["--slurm", "cores=1,cores=2"], "--slurm cores is given 2 times"),
]  # fmt: skip
FOLDERS = [
    (["--output-dir", __file__], "--output-dir is"), (["--output-dir", f"{__file__}/x"], "--output-dir is"),
    (["--output-dir", "a\0b"], "--output-dir is"), (["--output-dir", "x" * 5000], "--output-dir is"),
]  # fmt: skip
COMMANDS = {
    "run": (["run"], [*RUN, *ONE]),
    "grid": (["grid", "--seeds=1", "--jobs=1"], [*RUN[::4], *MANY]),
    "grid on a cluster": (["grid", "--seeds=1"], CLUSTERS),
    "report": (["report", "--seeds=1", "--jobs=1"], [*RUN[1::4], *MANY, *FOLDERS]),
    "compare": (["compare", "random", "margin", "--seeds=1", "--jobs=1"], [*RUN[2::4], *MANY, *FOLDERS]),
    "compare's strategies": (
        ["compare"],
        [
            (["random"], "the strategies are random"), (["random", "random"], "the strategies are random, random"),
            (["random", "margn"], "did you mean 'margin'?"), (["random", ""], "strategy is ''"),
            ([], "the strategies are ;"),
            (["random", "margin", "--cycles", "0"], "--cycles is 0"),
            (["random", "margin", "--strategy", "badge"], "unknown"),
        ],
    ),
    "estimate": (
        ["estimate", "margin"],
        [
            (["--batch", "5"], "--pool is missing"),
            *(
                (["--pool", "100", "--features", "4", "--classes", "3", "--batch", "5", *more], words)
                for more, words in [
                    (["--labelled", "-1"], "labelled is -1"), (["--test", "-1"], "test is -1"),
                    (["--device", "tpu"], "device is 'tpu'"), (["--option", "x=1"], "no option 'x'"),
                ]
            ),
            (["--pool", "0", "--features", "4", "--classes", "3", "--batch", "5"], "pool is 0"),
            (["--pool", "9", "--features", "0", "--classes", "3", "--batch", "5"], "features is 0"),
            (["--pool", "9", "--features", "4", "--classes", "1", "--batch", "5"], "classes is 1"),
            (["--pool", "9", "--features", "4", "--classes", "3", "--batch", "0"], "batch is 0"),
        ],
    ),
    "features": (
        ["features"],
        [
            ([], "--dataset"), (["--dataset", "sst2"], "--encoder"), (["--encoder", "bert"], "--dataset"),
            *(
                (["--dataset", "sst2", "--encoder", "bert", *more], words)
                for more, words in [
                    (["--batch-size", "0"], "batch_size is 0"), (["--batch-size", "x"], "--batch-size"),
                    (["--workers", "-1"], "workers is -1"), (["--workers", "1.5"], "--workers"),
                    (["--device", "tpu"], "device is 'tpu'"), (["--image-size", "0"], "image"),
                    (["--unreadable", "maybe"], "unreadable is 'maybe'"), (["--unreadable", ""], "unreadable is ''"),
                    (["--data-dir", "none"], "data_dir"), (["--data-dir", "\0"], "data_dir"),
                    *FOLDERS, (["--jobs", "1"], "unknown option: --jobs"),
                ]
            ),
            *(
                (["--dataset", dataset, "--encoder", encoder], words)
                for dataset, encoder, words in [
                    ("../x", "bert", "dataset is '../x'"), ("", "bert", "dataset is ''"),
                    ("a\nb", "bert", "dataset is 'a\\nb'"),
                    ("sst2", "", "encoder is ''"), ("sst2", "a\nb", "encoder is 'a\\nb'"),
                    ("sst2", "x" * 5000, "encoder is 'xxx"),
                    ("sst2", "bert:max", "'max'"), ("sst2", "clip", "encoder 'clip' reads images"),
                    ("pets", "bert", "dataset 'pets'"),
                    ("digits", "bert", "consists of features already"),
                    ("my.npz", "bert", "consists of features already"),
                ]
            ),
        ],
    ),
    "datasets": (
        ["datasets"],
        [(["digits"], "'digits' is given without --check"), (["--lsit"], "unknown option: --lsit")],
    ),
    "data": (["data"], [(["--check", "digitz"], "name is 'digitz'"), (["--check", "--protocols"], "one of them")]),
    "check": (["check"], [([], "FILE"), (["--file", "x"], "unknown option: --file")]),
    "verify": (["verify"], [(["none"], "folder is 'none'"), (["a\0"], "folder is"), (["."], "manifest.json")]),
    "plan-study": (
        ["plan-study"],
        [
            (["margin", "--effect", "1"], "OTHER"), (["margin", "random"], "--effect"),
            (["margin", "margin", "--effect", "1"], "the strategies are margin, margin"),
            (["margin", "margn", "--effect", "1"], "did you mean 'margin'?"),
            *((["margin", "random", "--effect", bad], "--effect") for bad in ("0", "-1", "nan", "100", "x", "")),
            *((["margin", "random", "--effect=1", "--power", bad], "--power") for bad in ("0", "1", "nan", "x")),
            (["margin", "random", "--effect=1", "--results-dir", __file__], "--results-dir"),
            (["margin", "random", "--effect=1", "--dataset", "moons"], "moons has 0 seeds of both margin and random"),
        ],
    ),
    "suggest": (
        ["suggest", "--state", "s"],
        [
            ([], "s has no state yet; --features, --texts or --images was expected"),
            (["--features", "none.npz"], "no file of features at"), (["--features", __file__], "ends in '.py'"),
            (["--features", "a\nb.csv"], "a\\nb.csv"), (["--features", "\0.npz"], "no file of features"),
            (["--texts", "none.txt"], "no file of texts at"), (["--texts", ""], "no file of texts"),
            (["--texts", __file__], "--encoder is missing; bert, minilm, minilm_unit, a model"),
            (["--texts", __file__, "--encoder", "clip"], "encoder 'clip' reads images"),
            (["--texts", __file__, "--encoder", "bert:max"], "'max'"), (["--images", "none"], "no folder of images at"),
            (["--images", "."], "it holds no instance"), (["--images", __file__], "no folder of images at"),
            (["--texts", "a", "--images", "b"], "--texts and --images are given; one of them was expected"),
            (["--strategy", "margn"], "did you mean 'margin'?"), (["--strategy", "boss"], "looks at true labels"),
            (["--strategy", "margin", "--option", "epochs=3"], "has no option 'epochs'"),
            (["--strategy", "bait", "--option", "top_classes=b'3'"], "--option['top_classes'] is b'3'"),
            (["--option", "epochs"], "--option is 'epochs'"), (["--option", "epochs=3"], "but no --strategy"),
            (["--batch", "0"], "--batch is 0"), (["--batch", "x"], "--batch"), (["--batch", "9" * 5000], "--batch"),
            (["--seed", "-1"], "--seed is -1"), (["--plugin", "none.py"], "plugin is 'none.py'"),
            (["--state", __file__], "--state is"), (["--state", "a\0b"], "--state is"), (["--pool", "x"], "unknown"),
        ],
    ),
    "ingest": (
        ["ingest"],
        [
            (["l.csv"], "--state"), (["--state", "s"], "LABELS"),
            (["l.csv", "--state", "s"], "--state is 's'; a folder"),
            (["l.csv", "--state", __file__], "--state is"), (["l.csv", "--state", ""], "--state is '.'"),
        ],
    ),
    "publish": (["publish"], [(["now"], "unknown: now"), (["--fresh"], "unknown option: --fresh")]),
    "no command": ([], [([], "COMMAND"), (["rum"], "Did you mean \"run\"? dal knows data, "),
    (["a\nb"], "unknown command"),
    (["--verbose"], "unknown command")]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([*command, *more], words, id=f"{name}-{i}")
        for name, (command, cases) in COMMANDS.items()
        for i, (more, words) in enumerate(cases)
    ],
)
def test_commands_are_refused_in_one_line(arguments, words, place, tmp_path, capsys):
    refused(capsys, arguments, words)
    # Of what is refused once it runs, the traceback is kept.
    written = {each.parent for each in tmp_path.rglob("*") if each.is_file()}
    assert written <= {place / "results" / "failures"}
    assert {each.name for each in place.iterdir()} <= {"results"} if written else not list(place.iterdir())


FLAGS = {
    "--list",
    "--dry-run",
    "--fresh",
    "--allow-oracle",
    "--calibrate",
    "--standardise",
    "--check",
    "--strict",
    "--protocols",
    "--json",
}  # Little could be wrong with them.


def test_every_option_of_every_command_has_a_case():
    shared = {option for more, _ in RUN for option in more}
    for name in app:
        if name.startswith("-"):
            continue
        cases = (
            NOTEBOOKS
            if name == "notebooks"
            else [case for key, (_, some) in COMMANDS.items() if key.startswith(name) for case in some]
        )
        given_options = {each.partition("=")[0] for more, _ in cases for each in more}
        given_options |= shared if name in ("run", "grid", "report", "compare", "plan-study") else set()
        options = app[name].assemble_argument_collection(default_parameter=app.default_parameter)
        known = {option for each in options for option in each.names if option.startswith("--")}
        assert known - given_options <= FLAGS | {"--strategy"}, name


@given(
    command=st.sampled_from(["run", "grid", "report"]),
    option=st.sampled_from(["--strategy", "--dataset", "--head", "--optimiser", "--device", "--subset-size"]),
    text=st.text(max_size=40),
)
@example(command="run", option="--strategy", text="\x1b[2J")
@moderate
def test_arbitrary_words_are_refused(command, option, text, capsys_of):
    assume(not text.strip().isdecimal() and not text.startswith("-") and text not in ("all", "auto", "cpu"))
    refused(capsys_of, [command, f"{option}={text}"])


@given(text=st.text(max_size=60))
@example(text="'" * 9)
@example(text="{" * 200)
@example(text="lambda: 3")
@moderate
def test_arbitrary_values_of_options_are_refused(text, capsys_of):
    assume(not text.strip("+- _0").isdecimal())
    refused(capsys_of, ["run", f"--option=epochs={text}"], "epochs")


@pytest.fixture
def capsys_of(capsys):
    """The same for all examples of a test."""
    return capsys


def test_as_a_program_it_prints_no_traceback(place, root):
    command = [sys.executable, "-m", "dal_lab", "run", "--strategy", "a\nb", "--option", f"epochs={'-' * 20_000}1"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --option epochs ")
    checked(ended.stderr.removesuffix("\n"))
    assert not list(place.iterdir())


# --- ./run_all.sh, which hands its options to `notebooks`

NOTEBOOKS = [
    (["--preset", "quik"], "--preset is 'quik'; it has to be one of"), (["--preset", ""], "--preset is ''"),
    (["--preset"], "--preset"),
    (["--preset", "../quick"], "--preset is '../quick'"), (["--only", "7"], "there is no notebook '7'"),
    (["--only", ""], "no notebook ''"),
    (["--only", "01,,02"], "no notebook ''"), (["--only", "01;02"], "no notebook '01;02'"),
    (["--only", "../01"], "no notebook '../01'"),
    (["--only", "a\nb"], "no notebook 'a\\nb'"), (["--jobs", "0"], "jobs is 0"),
    (["--jobs", "-1"], "jobs is -1"), (["--jobs", "x"], "--jobs"),
    (["--jobs", "1.5"], "--jobs"), (["--device", "tpu"], "device is 'tpu'"),
    (["--device", ""], "device is ''"),
    (["--seeds", "0"], "seeds is 0"), (["--seeds", "-1"], "seeds is -1"), (["--seeds", "three"], "--seeds"),
    (["--data-dir", "none"], "--data-dir is none"), (["--data-dir", __file__], "--data-dir is"),
    (["--data-dir", "a\nb"], "--data-dir is"),
    (["--data-dir", "\0"], "--data-dir is"), (["--preste", "quick"], "unknown option: --preste"),
    (["quick"], "unknown: quick"), (["--fresh=2"], "--fresh"), (["--plugin", "none.py"], "plugin is 'none.py'"),
    (["--set"], "--set"), (["--set", "seeds"], "--set is 'seeds'"), (["--set", "seeds=3"], "the option --seeds was"),
    (["--set", "strategis=margin"], "it has to be one of 'datasets', 'strategies'; did you mean 'strategies'?"),
    (["--set", "datasets=a", "--set", "datasets=b"], "--set datasets is given 2 times"),
    (["--set", "strategies=margin,margin"], "strategies is ['margin', 'margin']"),
    (["--set", "datasets=3"], "datasets is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), NOTEBOOKS, ids=range(len(NOTEBOOKS)))
def test_options_of_run_all_are_refused(arguments, words, tmp_path, monkeypatch, capsys):
    write_notebook(
        tmp_path / "project" / "notebooks" / "01_it.ipynb",
        'preset = "quick"\ndevice = "auto"\nfresh = False\ndatasets = None\nstrategies = ["margin"]',
    )
    monkeypatch.setenv("DAL_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("DAL_PROGRAM", "run_all.sh")
    before = sorted(tmp_path.rglob("*"))
    refused(capsys, ["notebooks", *arguments], words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_project_without_notebooks_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DAL_ROOT", str(tmp_path))
    for command in ("notebooks", "publish"):
        refused(capsys, [command], f"no notebooks in {tmp_path}")


# --- parameters of the notebooks

NONE_OR_COUNT = (0, -1, "3", 2.5, True, [3])
NAMES = ("", "digits", [], None, 3, [3], [None], ["a", "a"], {"a": 1})
FOLDER = ("", " ", 3, True, ["x"], "a\nb", "a\0b")
SOME_NAMES = tuple(each for each in NAMES if each != [])
VALUES = {
    "preset": ("", None, 3, ["quick"], "a\nb"),
    "seeds": NONE_OR_COUNT,
    "jobs": NONE_OR_COUNT,
    "num_candidates": NONE_OR_COUNT,
    "datasets": tuple(each for each in NAMES if each is not None),
    "encoders": NAMES,
    "strategies": NAMES,
    "oracles": SOME_NAMES,
    "ensembles": SOME_NAMES,
    "device": ("tpu", "", None, 3, ["cpu"]),
    "data_dir": FOLDER,
    "output_dir": FOLDER,
    "results_dir": FOLDER,
    "fresh": ("no", "", 0, 1, None),
}
CASES = [(name, bad) for name, values in VALUES.items() for bad in values]


def write_notebook(path, parameters, *cells):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# It"), nbformat.v4.new_code_cell(parameters)]
    )
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return Notebook(path)


@pytest.fixture(scope="module")
def notebooks(root):
    return [(each, each.parameters()) for each in find(root / "notebooks")]


@pytest.mark.parametrize(("name", "bad"), CASES, ids=range(len(CASES)))
def test_values_of_parameters_are_refused_before_anything_runs(name, bad, notebooks, tmp_path, monkeypatch):
    having = [(notebook, known) for notebook, known in notebooks if name in known]
    assert having
    for notebook, known in having:
        monkeypatch.setattr(Notebook, "parameters", lambda _, known=known: known)  # reading the file takes a while
        message = refusal_of(lambda notebook=notebook: execute(notebook, tmp_path / "done.ipynb", {name: bad}), name)
        assert message.startswith(f"{name} is ")
    assert [each.name for each in tmp_path.iterdir()] == ["here"]


def test_every_parameter_of_every_notebook_is_checked(notebooks):
    assert len(notebooks) == 4
    for notebook, known in notebooks:
        assert set(known) <= set(CHECKS), notebook.path.name
    assert set(CHECKS) == set(VALUES)


def test_no_cell_gives_a_parameters_name_to_something_else(root):
    """Or the settings cell would refuse it when the cells are run a second time."""
    for path in (root / "notebooks").glob("[0-9]*.ipynb"):
        parameters, others = set(), set()
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                nodes = ast.walk(ast.parse(cell.source))
                names = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
                (parameters if "parameters" in cell.metadata.get("tags", []) else others).update(names)
        assert parameters
        assert not others & set(CHECKS) - parameters, path.name


def test_every_notebook_checks_its_parameters_before_it_uses_them(root):
    """However they got there: a cell that was edited by hand is no business of papermill's."""
    for notebook in find(root / "notebooks"):
        code = [cell for cell in nbformat.read(notebook.path, as_version=4).cells if cell.cell_type == "code"]
        position = next(i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
        imports, settings_cell = (cell.source.splitlines() for cell in code[position + 1 : position + 3])
        assert all(line.startswith(("from ", "import ", ")", "    ")) or not line for line in imports)
        assert settings_cell[0] == f'session = companion.start("{notebook.path.stem}", globals())'


@pytest.mark.parametrize(
    ("name", "value"), [("seeds", "3"), ("strategies", "margin"), ("strategies", ["margn"]), ("fresh", "no")]
)
def test_an_edited_parameter_cell_is_refused_by_the_notebook_itself(name, value, root):
    """The cells up to the settings, as a reader who has edited the parameters runs them."""
    code = [
        cell
        for cell in nbformat.read(root / "notebooks" / "02_fast_fishing.ipynb", as_version=4).cells
        if cell.cell_type == "code"
    ]
    position = next(i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    parameters, imports, settings_cell = (cell.source for cell in code[position : position + 3])

    def run_cells():
        namespace = {}
        exec(parameters, namespace)
        exec(imports, namespace)
        namespace[name] = value
        exec(settings_cell, namespace)

    refusal_of(run_cells, f"{name} is ")


@given(name=st.text(max_size=30), value=st.none() | st.integers() | st.text())
@moderate
def test_arbitrary_parameters_are_refused(name, value, notebooks):
    notebook, known = notebooks[0]
    assume(name not in known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Notebook, "parameters", lambda _: known)
        refusal_of(lambda: check_parameters(notebook, {name: value}), "has no parameter", kinds=(ValueError,))


@given(
    value=st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.integers(), max_size=3)
    | st.booleans()
    | st.none()
)
@moderate
def test_whatever_a_parameter_is_it_is_fine_or_refused_in_one_line(value):
    for name in CHECKS:
        fine = False
        with contextlib.suppress(ValueError):
            check_values({name: value})
            fine = True
        if fine:
            assert value is None or type(value) in (int, bool, str, list)
        else:
            refusal_of(lambda name=name: check_values({name: value}), f"{name} is ")


def test_defaults_of_the_notebooks_and_other_names_are_fine():
    check_values(
        {"preset": "quick", "seeds": None, "datasets": None, "encoders": ["dinov2"], "oracles": [], "device": "auto"}
    )
    check_values(
        {"jobs": 2, "data_dir": Path("x"), "output_dir": None, "results_dir": "../r", "fresh": False, "seed": "x"}
    )
