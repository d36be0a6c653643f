"""Data sets of the Hugging Face hub, through its library `datasets`; only plain files, never code from the hub."""

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from dal_lab.sources.raw import DatasetUnavailableError, Places, RawData, Source, Split, numbered, package

HUB_TIMEOUT = 10  # Seconds until the hub counts as out of reach.


def hub_address(path: str) -> str:
    """Return the address of a path on the hub, or on the mirror of it that `HF_ENDPOINT` names."""
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{path}"


@dataclasses.dataclass(frozen=True)
class HuggingFace(Source):
    """A data set of the hub, or of a local folder in place of owner and name there."""

    place = "Hugging Face {path}"
    path: str
    kind: str  # image, text or audio
    instance: str  # a column, as is the label
    label: str = "label"
    train: str = "train"  # a split, or a sum of splits such as "train+validation"
    test: str = "test"
    configuration: str | None = None  # one of several versions of the data set
    revision: str | None = None  # a commit, branch or reference; None for the newest
    test_rows: tuple[str, Any] | None = None  # column and value of the rows of `train` that are the test split
    left_out: tuple[str, ...] = ()  # names of classes that are not used

    def addresses(self) -> list[str]:
        revision = "" if self.revision is None else f"/revision/{quote(self.revision, safe='')}"
        return [hub_address(f"api/datasets/{self.path}{revision}")]

    def read(self, name: str, places: Places) -> RawData:  # noqa: ARG002 - the library has a cache of its own
        train = self._rows(name, self.train)
        if self.test_rows is None:
            test = self._rows(name, self.test)
        else:
            column, value = self.test_rows
            chosen = np.asarray(train[column][:]) == value
            train, test = (train.select(np.flatnonzero(rows)) for rows in (~chosen, chosen))
        (train, train_names), (test, test_names) = (self._named(rows) for rows in (train, test))
        classes = sorted(set(train_names))
        declared = getattr(train.features[self.label], "names", None)
        if declared is not None:  # keep the publisher's order
            classes = [each for each in declared if each in set(classes)]
        labels, test_labels = numbered((train_names, test_names), classes, f"dataset {name!r}")
        splits = self._split("train", train, labels), self._split("test", test, test_labels)
        return RawData(self.kind, *splits, tuple(classes))

    def _split(self, part: str, rows: Any, labels: np.ndarray) -> Split:
        if self.kind == "text":
            return Split(list(map(str, rows[self.instance][:])), labels)
        encoded = _Encoded(f"{self.path}, {part}", rows, self.instance, self.kind)
        return Split(encoded, labels, encoded.name)

    def _rows(self, name: str, split: str) -> Any:
        datasets = package("datasets", f"dataset {name!r} is read with", DatasetUnavailableError)
        try:
            cached = self.path.replace("/", "___").lower()  # the folder of the data set in the library's cache
            kept = [each.name.lower() for each in Path(datasets.config.HF_DATASETS_CACHE).glob("*___*")]
            if cached not in kept and not Path(self.path).is_dir():
                import huggingface_hub

                # The library itself would ask for half a minute before it gives up.
                huggingface_hub.HfApi().dataset_info(self.path, timeout=HUB_TIMEOUT)
            rows = datasets.load_dataset(self.path, name=self.configuration, split=split, revision=self.revision)
        except Exception as error:  # of every kind, when there is no network
            reason = " ".join(str(error).split())
            raise DatasetUnavailableError(
                f"dataset {name!r}: {self.path} is neither in the cache of Hugging Face nor to be had from the hub "
                f"({type(error).__name__}: {reason[:200]})"
            ) from error
        if missing := [column for column in (self.instance, self.label) if column not in rows.column_names]:
            raise ValueError(f"dataset {name!r}: {self.path} has no column {missing}; it has {rows.column_names}")
        return rows

    def _named(self, rows: Any) -> tuple[Any, list[str]]:
        """Return the rows whose classes are not left out, and the names of their classes."""
        declared = getattr(rows.features[self.label], "names", None)
        names = [str(value) if declared is None else declared[value] for value in rows[self.label][:]]
        kept = [i for i, each in enumerate(names) if each not in self.left_out]
        return rows if len(kept) == len(names) else rows.select(kept), [names[i] for i in kept]


class _Encoded(Sequence[Any]):
    """Images or sounds that a table holds as the bytes of a file, decoded when asked for."""

    def __init__(self, table: str, rows: Any, column: str, kind: str) -> None:
        from datasets import Audio, Image

        self.rows = rows.cast_column(column, Image(decode=False) if kind == "image" else Audio(decode=False))
        self.table, self.column, self.kind = table, column, kind

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """Name the row, and the file that the instance was, if it is known."""
        path = self.rows[i][self.column].get("path")
        return f"{self.table} row {i}" + (f" ({path})" if path else "")

    def __getitem__(self, i: Any) -> Any:
        stored = self.rows[i][self.column]
        content = Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]
        return picture(content) if self.kind == "image" else sound(content)


def picture(content: bytes) -> Any:
    """Return an image file as a PIL image, decoded."""
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def sound(content: bytes) -> tuple[np.ndarray, int]:
    """Return a WAV file as one channel, float32 in [-1, 1], and its rate in hertz."""
    from scipy.io import wavfile

    rate, samples = wavfile.read(io.BytesIO(content))
    samples = np.asarray(samples)
    wave: np.ndarray = samples.astype(np.float32)
    if samples.dtype == np.uint8:  # the only unsigned format
        wave = wave / 128 - 1
    elif np.issubdtype(samples.dtype, np.integer):
        wave /= 2.0 ** (8 * samples.dtype.itemsize - 1)
    return (wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)), int(rate)
