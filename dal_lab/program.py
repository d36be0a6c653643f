"""The command `dal` as a program: how it starts, and how it ends when it is stopped or nobody reads its output.

Nothing is imported here that takes time, so that Ctrl-C is understood from the start.
"""

import atexit
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 and the number of the signal, as shells say
STOPPED = "stopped; what is finished is kept, the same command goes on from there"


def program() -> NoReturn:
    """Run the command that the arguments name; exit code 130 after Ctrl-C, 141 if nobody reads the output any more."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable
    import dal_core  # noqa: F401 - from where this package is, before the path changes

    # The working folder, where `python -m` looks first, goes last: a random.py there does not hide Python's.
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        sys.path.append(sys.path.pop(0))
        os.environ["PYTHONSAFEPATH"] = "1"  # nor in worker processes, which get the path from here
    from dal_lab.companion.command_line import main

    try:
        code = main()
    except (BrokenPipeError, SystemExit):  # rich, which prints the help, turns a closed pipe into SystemExit.
        code = PIPE_CLOSED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Nothing is left to be stopped.
    try:
        sys.stdout.flush()
    except (OSError, AttributeError):  # Nobody reads the output, a disk is full, or there is no output at all.
        sys.stdout = None  # Python would try again and complain.
    if code in (INTERRUPTED, PIPE_CLOSED):
        atexit._run_exitfuncs()
        os._exit(code)  # Python would print what was cut short.
    sys.exit(code)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; amid an import, where libraries make something else of it, end at once."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _stop()
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """End on Ctrl-C amid a destructor, which Python would report and forget."""
    if unraisable.exc_type is KeyboardInterrupt:
        _stop()
    sys.__unraisablehook__(unraisable)


def _stop() -> NoReturn:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(INTERRUPTED)
