"""What all sources of data share: where they look, the instances that an encoder turns into features, and errors."""

import abc
import contextlib
import dataclasses
import importlib
import tomllib
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dal_core.checks import one_line
from dal_core.data import FeatureBank
from dal_lab import cache

KINDS = {"image": "images", "text": "texts", "audio": "sounds"}  # The kinds that encoders read, and their plurals.


class DatasetUnavailableError(FileNotFoundError):
    """The data are neither on this machine nor available from the network."""


class UnreadableInstanceError(ValueError):
    """An instance cannot be decoded; the message names it."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where files are looked for: the caller's folder, which is only read, and the cache, where downloads land."""

    folder: Path | None
    named: Path | None = None

    @property
    def cache(self) -> Path:
        # Asked for only when it is needed, since some have none.
        return self.named or cache_dir()

    def find(self, name: str) -> Path | None:
        """Return the first file or folder of that name, `folder` before `cache`."""
        if self.folder is not None and (path := self.folder / name).exists():
            return path
        return path if (path := self.cache / name).exists() else None

    def __str__(self) -> str:
        return " and ".join(map(str, filter(None, (self.folder, self.cache))))


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Instances of one split: an image (PIL), a text (str), or a sound (waveform float32 [samples], rate in hertz).

    `instances[i]` reads one, which may be slow, and raises an OSError or ValueError if it cannot be decoded;
    `name(i)` says for a reader which one it is.
    """

    instances: Sequence[Any]
    labels: np.ndarray  # [n] int64
    name: Callable[[int], str] = "instance {}".format

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """Both splits of a data set whose instances are of one kind."""

    kind: str
    train: Split
    test: Split
    class_names: tuple[str, ...]


class Source(abc.ABC):
    """One way to get a data set; `place` says where for a reader, with fields of the source in braces.

    Methods raise DatasetUnavailableError with a line that says what was looked for if the data are not available, and
    ValueError if a file does not hold what its publisher promises.
    """

    place: ClassVar[str]

    def where(self) -> str:
        return self.place.format(**vars(self))

    def identity(self, name: str, places: Places) -> str:  # noqa: ARG002 - other sources look at files
        """Return what identifies this data among others of the same name, without decoding an instance."""
        return repr(self)

    def addresses(self) -> list[str]:
        """Return the addresses that `read` downloads from, none if it needs no network."""
        return []

    def is_local(self, places: Places) -> bool:  # noqa: ARG002 - most sources have one place
        """Return whether the caller's folder has the data in this source's format, so that it comes first."""
        return False

    @abc.abstractmethod
    def read(self, name: str, places: Places) -> RawData | FeatureBank:
        """Return the data, downloaded into the cache where need be."""


@contextlib.contextmanager
def restated(
    errors: type[Exception] | tuple[type[Exception], ...],
    before: str,
    after: str = "",
    *,
    kind: type[Exception] = ValueError,
    places: Sequence[object] = (),
) -> Iterator[None]:
    """Raise an error of the block as one of `kind`, with its reason in one line between `before` and `after`.

    An error that names one of `places` already is left as it is.
    """
    try:
        yield
    except errors as error:
        if any(str(place) in str(error) for place in places):
            raise
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise kind(f"{before}{one_line(reason) or type(error).__name__}{after}") from error


def package(name: str, what: str, kind: type[Exception]) -> Any:
    """Import a package that not everybody has, where it is needed: that takes seconds, and most runs need none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        install = "`pip install dal-core[encoders]` installs it"
        raise kind(f"{what} the package {name}, which is not installed; {install}") from error


def rows_of(table: str) -> dict[str, dict[str, Any]]:
    """Return the rows by name of a TOML table beside this module."""
    return tomllib.loads(Path(__file__).with_name(table).read_text(encoding="utf-8"))


def cache_dir() -> Path:
    """Return the folder for downloads and features: `DAL_CACHE`, else `dal_core` in the user's cache folder.

    Raises:
        DatasetUnavailableError: if the user has neither.
    """
    try:
        return cache.cache_dir()
    except FileNotFoundError as error:
        raise DatasetUnavailableError(*error.args) from None


def numbered(splits: Sequence[Sequence[str]], names: Sequence[str], what: str) -> list[np.ndarray]:
    """Return the labels of each split as positions in `names`.  [n] int64

    Raises:
        ValueError: for a label that is not among the names.
    """
    position = {name: i for i, name in enumerate(names)}
    if unknown := sorted({label for labels in splits for label in labels} - set(names)):
        raise ValueError(f"{what}: test classes {unknown} do not occur in the train split")
    return [np.array([position[label] for label in labels], dtype=np.int64) for labels in splits]
