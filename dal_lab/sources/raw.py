"""Raw data: instances that an encoder has yet to turn into features, read one by one."""

import abc
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_core.data import FeatureBank

KINDS = {"image": "images", "text": "texts", "audio": "sounds"}  # what an encoder reads, and its plural


class DatasetUnavailableError(FileNotFoundError):
    """The data are neither on this machine nor to be had from the network."""


class UnreadableInstanceError(ValueError):
    """An instance cannot be decoded; the message names it."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where files are looked for: the caller's folder, which is only read, and the cache, where downloads land."""

    folder: Path | None
    cache: Path

    def find(self, *names: str) -> Path | None:
        """The first existing file or folder, `folder` before `cache`."""
        paths = (place.joinpath(*names) for place in (self.folder, self.cache) if place is not None)
        return next((path for path in paths if path.exists()), None)

    def __str__(self) -> str:
        return " and ".join(str(place) for place in (self.folder, self.cache) if place is not None)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Instances of one split: an image (PIL), a text (str), or a sound (waveform float32 [samples], rate in hertz).

    `instances[i]` reads one, which may be slow, and raises an OSError or ValueError if it cannot be decoded;
    `name(i)` says for a reader which one it is.
    """

    instances: Sequence[Any]
    labels: np.ndarray  # [n] int64
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """Both splits of a data set whose instances are of one kind."""

    kind: str
    train: Split
    test: Split
    class_names: tuple[str, ...]


class Origin(abc.ABC):
    """One way to get a data set."""

    @abc.abstractmethod
    def where(self) -> str:
        """For a reader: the place and the name there."""

    @abc.abstractmethod
    def identity(self, name: str, places: Places) -> str:
        """What tells this data apart from another under the same name, without decoding an instance.

        Raises:
            DatasetUnavailableError: if that takes files that are not to be had.
        """

    @abc.abstractmethod
    def read(self, name: str, places: Places) -> RawData | FeatureBank:
        """The data, downloaded into the cache where need be.

        Raises:
            DatasetUnavailableError: if they are not to be had; one line with what was looked for.
            ValueError: if a file does not hold what its publisher promises.
        """


def cache_dir() -> Path:
    """The folder for downloads and encoded features: `DAL_CACHE`, else `dal_core` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dal_core"
    return Path(os.environ.get("DAL_CACHE") or default)


def numbered(names: Sequence[str], labels: Sequence[str], what: str) -> np.ndarray:
    """Class names as positions in `names`.  [n] int64

    Raises:
        ValueError: for a label that is not among the names.
    """
    position = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(labels) - set(names)):
        raise ValueError(f"{what}: test classes {unknown} do not occur in the train split")
    return np.array([position[label] for label in labels], dtype=np.int64)
