"""The set-up behind run_all.sh and run_tests.sh, without installing anything."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest
import yaml

SCRIPTS = ["run_all.sh", "run_tests.sh", ".ci/run"]
TORCH = {"torch": "2.15.0", "torchvision": "0.29.2"}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def bootstrap(root, tmp_path, monkeypatch) -> ModuleType:
    """The module, for a project in a folder of its own, so that no test can reach the environment it runs in."""
    spec = importlib.util.spec_from_file_location("bootstrap", root / "tools" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(root / name, folder)
    monkeypatch.setattr(module, "ROOT", str(folder))
    for name in ("execv", "execve"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("became another program"))
    return module


@pytest.fixture
def project(bootstrap) -> Path:
    """The folder that the module takes for the project."""
    return Path(bootstrap.ROOT)


def state_with(versions, **changes):
    state = {"python": [3, 11], "dal_core": False, "versions": versions, "below_torch": ["sympy", "nvidia-nccl-cu13"]}
    return state | {"site": "/site", "sites": ["/site"], "isolated": False, "pip": True} | changes


def project_table(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def everything(bootstrap):
    return {bootstrap.name_of(line): "9999.0" for line in bootstrap.requirements(["encoders", "notebooks", "test"])}


# Scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_bash(root, script):
    assert os.access(root / script, os.X_OK)
    subprocess.run(["bash", "-n", str(root / script)], check=True)


@pytest.mark.parametrize(("script", "command"), [("run_all.sh", "run_all"), ("run_tests.sh", "tests")])
@pytest.mark.parametrize("shell", [[], ["sh"]])
def test_script_delegates_from_anywhere_through_a_link(root, tmp_path, script, command, shell):
    clone, elsewhere, stub = tmp_path / "a clone", tmp_path / "else where", tmp_path / "bin"
    for folder in (clone, elsewhere, stub):
        folder.mkdir()
    shutil.copy(root / script, clone)
    (elsewhere / "first").symlink_to(Path("..") / "a clone" / script)
    (elsewhere / "second").symlink_to(elsewhere / "first")
    (stub / "python3").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    (stub / "python3").chmod(0o755)
    env = {"PATH": f"{stub}:{os.environ['PATH']}", "CDPATH": str(tmp_path)}
    ran = subprocess.run(
        [*shell, str(elsewhere / "second"), "--preset", "a b"],
        cwd=elsewhere,
        env=env,
        text=True,
        capture_output=True,
        check=True,
    )
    expected = [str(elsewhere), f"{clone}/tools/bootstrap.py", command, "--preset", "a b"]
    assert ran.stdout.splitlines() == expected


@pytest.mark.parametrize("script", ["run_all.sh", "run_tests.sh"])
def test_script_says_that_python3_is_missing(root, tmp_path, script):
    bash = shutil.which("bash")
    ran = subprocess.run([bash, str(root / script)], env={"PATH": str(tmp_path)}, text=True, capture_output=True)
    assert ran.returncode == 1
    assert ran.stderr == f"{script}: there is no python3 on PATH; install Python 3.11 or newer\n"


def test_ci_runs_the_same_command(root):
    assert "./run_tests.sh\n" in (root / ".ci" / "run").read_text()


# An old Python


def test_old_python_can_parse_the_file(root):
    tree = ast.parse((root / "tools" / "bootstrap.py").read_text(), feature_version=(3, 5))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, new)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [f.name for f in functions if f.returns or any(a.annotation for a in f.args.args)]


def test_old_python_is_refused_in_one_line(bootstrap, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    monkeypatch.setattr(sys, "executable", "/old/python3")
    assert bootstrap.main(["run_all", "--list"]) == 1
    assert capsys.readouterr().err == "run_all.sh: needs Python 3.11 or newer, python3 is 3.8 at /old/python3\n"


def test_unknown_command(bootstrap, capsys):
    assert bootstrap.main([]) == 2
    assert "usage: bootstrap.py run_all|tests" in capsys.readouterr().err


# What is needed, and what is there


@pytest.mark.parametrize(
    ("version", "requirement", "expected"),
    [
        ("2.11.0", "torch>=2.11", True),
        ("2.11.0+cu128", "torch>=2.11", True),
        ("2.9.1", "torch>=2.11", False),
        ("2.11.0a0+34c6371d24.nv26.01", "torch>=2.11", False),
        ("2.11.0rc1", "torch>=2.11", False),
        ("2.12.0a0+34c6371d24.nv26.01", "torch>=2.11", True),
        ("10.0", "torch>=2.11", True),
        ("0.13.2.post1", "seaborn>=0.13.2", True),
        ("1.0", "seaborn", True),
    ],
)
def test_satisfies(bootstrap, version, requirement, expected):
    assert bootstrap.satisfies(version, requirement) is expected


def test_missing_compares_names_and_versions(bootstrap):
    state = state_with({"scikit-learn": "1.6", "torch": "2.4.0"})
    assert bootstrap.missing(["Scikit_Learn>=1.5", "torch>=2.11", "tqdm"], state) == ["torch>=2.11", "tqdm"]


@pytest.mark.parametrize("command", ["run_all", "tests"])
def test_extras_exist(bootstrap, root, command):
    table = project_table(root)
    expected = table["dependencies"] + [r for e in bootstrap.EXTRAS[command] for r in table["optional-dependencies"][e]]
    assert bootstrap.requirements(bootstrap.EXTRAS[command]) == expected


def test_dal_core_in_a_folder_is_not_an_installed_one(bootstrap, tmp_path, monkeypatch):
    """Neither the working directory nor PYTHONPATH makes an environment one in which dal_core is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    for package in ("dal_core", "dal_lab"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    python = str(tmp_path / "venv" / "bin" / "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    state = bootstrap.look_at(python, ["tqdm"])
    assert not state["dal_core"]
    assert state["versions"] == {}
    assert state["isolated"]
    assert not state["pip"]

    site = Path(state["site"])
    for package in ("dal_core", "dal_lab"):
        shutil.copytree(tmp_path / package, site / package)
    (site / "tqdm-4.70.dist-info").mkdir()
    (site / "tqdm-4.70.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm\nVersion: 4.70\n")
    (site / "torch-2.15.0.dist-info").mkdir()  # what a killed installation leaves: no METADATA, no RECORD
    state = bootstrap.look_at(python, ["tqdm"])
    assert state["dal_core"]
    assert state["versions"] == {"tqdm": "4.70"}

    bootstrap.drop_incomplete(str(site))
    assert not list(site.glob("*.dist-info"))


@pytest.mark.parametrize("content", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho not json\n"])
def test_broken_interpreter_is_noticed(bootstrap, tmp_path, content):
    python = tmp_path / "python"
    if content:
        python.write_text(content)
        python.chmod(0o755)
    assert bootstrap.look_at(str(python), []) is None


def test_environment_with_dal_core_is_used_as_it_is(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "look_at", lambda *_: state_with(everything(bootstrap), dal_core=True))
    monkeypatch.setattr(bootstrap, "pip", lambda *_: pytest.fail("installed something"))
    assert bootstrap.environment("tests") == sys.executable


def test_environment_with_dal_core_gets_only_what_it_lacks(bootstrap, monkeypatch, capsys):
    versions = everything(bootstrap) | TORCH
    del versions["papermill"]
    calls = []

    def pip(python, arguments, log, env):
        calls.append((python, arguments[0], Path(arguments[1]).read_text(), arguments[2:]))

    monkeypatch.setattr(bootstrap, "look_at", lambda *_: state_with(versions, dal_core=True))
    monkeypatch.setattr(bootstrap, "check_disk", lambda folder, torch: calls.append(torch))
    monkeypatch.setattr(bootstrap, "pip", pip)
    assert bootstrap.environment("run_all") == sys.executable
    torch_pins = "torch==2.15.0\ntorchvision==0.29.2\n"
    assert calls == [False, (sys.executable, "-c", torch_pins, ["papermill>=2.6"])]
    assert "papermill" in capsys.readouterr().err


def test_environment_that_pip_cannot_change_is_left_alone(bootstrap, monkeypatch):
    prepared = []
    monkeypatch.setattr(bootstrap, "look_at", lambda *_: state_with({}, dal_core=True, pip=False))
    monkeypatch.setattr(bootstrap.Venv, "prepare", lambda self, here: prepared.append(here))
    assert bootstrap.environment("run_all") == f"{bootstrap.ROOT}/.venv/bin/python"
    assert len(prepared) == 1


# Constraints


def test_constraints_are_the_lock_unless_another_torch_is_kept(bootstrap, root):
    lock = [line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    locked = dict(line.split("==") for line in lock)
    assert bootstrap.constraints(state_with({})) == lock
    assert bootstrap.constraints(state_with({"torch": "2.4.0", "torchvision": "0.19.0"})) == lock
    assert bootstrap.constraints(state_with({name: locked[name] for name in TORCH})) == lock

    kept = bootstrap.constraints(state_with({"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128"}))
    assert kept[:2] == ["torch==2.11.0+cu128", "torchvision==0.26.0+cu128"]
    assert not [line for line in kept[2:] if re.match(r"(torch|torchvision|sympy|nvidia-.*|cuda-.*|triton)==", line)]
    assert f"pandas=={locked['pandas']}" in kept


def test_torch_without_torchvision_is_not_kept(bootstrap):
    assert bootstrap.pins(state_with({"torch": "2.15.0"})) == []
    assert not bootstrap.has_torch(None)


# The stamp


@pytest.fixture
def venv(bootstrap, project):
    made = bootstrap.Venv(["tqdm>=4"], ["encoders"])
    Path(made.folder).mkdir()
    return made


def write_stamp(venv, project, **changes):
    stamp = {"fingerprint": venv.fingerprint(), "extras": ["encoders"], "root": str(project)} | changes
    Path(venv.stamp).write_text(json.dumps(stamp))


def test_stamp(venv, project):
    state = state_with({"tqdm": "4.70"})
    assert not venv.is_ready(state)
    write_stamp(venv, project)
    assert venv.is_ready(state)
    assert not venv.is_ready(None)
    assert not venv.is_ready(state_with({}))
    venv.extras = ["encoders", "test"]
    assert not venv.is_ready(state)
    Path(venv.stamp).write_text('{"fingerp')
    assert not venv.is_ready(state)


@pytest.mark.parametrize(
    ("name", "old", "new", "ready"),
    [
        ("pyproject.toml", "line-length = 120", "line-length = 100", True),
        ("pyproject.toml", '"torch>=2.11"', '"torch>=2.12"', False),
        ("requirements.lock", "tqdm==", "tqdm==1", False),
    ],
)
def test_stamp_follows_the_files(venv, project, name, old, new, ready):
    write_stamp(venv, project)
    content = (project / name).read_text()
    assert old in content
    (project / name).write_text(content.replace(old, new))
    assert venv.is_ready(state_with({"tqdm": "4.70"})) is ready


def test_ready_environment_is_left_alone(bootstrap, venv, project, monkeypatch):
    write_stamp(venv, project)
    monkeypatch.setattr(bootstrap, "look_at", lambda *_: state_with({"tqdm": "4.70"}))
    monkeypatch.setattr(venv, "install", lambda *_: pytest.fail("installed something"))
    venv.prepare(state_with({}))


@pytest.fixture
def recorded(bootstrap, venv, monkeypatch):
    """The steps of an installation, by name instead of done."""
    steps = []
    monkeypatch.setattr(bootstrap, "check_disk", lambda folder, torch: steps.append("disk" if torch else "little"))
    monkeypatch.setattr(venv, "create", lambda here: steps.append("create"))
    monkeypatch.setattr(venv, "follow_move", lambda: steps.append("move"))
    monkeypatch.setattr(venv, "fill", lambda extras, hold: steps.append(",".join(extras)))
    monkeypatch.setattr(venv, "check_torch", lambda: steps.append("import"))
    return steps


@pytest.mark.parametrize(
    ("state", "here", "stamp", "expected"),
    [
        (None, {}, None, ["disk", "create"]),
        ({}, {}, None, ["disk"]),  # half made
        (TORCH, {}, None, ["little"]),
        ({}, TORCH, None, ["little", "create"]),  # the environment does not show the torch that is worth keeping
        (TORCH, TORCH, None, ["little"]),
        (TORCH, {}, {"root": "/elsewhere"}, ["little", "move"]),
        (TORCH, {}, {"extras": ["test"]}, ["little"]),
    ],
)
def test_installation(venv, project, recorded, state, here, stamp, expected):
    if stamp is not None:
        write_stamp(venv, project, **stamp)
    venv.install(state_with(state) if state is not None else None, state_with(here), [])
    extras = "encoders,test" if "extras" in (stamp or {}) else "encoders"
    assert recorded == [*expected, extras, "import"]
    assert json.loads(Path(venv.stamp).read_text())["extras"] == extras.split(",")
    assert venv.is_ready(state_with({"tqdm": "4.70"}))


def test_failed_installation_leaves_no_stamp(bootstrap, venv, project, recorded, monkeypatch):
    def fail(extras, hold):
        raise bootstrap.SetupError("no network")

    write_stamp(venv, project)
    monkeypatch.setattr(venv, "fill", fail)
    with pytest.raises(bootstrap.SetupError, match="no network"):
        venv.install(state_with({}), state_with({}), [])
    assert not Path(venv.stamp).exists()


def test_scripts_follow_a_moved_environment(bootstrap, project):
    venv = bootstrap.Venv([], [])
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv.folder], check=True)
    scripts = Path(venv.python).parent
    body = "import sys\nprint(sys.prefix)\n"
    (scripts / "short").write_text("#!/old/.venv/bin/python3.11\n" + body)
    (scripts / "long").write_text("#!/bin/sh\n'''exec' \"/o l d/.venv/bin/python\" \"$0\" \"$@\"\n' '''\n" + body)
    (scripts / "other").write_text("#!/bin/bash\necho other\n")
    (scripts / "activate").write_text('VIRTUAL_ENV="/old/.venv"\n')
    venv.follow_move()
    assert venv.folder in (scripts / "activate").read_text()
    for name, expected in (("short", venv.folder), ("long", venv.folder), ("other", "other")):
        (scripts / name).chmod(0o755)
        assert subprocess.check_output([str(scripts / name)], text=True).strip() == expected


def test_folder_that_is_not_writable(bootstrap, venv, monkeypatch):
    monkeypatch.setattr(bootstrap, "look_at", lambda *_: None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(bootstrap.SetupError, match="is not writable"):
        venv.prepare(state_with({}))


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_missing_venv_module_names_the_package(venv, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Exception, match="install the Debian package python3-venv"):
        venv.create(state_with({}))


# Failures


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\"Failed to establish "
            "a new connection: [Errno -3] Temporary failure in name resolution\")': /simple/tqdm/\n"
            "ERROR: Could not find a version that satisfies the requirement tqdm (from versions: none)\n"
            "ERROR: No matching distribution found for tqdm",
            "no network",
        ),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "no network"),
        ("ERROR: Could not install packages due to an OSError: Max retries exceeded with url: /x", "no network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "no space left"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'",
            "permission denied",
        ),
        ("WARNING: SSLError(SSLCertVerificationError(1, 'x'))\nERROR: No matching distribution found", "certificate"),
        (
            "WARNING: Retrying after connection broken by 'ReadTimeoutError'\nERROR: Cannot install a and b because "
            "they conflict.\nERROR: ResolutionImpossible: for help visit a page\n",
            "Cannot install a and b because they conflict",
        ),
        (
            "  error: subprocess-exited-with-error\n      ERROR: No matching distribution found for setuptools>=77\n"
            "error: subprocess-exited-with-error\nnote: not a problem with pip",
            "^No matching distribution found for setuptools>=77$",
        ),
        ("something else", "^something else$"),
        ("", "no output"),
    ],
)
def test_reason_of_a_failure(bootstrap, output, expected):
    assert re.search(expected, bootstrap.classify(output))


