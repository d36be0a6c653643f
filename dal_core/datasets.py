"""Named data sets as FeatureBanks: bundled ones, local files in their publishers' format, and downloads.

`load("letter", data_dir="data")` looks, in this order, for a FeatureBank `letter.safetensors`, an archive of arrays
`letter.npz`, and the publisher's own file, and downloads the latter when there is no such file. With an encoder the
first two are named `<dataset>_<encoder>`, e.g. `banking77_minilm.npz`.
"""

import csv
import dataclasses
import json
import math
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import train_test_split

from dal_core.checks import check_choice
from dal_core.encoders import ENCODERS, encode_texts
from dal_core.features import FeatureBank
from dal_core.files import write_atomically

NUM_TOY_POINTS = 1000
TEST_SHARE = 0.25
DOWNLOAD_TIMEOUT = 30  # seconds without a byte


class DatasetUnavailableError(FileNotFoundError):
    """The data are neither on this machine nor to be had from the network."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from: `files` maps a local file name to the address it is published at."""

    make: Callable[..., FeatureBank]
    description: str
    licence: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    texts: bool = False


def load(name: str, *, encoder: str | None = None, data_dir: str | Path | None = None) -> FeatureBank:
    """The data set `name` as float32 features on the CPU; cached within the process.

    Args:
        name: one of `names()`, or any name for which `data_dir` holds a feature file.
        encoder: None for data that are features already, else what turned, or turns, instances into features:
            a name of `encoders.ENCODERS`, a model identifier of the Hugging Face hub or a local model folder.
        data_dir: folder with local files; downloads are kept in the cache folder (`DAL_CACHE`).

    Raises:
        ValueError: unknown name, an encoder where none applies or none where one is needed, a file with wrong content.
        DatasetUnavailableError: nothing local and no network; says what was looked for, where, and how to get it.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise DatasetUnavailableError(f"data_dir {folder} is not a folder")
    return _load(name, encoder, folder)


def names() -> list[str]:
    """The data sets that `load` can make by itself."""
    return sorted(SOURCES)


@lru_cache(maxsize=8)
def _load(name: str, encoder: str | None, folder: Path | None) -> FeatureBank:
    prepared = f"{name}_{encoder}" if encoder else name
    if folder is not None:
        if (folder / f"{prepared}.safetensors").is_file():
            return FeatureBank.load(folder / f"{prepared}.safetensors")
        if (folder / f"{prepared}.npz").is_file():
            return _from_arrays(folder / f"{prepared}.npz", name, encoder)
    if name not in SOURCES and encoder is not None:
        raise DatasetUnavailableError(
            f"dataset {name!r} with encoder {encoder!r}: no {prepared}.safetensors or {prepared}.npz "
            f"({f'looked in {folder}' if folder else 'no --data-dir was given'}); make one with FeatureBank.save "
            f"and name its folder with --data-dir, or use one of {', '.join(names())}"
        )
    check_choice("dataset", name, names())
    source = SOURCES[name]
    if source.texts and encoder is None:
        raise ValueError(f"encoder is None, but dataset {name!r} holds texts: name one, e.g. {next(iter(ENCODERS))!r}")
    if not source.texts and encoder is not None:
        raise ValueError(
            f"encoder is {encoder!r}, but dataset {name!r} consists of features already: None was expected"
        )
    paths = [_local_or_downloaded(name, file, url, folder) for file, url in source.files.items()]
    return source.make(name, encoder, *paths) if source.texts else source.make(*paths)


def _local_or_downloaded(name: str, file: str, url: str, folder: Path | None) -> Path:
    candidates = [place / file for place in (folder, cache_dir()) if place is not None]
    for path in candidates:
        if path.is_file():
            return path
    target = candidates[-1]
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
        places = " and ".join(str(path.parent) for path in candidates)
        raise DatasetUnavailableError(
            f"dataset {name!r}: no {file} in {places}, and the download from {url} failed "
            f"({getattr(error, 'reason', error)}); fetch that file by hand and name its folder with --data-dir"
        ) from error
    return target


def cache_dir() -> Path:
    """The folder for downloads and encoded features: `DAL_CACHE`, else `dal_core` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dal_core"
    return Path(os.environ.get("DAL_CACHE") or default)


def _bank(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray,
    class_names: Iterable[object], **provenance: Any,
) -> FeatureBank:  # fmt: skip
    return FeatureBank(
        torch.as_tensor(np.asarray(train, dtype=np.float32)),
        torch.as_tensor(np.asarray(train_labels, dtype=np.int64)),
        torch.as_tensor(np.asarray(test, dtype=np.float32)),
        torch.as_tensor(np.asarray(test_labels, dtype=np.int64)),
        tuple(str(name) for name in class_names),
        provenance,
    )


Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train, train labels, test, test labels


def _split(features: np.ndarray, labels: np.ndarray, *, stratify: bool) -> Split:
    train, test, train_labels, test_labels = train_test_split(
        features, labels, test_size=TEST_SHARE, random_state=0, stratify=labels if stratify else None
    )
    return train, train_labels, test, test_labels


def _digits() -> FeatureBank:
    bunch = sklearn_datasets.load_digits()
    parts = _split(bunch.data / 8.0, bunch.target, stratify=True)  # grey values 0..16 to [0, 2]
    return _bank(*parts, bunch.target_names, source="scikit-learn, load_digits", split="stratified 75/25, seed 0")


def _toy(points: np.ndarray, labels: np.ndarray, source: str) -> FeatureBank:
    parts = _split(points, labels, stratify=True)
    class_names = [f"class {label}" for label in np.unique(labels)]
    return _bank(*parts, class_names, source=source, split="stratified 75/25, seed 0")


