"""Images: torchvision's data sets, and folders with a subfolder a class."""

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch.utils.data import ConcatDataset

from dal_lab.sources.network import patient_libraries
from dal_lab.sources.publishers import fetch
from dal_lab.sources.raw import DatasetUnavailableError, Places, RawData, Source, Split, restated

TEST_FOLDERS = ("test", "val", "valid", "validation")
# Attributes under which torchvision's data sets keep what can be known without decoding an image.
LABELS = ("targets", "labels", "_labels")
FILES = ("samples", "_image_files")


def is_visible(name: str) -> bool:
    """Return whether a file or folder is the user's own: no checkpoint of Jupyter, thumbnail or fork of a system."""
    return not name.startswith((".", "__MACOSX"))


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in those below it, what is in links to folders, too."""
    for place, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(filter(is_visible, subfolders))
        yield from (Path(place, file) for file in sorted(filter(is_visible, files)))


class ImageFiles(Sequence[Any]):
    """The images in files, in RGB, decoded when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        from torchvision.datasets.folder import pil_loader

        return pil_loader(str(self.paths[i]))


def _labelled_files(name: str, folder: Path) -> tuple[list[str], Split]:
    """Return the names of the classes, which are the subfolders, and the images of all of them."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and is_visible(each.name))
    paths, labels = list[Path](), list[int]()
    for label, each in enumerate(classes):
        found = [path for path in visible_files(folder / each) if path.suffix.lower() in IMG_EXTENSIONS]
        found.sort(key=lambda path: (str(path.parent), path.name))  # torchvision's order
        if not found:
            endings = ", ".join(IMG_EXTENSIONS)
            raise ValueError(f"dataset {name!r}: the class {folder / each} has no image; {endings} was expected")
        paths += found
        labels += [label] * len(found)
    if not classes:
        raise ValueError(f"dataset {name!r}: {folder} has no subfolder; one a class was expected")
    return classes, Split(ImageFiles(paths), np.array(labels, dtype=np.int64), lambda i: str(paths[i]))


class _Images(ConcatDataset, Sequence[Any]):
    """The images of torchvision data sets, one after another, decoded when asked for."""

    def __getitem__(self, i: Any) -> Any:
        return super().__getitem__(i)[0]


def _split(parts: Sequence[Any]) -> Split:
    labels, names = [], []
    for part in parts:
        found, files = ([getattr(part, each) for each in known if hasattr(part, each)] for known in (LABELS, FILES))
        labels.append(np.asarray(found[0] if found else [label for _, label in part], dtype=np.int64))
        files = files[0] if files else [f"image {i} of {type(part).__name__}" for i in range(len(part))]
        names += [file[0] if isinstance(file, tuple) else file for file in files]
    return Split(_Images(parts), np.concatenate(labels), lambda i: str(names[i]))


@dataclasses.dataclass(frozen=True)
class TorchVision(Source):
    """A class of torchvision.datasets, and the arguments of the parts that make up each split."""

    place = "torchvision {name}"
    name: str
    train: Sequence[dict[str, Any]] = ({"train": True},)
    test: Sequence[dict[str, Any]] = ({"train": False},)
    address: str | None = None  # where torchvision downloads it from, for `dal data --check`

    def identity(self, name: str, places: Places) -> str:  # noqa: ARG002 - torchvision checks digests when it downloads
        return json.dumps([self.name, list(self.train), list(self.test)], sort_keys=True)

    def addresses(self) -> list[str]:
        return [] if self.address is None else [self.address]

    def is_local(self, places: Places) -> bool:
        return places.folder is not None and self._in_folder(places.folder, self.train[0]) is not None

    def read(self, name: str, places: Places) -> RawData:
        train, test = ([self._open(name, part, places) for part in parts] for parts in (self.train, self.test))
        splits = _split(train), _split(test)
        classes = getattr(train[0], "classes", range(int(splits[0].labels.max()) + 1))
        return RawData("image", *splits, tuple(map(str, classes)))

    def _open(self, name: str, arguments: dict[str, Any], places: Places) -> Any:
        if places.folder is not None and (found := self._in_folder(places.folder, arguments)) is not None:
            return found
        absent = f"dataset {name!r}: torchvision's {self.name} is not in {places}, and its download failed ("
        way_out = "); fetch its files where there is a network and name their folder with --data-dir"
        with restated((OSError, RuntimeError), absent, way_out, kind=DatasetUnavailableError), patient_libraries():
            return self._kind(root=places.cache / "torchvision", download=True, **arguments)

    def _in_folder(self, folder: Path, arguments: dict[str, Any]) -> Any:
        try:
            return self._kind(root=folder, **arguments)
        except RuntimeError:
            return None  # torchvision says so where its files are not there.

    @property
    def _kind(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.name)


@dataclasses.dataclass(frozen=True)
class ImageFolder(Source):
    """`<folder>/train/<class>/*` and `<folder>/test/<class>/*` (or val), in the data folder.

    Archives of a publisher are unpacked into the cache: one a split, with a folder a class in each, or one for all
    (`archives` has the same address for each split), in which each split has a folder of its name. `train` and `test`,
    or what is in them, may be links.
    """

    place = "{publisher}"
    publisher: str = "image folder in --data-dir"
    archives: dict[str, str] = dataclasses.field(default_factory=dict)  # split to address
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)  # split to digest, "md5:..." or "sha256:..."

    def addresses(self) -> list[str]:
        return list(dict.fromkeys(self.archives.values()))

    def identity(self, name: str, places: Places) -> str:
        """Return a digest of the names and sizes of all files: their content may be 150 GB."""
        root, *parts = self._folders(name, places)
        digest = hashlib.sha256()
        for part in parts:
            for path in visible_files(part):
                digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        return digest.hexdigest()

    def read(self, name: str, places: Places) -> RawData:
        root, *parts = self._folders(name, places)
        (classes, train), (test_classes, test) = (_labelled_files(name, part) for part in parts)
        if classes != test_classes:
            differing = sorted(set(classes) ^ set(test_classes))
            raise ValueError(f"dataset {name!r}: {root} has the classes {differing[:5]} in one split only")
        return RawData("image", train, test, tuple(classes))

    def _folders(self, name: str, places: Places) -> tuple[Path, Path, Path]:
        """Return the folder of the data set, and those of its train and of its test split."""
        self._unpack(name, places)
        root = places.find(name)
        if root is None or not (root / "train").is_dir():
            raise DatasetUnavailableError(
                f"dataset {name!r}: no folder {name}/train with a subfolder a class in {places}; put its images there, "
                "and those of its test split into test or val beside it, and name the folder above with --data-dir"
            )
        for test in TEST_FOLDERS:
            if (root / test).is_dir():
                return root, root / "train", root / test
        expected = " or ".join(TEST_FOLDERS)
        raise ValueError(f"{root} has no test split; a folder named {expected} was expected beside train")

    def _unpack(self, name: str, places: Places) -> None:
        folder = places.cache / name
        if all((folder / split).is_dir() for split in self.archives):
            return  # The cache may be read-only, and have no place for the lock.
        places.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(places.cache / f"{name}.lock"):  # Another process may be unpacking.
            for split, url in self.archives.items():
                if (target := folder / split).is_dir():
                    continue
                shared = list(self.archives.values()).count(url) > 1
                file = f"{name}.zip" if shared else f"{name}_{split}.zip"
                path, partial = fetch(name, file, url, places, self.checksums.get(split)), folder / f".{split}.part"
                shutil.rmtree(partial, ignore_errors=True)  # An interrupted call may have left it.
                with (
                    restated(zipfile.BadZipFile, f"{path} is not a whole zip archive: "),
                    zipfile.ZipFile(path) as archive,
                ):
                    archive.extractall(
                        partial
                    )  # It keeps members below the folder, even those with names that lead out of it.
                # Many archives hold a single folder with everything in it.
                inner = [each for each in partial.iterdir() if not each.name.startswith((".", "__"))]
                found = inner[0] if len(inner) == 1 and inner[0].is_dir() else partial
                if shared:
                    found = next((each for each in sorted(partial.rglob(split)) if each.is_dir()), found / split)
                if not found.is_dir():
                    raise ValueError(f"{path} has no folder {split}; one was expected, with a folder a class in it")
                found.replace(target)
                shutil.rmtree(partial, ignore_errors=True)