def test_pip_failure_names_the_log(bootstrap, project, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device'\nexit 1\n")
    python.chmod(0o755)
    log = str(tmp_path / "setup.log")
    with pytest.raises(bootstrap.SetupError, match=r"no space left on the disk \(pip's output: .*setup\.log\)"):
        bootstrap.pip(str(python), ["tqdm"], log, dict(os.environ))
    assert "Errno 28" in Path(log).read_text()


def test_disk_check(bootstrap, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: Usage(100e9, 98e9, 2e9))
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    bootstrap.check_disk(str(tmp_path), torch=False)
    message = f"not enough disk space in {tmp_path}: the installation needs about 1[03] GB, 2.0 GB are free"
    with pytest.raises(bootstrap.SetupError, match=message):
        bootstrap.check_disk(str(tmp_path), torch=True)
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda _: Usage(100e9, 60e9, 40e9))
    bootstrap.check_disk(str(tmp_path), torch=True)


def test_activated_venv_is_made_anew_by_the_interpreter_below(bootstrap, project, monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "prefix", str(project / ".venv"))
    monkeypatch.setattr(sys, "_base_executable", "/below/python3")
    monkeypatch.setattr(os, "execv", lambda *call: calls.append(call) or sys.exit(0))
    with pytest.raises(SystemExit):
        bootstrap.main(["tests", "-x"])
    assert calls == [("/below/python3", ["/below/python3", os.path.realpath(bootstrap.__file__), "tests", "-x"])]


