"""Files in the format that their publishers give them, from a local folder or downloaded."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dal_core.data import FeatureBank
from dal_lab.runs.files import write_atomically
from dal_lab.sources.bank import standardised
from dal_lab.sources.network import download
from dal_lab.sources.raw import DatasetUnavailableError, Places, RawData, Source, Split, numbered, restated


@dataclasses.dataclass(frozen=True)
class Published(Source):
    """Files of a publisher: `files` maps local names to addresses; the data set's entry in `PARSERS` reads them.

    `checksums` maps local names to digests, "sha256:..." or "md5:...", which a download has to have.
    """

    place = "{publisher}"
    publisher: str
    files: dict[str, str]
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)

    def identity(self, name: str, places: Places) -> str:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self._paths(name, places)]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def read(self, name: str, places: Places) -> RawData | FeatureBank:
        paths = self._paths(name, places)
        what = f"{' and '.join(map(str, paths))} do not hold what {self.publisher} publishes as {name!r}: "
        with restated((ValueError, TypeError, IndexError, RecursionError, csv.Error), what, places=paths):
            return PARSERS[name](name, *paths)

    def addresses(self) -> list[str]:
        return list(self.files.values())

    def _paths(self, name: str, places: Places) -> list[Path]:
        return [fetch(name, file, url, places, self.checksums.get(file)) for file, url in self.files.items()]


def fetch(name: str, file: str, url: str, places: Places, checksum: str | None = None) -> Path:
    """Return the path of a file on this machine, which is downloaded whole or not at all.

    Raises:
        DatasetUnavailableError: if there is none, and it cannot be downloaded.
    """
    if (found := places.find(file)) is not None:
        return found
    target = places.cache / file
    absent = f"dataset {name!r}: no {file} in {places}, and the download from {url} failed ("
    way_out = "); fetch that file by hand and name its folder with --data-dir"
    with (
        restated(OSError, absent, way_out, kind=DatasetUnavailableError),
        write_atomically(target) as temporary,
    ):
        download(url, temporary, checksum)
    return target


def letter(_: str, path: Path) -> FeatureBank:
    """Read UCI's letter recognition: the letter, then 16 numbers."""
    rows = list(csv.reader(path.read_text(encoding="utf-8").split()))
    if len(rows) < 2 or any(len(row) != 17 for row in rows):
        raise ValueError(f"{path} does not look like UCI's letter-recognition.data: 17 columns a row were expected")
    features = np.array([row[1:] for row in rows], dtype=np.float64)
    return standardised(features, np.array([row[0] for row in rows]), "UCI letter-recognition.data", sort_rows=True)


def banking77(name: str, *paths: Path) -> RawData:
    """Read two tables with the columns text and category."""
    pairs = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or set(rows[0]) != {"text", "category"} or not all(row["text"] and row["category"] for row in rows):
            raise ValueError(f"{path} does not look like Banking77: the columns text and category were expected")
        pairs.append([(row["text"], row["category"]) for row in rows])
    return _texts(name, *pairs)


def clinc150(name: str, path: Path) -> RawData:
    """Read splits of pairs of text and intent; what is out of scope is left out."""
    with restated(ValueError, f"{path} is not whole JSON: "):
        splits = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(splits, dict) or not {"train", "test"} <= set(splits):
        raise ValueError(f"{path} does not look like CLINC150: the keys train and test were expected")
    for pair in (*splits["train"], *splits["test"]):
        if not isinstance(pair, list) or [type(each) for each in pair] != [str, str]:
            raise ValueError(f"{path} does not look like CLINC150: pairs of text and intent were expected")
    return _texts(name, splits["train"], splits["test"])


def _texts(name: str, *pairs: list) -> RawData:
    """Return raw data from pairs of text and class name for both splits, with classes in alphabetical order."""
    (train, train_names), (test, test_names) = (zip(*each, strict=True) for each in pairs)
    class_names = sorted(set(train_names))
    labels, test_labels = numbered((train_names, test_names), class_names, f"dataset {name!r}")
    return RawData("text", Split(train, labels), Split(test, test_labels), tuple(class_names))


PARSERS: dict[str, Callable[..., RawData | FeatureBank]] = {
    "letter": letter,
    "banking77": banking77,
    "clinc150": clinc150,
}
