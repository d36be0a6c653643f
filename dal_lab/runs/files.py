"""Writing files so that they are whole or absent, and show when they were changed."""

import contextlib
import errno
import hashlib
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

SEAL = b"sha256 of this file, had it zeros here: "
UNSEALED = SEAL + b"0" * 64
# Errors that the place has, unlike those of a download that is cut off while it is written.
WRITING_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)


def is_file(path: str | Path) -> bool:
    """Return whether there is a file; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long a name, a folder that may not be read
        return False


def is_folder(path: str | Path) -> bool:
    """Return whether there is a folder; a name that none can have is none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well.

    A reader sees the old file or the new one, never a part. A killed process leaves at most a hidden file, which
    nothing reads and `remove_leftovers` deletes. The folder is made if need be.

    Raises:
        OSError: naming `path`, if the disk is full, the folder cannot be written to, or a folder is in the way.
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
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    except OSError as error:  # libraries leave out the file's name, or name the temporary one
        if error.errno not in WRITING_FAILS or error.filename not in (None, str(temporary)):
            raise
        raise type(error)(f"{path} cannot be written: {os.strerror(error.errno)}") from error
    finally:
        with contextlib.suppress(OSError):  # Its error would hide why there is something to delete.
            temporary.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Make `folder` if need be, and see that it can be written to: better before hours of computing than after.

    Raises:
        OSError: if it is no folder, cannot be written to, or its disk is full.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"?")
    except FileExistsError as error:
        raise NotADirectoryError(f"{folder} is a file; a folder was expected") from error
    except OSError as error:
        raise type(error)(f"the folder {folder} cannot be written to: {error.strerror}") from error


def sealed(content: bytes) -> bytes:
    """Return a file's content with `UNSEALED` somewhere, its zeros replaced by the digest of the whole.

    A digest inside the file needs no second file, which could be lost or belong to an older one.
    """
    return content.replace(UNSEALED, SEAL + hashlib.sha256(content).hexdigest().encode())


def is_intact(content: bytes) -> bool:
    """Return whether every byte is as `sealed` returned it; True without a seal."""
    opened = re.sub(SEAL + b".{64}", UNSEALED, content, flags=re.DOTALL)
    return sealed(opened) == content


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_leftovers(folder: str | Path) -> None:
    """Delete half-written files in `folder` whose processes, of this machine, have ended; read-only ones stay."""
    for part in Path(folder).glob(".*~*~*~*.part*"):
        host, process = part.name.split("~")[-3:-1]
        if host == platform.node() and process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                part.unlink()


def _is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # A zombie writes no more.
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
