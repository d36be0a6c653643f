"""run_all.sh, run_tests.sh and what they set up, with a stand-in for python3 and uv that installs nothing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dal_lab.companion import notebooks
from dal_lab.companion.command_line import main

SCRIPTS = ["run_all.sh", "run_tests.sh", ".ci/run"]
# Plays python3, .venv/bin/python and uv. What changes something is written down in $CALLS.
STAND_IN = f"""#!/bin/sh
here=$(dirname "$0")
case "${{0##*/}} $*" in
  *find_spec*) [ -z "$REAL" ] || exec "$REAL" "$@"; [ -e "$here/installed" ] ;;
  *metadata*) [ -z "$REAL" ] || exec "$REAL" "$@"; cat "$here/installed" ;;
  *ensurepip*) [ ! -e "$here/old" ] ;;
  *fcntl*) exec "{sys.executable}" "$@" ;;
  *version) echo Python 3.8.18 ;;
  *" -m venv "*) echo "venv by ${{here##*/}}" >>"$CALLS"; rm -rf "$4"/*; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *" pip install "*uv) echo "pip installs uv" >>"$CALLS"; [ -z "$NO_UV" ] || {{ echo no network; exit 1; }}
    cp "$0" "$here/uv" ;;
  *" pip config "*) echo "global.index-url='mirror'" ;;
  uv*) echo "uv $UV_DEFAULT_INDEX $5 $6 $7 $8 $9" >>"$CALLS"; sleep "${{SLOW:-0}}"
    [ -z "$FULL" ] || {{ echo "error: No space left on device" >&2; exit 2; }}
    touch "$(dirname "$4")/installed" ;;
  *) echo "$*| $PWD| $PYTHONPATH| $DAL_ROOT| $DAL_PROGRAM"; [ "$2" != "$BROKEN" ] ;;
esac
"""
UPDATED = ["uv mirror --compile-bytecode -r requirements.lock -e ."]
MADE = ["venv by bin", "pip installs uv", *UPDATED]


@pytest.fixture
def clone(root, tmp_path) -> Path:
    """Return a copy of what the scripts need, in a folder with a space; its python3 is the stand-in."""
    copy = tmp_path / "a clone"
    shutil.copytree(root / "tools", copy / "tools")
    for name in ("run_all.sh", "run_tests.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy(root / name, copy)
    for name in ("notebooks", "dal_lab"):
        (copy / name).symlink_to(root / name)
    write_program(tmp_path / "bin" / "python3", STAND_IN)
    (tmp_path / "calls").touch()
    return copy


def write_program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(clone, *command, path=(), cwd=None, **variables):
    places = [*map(str, path), str(clone.parent / "bin"), "/usr/bin", "/bin"]
    env = {"PATH": ":".join(places), "CALLS": str(clone.parent / "calls"), "CDPATH": "/", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([str(each) for each in command], env=env, cwd=cwd or clone.parent, **pipes)


def run(clone, *arguments, script="run_all.sh", **options):
    """Return exit code, output, errors, and the calls that changed something."""
    (clone.parent / "calls").write_text("")
    process = start(clone, clone / script, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, (clone.parent / "calls").read_text().splitlines()


# --- what is answered before any set-up


@pytest.mark.parametrize("shell", [[], ["sh"]])
@pytest.mark.parametrize("option", ["--help", "--list"])
def test_help_and_list_are_answered_without_python_through_a_link(clone, root, capsys, monkeypatch, shell, option):
    (clone.parent / "first").symlink_to(Path(clone.name, "run_all.sh"))
    (clone / "second").symlink_to("../first")
    (clone.parent / "bin" / "python3").unlink()
    process = start(clone, *shell, clone / "second", "--preset=quick", option, cwd="/usr")
    monkeypatch.setenv("DAL_ROOT", str(root))
    expected = (root / "tools" / "usage.txt").read_text()
    if option == "--list":
        main(["notebooks", "--list"])
        expected = capsys.readouterr().out
    assert process.communicate() == (expected, "")


def test_usage_names_the_options_and_presets_that_exist(root, capsys):
    assert main(["notebooks", "--help"]) == 0
    usage = (root / "tools" / "usage.txt").read_text()
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"^  (--[a-z-]+) ", usage, re.M)) == options | {"--help"}
    presets = re.search(r"what to run on: (.*) \(default", usage)[1]
    assert re.split(", | or ", presets) == list(notebooks.PRESETS)


@pytest.mark.parametrize("arguments", [["--prset=quick"], ["--seeds", "3", "--freshh"], ["-preset", "quick"]])
def test_misspelt_option_is_refused_before_anything_is_made(clone, arguments):
    code, out, err, calls = run(clone, *arguments)
    assert (code, out, calls) == (2, "", [])
    wrong = next(each for each in arguments if each not in ("--seeds", "3"))
    assert re.fullmatch(rf"error: unknown option {wrong}; there are --preset, --only, .*, --help\n", err)


# --- which environment is used


def test_environment_that_has_dal_core_is_used_as_it_is(clone):
    (clone.parent / "bin" / "installed").touch()
    code, out, err, calls = run(clone, "--only", "a b", PYTHONPATH="/else")
    place, path = clone.parent, f"{clone}:/else"
    assert out == f"-P -m dal_lab notebooks --only a b| {place}| {path}| {clone}| run_all.sh\n"
    assert (code, err, calls) == (0, "", [])
    assert not (clone / ".venv").exists()
    (clone.parent / "bin" / "installed").write_text("papermill")
    code, out, err, calls = run(clone)
    add = f"{place}/bin/python3 -m pip install -e '{clone}[notebooks,encoders]'"
    assert (code, out, calls) == (1, "", [])
    assert err == f"run_all.sh: {place}/bin/python3 lacks papermill; to add: {add}\n"


def test_python_itself_says_what_is_installed(clone, tmp_path):
    """A folder dal_core in the working directory or on PYTHONPATH is no installation, one in site-packages is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    here = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path), "REAL": str(tmp_path / "venv" / "bin" / "python")}
    (tmp_path / "dal_core").mkdir()
    (tmp_path / "dal_core" / "__init__.py").touch()
    assert run(clone, **here)[::3] == (0, MADE)

    (site,) = tmp_path.glob("venv/lib/*/site-packages")
    (tmp_path / "dal_core").rename(site / "dal_core")
    (site / "dal_core-1.dist-info").mkdir()
    needed = ["Tq-dm>=4", 'pytest; extra == "test"', 'paper-mill>=2; extra == "notebooks"']
    lines = ["Metadata-Version: 2.1", "Name: dal_core", "Version: 1", *(f"Requires-Dist: {each}" for each in needed)]
    (site / "dal_core-1.dist-info" / "METADATA").write_text("\n".join(lines))
    code, _, err, calls = run(clone, **here)
    assert (code, calls) == (1, [])
    assert "python3 lacks Tq-dm paper-mill; to add: " in err


