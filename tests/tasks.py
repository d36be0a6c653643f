"""Tasks for workers to do, in a module that they can import."""

import os
import signal
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_info


def sleeping(seconds):
    time.sleep(seconds)
    return seconds


def process():
    return os.getpid()


def process_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def failing():
    raise KeyError("lost")


def noting(folder, name, seconds=0.0):
    """Write this process's id to a new file, then sleep."""
    count = len(list(Path(folder).glob(f"{name}-*")))
    Path(folder, f"{name}-{count}").write_text(str(os.getpid()))
    time.sleep(seconds)
    return name


def killed(folder, name, times):
    """End this process with SIGKILL the first so many times."""
    noting(folder, name)
    if len(list(Path(folder).glob(f"{name}-*"))) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def threads():
    """Return how many threads torch, BLAS and OpenMP may use here."""
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]