def test_failed_set_up_is_one_line(bootstrap, monkeypatch, capsys):
    def fail(command):
        raise bootstrap.SetupError("no room")

    monkeypatch.setattr(bootstrap, "environment", fail)
    monkeypatch.setattr(bootstrap.signal, "signal", lambda *_: None)
    assert bootstrap.main(["tests"]) == 1
    assert capsys.readouterr().err == "run_tests.sh: no room\n"


# Running the command


def test_run_all_becomes_the_package(bootstrap, project, monkeypatch):
    calls = []
    monkeypatch.setenv("PYTHONPATH", "/else")
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    bootstrap.run_all("/x/python", ["--list"])
    (program, arguments, env) = calls[0]
    assert program == "/x/python"
    assert arguments == ["/x/python", "-P", "-m", "dal_lab", "notebooks", "--list"]
    assert env["PYTHONPATH"] == f"{project}:/else"
    assert (env["DAL_PROGRAM"], env["DAL_ROOT"], env["PYTHONUNBUFFERED"]) == ("run_all.sh", str(project), "1")


def test_all_checks_run_although_one_fails(bootstrap, project, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)  # restored afterwards
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ran $2 in $PWD"\n[ "$2" != mypy ]\n')
    python.chmod(0o755)
    assert bootstrap.tests(str(python), []) == 1
    output = capfd.readouterr()
    assert [line for line in output.out.splitlines() if line.startswith("ran")] == [
        f"ran {name} in {project}" for name in ("ruff", "ruff", "mypy", "pytest")
    ]
    assert output.err == "run_tests.sh: failed: mypy\n"
    python.write_text("#!/bin/sh\n")
    assert bootstrap.tests(str(python), []) == 0