# --- the project's own environment


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("true", []),
        ("rm -rf .venv && touch .venv", MADE),
        ("rm .venv/bin/python", MADE),
        ("rm .venv/complete", MADE),  # half made
        ("echo /elsewhere >.venv/complete", MADE),  # copied
        ("echo other==1 >>requirements.lock", UPDATED),
        ("sed 's/tqdm>=/tqdm>/' pyproject.toml >new && mv new pyproject.toml", UPDATED),
        ("sed 's/line-length = 120/line-length = 99/' pyproject.toml >new && mv new pyproject.toml", []),
    ],
)
def test_environment_is_made_once_and_anew_when_it_is_not_whole(clone, change, expected):
    code, out, err, calls = run(clone)
    assert (code, calls) == (0, MADE)
    assert out.startswith("-P -m dal_lab notebooks|")
    assert err == "run_all.sh: setting up .venv (once; PyTorch is large)\n"
    subprocess.run(change, shell=True, cwd=clone, check=True)
    assert run(clone, path=[clone / ".venv" / "bin"])[::3] == (0, expected)  # activated, too
    assert run(clone)[::3] == (0, [])


@pytest.mark.parametrize(
    ("variables", "words", "expected"),
    [
        ({"NO_UV": "1"}, r"run_all.sh: .* pip install --quiet uv failed: no network\n", MADE[:2]),
        ({"FULL": "1"}, r"error: No space left on device\nrun_all.sh: cannot install, see above\n", MADE),
    ],
)
def test_failed_installation_says_why_and_the_next_call_repairs_it(clone, variables, words, expected):
    code, out, err, calls = run(clone, **variables)
    assert (code, out, calls) == (1, "", expected)
    assert re.fullmatch(words, err.split("large)\n")[1])
    assert run(clone)[::3] == (0, MADE)


