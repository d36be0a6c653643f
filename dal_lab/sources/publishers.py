"""Files in the format that their publishers give them, from a local folder or downloaded."""

import csv
import dataclasses
import hashlib
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dal_core.checks import one_line
from dal_core.data import FeatureBank
from dal_lab.runs.files import write_atomically
from dal_lab.sources.raw import DatasetUnavailableError, Origin, Places, RawData, Split, numbered
from dal_lab.sources.tables import standardised

DOWNLOAD_TIMEOUT = 30  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Published(Origin):
    """Files of a publisher: `files` maps a local file name to its address, `parse` gets their paths in that order."""

    publisher: str
    files: dict[str, str]
    parse: Callable[..., RawData | FeatureBank]

    def where(self) -> str:
        return self.publisher

    def identity(self, name: str, places: Places) -> str:
        paths = [fetch(name, file, url, places) for file, url in self.files.items()]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def read(self, name: str, places: Places) -> RawData | FeatureBank:
        paths = [fetch(name, file, url, places) for file, url in self.files.items()]
        try:
            return self.parse(name, *paths)
        except (ValueError, TypeError, IndexError, RecursionError, csv.Error) as error:
            if any(str(path) in str(error) for path in paths):
                raise
            where = " and ".join(map(str, paths))
            what = f"{where} do not hold what {self.publisher} publishes as {name!r}"
            raise ValueError(f"{what}: {one_line(error) or type(error).__name__}") from error


def fetch(name: str, file: str, url: str, places: Places) -> Path:
    """The local copy of a file, downloaded whole or not at all.

    Raises:
        DatasetUnavailableError: if there is none, and none to be had.
    """
    if (found := places.find(file)) is not None:
        return found
    target = places.cache / file
    try:
        with (
            urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response,
            write_atomically(target) as temporary,
            open(temporary, "wb") as out,
        ):
            shutil.copyfileobj(response, out)
            # http.client ends without an error when the other side hangs up early.
            if response.length:
                raise OSError(f"the connection broke off {response.length} bytes before the end")
    except (OSError, urllib.error.URLError) as error:
        raise DatasetUnavailableError(
            f"dataset {name!r}: no {file} in {places}, and the download from {url} failed "
            f"({getattr(error, 'reason', error)}); fetch that file by hand and name its folder with --data-dir"
        ) from error
    return target


def letter(_: str, path: Path) -> FeatureBank:
    """UCI's letter recognition: the letter, then 16 numbers."""
    rows = list(csv.reader(path.read_text(encoding="utf-8").split()))
    if len(rows) < 2 or any(len(row) != 17 for row in rows):
        raise ValueError(f"{path} does not look like UCI's letter-recognition.data: 17 columns a row were expected")
    features = np.array([row[1:] for row in rows], dtype=np.float64)
    return standardised(features, np.array([row[0] for row in rows]), "UCI letter-recognition.data")


Texts = tuple[list[str], list[str]]  # texts and their class names


def banking77(name: str, train_path: Path, test_path: Path) -> RawData:
    """Two tables with the columns text and category."""

    def read(path: Path) -> Texts:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or set(rows[0]) != {"text", "category"} or not all(row["text"] and row["category"] for row in rows):
            raise ValueError(f"{path} does not look like Banking77: the columns text and category were expected")
        return [row["text"] for row in rows], [row["category"] for row in rows]

    return texts(name, read(train_path), read(test_path))


def clinc150(name: str, path: Path) -> RawData:
    """Splits of pairs of text and intent; what is out of scope is left out."""
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON: {error}") from error
    if not isinstance(splits, dict) or not {"train", "test"} <= set(splits):
        raise ValueError(f"{path} does not look like CLINC150: the keys train and test were expected")
    pairs = [pair for key in ("train", "test") for pair in splits[key]]
    if not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair) for pair in pairs
    ):
        raise ValueError(f"{path} does not look like CLINC150: pairs of text and intent were expected")
    train, test = ([list(column) for column in zip(*splits[key], strict=True)] for key in ("train", "test"))
    return texts(name, (train[0], train[1]), (test[0], test[1]))


def texts(name: str, train: Texts, test: Texts) -> RawData:
    """Raw data from texts in memory; classes in alphabetical order."""
    class_names = sorted(set(train[1]))

    def split(part: str, content: Texts) -> Split:
        labels = numbered(class_names, content[1], f"dataset {name!r}")
        return Split(content[0], labels, lambda i: f"{part} text {i}")

    return RawData("text", split("train", train), split("test", test), tuple(class_names))
