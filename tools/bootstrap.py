"""Set up an environment for the project once, then run a command in it. Standard library only.

    python3 tools/bootstrap.py run_all [ARG ...]    python -m dal_lab notebooks [ARG ...]
    python3 tools/bootstrap.py tests [ARG ...]      ruff, mypy and pytest; with arguments only pytest [ARG ...]

An environment in which dal_core is installed (conda, Colab, Binder, an activated one) is used as it is, and gets
only the packages that it lacks. Otherwise `.venv` in the project's root is made, or repaired, and used.

An old Python must be able to parse this file, so that it can say that it is too old: no f-strings, no annotations.
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SCRIPTS = {"run_all": "run_all.sh", "tests": "run_tests.sh"}
EXTRAS = {"run_all": ["encoders", "notebooks"], "tests": ["encoders", "notebooks", "test"]}
# A process a core, and an idle one takes tests of others; CONTRIBUTING.md says how the slower tests are run.
SUITE = ["pytest", "-n", "logical", "--dist", "worksteal", "-m", "not browser and not faults and not slow"]
CHECKS = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], SUITE]
TORCH = ["torch", "torchvision"]  # kept as a pair: a torchvision works with the torch it was built for
DISK = {True: 10.0, False: 1.5}  # GB while installing, with PyTorch and without: 6.6 stay with it
CACHE = 3.3  # GB of downloads that pip keeps below the home folder


class SetupError(Exception):
    """Why there is no environment to run in, in one line for the reader."""


# What the project needs


def project_table():
    """The parts of pyproject.toml that decide what gets installed."""
    import tomllib  # not in the old versions that have to parse this file

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        table = tomllib.load(file)
    return {"project": table["project"], "build-system": table["build-system"]}


def requirements(extras):
    """The requirements of the project with these extras, as written in pyproject.toml."""
    project = project_table()["project"]
    needed = list(project["dependencies"])
    for extra in extras:
        needed += project["optional-dependencies"][extra]
    return needed


def plain(name):
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement):
    """The distribution that a requirement or a line of the lock is about."""
    return plain(re.match(r"[\w.-]*", requirement).group())


def satisfies(version, requirement):
    """Whether a version is what `name>=minimum` asks for; a pre-release of the minimum itself is not."""

    def numbers(text):
        parts = [int(part) for part in re.match(r"\d+(?:\.\d+)*", text).group().split(".")]
        return parts + [0] * (6 - len(parts))

    minimum = re.search(r">=\s*(\d[\d.]*)", requirement)
    if minimum is None:
        return True
    if numbers(version) == numbers(minimum.group(1)):
        return re.match(r"[\d.]+(a|b|rc|dev)", version) is None
    return numbers(version) > numbers(minimum.group(1))


def missing(needed, state):
    """The requirements that the probed environment does not meet."""
    versions = state["versions"]
    return [line for line in needed if name_of(line) not in versions or not satisfies(versions[name_of(line)], line)]


def has_torch(state):
    """Whether the probed environment has a torch and a torchvision that the project can work with."""
    needed = [line for line in requirements(["encoders"]) if name_of(line) in TORCH]
    return state is not None and not missing(needed, state)


# What an interpreter has


def probe(names):
    """What the running interpreter has, for `look_at`."""
    import sysconfig
    from importlib import metadata, util

    # Only installed packages count, and not folders of these names that PYTHONPATH happens to show.
    path, hidden = sys.path[:], os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [entry for entry in path if entry not in hidden]
    packages = [util.find_spec(name) for name in ("dal_core", "dal_lab")]
    sys.path[:] = path

    versions, below = {}, []
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            if found.version:  # none in what a killed installation left behind
                versions[plain(name)] = found.version
                below += (found.requires or []) if name in TORCH else []
    site = sysconfig.get_path("purelib")
    isolated = sys.prefix != sys.base_prefix
    managed = not isolated and os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))
    return {
        "python": list(sys.version_info[:2]),
        "dal_core": all(package is not None and package.origin is not None for package in packages),
        "versions": versions,
        "below_torch": sorted({name_of(line) for line in below}),
        "site": site,
        "sites": [entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")],
        "isolated": isolated,
        "pip": util.find_spec("pip") is not None and os.access(site, os.W_OK) and not managed,
    }


def outside():
    """The environment variables for the interpreters that are asked and for pip: without the project's own folder."""
    env = dict(os.environ, PIP_USER="0", PIP_NO_INPUT="1")
    entries = [os.path.abspath(entry) for entry in env.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    entries = [entry for entry in entries if os.path.realpath(entry) != ROOT]
    if entries:
        env["PYTHONPATH"] = os.pathsep.join(entries)
    return env


def look_at(python, needed):
    """What `probe` says in this interpreter, or None if it does not work (any more)."""
    names = sorted({name_of(line) for line in needed} | set(TORCH))
    try:
        # -P, and a folder of its own: nothing counts because it lies in the working directory.
        command = [python, "-P", os.path.realpath(__file__), "probe"]
        output = subprocess.check_output(command + names, env=outside(), stderr=subprocess.DEVNULL, cwd=os.sep)
        state = json.loads(output.decode())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return state if tuple(state["python"]) >= OLDEST else None


# Running pip, and saying why it failed


def classify(output):
    """Why an installation failed, in a few words, from what pip printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # Retries come as warnings, and may have succeeded in the end.
    final = "\n".join(line for line in lines if not line.startswith("WARNING"))
    unreachable = (
        r"name resolution|Name or service not known|nodename nor servname|getaddrinfo failed|NameResolutionError"
        r"|new connection|Connection ?Error|Connection refused|Connection reset|Connection aborted|ConnectTimeout"
        r"|Network is unreachable|No route to host|Max retries exceeded|timed out|incomplete-download"
    )
    if re.search(r"No space left on device|Errno 28\b|Disk quota exceeded", final):
        return "no space left on the disk"
    if re.search(r"Permission denied|Errno 13\b|Read-only file system", final):
        return "permission denied"
    if re.search(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError", output):
        return "no secure connection to the package index: its certificate was refused"
    not_found = re.search(r"No matching distribution|Could not find a version", final)
    if re.search(unreachable, output if not_found else final, re.IGNORECASE):
        return "no network: the package index cannot be reached"
    errors = [line for line in lines if re.match(r"(ERROR|error): (?!subprocess-exited|ResolutionImpossible)", line)]
    return re.sub(r"^(ERROR|error): *", "", (errors or lines or ["no output"])[-1])


def pip(python, arguments, log, env, hold=()):
    """Install with the output in the file `log`; `hold` are descriptors that stay open until pip has ended."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    with open(log, "w") as file:
        status = subprocess.call(
            command + arguments,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=hold,
        )
    if status:
        with open(log, errors="replace") as file:
            raise SetupError("cannot install the packages: %s (pip's output: %s)" % (classify(file.read()), log))


def pins(state):
    """The constraints that keep an installed torch."""
    return ["%s==%s" % (name, state["versions"][name]) for name in TORCH] if has_torch(state) else []


def constraints(state):
    """The lock, or for a torch that is there already: that one's versions, and the lock for what it does not need."""
    with open(os.path.join(ROOT, "requirements.lock")) as file:
        lock = [line for line in file.read().splitlines() if line and not line.startswith("#")]
    kept = pins(state)
    if all(line in lock for line in kept):
        return lock
    below = set(TORCH + state["below_torch"])
    return kept + [line for line in lock if name_of(line) not in below and not re.match("nvidia|cuda|triton", line)]


def say(text):
    """Print for the person at the terminal; standard output belongs to the command."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def check_disk(folder, torch):
    """Raise SetupError if there is no room in the folder to install the packages, with PyTorch or without."""
    # Only the Linux builds for these processors bring CUDA's libraries along.
    large = torch and sys.platform.startswith("linux") and platform.machine() in ("x86_64", "aarch64")
    with_cache = large and os.stat(folder).st_dev == os.stat(os.path.expanduser("~")).st_dev
    needed, free = DISK[large] + CACHE * with_cache, shutil.disk_usage(folder).free / 1e9
    if free < needed:
        text = "not enough disk space in %s: the installation needs about %.0f GB, %.1f GB are free"
        raise SetupError(text % (folder, needed, free))


# The two kinds of environment


def complete(state, lacking):
    """Install what an environment that is not ours lacks, and change as little as possible in it."""
    say("installing into %s: %s" % (sys.prefix, ", ".join(name_of(line) for line in lacking)))
    check_disk(state["site"], not has_torch(state))
    folder = tempfile.mkdtemp(prefix="dal_core-setup-")  # stays after a failure, for its log
    listed = os.path.join(folder, "constraints.txt")
    with open(listed, "w") as file:
        file.write("\n".join(pins(state)) + "\n")
    pip(sys.executable, ["-c", listed, *lacking], os.path.join(folder, "setup.log"), outside())
    shutil.rmtree(folder, ignore_errors=True)


class Venv:
    """The project's own environment, and the stamp in it that says what was installed for which state of the files."""

    def __init__(self, needed, extras):
        self.folder = os.path.join(ROOT, ".venv")
        self.python = os.path.join(self.folder, "bin", "python")
        self.stamp = os.path.join(self.folder, "setup.json")
        self.log = os.path.join(self.folder, "setup.log")
        self.needed, self.extras = needed, extras

    def fingerprint(self):
        """What an installation depends on: a change of ruff's options in pyproject.toml is none."""
        with open(os.path.join(ROOT, "requirements.lock")) as file:
            parts = [project_table(), file.read(), ROOT]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def read_stamp(self):
        """The stamp, empty after an installation that did not reach its end."""
        try:
            with open(self.stamp) as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}

    def is_ready(self, state):
        """Whether there is nothing to install."""
        stamp = self.read_stamp()
        return (
            state is not None
            and stamp.get("fingerprint") == self.fingerprint()
            and set(self.extras) <= set(stamp["extras"])
            and not missing(self.needed, state)
        )

    def prepare(self, here):
        """Make or repair the environment if need be; `here` is the state of the running interpreter."""
        if self.is_ready(look_at(self.python, self.needed)):
            return
        for folder in [ROOT] + [self.folder] * os.path.exists(self.folder):
            if not os.access(folder, os.W_OK):
                raise SetupError("cannot set up %s: %s is not writable" % (self.folder, folder))
        with alone() as hold:
            state = look_at(self.python, self.needed)
            if not self.is_ready(state):  # another run may have done it meanwhile
                self.install(state, here, hold)

    def install(self, state, here, hold):
        """Bring the environment to what the files ask for, keeping a torch that can be kept."""
        stamp = self.read_stamp()
        heavy = not has_torch(state) and not has_torch(here)
        check_disk(ROOT, heavy)
        how_long = "several minutes: PyTorch is large" if heavy else "about a minute"
        say("setting up .venv (once, %s); details in %s" % (how_long, self.log))
        unseen = has_torch(here) and not has_torch(state)  # one to keep that this environment does not show
        if state is None or not state["pip"] or unseen:
            self.create(here)
        elif stamp.get("root", ROOT) != ROOT:
            self.follow_move()
        with contextlib.suppress(OSError):
            os.remove(self.stamp)
        extras = sorted(set(self.extras) | set(stamp.get("extras", [])))
        self.fill(extras, hold)
        self.check_torch()
        with open(self.stamp + ".new", "w") as file:
            json.dump({"fingerprint": self.fingerprint(), "extras": extras, "root": ROOT}, file)
        os.replace(self.stamp + ".new", self.stamp)

    def fill(self, extras, hold):
        """Install the project with these extras, editable."""
        state = look_at(self.python, self.needed)
        if state is None:
            raise SetupError("the environment in %s does not work" % self.folder)
        drop_incomplete(state["site"])
        listed = os.path.join(self.folder, "constraints.txt")
        with open(listed, "w") as file:
            file.write("\n".join(constraints(look_at(self.python, self.needed))) + "\n")
        # pip unpacks gigabytes into its temporary folder: on the disk that was checked, not in a small /tmp.
        with scratch(os.path.join(self.folder, "tmp")) as temporary:
            env = dict(outside(), TMPDIR=temporary)
            pip(self.python, ["-c", listed, "-e", ".[%s]" % ",".join(extras)], self.log, env, hold)

    def create(self, here):
        """Make the environment anew, on top of the running interpreter's packages if its torch is worth keeping."""
        debian = "%s cannot make virtual environments: install the Debian package python3-venv" % sys.executable
        command = [sys.executable, "-m", "venv", "--clear"]
        if has_torch(here) and not here["isolated"]:
            command.append("--system-site-packages")
        if os.path.isfile(self.folder):
            os.remove(self.folder)
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401

            subprocess.check_output([*command, self.folder], env=outside(), stderr=subprocess.STDOUT)
        except ImportError:
            raise SetupError(debian) from None
        except subprocess.CalledProcessError as error:
            output = error.output.decode(errors="replace")
            reason = debian if "ensurepip" in output else "cannot make %s: %s" % (self.folder, classify(output))
            raise SetupError(reason) from None
        if has_torch(here) and here["isolated"]:
            # venv would look past an activated environment, to the interpreter below it.
            site = look_at(self.python, self.needed)["site"]
            with open(os.path.join(site, "activated_environment.pth"), "w") as file:
                file.writelines("import site; site.addsitedir(%r)\n" % entry for entry in here["sites"])

    def follow_move(self):
        """Let `activate` and the scripts name the folder that the environment lies in now."""
        with open(os.path.join(self.folder, "pyvenv.cfg")) as file:
            system = re.search(r"include-system-site-packages *= *true", file.read())
        # Without --clear this writes `activate` and pyvenv.cfg anew, and leaves what is installed.
        options = ["--without-pip"] + ["--system-site-packages"] * (system is not None)
        subprocess.check_output([self.python, "-m", "venv", *options, self.folder], env=outside())
        # The form that also works for a path with spaces, in place of one line or of the same form.
        header = "#!/bin/sh\n'''exec' \"%s\" \"$0\" \"$@\"\n' '''\n" % self.python
        for script in glob.glob(os.path.join(glob.escape(os.path.dirname(self.python)), "*")):
            with open(script, "rb") as file:
                content = file.read()
            first = re.match(rb"#![^\n]*python[\d.]*\n|#!/bin/sh\n'''exec' [^\n]*\n' '''\n", content)
            if first and not os.path.islink(script):
                with open(script, "wb") as file:
                    file.write(os.fsencode(header) + content[first.end() :])

    def check_torch(self):
        """Import torch once: files of a torch can be there and not work, and then every notebook fails."""
        command = [self.python, "-P", "-c", "import torch, torchvision"]
        try:
            subprocess.check_output(command, env=outside(), stderr=subprocess.STDOUT, cwd=os.sep)
        except subprocess.CalledProcessError as error:
            reason = (error.output.decode(errors="replace").strip() or "no output").splitlines()[-1]
            text = "PyTorch in %s cannot be imported: %s (delete that folder to install it anew)"
            raise SetupError(text % (self.folder, reason)) from None


