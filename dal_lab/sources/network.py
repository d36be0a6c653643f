"""Downloads and questions to the network: each has a time-out, and says who asks."""

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dal_core import __version__

DOWNLOAD_TIMEOUT = 30  # Seconds without a byte, after which a download counts as failed.
USER_AGENT = f"dal-core/{__version__} (deep active learning; downloads each file once and keeps it)"
LIBRARIES = threading.RLock()  # What is set below is the process's, so that one thread at a time downloads.
HEADERS = {"User-Agent": USER_AGENT}  # Zenodo refuses the agents that Python's libraries name by default.


def download(url: str, target: Path, checksum: str | None = None) -> None:
    """Download a file to `target`; `checksum` is its digest, "md5:..." or "sha256:...", where one is known.

    Raises:
        OSError: if the address does not answer, the connection breaks off, or the digest is another one.
    """
    import pooch

    pooch.HTTPDownloader(headers=HEADERS, timeout=DOWNLOAD_TIMEOUT, chunk_size=2**20)(url, str(target), None)
    if checksum is not None:
        kind, _, expected = checksum.partition(":")
        if (found := pooch.file_hash(str(target), alg=kind)) != expected:
            raise OSError(f"its {kind} is {found}, {expected} was expected: it is cut off, or its publisher changed it")


@contextlib.contextmanager
def patient_libraries() -> Iterator[None]:
    """Give what libraries open with urllib a time-out and our agent, within the block.

    torchvision and scikit-learn set no time-out, so that a server that hangs would hold them for ever.
    """
    ours = urllib.request.build_opener()
    ours.addheaders = list(HEADERS.items())
    with LIBRARIES:
        timeout, opener = socket.getdefaulttimeout(), getattr(urllib.request, "_opener", None)
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        urllib.request.install_opener(ours)
        try:
            yield
        finally:
            socket.setdefaulttimeout(timeout)
            urllib.request.install_opener(opener)
