"""Run the notebooks as a batch: parameters checked before, cells checked after, manifest checked at the end."""

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager

from dal_core.checks import printable
from dal_core.devices import device_in_words
from dal_lab.companion.artefacts import ManifestError, check_manifest, note_load, read_manifest
from dal_lab.companion.as_committed import as_committed
from dal_lab.companion.origins import numbered
from dal_lab.companion.parameters import check_values
from dal_lab.companion.presets import PRESETS
from dal_lab.companion.site.index import PROVENANCE, title_of, write_site
from dal_lab.companion.unchanged import FINGERPRINT, fingerprint, is_unchanged
from dal_lab.runs.committed import ENDING, commit, committed_runs
from dal_lab.runs.files import remove_leftovers, write_atomically
from dal_lab.runs.plan import duration_in_words
from dal_lab.runs.provenance import git_commit, versions
from dal_lab.runs.store import Store

COMMITTED = ("quick", "real", "paper")  # presets whose figures have their runs beside them


@dataclasses.dataclass(frozen=True)
class Notebook:
    """A notebook of the project, found by the number at the start of its name."""

    path: Path

    @property
    def number(self) -> str:
        return self.path.stem.split("_")[0]

    @property
    def title(self) -> str:
        """Return the first heading."""
        return title_of(nbformat.read(self.path, as_version=4)) or self.path.stem

    def parameters(self) -> dict[str, str]:
        """Return names and defaults of what its parameters cell offers."""
        return {name: str(about["default"]) for name, about in papermill.inspect_notebook(str(self.path)).items()}


class Outcome(NamedTuple):
    """What became of a notebook."""

    executed: Path
    seconds: float
    error: str | None


def find(folder: Path) -> list[Notebook]:
    """Return the notebooks in `folder`, one a number; a copy or backup beside a notebook is none."""
    return [Notebook(path) for path in numbered(folder)[0]]


def choose(notebooks: Sequence[Notebook], only: str | None) -> list[Notebook]:
    """Return those whose number is in the comma-separated `only`; all for None.

    Raises:
        ValueError: if a number does not exist, with those that do.
    """
    known = [notebook.number for notebook in notebooks]
    numbers = {number.lstrip("0"): number for number in known}
    wanted = (
        known if only is None else [numbers.get(each.strip().lstrip("0"), each.strip()) for each in only.split(",")]
    )
    if unknown := [number for number in wanted if number not in known]:
        raise ValueError(f"there is no notebook {', '.join(map(repr, unknown))}; there is {', '.join(known)}")
    return [notebook for notebook in notebooks if notebook.number in wanted]