def drop_incomplete(site):
    """Make pip install again what a killed installation left half unpacked: it writes a package's RECORD last."""
    for folder in glob.glob(os.path.join(glob.escape(site), "*.dist-info")):
        if not os.path.exists(os.path.join(folder, "RECORD")):
            shutil.rmtree(folder)
    for folder in glob.glob(os.path.join(glob.escape(site), "~*")):  # set aside during an upgrade
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch(folder):
    """An empty folder for the time of the block."""
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def alone():
    """Keep two runs from installing at the same time; yields the descriptors that hold the lock."""
    import fcntl

    # The project's folder is locked, as any file in .venv goes when that is made anew.
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another run that sets up .venv")
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    try:
        yield [folder]
    finally:
        os.close(folder)


def environment(command):
    """The interpreter to run the command with, after setting up what it needs."""
    needed = requirements(EXTRAS[command])
    here = look_at(sys.executable, needed)
    if here is None:
        raise SetupError("%s cannot run a script" % sys.executable)
    if here["dal_core"]:
        lacking = missing(needed, here)
        if lacking and here["pip"]:
            complete(here, lacking)
        if not lacking or here["pip"]:
            return sys.executable
    own = Venv(needed, EXTRAS[command])
    own.prepare(here)
    return own.python


# Running the command


