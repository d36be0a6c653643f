"""`python -m benchmarks.imagenet`: queries at the size of ImageNet on a GPU, beside what bounds them from below.

A table, and exit code 1 if a goal is missed. Every query is measured in a process of its own.
"""

import argparse
import dataclasses
import json
import platform
import subprocess
import sys

import joblib
import tabulate
import torch

from benchmarks.case import gigabytes
from benchmarks.imagenet import floors
from benchmarks.imagenet.data import SIZES
from benchmarks.imagenet.queries import DEFAULT, QUERIES, Measured, measure, size_of, words_of
from benchmarks.rates import load_before
from benchmarks.record import IMAGENET, write_imagenet
from benchmarks.timing import Timing
from dal_core.devices import DEVICES, resolve_device
from dal_core.randomness import fixed_threads

COLUMNS = ("query", "size", "time", "floor", "time / floor", "goal", "met", "peak memory", "beyond the inputs")
OPEN = """\
**The figures for CUDA are open: none of what follows has been run on a GPU.** The goal, BAIT-binary with a batch of
1,000 from all 1,281,167 instances in under 15 s and under 8 GB, is for CUDA and is not judged here. To fill this in:
`python -m benchmarks.imagenet --device cuda --output benchmarks/RESULTS.md`."""


def main() -> int:
    """Measure the chosen queries, print the table, and return the exit code."""
    options = _parse(joblib.cpu_count())
    with fixed_threads(options.threads):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    device = resolve_device(options.device)
    size = options.size or ("full" if device.type == "cuda" else "small")
    if options.measure:
        print(json.dumps(dataclasses.asdict(measure(options.measure, size_of(options.measure, size), device))))
        return 0
    load = load_before()
    rates = floors.measure(device)
    rows, missed = [], []
    for name in options.only or DEFAULT:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        measured = _in_a_process(name, size, device)
        judged = device.type == "cuda" and size == "full"
        if judged and not QUERIES[name].goal.met(Timing(measured.seconds, None), measured.peak):
            missed.append(name)
        rows.append(_row(name, size, measured, rates, judged=judged, met=name not in missed))
    table = tabulate.tabulate(rows, COLUMNS, tablefmt="github", disable_numparse=True)
    parts = [IMAGENET, *([] if device.type == "cuda" else [OPEN])]
    text = "\n\n".join([*parts, _machine(device, load, rates), table]) + "\n"
    print(text, end="")
    if options.output:
        write_imagenet(options.output, text)
    if missed:
        print(f"goal missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _parse(cores: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--size", choices=SIZES, help="default: full on CUDA, small on a CPU")
    parser.add_argument("--threads", type=int, default=cores, help="of torch and BLAS (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=QUERIES, metavar="NAME", help=f"one of {', '.join(QUERIES)}")
    parser.add_argument("--output", metavar="FILE", help="put the table there, as the section about ImageNet")
    parser.add_argument("--measure", choices=QUERIES, help=argparse.SUPPRESS)  # what a process of its own does
    return parser.parse_args()


def _in_a_process(name: str, size: str, device: torch.device) -> Measured:
    options = {"measure": name, "size": size, "device": device.type, "threads": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "benchmarks.imagenet", *(f"--{key}={value}" for key, value in options.items())]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Measured(**json.loads(printed))


def _row(name: str, size: str, measured: Measured, rates: floors.Rates, *, judged: bool, met: bool) -> tuple[str, ...]:
    query, of_query = QUERIES[name], size_of(name, size)
    floor = floors.seconds(query.floor(of_query, measured.told), rates)
    goal = query.goal if judged else None
    return (
        name, words_of(name, of_query), _duration(measured.seconds), _duration(floor),
        f"{measured.seconds / floor:.3g}", "-" if goal is None else str(goal),
        "-" if goal is None or str(goal) == "none" else "yes" if met else "NO",
        gigabytes(measured.peak), gigabytes(measured.own),
    )  # fmt: skip


def _machine(device: torch.device, load: str, rates: floors.Rates) -> str:
    """The device in words, with what the floors rest on."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
        tf32 = f", {_per_second(rates.with_tf32, 'TFLOP')} with TF32, which torch uses only where it is asked to"
    else:
        what, tf32 = f"CPU, {torch.get_num_threads()} thread(s)", ""
    return (
        f"{what}, load before {load}, torch {torch.__version__}, Python {platform.python_version()}. Measured on it: "
        f"bandwidth {rates.bandwidth / 1e9:,.3g} GB/s, products of float32 matrices at "
        f"{_per_second(rates.throughput, 'TFLOP')} with the precision {torch.get_float32_matmul_precision()!r}{tf32}."
    )


def _per_second(rate: float | None, unit: str) -> str:
    return f"{(rate or 0) / 1e12:.3g} {unit}/s"


def _duration(seconds: float) -> str:
    return f"{seconds:#.3g} s"


if __name__ == "__main__":
    sys.exit(main())
