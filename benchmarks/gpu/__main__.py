"""`python -m benchmarks.gpu`: one command that brings back from a GPU what is not known without one.

    python -m benchmarks.gpu --prepare gpu_inputs                     # where the data are; at most 32 MB
    python -m benchmarks.gpu --inputs gpu_inputs --out gpu_results    # where the GPU is; 8 minutes, no network
    python -m benchmarks.gpu.results gpu_results/gpu.json             # into benchmarks/results and RESULTS.md
    python -m benchmarks.gpu --device cpu --inputs gpu_inputs         # the same at sizes of two cores: does it all run?

Run it from the root of the repository. Five sections in the order of their worth, each in a process of its own that
is ended at its share of the minutes: what is there (with the tests marked `cuda`), times, runs, encoding, notebooks.
Each measurement is in `gpu.json` as soon as it is done, and one that fails is a line there: whatever ends the command
loses only what came after. Results are at most eight files: gpu.json, tables.tar.gz (CSV and Parquet) and pictures.

Needed are the package's own dependencies, and for single items pytest, transformers, torchvision and timm; what is
missing is a line in gpu.json. The notebooks need papermill as well. On a machine without a network, with Python 3.12
on x86-64 and the dependencies above, its packages come along as wheels (11 MB), and PYTHONPATH names where they are:

    pip download -d gpu_inputs_wheels --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_26_x86_64 --platform manylinux2014_x86_64 PACKAGES
    pip install --no-index --no-deps --target /tmp/site gpu_inputs_wheels/*.whl       # from here on where the GPU is
    PYTHONPATH=/tmp/site python -m benchmarks.gpu --inputs gpu_inputs

with PACKAGES = {packages}.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import torch

from benchmarks.gpu.papermilled import PACKAGES
from benchmarks.gpu.settings import Results, Settings, run_items

DEVICES = ("cuda", "cpu")


def main() -> int:
    """Prepare the inputs, run all sections, or one of them; the exit code is 0 where all sections have results."""
    options = _parse()
    if options.prepare is not None:
        from benchmarks.gpu.prepare import prepare

        return prepare(options.prepare, data_dir=options.data_dir, encoder=options.encoder)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("device is 'cuda', but torch sees no CUDA device here; 'cpu' was expected", file=sys.stderr)
        return 2
    if options.section is not None:
        return _section(options)
    from benchmarks.gpu.runner import Request, run

    start_up = time.time() - psutil.Process().create_time()
    results = run(Request(options.device, _absolute(options.inputs), options.out.resolve(), options.minutes, start_up))
    states = {name: part["status"] for name, part in results.values["sections"].items()}
    print(f"results: {results.path}")
    return (
        0 if all(any(i["status"] == "done" for i in results.section(name)["items"].values()) for name in states) else 1
    )


def _section(options: argparse.Namespace) -> int:
    from benchmarks.gpu.sections import SECTIONS

    _end_with_parent()
    deadline = time.monotonic() + options.until - time.time()
    settings = Settings(
        options.device, _absolute(options.inputs), options.out.resolve(), options.work, deadline,
        scaled_down=options.device == "cpu",
    )  # fmt: skip
    results = Results(options.out / "gpu.json")
    run_items(SECTIONS[options.section].items(settings), settings, results, options.section)
    return 0


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: nobody would end it at its limit."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _parse() -> argparse.Namespace:
    about = (__doc__ or "").replace("{packages}", " ".join(PACKAGES))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=DEVICES, default="cuda", help="default: %(default)s")
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="what --prepare wrote; parts of it will do")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="of all sections (default: %(default)s)")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the inputs there, and nothing else")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="for --prepare: local data, as everywhere")
    parser.add_argument("--encoder", type=Path, metavar="DIR", help="for --prepare: an image encoder to take along")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # these are for the processes of the sections
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _minutes(text: str) -> float:
    if not 0 < float(text) <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text} was given; a number above 0 and at most 1440 was expected")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
