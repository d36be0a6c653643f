"""`python -m benchmarks.memory NAME N`: the largest memory of a process that makes one query in a pool of N samples.

The process makes the data itself; torch and its libraries are part of what it holds.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil

from benchmarks.data import snapshot
from dal_core import experiment, strategies  # noqa: F401 - the first registers all strategies
from dal_core.randomness import generator_for

SIZES = {"bait": (300, 100), "refine": (377, 50)}  # labelled instances, batch


def peak_of(name: str, num_pool: int) -> tuple[int, int]:
    """Measure bytes in a process of its own: all of them, and those beyond what it held before the query."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(num_pool)]
    whole, own = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return whole, own


def peak() -> int:
    """Return the largest resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it made this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    num_labelled, batch_size = SIZES[sys.argv[1]]
    at = snapshot(int(sys.argv[2]), num_labelled)
    held = psutil.Process().memory_info().rss
    strategies.get(sys.argv[1])(at, batch_size, generator_for(0))
    print(json.dumps([peak(), max(0, peak() - held)]))
