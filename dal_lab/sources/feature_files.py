"""A user's own features in a file: a FeatureBank, an archive of arrays or a table."""

import functools
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dal_core.checks import check_finite, free_memory, printable, shown
from dal_core.data import FeatureBank
from dal_lab.checks import expanded
from dal_lab.runs.files import is_file
from dal_lab.sources.bank import STRATIFIED, Parts, bank, in_two, load_bank, training_scale
from dal_lab.sources.raw import numbered, restated

SPLIT_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")  # The arrays of an archive with a test split.
ARRAYS = ("x", "y")  # The arrays of an archive without one.
LABEL, SPLIT = "label", "split"  # Columns of a table that are no features.
NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)  # Types of columns of features.
PARTS = ("train", "test")  # The entries of the column `split`.

Content = tuple[Parts, Iterable[object], str]  # arrays of both splits, names of classes, and who made the split


def read_features(path: str | Path) -> FeatureBank:
    """Return the features in a file of your own; cached within the process until the file changes.

    Three kinds are read; what has no test split is split 75/25, stratified by class, with seed 0:

    - `.safetensors`: a FeatureBank that `save_bank` wrote.
    - `.npz`: x_train, y_train, x_test, y_test (integers from 0 on) and classes (their names), or x and y (integers or
      strings) without a test split.
    - `.parquet`: numeric columns of features, `label` (integers or strings) and, if you like, `split` (train or test).

    Features of norm one are multiplied by the root of their number, so that one learning rate suits all; others, and
    those of a FeatureBank, stay as they are. Nothing is unpickled.

    The path can be an experiment's `dataset`, too, from the working directory if it is relative. Such data are called
    by the file's name without folder and ending, and stored runs are keyed by that name and the content, so that a file
    may be moved, or saved as another of the three kinds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, what was found and what was expected.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"path is {shown(path)}; the path of a feature file was expected")
    path = absolute(path)
    found = path.stat() if is_file(path) else None
    # The time of change as well, which nobody can set: that of modification may be kept when the file is replaced.
    version = None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _cached(path, version)


@functools.lru_cache(maxsize=16)
def _cached(path: Path, version: tuple[int, ...] | None) -> FeatureBank:  # noqa: ARG001 - it renews the cache
    return read(path)


def absolute(path: str | Path) -> Path:
    """Return the path from the root on."""
    # Links stay: what they lead to need not have the ending. `~name.npz` is a file, not somebody's home.
    path = Path(path)
    return (expanded("path", path) if path.parts[:1] == ("~",) else path).absolute()


def read(path: Path, encoder: str | None = None) -> FeatureBank:
    """Read a file as `read_features` does, without its cache; `encoder` is for the provenance."""
    place, ending = printable(path), path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"{place} ends in {path.suffix!r}; {', '.join(ENDINGS)} was expected: a FeatureBank, an archive with the "
            f"arrays {', '.join(ARRAYS)}, or a table with the column {LABEL!r}. Pickled data are not read"
        )
    if not is_file(path):
        raise FileNotFoundError(f"no feature file at {place}")
    with restated(ValueError, f"{place}: ", places=[place]):
        if ending not in READERS:
            return load_bank(path)
        (train, test, train_labels, test_labels), class_names, split = READERS[ending](path)
        scale = training_scale(torch.from_numpy(train))
        parts, scaling = (train * scale, test * scale, train_labels, test_labels), f"multiplied by {scale:g}"
        return bank(parts, class_names, source=path.name, encoder=encoder, split=split, scaling=scaling)


def _archive(path: Path) -> Content:
    """Return x_train, y_train, x_test, y_test (integers) and classes, or what follows from x and y."""
    arrays = _arrays(path)
    if set(ARRAYS) <= set(arrays) and not set(SPLIT_ARRAYS) & set(arrays):
        return _in_one_piece("x", _matrix("x", arrays["x"]), "y", arrays["y"])
    if missing := [key for key in SPLIT_ARRAYS if key not in arrays]:
        raise ValueError(
            f"{printable(path)} lacks the arrays {missing}; "
            f"{list(SPLIT_ARRAYS)}, or {list(ARRAYS)} alone, were expected"
        )
    for key, expected in (("y_train", "one label an instance"), ("y_test", "one label an instance"),
                          ("classes", "a list of names")):  # fmt: skip
        if arrays[key].ndim != 1:
            raise ValueError(f"{key} has shape {arrays[key].shape}; {expected} was expected")
        if key != "classes" and arrays[key].dtype.kind not in "iu":
            raise ValueError(f"{key} has dtype {arrays[key].dtype}; integer class labels were expected")
    train, test = (_matrix(key, arrays[key]) for key in ("x_train", "x_test"))
    return (train, test, arrays["y_train"], arrays["y_test"]), arrays["classes"], "the file's"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive that have one of our names, if they fit into memory: zeros shrink by 1000."""
    with (
        path.open("rb") as file,  # a file that may not be read is an OSError
        # An archive's bytes go through many parsers. A single array (.npy) under this name is a TypeError.
        restated(Exception, f"{printable(path)} is not a whole archive of plain arrays: "),
    ):
        with zipfile.ZipFile(file) as archive:
            needed, free = sum(each.file_size for each in archive.infolist()), free_memory(torch.device("cpu"))
        if needed > free:
            raise ValueError(f"it unpacks to {needed:,} bytes, and {free:,} are free")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in (*SPLIT_ARRAYS, *ARRAYS) if key in archive.files}
        if others := [key for key, each in arrays.items() if not isinstance(each, np.ndarray)]:
            raise ValueError(f"{others} are no arrays")
        return arrays


