"""`python -m benchmarks.memory N`: the largest memory of a process that does nothing but BAIT-binary on N samples.

The process makes the data itself; torch and its libraries are part of what it holds.
"""

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.data import snapshot
from dal_core.randomness import generator_for
from dal_core.strategies.bait import bait

NUM_LABELLED, BATCH_SIZE = 300, 100


def peak_of_bait(num_pool: int) -> int:
    """Bytes, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", str(num_pool)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _peak() -> int:
    """The largest resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it made this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    bait(snapshot(int(sys.argv[1]), NUM_LABELLED), BATCH_SIZE, generator_for(0))
    print(_peak())
