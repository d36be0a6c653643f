"""Runs the sections one after another, each in a process of its own that is ended at its limit."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu import figures, machine
from benchmarks.gpu.processes import end_one
from benchmarks.gpu.sections import SECTIONS, Section
from benchmarks.gpu.settings import DEVICE_LOST, LONGEST_LINE, NO_TIME, Results, in_one_line
from dal_lab.runs.files import remove_leftovers

ROOT = Path(__file__).resolve().parents[2]
GRACE = 4.0  # seconds behind its limit in which a section may still write what it has
MOST_STARTS = 6  # of one section, which is started again behind an item that took its process with it
MOST_LOGGED = 30  # lines of a section that did not finish
STARTS = 3  # times the start of a process that a section gets at the least
SHORTEST = 3.0  # seconds: a section is not started for less
RESULTS = "gpu.json"


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command was asked for; `minutes` are those of all sections together.

    `start_up` are the seconds that the start of a process takes here, which a section has to have beside its share:
    where other work holds the cores, that alone may be more than its share of few minutes.
    """

    device: str
    inputs: Path | None
    out: Path
    minutes: float
    start_up: float = 0.0


def run(request: Request, sections: Mapping[str, Section] = SECTIONS) -> Results:
    """Run the sections and return the results, which lie in `out`/gpu.json from the first moment on.

    A section that ends early leaves its time to those behind it.
    """
    start = time.monotonic()
    request.out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(request.out)
    (request.out / RESULTS).unlink(missing_ok=True)
    results = Results(request.out / RESULTS)
    results.values |= {"started": _today(), "asked_for": _words(request), "machine": machine.software(request.inputs)}
    results.write()
    with tempfile.TemporaryDirectory(prefix="dal-gpu-") as work:
        waiting = list(sections)
        while waiting:
            left = 60 * request.minutes - (time.monotonic() - start)
            worth = [sections[name].worth[request.device] for name in waiting]
            name = waiting.pop(0)
            share = max(left * worth[0] / sum(worth), min(left, STARTS * request.start_up))
            results = _run_section(name, share, request, Path(work))
    results.values |= {"finished": _today(), "seconds": round(time.monotonic() - start, 1)}
    results.write()
    return results


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _words(request: Request) -> dict[str, Any]:
    return {"device": request.device, "minutes": request.minutes, "inputs": request.inputs is not None}


def _run_section(name: str, seconds: float, request: Request, work: Path) -> Results:
    """Run a section, again behind each item that ended its process, and write down how it ended."""
    start, line, code = time.monotonic(), "", 0
    print(f"{name}: up to {seconds:.0f} s", flush=True)
    for _ in range(MOST_STARTS):
        left = seconds - (time.monotonic() - start)
        if left < SHORTEST:
            line = line or NO_TIME
            break
        code, line = _process(_command(name, left, request, work), left + GRACE, work / f"{name}.log")
        results = Results(request.out / RESULTS)
        if code == 0 or not _close(results.section(name), code, line):
            break
        results.write()
    results = Results(request.out / RESULTS)
    remove_leftovers(request.out)
    part = results.section(name)
    _close(part, code, line)
    part["status"] = _status(part, code)
    part |= {"seconds": round(time.monotonic() - start, 1), "limit_s": round(seconds, 1)}
    if part["status"] != "finished":
        part |= {"line": line, "log": _last_lines(work / f"{name}.log", MOST_LOGGED)}
    results.values["machine"] |= machine.card_of(results.values["sections"])
    results.write()
    _draw(results, request.out)
    print(f"{name}: {part['status']} after {part['seconds']:.0f} s, {_count(part)}", flush=True)
    return results


def _command(name: str, seconds: float, request: Request, work: Path) -> list[str]:
    options = {"section": name, "until": time.time() + seconds, "device": request.device, "out": request.out}
    options |= {"work": work} | ({} if request.inputs is None else {"inputs": request.inputs})
    return [sys.executable, "-m", "benchmarks.gpu", *(f"--{key}={value}" for key, value in options.items())]


def _process(command: Sequence[str], seconds: float, log: Path) -> tuple[int, str]:
    """Exit code and last words of a process; it and all that it started are ended after so many seconds."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment()
        )  # fmt: skip
        try:
            return process.wait(seconds), (_last_lines(log, 1) or ["it said nothing"])[0]
        except subprocess.TimeoutExpired:
            return -1, f"ended at its limit of {seconds:.0f} s"
        finally:
            end(process)


def environment() -> dict[str, str]:
    """That of this process, in which the package is found from any folder: a notebook's kernel runs in its own."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


def end(process: subprocess.Popen) -> None:
    """Kill a process with all that it started, those in sessions of their own, as kernels are, among them."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.kill()
        process.wait()
    for each in family:
        end_one(each)


def _last_lines(log: Path, most: int) -> list[str]:
    if not log.is_file():
        return []
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return [line[:LONGEST_LINE] for line in lines[-most:]]


def _close(part: dict[str, Any], code: int, line: str) -> bool:
    """Write down the items that were running when the process ended; whether there were any to go on behind."""
    running = [name for name, item in part["items"].items() if item.get("status") == "running"]
    words = {-1: "out of time", DEVICE_LOST: "failed"}.get(code, "failed")
    for name in running:
        part["items"][name] |= {"status": words, "line": f"its process ended ({_exit(code)}): {line}"[:LONGEST_LINE]}
    return code != -1 and (bool(running) or code == DEVICE_LOST)


def _exit(code: int) -> str:
    if code == -1:
        return "time"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _status(part: dict[str, Any], code: int) -> str:
    if not part["items"]:
        return "failed" if code not in (0, -1) else "out of time"
    late = [
        item["status"] in ("out of time", "running") or item.get("line") == NO_TIME for item in part["items"].values()
    ]
    if code == -1 or any(late):
        return "out of time"
    return "finished" if code == 0 else "failed"


def _count(part: dict[str, Any]) -> str:
    states = [item["status"] for item in part["items"].values()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "nothing"


def _draw(results: Results, out: Path) -> None:
    for name, draw in figures.DRAWINGS.items():
        try:
            draw(results.values["sections"], out / name)
        except Exception as error:  # a drawing is no reason to end
            print(f"{name} was not drawn: {in_one_line(error)}", file=sys.stderr, flush=True)