def test_arguments_go_to_pytest_alone(bootstrap, project, tmp_path, monkeypatch):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call[1]) or sys.exit(0))
    with pytest.raises(SystemExit):
        bootstrap.tests("/x/python", ["-k", "name"])
    assert calls == [["/x/python", "-m", "pytest", "-k", "name"]]
    assert Path.cwd() == project


# The files beside it


def test_lock_pins_every_direct_dependency(bootstrap, root):
    lines = [line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    versions = {bootstrap.plain(name): version for name, version in (line.split("==") for line in lines)}
    assert len(versions) == len(lines)
    extras = list(project_table(root)["optional-dependencies"])
    assert bootstrap.missing(bootstrap.requirements(extras), state_with(versions)) == []
    assert not {"pip", "setuptools", "wheel", "dal-core"} & set(versions)


@pytest.mark.parametrize("name", ["requirements.lock", "environment.yml", "tools/bootstrap.py", *SCRIPTS])
def test_no_file_names_a_package_index(root, name):
    assert not re.search(r"https?://|file://|index-url|find-links", (root / name).read_text())


def test_conda_environment_names_existing_extras(root):
    content = yaml.safe_load((root / "environment.yml").read_text())
    assert content["name"] == "dal_core"
    assert content["channels"] == ["conda-forge"]
    (pip_part,) = [part["pip"] for part in content["dependencies"] if isinstance(part, dict)]
    (extras,) = re.fullmatch(r"-e \.\[([\w,]+)\]", pip_part[0]).groups()
    assert set(extras.split(",")) <= set(project_table(root)["optional-dependencies"])