def _moons() -> FeatureBank:
    points, labels = sklearn_datasets.make_moons(NUM_TOY_POINTS, noise=0.15, random_state=0)
    return _toy(points, labels, "scikit-learn, make_moons, noise 0.15")


def _blobs() -> FeatureBank:
    centers = [[-1.5, -1.0], [1.5, -1.0], [0.0, 1.5], [0.0, 0.0]]
    points, labels = sklearn_datasets.make_blobs(NUM_TOY_POINTS, centers=centers, cluster_std=0.45, random_state=0)
    return _toy(points, labels, "scikit-learn, make_blobs, 4 centres")


def _letter(path: Path) -> FeatureBank:
    rows = list(csv.reader(path.read_text(encoding="utf-8").split()))
    if len(rows) < 2 or any(len(row) != 17 for row in rows):
        raise ValueError(f"{path} does not look like UCI's letter-recognition.data: 17 columns a row were expected")
    letters = np.array([row[0] for row in rows])
    features = np.array([row[1:] for row in rows], dtype=np.float64)
    class_names, labels = np.unique(letters, return_inverse=True)
    train, train_labels, test, test_labels = _split(features, labels, stratify=False)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return _bank(
        (train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels, class_names,
        source="UCI letter-recognition.data", split="75/25, seed 0", scaling="standardised on the train split",
    )  # fmt: skip


Texts = tuple[list[str], list[str]]  # texts and their class names


def _banking77(name: str, encoder: str, train_path: Path, test_path: Path) -> FeatureBank:
    def read(path: Path) -> Texts:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or set(rows[0]) != {"text", "category"}:
            raise ValueError(f"{path} does not look like Banking77: the columns text and category were expected")
        return [row["text"] for row in rows], [row["category"] for row in rows]

    return _encoded(name, encoder, read(train_path), read(test_path))


def _clinc150(name: str, encoder: str, path: Path) -> FeatureBank:
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON: {error}") from error
    if not isinstance(splits, dict) or not {"train", "test"} <= set(splits):
        raise ValueError(f"{path} does not look like CLINC150: the keys train and test were expected")
    train, test = ([list(column) for column in zip(*splits[key], strict=True)] for key in ("train", "test"))
    return _encoded(name, encoder, (train[0], train[1]), (test[0], test[1]))


def _encoded(name: str, encoder: str, train: Texts, test: Texts) -> FeatureBank:
    """Texts to features, kept in the cache folder, since encoding takes minutes on a CPU."""
    class_names = sorted(set(train[1]))
    label_of = {class_name: label for label, class_name in enumerate(class_names)}
    if unknown := set(test[1]) - set(class_names):
        raise ValueError(f"dataset {name!r}: test classes {sorted(unknown)} do not occur in the train split")
    features = [encode_texts(texts, encoder, cache_dir() / "features") for texts, _ in (train, test)]
    labels = [np.array([label_of[each] for each in split[1]]) for split in (train, test)]
    scale = _training_scale(features[0])
    return _bank(
        features[0] * scale, labels[0], features[1] * scale, labels[1], class_names,
        source=name, encoder=encoder, scaling=f"multiplied by {scale:g}",
    )  # fmt: skip


def _from_arrays(path: Path, name: str, encoder: str | None) -> FeatureBank:
    """An archive with x_train, y_train, x_test, y_test, classes."""
    keys = ("x_train", "y_train", "x_test", "y_test", "classes")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys if key in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole archive of plain arrays: {error}") from error
    if missing := [key for key in keys if key not in arrays]:
        raise ValueError(f"{path} lacks the arrays {missing}; {list(keys)} were expected")
    train, train_labels, test, test_labels, class_names = (arrays[key] for key in keys)
    for key, labels in (("y_train", train_labels), ("y_test", test_labels)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{path}: {key} has dtype {labels.dtype}; integer class labels were expected")
    train, test = train.astype(np.float32), test.astype(np.float32)
    scale = _training_scale(train)
    return _bank(
        train * scale, train_labels, test * scale, test_labels, class_names,
        source=f"{name}: {path.name}", encoder=encoder, scaling=f"multiplied by {scale:g}",
    )  # fmt: skip


def _training_scale(features: np.ndarray) -> float:
    """sqrt(d) for L2-normalised features, so that one learning rate suits all encoders; 1 for others."""
    norms = np.linalg.norm(features, axis=1)
    return math.sqrt(features.shape[1]) if np.allclose(norms, 1, atol=1e-2) else 1.0


_POLYAI = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
_CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json"
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/letter-recognition/letter-recognition.data"

SOURCES = {
    "digits": Source(_digits, "1797 real images of handwritten digits, 8x8 pixels, 10 classes", "CC BY 4.0"),
    "moons": Source(_moons, "two interleaved half circles in the plane, 2 classes", "generated"),
    "blobs": Source(_blobs, "four Gaussian clusters in the plane, 4 classes", "generated"),
    "letter": Source(
        _letter, "20000 letters, 16 numeric features, 26 classes", "CC BY 4.0", {"letter-recognition.data": _UCI}
    ),
    "banking77": Source(
        _banking77,
        "13083 banking questions, 77 intents",
        "CC BY 4.0",
        {"banking77_train.csv": f"{_POLYAI}/train.csv", "banking77_test.csv": f"{_POLYAI}/test.csv"},
        texts=True,
    ),
    "clinc150": Source(
        _clinc150, "19500 assistant requests, 150 intents", "CC BY 3.0", {"clinc150_full.json": _CLINC}, texts=True
    ),
}
