"""Files that are either whole or absent."""

import contextlib
import os
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long a name, a folder that may not be read
        return False


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well.

    A reader sees the old file or the new one, never a part. A killed process leaves at most a hidden file, which
    nothing reads and `remove_leftovers` deletes. The folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays at the end, since some writers choose the format by it.
    owner = f"{platform.node()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.stem}~{owner}.part{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_leftovers(folder: str | Path) -> None:
    """Delete what processes of this machine that are no more left half-written in `folder`."""
    for part in Path(folder).glob(".*~*~*~*.part*"):
        host, process = part.name.split("~")[-3:-1]
        if host == platform.node() and process.isdigit() and not _is_running(int(process)):
            part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks whether the process is there
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
