"""`python -m benchmarks`: every algorithm beside its yardsticks, and how costs grow; exit code 1 for a missed goal."""

import argparse
import sys
import time
from pathlib import Path

import joblib
import torch

from benchmarks import scaling, scaling_figures, tables
from benchmarks.cases import CASES, FAMILIES
from benchmarks.rates import bandwidth, load_before
from benchmarks.record import write_scaling, write_table
from benchmarks.tables import Failed, Result
from benchmarks.timing import SHORTEST_MEASUREMENT, Timing, compare
from dal_core.parallel import fixed_threads

GOAL_THREADS = 2  # the goals are for a machine with two cores; on one thread a table is for information
FOLDER = Path(__file__).resolve().parent
PARTS = ("all", "tables", "scaling")


def main() -> int:
    """Measure what was chosen, print and store it, and return the exit code."""
    cores = joblib.cpu_count()  # those that this process may use
    options = _parse(cores)
    load = load_before()
    with fixed_threads(options.threads):
        rate = bandwidth(torch.device("cpu"))
        machine = tables.machine(cores, options.threads, load, options.repeats, rate)
        missed = [] if options.part == "scaling" else _tables(options, machine, rate)
    if options.part != "tables" and not options.only:
        _scaling(options, machine)
    if missed:
        print(f"goal missed, or failed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _tables(options: argparse.Namespace, machine: str, rate: float) -> list[str]:
    """Measure and write the tables; the names of the cases that failed or missed their goals."""
    start, missed = time.perf_counter(), []
    sections = []
    for family in FAMILIES:
        names = [name for name in family.cases if not options.only or name in options.only]
        if family.missing and not options.only:
            sections.append(f"## {family.title}\n\nLeft out: {family.missing} is not installed.")
        if names:
            results = [_measured(name, options) for name in names]
            missed += [each.name for each in results if isinstance(each, Failed) or each.missed]
            sections.append(tables.section(family.title, results, rate))
    took = f"The tables took {time.perf_counter() - start:.0f} s."
    text = "\n\n".join(["# Benchmarks", f"{machine} {took}", tables.LEGEND, *sections]) + "\n"
    print(text, end="", flush=True)
    if options.output:
        write_table(options.output, text)
    return missed


def _measured(name: str, options: argparse.Namespace) -> Result | Failed:
    """Measure a case; one that fails, as in a check that both ways agree, leaves the others alone."""
    try:
        return _result(name, options)
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f", failed: {line}", file=sys.stderr, flush=True)
        return Failed(name, line)


def _result(name: str, options: argparse.Namespace) -> Result:
    print(f"measuring {name}", file=sys.stderr, flush=True, end="")
    start = time.perf_counter()
    case = CASES[name](small=options.small)
    shortest = 0.0 if options.small else SHORTEST_MEASUREMENT
    warm = case.own is None and not options.small  # watching tensors takes longer than the small cases themselves
    timing = compare(case.ours, case.textbook, options.repeats, shortest=shortest, warm=warm)
    if timing.textbook is not None:
        held = None if case.foreign else timing.textbook_memory
        timing = Timing(timing.ours, timing.textbook * case.scale, timing.memory, held)
    print(f", {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return Result(name, case, timing, judged=options.threads >= GOAL_THREADS and not options.small)


def _scaling(options: argparse.Namespace, machine: str) -> None:
    start = time.perf_counter()
    points = scaling.costs(small=options.small)
    figures = scaling_figures.draw(points, options.figures) if options.figures else {}
    took = f"{machine} This part took {time.perf_counter() - start:.0f} s."
    text = scaling_figures.section(points, figures, options.output, took)
    print(f"\n{text}", flush=True)
    if options.output:
        write_scaling(options.output, text)


def _parse(cores: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=_positive, default=cores, help="of torch and BLAS (default: %(default)s)")
    parser.add_argument("--repeats", type=_positive, default=5, help="measurements a case (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--part", choices=PARTS, default="all", help="the tables, how costs grow, or all of it")
    parser.add_argument("--small", action="store_true", help="tiny sizes, once each, to see that all of it runs")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="results, of which the parts that are not measured stay (default: benchmarks/RESULTS.md; none with "
        "--only or --small)",
    )  # fmt: skip
    parser.add_argument(
        "--figures", type=Path, metavar="DIR",
        help="where to draw how costs grow (default: benchmarks/figures; nowhere with --only or --small)",
    )  # fmt: skip
    options = parser.parse_args()
    if options.small:
        options.repeats = 1
    elif not options.only:
        options.output = options.output or FOLDER / "RESULTS.md"
        options.figures = options.figures or FOLDER / "figures"
    return options


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} was given; at least 1 was expected")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
