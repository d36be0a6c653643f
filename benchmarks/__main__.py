"""`python -m benchmarks`: one table, and exit code 1 if a goal is missed."""

import argparse
import os
import platform
import sys

import joblib
import tabulate
import torch

from benchmarks.case import Case, gigabytes, times
from benchmarks.cases import CASES
from benchmarks.record import write_table
from benchmarks.timing import Timing, compare
from dal_core.randomness import fixed_threads

GOAL_THREADS = 2  # the goals are for a machine with two cores; on one thread a table is for information
COLUMNS = ("case", "size", "ours (median)", "yardstick (median)", "ratio", "goal", "met")


def main() -> int:
    """Measure the chosen cases, print the table, and return the exit code."""
    cores = joblib.cpu_count()  # those that this process may use
    options = _parse(cores)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"  # of others: before we start
    rows, missed = [], []
    with fixed_threads(options.threads):
        for name in options.only or CASES:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            case = CASES[name]()
            timing = compare(case.ours, case.textbook, options.repeats)
            if timing.textbook is not None:
                timing = Timing(timing.ours, timing.textbook * case.scale)
            judged = options.threads >= GOAL_THREADS
            rows.append(_row(name, case, timing, judged=judged))
            if judged and not case.goal.met(timing, case.memory):
                missed.append(name)
    machine = (
        f"{cores} CPU cores available, load before {load}, threads used: {options.threads}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, median of {options.repeats} repeats, of fewer for slow cases"
    )
    text = f"{machine}\n\n{tabulate.tabulate(rows, COLUMNS, tablefmt='github', disable_numparse=True)}\n"
    print(text, end="")
    if options.output:
        write_table(options.output, text)
    if missed:
        print(f"goal missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _parse(cores: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=_positive, default=cores, help="of torch and BLAS (default: %(default)s)")
    parser.add_argument("--repeats", type=_positive, default=7, help="measurements a case (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument(
        "--output", metavar="FILE", help="write the table there, too, and leave its section about ImageNet"
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} was given; at least 1 was expected")
    return int(text)


def _row(name: str, case: Case, timing: Timing, *, judged: bool) -> tuple[str, ...]:
    size = case.size + (f"; {gigabytes(case.memory)} of memory" if case.memory is not None else "")
    yardstick = (
        "-" if timing.textbook is None else _duration(timing.textbook) + (f" ({case.note})" if case.note else "")
    )
    ratio = "-" if timing.ratio is None else times(timing.ratio)
    met = "-" if str(case.goal) == "none" or not judged else "yes" if case.goal.met(timing, case.memory) else "NO"
    return name, size, _duration(timing.ours), yardstick, ratio, str(case.goal), met


def _duration(seconds: float) -> str:
    return f"{seconds:#.3g} s"


if __name__ == "__main__":
    sys.exit(main())
