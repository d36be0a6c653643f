"""What there is to label: rows of features, texts or images, with labels of some or none; features by an encoder."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dal_core.checks import printable, shown
from dal_lab.runs.files import is_folder, write_atomically
from dal_lab.sources.encoders import encoder_of, known_encoders, resolved_revision
from dal_lab.sources.extraction import Extraction, Request, encoded
from dal_lab.sources.feature_files import TABLES, arrays_of, ending_of, is_there, matrix_of
from dal_lab.sources.images import ImageFiles, visible_files
from dal_lab.sources.raw import Split, cache_dir, restated
from dal_lab.sources.tables import LABEL, SPLIT, features_of, few, read_table

ID, TEXT = "id", "text"
COLUMNS = (ID, LABEL, TEXT, SPLIT)  # The columns of a table that are no features.
ENCODED = {"texts": "text", "images": "image"}  # What encoders call the kinds; features need none.


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
    """Contents by id, in the order of the file: a row of features, a text, or the file of an image."""

    contents: Mapping[str, Any]
    labels: Mapping[str, str]  # those that are known
    columns: Sequence[str] | None = None  # names of features

    def digests(self) -> dict[str, str]:
        """Return by id what changes with the content; of images the size alone, since there may be 150 GB."""
        return {name: _digest(each) for name, each in self.contents.items()}


def read_instances(kind: str, path: Path) -> Instances:
    """Return the instances in a file or folder of one kind: features, texts or images.

    Ids are those of the column `id` or of a named index, of images the paths in the folder, else the rows' numbers.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming it, for what holds no instances, and for ids that are empty or occur twice.
    """
    place = printable(path)
    if not (is_folder(path) if kind == "images" else is_there(path)):
        raise FileNotFoundError(f"no {'folder' if kind == 'images' else 'file'} of {kind} at {place}")
    with restated(ValueError, f"{place}: ", places=[place]):
        frame, contents, columns = READERS[kind](path)
        ids = words_of(frame.get(ID, frame.index if frame.index.name is not None else range(len(frame))))
        if not ids:
            raise ValueError("it holds no instance; at least one was expected")
        if "" in ids:
            raise ValueError(f"{ids.count('')} ids are empty; a text or a number each was expected")
        if len(set(ids)) < len(ids):
            twice = pd.Series(ids)[pd.Series(ids).duplicated()].unique()
            raise ValueError(f"{len(twice)} ids occur more than once, e.g. {shown(twice[0])}; once was expected")
    labels = dict(zip(ids, words_of(frame.get(LABEL, [""] * len(ids))), strict=True))
    known = {name: label for name, label in labels.items() if label}
    return Instances(dict(zip(ids, contents, strict=True)), known, columns)


def named_columns(path: Path, *needed: str) -> pd.DataFrame:
    """Return a table in which the columns of ids, labels and texts have small letters and stay as they are written.

    Raises:
        ValueError: if it lacks one that is needed.
    """
    frame = read_table(path, COLUMNS)
    small = {name: str(name).casefold() for name in frame if str(name).casefold() in COLUMNS}
    frame = frame.rename(columns={name: each for name, each in small.items() if each not in frame})
    if missing := [name for name in needed if name not in frame]:
        found = few([repr(str(name)) for name in frame])
        raise ValueError(f"{printable(path)} has the columns {found}; {' and '.join(map(repr, missing))} expected, too")
    return frame


def words_of(column: Iterable[Any]) -> list[str]:
    """Return entries as texts, missing ones empty; pandas has whole numbers beside missing ones as 3.0."""
    plain = (int(each) if isinstance(each, float) and each.is_integer() else each for each in column)
    return ["" if pd.isna(each) else str(each).strip() for each in plain]


def encoded_once(
    contents: Sequence[Any], digests: Mapping[str, str], kind: str, source: str, encoder: str | None, folder: Path
) -> Tensor:
    """Return features of texts or images: those that `features.safetensors` in the folder has, and new ones, put there.

    Raises:
        ValueError: without an encoder, or with one of another kind.
    """
    reads, file, ids = ENCODED[kind], folder / "features.safetensors", list(digests)
    if encoder is None:
        fitting = ", ".join(name for name, each in known_encoders().items() if each.kind == reads)
        raise ValueError(f"--encoder is missing; {fitting}, a model of the hub or a folder was expected")
    model = encoder_of(encoder, reads)
    revision = resolved_revision(model, cache_dir())
    about = {"encoder": model.described(reads), "revision": revision}
    features = _kept(file, about, digests)
    if new := contents[len(features) :]:
        names, new = ids[len(features) :], ImageFiles(new) if kind == "images" else new
        request = Request(source, model, revision, reads, _identity(digests, len(ids), len(features)), folder)
        rows = encoded(request, Split(new, np.zeros(len(new), np.int64), names.__getitem__), Extraction())
        features = torch.cat((features, rows)) if len(features) else rows
        with write_atomically(file) as temporary:
            save_file({"features": features}, temporary, metadata=_header(about, digests, len(ids)))
        shutil.rmtree(request.parts, ignore_errors=True)
    return features


def _kept(file: Path, about: Mapping[str, Any], digests: Mapping[str, str]) -> Tensor:
    """Return the features in a file, if they are this encoder's of the first instances; else none."""
    try:
        with safe_open(str(file), framework="pt") as found:
            header, features = found.metadata(), found.get_tensor("features")
    except (SafetensorError, OSError):
        return torch.empty(0, 0)
    return features if header == _header(about, digests, len(features)) else torch.empty(0, 0)


