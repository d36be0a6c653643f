"""Data sets of the Hugging Face hub, through its library `datasets`; only plain files, never code from the hub."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_lab.sources.raw import DatasetUnavailableError, Origin, Places, RawData, Split, numbered

HUB_TIMEOUT = 10  # seconds


@dataclasses.dataclass(frozen=True)
class HuggingFace(Origin):
    """A data set of the hub.

    Args:
        path: owner and name there, or a local folder.
        kind: image, text or audio.
        instance, label: columns.
        train, test: splits, or sums of splits such as "train+validation".
        configuration: one of several versions of the data set.
        revision: a commit, branch or reference; None for the newest. Data sets that the hub keeps as a script have a
            converted copy without code under "refs/convert/parquet".
        test_rows: (column, value) of the rows of `train` that are the test split, for data sets in one piece.
        left_out: names of classes that are not used.
    """

    path: str
    kind: str
    instance: str
    label: str = "label"
    train: str = "train"
    test: str = "test"
    configuration: str | None = None
    revision: str | None = None
    test_rows: tuple[str, Any] | None = None
    left_out: tuple[str, ...] = ()

    def where(self) -> str:
        return f"Hugging Face {self.path}"

    def identity(self, name: str, places: Places) -> str:  # noqa: ARG002 - the interface of an origin
        return repr(self)

    def read(self, name: str, places: Places) -> RawData:  # noqa: ARG002
        train = self._rows(name, self.train)
        test = train if self.test_rows is not None else self._rows(name, self.test)
        if self.test_rows is not None:
            column, value = self.test_rows
            chosen = np.asarray(train[column][:]) == value
            train, test = (train.select(np.flatnonzero(rows)) for rows in (~chosen, chosen))
        names = [self._class_names(rows) for rows in (train, test)]
        classes = sorted(set(names[0]) - set(self.left_out))
        declared = getattr(train.features[self.label], "names", None)
        if declared is not None:  # keep the publisher's order
            classes = [each for each in declared if each in set(classes)]
        splits = [
            self._split(name, part, rows, of, classes)
            for part, rows, of in zip(("train", "test"), (train, test), names, strict=True)
        ]
        return RawData(self.kind, splits[0], splits[1], tuple(classes))

    def _rows(self, name: str, split: str) -> Any:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise DatasetUnavailableError(
                f"dataset {name!r} is read with the package datasets, which is not installed; "
                "`pip install dal-core[encoders]` installs it"
            ) from error
        if (reason := self._unreachable()) is not None and not self._in_cache(datasets.config.HF_DATASETS_CACHE):
            raise DatasetUnavailableError(
                f"dataset {name!r}: {self.path} is neither in the cache of Hugging Face nor to be had from the hub "
                f"({reason})"
            )
        try:
            rows = datasets.load_dataset(self.path, name=self.configuration, split=split, revision=self.revision)
        except Exception as error:  # the library raises errors of every kind when there is no network
            reason = " ".join(str(error).split())
            raise DatasetUnavailableError(
                f"dataset {name!r}: {self.path} is neither in the cache of Hugging Face nor to be had from the hub "
                f"({type(error).__name__}: {reason[:200]})"
            ) from error
        if missing := [column for column in (self.instance, self.label) if column not in rows.column_names]:
            raise ValueError(f"dataset {name!r}: {self.path} has no column {missing}; it has {rows.column_names}")
        return rows

    def _unreachable(self) -> str | None:
        """Why the hub does not answer, asked once; the library itself asks for half a minute before it gives up."""
        if Path(self.path).is_dir():
            return None
        import huggingface_hub

        try:
            huggingface_hub.HfApi().dataset_info(self.path, timeout=HUB_TIMEOUT)
        except Exception as error:  # of the hub, or of whatever library it is asked with
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None

    def _in_cache(self, cache: str | Path) -> bool:
        wanted = self.path.replace("/", "___").lower()
        return any(each.name.lower() == wanted for each in Path(cache).glob("*___*"))

    def _class_names(self, rows: Any) -> list[str]:
        declared = getattr(rows.features[self.label], "names", None)
        values = rows[self.label][:]
        return [str(value) if declared is None else declared[value] for value in values]

    def _split(self, name: str, part: str, rows: Any, names: list[str], classes: list[str]) -> Split:
        kept = [i for i, each in enumerate(names) if each not in self.left_out]
        if len(kept) < len(names):
            rows = rows.select(kept)
        labels = numbered(classes, [names[i] for i in kept], f"dataset {name!r}")
        if self.kind == "text":
            return Split([str(text) for text in rows[self.instance][:]], labels, lambda i: f"{part} text {i}")
        encoded = _Encoded(rows, self.instance, self.kind)
        return Split(encoded, labels, lambda i: f"{self.path}, {part} row {kept[i]}{encoded.file(i)}")


class _Encoded(Sequence[Any]):
    """Images or sounds that lie in a table as the bytes of a file, decoded when asked for."""

    def __init__(self, rows: Any, column: str, kind: str) -> None:
        from datasets import Audio, Image

        self.rows = rows.cast_column(column, Image(decode=False) if kind == "image" else Audio(decode=False))
        self.column, self.kind = column, kind

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, i: int) -> str:
        """The name of the file that the instance was, if it is known."""
        path = self.rows[i][self.column].get("path")
        return f" ({path})" if path else ""

    def __getitem__(self, i: Any) -> Any:
        stored = self.rows[i][self.column]
        content = stored["bytes"]
        if content is None:
            with open(stored["path"], "rb") as file:
                content = file.read()
        return picture(content) if self.kind == "image" else sound(content)


def picture(content: bytes) -> Any:
    """An image file as a PIL image, decoded."""
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def sound(content: bytes) -> tuple[np.ndarray, int]:
    """A WAV file as one channel, float32 in [-1, 1], and its rate in hertz."""
    from scipy.io import wavfile

    rate, samples = wavfile.read(io.BytesIO(content))
    samples = np.asarray(samples)
    wave: np.ndarray = samples.astype(np.float32)
    if samples.dtype == np.uint8:  # the only unsigned format
        wave = wave / 128 - 1
    elif np.issubdtype(samples.dtype, np.integer):
        wave /= 2.0 ** (8 * samples.dtype.itemsize - 1)
    return (wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)), int(rate)