@pytest.mark.parametrize("python", ["old", "none"])
def test_python_that_cannot_make_an_environment_is_named_in_one_line(clone, python):
    found = f"{clone.parent}/bin/python3, Python 3.8.18"
    (clone.parent / "bin" / "old").touch()
    places = {}
    if python == "none":
        (clone.parent / "bin" / "python3").unlink()
        programs = [clone.parent / "bin" / name for name in ("bash", "dirname", "sed", "cat", "cksum")]
        for each in programs:
            each.symlink_to(shutil.which(each.name))
        found, places = "none", {"PATH": str(clone.parent / "bin")}
    code, out, err, calls = run(clone, **places)
    assert (code, out, calls) == (1, "", [])
    assert err.startswith("run_all.sh: needs Python 3.11 or newer with venv (")
    assert err.endswith(f"; python3 on PATH: {found}\n")


def test_two_calls_at_once_set_up_one_after_the_other(clone):
    both = [start(clone, clone / "run_all.sh", SLOW="0.5") for _ in range(2)]
    ends = [each.communicate(timeout=60) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert (clone.parent / "calls").read_text().splitlines() == MADE
    assert sorted("waiting for another call that sets up .venv" in err for _, err in ends) == [False, True]


def test_ctrl_c_ends_in_one_line_and_the_next_call_repairs(clone):
    process = start(clone, clone / "run_all.sh", SLOW="30")
    while "uv mirror" not in (clone.parent / "calls").read_text():
        time.sleep(0.02)
    time.sleep(0.2)  # A program that is being started at this moment may not get the signal.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.splitlines()[1:] == ["run_all.sh: stopped; the same command goes on from there"]
    assert run(clone)[::3] == (0, MADE)


# --- run_tests.sh


def test_arguments_go_to_pytest_alone_in_the_root(clone):
    out = run(clone, "-k", "a b", script="run_tests.sh")[1]
    assert out == f"-m pytest -k a b| {clone}| {clone}| | \n"


def test_all_checks_run_although_one_fails(clone):
    code, out, err, _ = run(clone, script="run_tests.sh", BROKEN="mypy")
    ran = [line.split("|")[0] for line in out.splitlines() if line.startswith("-m")]
    assert ran[:3] == ["-m ruff check .", "-m ruff format --check .", "-m mypy"]
    assert ran[3] == "-m pytest -n logical --dist worksteal -m not browser and not faults and not slow"
    assert (code, err.splitlines()[-1]) == (1, "run_tests.sh: failed: mypy")
    assert run(clone, script="run_tests.sh")[0] == 0


# --- the files beside them


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_bash(root, script):
    assert os.access(root / script, os.X_OK)
    subprocess.run(["bash", "-n", str(root / script)], check=True)


def test_lock_pins_every_direct_dependency(root):
    lines = (root / "requirements.lock").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {next(iter(each.specifier)).operator for each in pinned} == {"=="}
    versions = {canonicalize_name(each.name): next(iter(each.specifier)).version for each in pinned}
    assert len(versions) == len(pinned)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needed = map(Requirement, sum(project["optional-dependencies"].values(), project["dependencies"]))
    assert [str(each) for each in needed if versions[canonicalize_name(each.name)] not in each.specifier] == []
    assert not {"pip", "setuptools", "wheel", "uv", "dal-core"} & set(versions)


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "tools/setup.sh", *SCRIPTS])
def test_no_file_names_a_package_index(root, name):
    assert not re.search(r"https?://|file://|find-links", (root / name).read_text())


def test_conda_environment_names_existing_extras(root):
    content = yaml.safe_load((root / "environment.yml").read_text())
    (pip_part,) = [part["pip"] for part in content["dependencies"] if isinstance(part, dict)]
    (extras,) = re.fullmatch(r"-e \.\[([\w,]+)\]", pip_part[0]).groups()
    known = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_a_clone_for_windows_keeps_line_ends(root):
    """git's core.autocrlf is set there, and bash does not run a script with line ends of Windows."""
    names = ["run_all.sh", "tools/setup.sh", "dal_core/loop.py"]
    command = ["git", "-C", root, "check-attr", "eol", *names]
    assert subprocess.check_output(command, text=True) == "".join(f"{name}: eol: lf\n" for name in names)


def test_ci_runs_the_same_command(root):
    assert "./run_tests.sh\n" in (root / ".ci" / "run").read_text()