def command_env():
    """The environment variables of the command: this folder's code runs, whatever is installed."""
    path = [ROOT] + [entry for entry in [os.environ.get("PYTHONPATH")] if entry]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(path), PYTHONUNBUFFERED="1")


def run_all(python, arguments):
    """Become the command in the caller's working directory; -P, so that nothing in that directory is imported."""
    env = dict(command_env(), DAL_PROGRAM=SCRIPTS["run_all"], DAL_ROOT=ROOT)
    os.execve(python, [python, "-P", "-m", "dal_lab", "notebooks", *arguments], env)


def tests(python, arguments):
    """Run all checks, or become pytest if there are arguments; the exit status says whether all were fine."""
    os.chdir(ROOT)
    if arguments:
        os.execve(python, [python, "-m", "pytest", *arguments], command_env())
    failed = []
    for check in CHECKS:
        print("== " + " ".join(check), flush=True)
        if subprocess.call([python, "-m", *check], env=command_env()):
            failed.append(check[0])
    if failed:
        say("%s: failed: %s" % (SCRIPTS["tests"], ", ".join(failed)))
    return 1 if failed else 0


def main(arguments):
    """Run the command; the exit status if this process is still the one that runs."""
    command, rest = (arguments or [""])[0], arguments[1:]
    if sys.version_info < OLDEST:
        found = "%d.%d at %s" % (sys.version_info[0], sys.version_info[1], sys.executable)
        say("%s: needs Python %d.%d or newer, python3 is %s" % (SCRIPTS.get(command, command), *OLDEST, found))
        return 1
    if command == "probe":
        print(json.dumps(probe(rest)))
        return 0
    if command not in SCRIPTS:
        say("usage: bootstrap.py %s [ARG ...]" % "|".join(SCRIPTS))
        return 2
    if os.path.realpath(sys.prefix) == os.path.realpath(os.path.join(ROOT, ".venv")):
        # .venv is activated. It cannot make itself anew, the interpreter below can.
        below = sys._base_executable
        os.execv(below, [below, os.path.realpath(__file__), *arguments])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # takes pip along
    try:
        python = environment(command)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return {"run_all": run_all, "tests": tests}[command](python, rest)
    except SetupError as error:
        say("%s: %s" % (SCRIPTS[command], error))
        return 1
    except OSError as error:
        say("%s: cannot set up: %s" % (SCRIPTS[command], error))
        return 1
    except KeyboardInterrupt:
        say("%s: interrupted" % SCRIPTS[command])
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
