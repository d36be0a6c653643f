"""The end of a process that may have ended by itself."""

import contextlib

import psutil


def end_one(process: psutil.Process) -> None:
    """Kill a process; one that is gone already is fine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