def check_parameters(notebook: Notebook, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook's parameters cell does not know, and values that they cannot have.

    papermill would only warn about the first, and does not look at the second.

    Raises:
        ValueError: naming them, with the list of what exists, or what was expected.
    """
    known = notebook.parameters()
    if unknown := [printable(name) for name in parameters if name not in known]:
        raise ValueError(f"{notebook.path.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    check_values(parameters)


def execute(notebook: Notebook, executed: Path, parameters: dict[str, Any]) -> Outcome:
    """Execute a notebook in its own folder and keep it as `executed`, with what it was executed on and for how long.

    One that fails, or has a cell that did not run, is kept beside it as `<name>.failed.ipynb` and counts as failed.

    Raises:
        ValueError: if a parameter is unknown.
    """
    check_parameters(notebook, parameters)
    start, error, made_from = time.perf_counter(), None, fingerprint(notebook.path, parameters)
    failed, lines = executed.with_suffix(".failed.ipynb"), _SectionLines()
    with write_atomically(failed) as temporary, _kernel_environment():
        try:
            papermill.execute_notebook(
                str(notebook.path), str(temporary), parameters,
                cwd=str(notebook.path.parent), progress_bar=False, stderr_file=lines, kernel_name="python3",
                kernel_manager_class=LocalKernelManager, on_cell_start=lines.begin,
            )  # fmt: skip
        except papermill.PapermillExecutionError as failure:
            error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
        seconds = time.perf_counter() - start
        done = nbformat.read(temporary, as_version=4)
        device = device_in_words(str(parameters.get("device", "auto")))
        about = {"device": device, "versions": versions(), "commit": git_commit()}
        about[FINGERPRINT] = made_from
        done.metadata[PROVENANCE] = about | {"duration": round(seconds, 1)}
        done.metadata.setdefault("papermill", {})["duration"] = seconds  # its own is negative if a clock was put back
        nbformat.write(done, temporary)
    for position, cell in enumerate(done.cells):
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            error = error or f"cell {position} was not executed"
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            error = error or f"cell {position} ended with an error"
    if error:
        executed.unlink(missing_ok=True)  # of an earlier run: it would pass for this one's
    else:
        failed.replace(executed)
    return Outcome(failed if error else executed, seconds, error)


def _with_its_runs(notebook: Notebook, outcome: Outcome, figures: Path, results: str | None) -> Outcome:
    """Write the runs that a notebook's figures and tables rest on beside them; an error counts as the notebook's.

    Prints a warning where the load beside measured times makes them unreliable.
    """
    home = notebook.path.parent.parent
    try:
        entries = [each for each in read_manifest(figures).values() if each["notebook"] == notebook.path.stem]
        keys = {key for entry in entries for key in entry["keys"]}
        commit(keys, Store(Path(results or home / "results")), figures / f"{notebook.number}{ENDING}")
        runs = {key: run.about for key, run in committed_runs([figures]).items()}
        for line in note_load(figures, notebook.path.stem, runs):
            print(f"    warning: {line}", flush=True)
    except (OSError, ValueError) as error:
        return outcome._replace(error=f"its runs are not committed: {error}")
    return outcome


class _SectionLines(io.TextIOBase):
    """Puts what a notebook writes to stderr there, its progress, with the section's letter, such as (e), in front."""

    section = ""

    def begin(self, cell: Any, cell_index: int) -> None:  # noqa: ARG002 - nbclient names the arguments
        if cell.cell_type == "markdown" and (letters := re.findall(r"^#+ (\(\w\) )", cell.source, flags=re.MULTILINE)):
            self.section = letters[-1]

    def write(self, text: str) -> int:
        return sys.stderr.write(re.sub(r"^(?=.)", self.section, text, flags=re.MULTILINE))

    def flush(self) -> None:
        sys.stderr.flush()


class LocalKernelManager(AsyncKernelManager):
    """Talks to its kernel through sockets in a folder instead of network ports, which nobody else can listen on."""

    def __init__(self, **options: Any) -> None:
        # By default the sockets of all kernels have the same names in the working folder, and mix up their messages.
        sockets = Path(os.environ["JUPYTER_RUNTIME_DIR"], uuid.uuid4().hex[:8])
        super().__init__(**options, transport="ipc", ip=str(sockets))


@contextlib.contextmanager
def _kernel_environment() -> Iterator[None]:
    """Make this Python the kernel within the block, not one that the user has registered, and progress plain lines."""
    # The names of sockets are limited to about 100 characters, which a folder below the home may exceed.
    place, before = "/tmp" if Path("/tmp").is_dir() else None, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="dal-", dir=place) as sockets:
        os.environ |= {
            "JUPYTER_PREFER_ENV_PATH": "1",
            "JUPYTER_RUNTIME_DIR": sockets,
            "DAL_PROGRESS": "plain",
            "IPYTHONDIR": sockets,  # Start-up files and settings of figures in the user's profile stay out, and so does
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # a window that nobody sees.
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        try:
            yield
        finally:
            for child in psutil.Process().children():  # A kernel that was interrupted while it started lives on.
                if "ipykernel_launcher" in child.cmdline():
                    child.kill()
            os.environ.clear()
            os.environ |= before


def times_left(notebooks: Sequence[Notebook], executed: Path, figures: Path, *, fresh: bool) -> list[str]:
    """Return for each notebook in words how long it and those after it take; empty where that is unknown.

    `executed` and `figures` are the preset's folders.
    """
    each = [_expected_seconds(notebook, executed, figures, fresh=fresh) for notebook in notebooks]
    left = np.cumsum(each[::-1])[::-1]
    return ["" if np.isnan(seconds) else f"about {duration_in_words(seconds)}" for seconds in left]


def _expected_seconds(notebook: Notebook, executed: Path, figures: Path, *, fresh: bool) -> float:
    """Return how long the last execution took, here or, of the preset quick, of the committed notebook; NaN: unknown.

    With `fresh` it takes at least as long as its runs did.
    """
    seconds = nan
    for path in (notebook.path, executed / notebook.path.name)[figures.name != "quick" :]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            seconds = json.loads(path.read_text(encoding="utf-8"))["metadata"][PROVENANCE]["duration"]
    if fresh:
        with contextlib.suppress(OSError):
            runs = pd.read_parquet(figures / f"{notebook.number}{ENDING}", columns=["run_key", "run_duration_s"])
            return np.fmax(seconds, runs.drop_duplicates()["run_duration_s"].sum() / joblib.cpu_count())
    return nan if fresh else seconds


def planned(
    notebooks: Sequence[Notebook], *, preset: str, executed: Path, figures: Path, parameters: Mapping[str, Any]
) -> list[str]:
    """Return what `run_all` would do, in lines for people."""
    todo = _changed(_given(notebooks, preset, figures, parameters), executed / preset, figures / preset)
    left = times_left(todo, executed / preset, figures / preset, fresh=bool(parameters.get("fresh")))
    words = {each: "would run" if each in todo else "nothing has changed for" for each in notebooks}
    lines = [f"{words[each]} {each.number}  {each.title}, preset {preset}" for each in notebooks]
    settings = ", ".join(f"{name.replace('_', ' ')} {_in_words(value)}" for name, value in parameters.items())
    total = [f"{left[0]}, as the last time"] if left and left[0] else []
    return [*lines, f"with {settings}", *_left_out(notebooks), *total]


def _given(
    notebooks: Sequence[Notebook], preset: str, figures: Path, parameters: Mapping[str, Any]
) -> dict[Notebook, dict[str, Any]]:
    """Return the parameters of each: what one of them knows goes to those that do, and what none knows is refused."""
    parameters = {"preset": preset, "output_dir": str(figures), **parameters}
    known, given = {name for each in notebooks for name in each.parameters()}, dict[Notebook, dict[str, Any]]()
    for notebook in notebooks:
        others = known.difference(notebook.parameters())
        given[notebook] = {name: value for name, value in parameters.items() if name not in others}
        check_parameters(notebook, given[notebook])
    return given


def _changed(given: Mapping[Notebook, dict[str, Any]], executed: Path, figures: Path) -> list[Notebook]:
    """Return the notebooks to execute; `executed` and `figures` are the preset's folders."""
    return [
        notebook
        for notebook, parameters in given.items()
        if parameters.get("fresh")
        or not is_unchanged(notebook.path, executed / notebook.path.name, figures, parameters)
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _left_out(notebooks: Sequence[Notebook]) -> list[str]:
    """Return a line that names copies beside notebooks; no line if there are none."""
    others = [path.name for folder in {each.path.parent for each in notebooks} for path in numbered(folder)[1]]
    return [f"left out, as another notebook has the number: {', '.join(sorted(others))}"] if others else []


def run_all(
    notebooks: Sequence[Notebook], *, preset: str, executed: Path, figures: Path, parameters: dict[str, Any]
) -> bool:
    """Run the notebooks one after another, print what became of them and where things are; True if all is well.

    Those that would give again what is there are not executed, unless `fresh` is a parameter. One that fails does not
    stop the others. Kernels never run side by side; the parallelism is in the grid. The results page is written after
    each of them.
    """
    given = _given(notebooks, preset, figures, parameters)
    remove_leftovers(figures / preset)
    failed, well, fresh = [], True, bool(parameters.get("fresh"))
    for line in _left_out(notebooks):
        print(line)
    todo = _changed(given, executed / preset, figures / preset)
    for notebook in notebooks:
        if notebook not in todo:
            print(f"{notebook.number}  {notebook.title}\n    nothing has changed since it was executed", flush=True)
    left = times_left(todo, executed / preset, figures / preset, fresh=fresh)
    for notebook, time_left in zip(todo, left, strict=True):
        print(f"{notebook.number}  {notebook.title}{time_left and f' ({time_left} left)'}", flush=True)
        outcome = execute(notebook, executed / preset / notebook.path.name, given[notebook])
        if outcome.error is None and preset in COMMITTED:
            outcome = _with_its_runs(notebook, outcome, figures / preset, parameters.get("results_dir"))
        if outcome.error is None:
            print(f"    done in {outcome.seconds:.0f} s", flush=True)
        else:
            failed.append(notebook.number)
            print(f"    FAILED after {outcome.seconds:.0f} s: {outcome.error} (see {outcome.executed})", flush=True)
        if notebook is not todo[-1]:
            with contextlib.suppress(OSError, ValueError):  # which the last one raises
                _write_page(notebooks, preset, executed, figures, changed={notebook.path})
    if compared := as_committed(figures / preset, [each.number for each in notebooks if each.number not in failed]):
        print(compared)
    print(f"figures and tables:  {figures / preset}\nexecuted notebooks:  {executed / preset}")
    try:
        page = _write_page(notebooks, preset, executed, figures, changed={each.path for each in todo[-1:]})
        print(f"to read in a browser: {page}")
        check_manifest(figures / preset)
    except ManifestError as error:
        well = False
        print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(notebooks)} notebooks failed:  {', '.join(failed)}")
    return well and not failed


def _write_page(
    notebooks: Sequence[Notebook], preset: str, executed: Path, figures: Path, changed: set[Path]
) -> Path:  # fmt: skip
    sources = [each.path for folder in {each.path.parent for each in notebooks} for each in find(folder)]
    about = PRESETS.get(preset, "")
    return write_site(figures / preset, executed / preset, sources, preset=preset, about=about, changed=changed)