def _matrix(name: str, features: np.ndarray) -> np.ndarray:
    if features.dtype.kind not in "fiub" or features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"{name} has shape {features.shape} and dtype {features.dtype}; a matrix of numbers was expected, "
            "not empty, one row an instance"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and that is refused
        return features.astype(np.float32, copy=False)


def _table(path: Path) -> Content:
    """Return what follows from numeric columns, the column `label` and, if there is one, the column `split`."""
    whole = restated((pa.ArrowException, OSError), f"{printable(path)} is not a whole Parquet file: ")
    with path.open("rb") as file, whole:  # a file that may not be read is an OSError
        table = pq.ParquetFile(file).read()
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the columns {twice} occur more than once; once was expected")
    if LABEL not in names:
        raise ValueError(f"the columns are {_few(names)}; one called {LABEL!r} was expected")
    chosen = [name for name in names if name not in (LABEL, SPLIT) and not name.startswith("__index_level_")]
    kinds = {name: table.schema.field(name).type for name in chosen}
    others = {name: str(kind) for name, kind in kinds.items() if not any(fits(kind) for fits in NUMBERS)}
    if others or not chosen:
        found = f"{_few(list(others))} hold {_few(sorted(set(others.values())))}" if others else "there are none"
        raise ValueError(f"columns of features: {found}; numbers were expected in all but {LABEL!r} and {SPLIT!r}")
    if empty := [name for name in (LABEL, SPLIT) if name in names and table.column(name).null_count]:
        raise ValueError(f"the column {empty[0]!r} has empty cells; none was expected")
    with np.errstate(over="ignore"):
        features = np.column_stack([table.column(name).to_numpy().astype(np.float32) for name in chosen])
    check_finite(features=torch.from_numpy(features))  # here, where a place is one in the file
    labels = np.asarray(table.column(LABEL).to_pandas())
    if SPLIT not in names:
        return _in_one_piece("features", features, LABEL, labels)
    split = np.asarray(table.column(SPLIT).to_pandas()).astype(str)
    if set(split) != set(PARTS):
        found = _few(sorted(set(split.tolist())))
        raise ValueError(f"the column {SPLIT!r} holds {found}; {' and '.join(PARTS)} were expected")
    words, (train, test) = _words(LABEL, labels), (split == part for part in PARTS)
    class_names = [str(name) for name in np.unique(words[train])]
    parts = [words[part].astype(str).tolist() for part in (train, test)]
    train_labels, test_labels = numbered(parts, class_names, f"column {LABEL!r}")
    return (features[train], features[test], train_labels, test_labels), class_names, "the file's"


def _in_one_piece(features_name: str, features: np.ndarray, labels_name: str, labels: np.ndarray) -> Content:
    """Return both splits of features and labels (integers or strings) without a test split."""
    words = _words(labels_name, labels)
    if len(words) != len(features):
        raise ValueError(f"{labels_name} has {len(words)} entries; {len(features)} were expected, one an instance")
    check_finite(**{features_name: torch.from_numpy(features)})
    class_names, numbers, counts = np.unique(words, return_inverse=True, return_counts=True)
    if rare := [str(name) for name in class_names[counts < 2]]:
        raise ValueError(
            f"{labels_name}: the classes {_few(rare)} have one instance; at least 2 were expected, to split them 75/25"
        )
    return in_two(features, numbers, stratify=True), class_names, STRATIFIED


def _words(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings.  [n]"""
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind not in "iuU" or labels.ndim != 1:
        raise ValueError(
            f"{name} has shape {labels.shape} and dtype {labels.dtype}; class labels were expected, "
            "integers or strings, one an instance"
        )
    return labels


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


READERS: dict[str, Callable[[Path], Content]] = {".npz": _archive, ".parquet": _table}
ENDINGS = (".safetensors", *READERS)  # The kinds of files, in the order in which a folder is searched for them.