def _header(about: Mapping[str, Any], digests: Mapping[str, str], count: int) -> dict[str, str]:
    return {"about": json.dumps(about, sort_keys=True), "instances": _identity(digests, count)}


def _identity(digests: Mapping[str, str], stop: int, start: int = 0) -> str:
    return hashlib.sha256(json.dumps(list(digests.items())[start:stop]).encode()).hexdigest()


def _features(path: Path) -> tuple[pd.DataFrame, Iterable[Any], Sequence[str] | None]:
    """Return the rows of a table, or of the array x in an archive."""
    if (ending := ending_of(path)) not in (*TABLES, ".npz"):
        raise ValueError(f"{printable(path)} ends in {path.suffix!r}; .npz, {', '.join(TABLES)} was expected")
    if ending != ".npz":
        frame = named_columns(path)
        others = frame.drop(columns=[name for name in frame if name in COLUMNS])
        return frame, *(features_of(others) if len(frame) else ((), None))
    if (array := arrays_of(path).get("x")) is None:
        raise ValueError("it has no array x; one with a row an instance was expected")
    features = matrix_of("x", array)
    if not np.isfinite(features).all():
        raise ValueError("x holds values that are NaN or infinite; finite numbers were expected")
    return pd.DataFrame(index=range(len(features))), features, None


def _texts(path: Path) -> tuple[pd.DataFrame, Iterable[Any], None]:
    """Return the lines of a text file but empty ones, or the column `text` of a table."""
    if ending_of(path) in TABLES:
        texts = words_of((frame := named_columns(path, TEXT))[TEXT])
        if "" in texts:
            raise ValueError(f"the column {TEXT!r} has {texts.count('')} empty cells; none was expected")
        return frame, texts, None
    with restated(ValueError, f"{printable(path)} is no text in UTF-8: "):
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    frame = pd.DataFrame({ID: [i for i, line in enumerate(lines) if line]})
    return frame, filter(None, lines), None


def _images(path: Path) -> tuple[pd.DataFrame, Iterable[Any], None]:
    """Return the images in a folder and below it, by their paths in it."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = sorted(each for each in visible_files(path) if each.suffix.lower() in IMG_EXTENSIONS)
    return pd.DataFrame({ID: [each.relative_to(path).as_posix() for each in files]}), files, None


def _digest(content: Any) -> str:
    if isinstance(content, Path):
        return str(content.stat().st_size)
    return hashlib.sha256(content.encode() if isinstance(content, str) else content.tobytes()).hexdigest()[:16]


READERS = {"features": _features, "texts": _texts, "images": _images}
