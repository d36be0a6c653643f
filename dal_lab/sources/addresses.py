"""Which addresses of data sets and encoders answer: each is asked for its head only."""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from dal_core.checks import check_choice
from dal_lab.sources.catalogue import data_sets
from dal_lab.sources.encoders import known_encoders
from dal_lab.sources.hub import hub_address
from dal_lab.sources.network import HEADERS

CHECK_TIMEOUT = 10.0  # Seconds without an answer, after which an address counts as out of reach.
AT_ONCE = 16
ANSWERS_NO_HEAD = (405, 501)  # The server is there, and wants to be asked for the whole.
ADVICE = {
    401: "log in with `hf auth login` or set HF_TOKEN, and ask for access on its page",
    403: "the server refuses: ask for access on its page, or fetch it by hand and name its folder with --data-dir",
    404: "it is gone: another source, or a copy by hand in --data-dir",
    429: "too many requests: try again later",
}
NO_ANSWER = "try again later, or fetch it by hand and name its folder with --data-dir"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an address of a data set or an encoder answered."""

    name: str
    reached: bool
    answer: str
    size: int | None  # bytes, where the server says so
    seconds: float
    address: str
    what_to_do: str


def addresses(names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return names and addresses of those data sets and encoders, or of all of them.

    Raises:
        ValueError: for an unknown name; lists those that are known.
    """
    known = {name: [url for source in each.sources for url in source.addresses()] for name, each in data_sets().items()}
    for name, encoder in known_encoders().items():
        known[name] = [hub_address(f"{encoder.model}/resolve/{encoder.revision or 'main'}/config.json")]
    for name in names:
        check_choice("name", name, known)
    return [(name, url) for name in (names or known) for url in dict.fromkeys(known[name])]


def check(names: Sequence[str] = ()) -> list[Answer]:
    """Return what the addresses of those data sets and encoders answer, or of all of them, in the order of the names.

    Raises:
        ValueError: for an unknown name; lists those that are known.
    """
    pairs = addresses(names)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda pair: _asked(*pair), pairs))


def _asked(name: str, url: str) -> Answer:
    import requests

    start = time.perf_counter()
    note = known_encoders()[name].note if name in known_encoders() else ""
    try:
        found = requests.head(url, headers=HEADERS, timeout=CHECK_TIMEOUT, allow_redirects=True)
    except requests.Timeout:
        code, said, size = 0, f"no answer within {CHECK_TIMEOUT:g} s", None
    except requests.RequestException as error:
        reason = getattr(error.args[0], "reason", error) if error.args else error
        code, said, size = 0, f"no connection ({type(reason).__name__})", None
    else:
        code, said = found.status_code, f"HTTP {found.status_code}"
        size = int(found.headers["Content-Length"]) if found.headers.get("Content-Length", "").isdigit() else None
        if (host := urlsplit(found.url).netloc) != urlsplit(url).netloc or found.history:
            said += f", moved to {host}"
    reached = 200 <= code < 300 or code in ANSWERS_NO_HEAD
    advice = "" if reached else ADVICE.get(code, NO_ANSWER)
    seconds = round(time.perf_counter() - start, 2)
    return Answer(name, reached, said, size, seconds, url, "; ".join(filter(None, [advice, note])))
