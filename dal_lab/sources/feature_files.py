"""Features that somebody brings along in a file: a FeatureBank, an archive of arrays or a table."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dal_core.checks import check_finite, free_memory, one_line, printable
from dal_core.data import FeatureBank
from dal_lab.runs.files import is_file
from dal_lab.sources.bank import load_bank
from dal_lab.sources.raw import numbered
from dal_lab.sources.tables import bank, in_two, training_scale

SPLIT_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")  # of an archive that has its test split
ARRAYS = ("x", "y")  # of one that has none
LABEL, SPLIT = "label", "split"  # columns of a table
PARTS = ("train", "test")  # entries of the column `split`
IN_TWO = "stratified 75/25, seed 0"


def read(path: Path, encoder: str | None = None) -> FeatureBank:
    """The bank in a file: FeatureBank (.safetensors), archive of arrays (.npz) or table (.parquet).

    Whatever has no test split is split 75/25, stratified by class, with seed 0. Features with a norm of one are
    multiplied by the root of their number, as an encoder's are (`tables.training_scale`); nothing else is changed. A
    FeatureBank is taken as it is. Nothing is unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, what was found and what was expected.
    """
    place = printable(path)
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise ValueError(
            f"{place} ends in {path.suffix!r}; {', '.join(READERS)} was expected: a FeatureBank, an archive with the "
            f"arrays {', '.join(ARRAYS)}, or a table with the column {LABEL!r}. Pickled data are not read"
        )
    if not is_file(path):
        raise FileNotFoundError(f"no feature file at {place}")
    try:
        return reader(path, encoder)
    except ValueError as error:
        if place in str(error):
            raise
        raise ValueError(f"{place}: {one_line(error)}") from error


def _feature_bank(path: Path, encoder: str | None) -> FeatureBank:  # noqa: ARG001 - the file says it itself
    return load_bank(path)


def _archive(path: Path, encoder: str | None) -> FeatureBank:
    """From x_train, y_train, x_test, y_test (integers) and classes, or from x and y."""
    arrays = _arrays(path)
    if set(ARRAYS) <= set(arrays) and not set(SPLIT_ARRAYS) & set(arrays):
        return _in_one_piece(path, arrays["x"], arrays["y"], "x", "y", encoder)
    if missing := [key for key in SPLIT_ARRAYS if key not in arrays]:
        raise ValueError(
            f"{printable(path)} lacks the arrays {missing}; "
            f"{list(SPLIT_ARRAYS)}, or {list(ARRAYS)} alone, were expected"
        )
    train, train_labels, test, test_labels, class_names = (arrays[key] for key in SPLIT_ARRAYS)
    for key, labels in (("y_train", train_labels), ("y_test", test_labels)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{key} has dtype {labels.dtype}; integer class labels were expected")
        if labels.ndim != 1:
            raise ValueError(f"{key} has shape {labels.shape}; one label an instance was expected")
    if class_names.ndim != 1:
        raise ValueError(f"classes has shape {class_names.shape}; a list of names was expected")
    train, test = (_matrix(key, arrays[key]) for key in ("x_train", "x_test"))
    return _scaled(path, (train, test, train_labels, test_labels), class_names, "the file's", encoder)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:  # a file that may not be read is an OSError
        try:
            _check_unpacked_size(file)
            # A single array (.npy) under this name cannot be entered like an archive, which is a TypeError.
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in (*SPLIT_ARRAYS, *ARRAYS) if key in archive.files}
            if others := [key for key, each in arrays.items() if not isinstance(each, np.ndarray)]:
                raise ValueError(f"{others} are no arrays")
            return arrays
        except Exception as error:  # of the many parsers that an archive's bytes go through
            reason = one_line(error) or type(error).__name__
            raise ValueError(f"{printable(path)} is not a whole archive of plain arrays: {reason}") from error


def _check_unpacked_size(file: BinaryIO) -> None:
    """Raise ValueError if an archive says that it unpacks to more than fits into memory; zeros shrink by 1000."""
    with zipfile.ZipFile(file) as archive:
        needed, free = sum(each.file_size for each in archive.infolist()), free_memory(torch.device("cpu"))
    if needed > free:
        raise ValueError(f"it unpacks to {needed:,} bytes, and {free:,} are free")
    file.seek(0)


def _matrix(name: str, features: np.ndarray) -> np.ndarray:
    if features.dtype.kind not in "fiub" or features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"{name} has shape {features.shape} and dtype {features.dtype}; a matrix of numbers was expected, "
            "not empty, one row an instance"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and that is refused
        return features.astype(np.float32, copy=False)


def _table(path: Path, encoder: str | None) -> FeatureBank:
    """From numeric columns, the column `label` and, if there is one, the column `split`."""
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's: a file that may not be read
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{printable(path)} is not a whole Parquet file: {one_line(reason)}") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the columns {twice} occur more than once; once was expected")
    if LABEL not in names:
        raise ValueError(f"the columns are {_few(names)}; one called {LABEL!r} was expected")
    chosen = [name for name in names if name not in (LABEL, SPLIT) and not name.startswith("__index_level_")]
    others = {name: str(table.schema.field(name).type) for name in chosen if not _is_number(table.schema.field(name))}
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
        return _in_one_piece(path, features, labels, "features", LABEL, encoder)
    split = np.asarray(table.column(SPLIT).to_pandas()).astype(str)
    if set(split) != set(PARTS):
        raise ValueError(
            f"the column {SPLIT!r} holds {_few(sorted(set(split.tolist())))}; {' and '.join(PARTS)} were expected"
        )
    words = _words(LABEL, labels)
    train, test = (split == part for part in PARTS)
    class_names = [str(name) for name in np.unique(words[train])]
    words = words.astype(str)
    parts = (
        features[train], features[test],
        *(numbered(class_names, words[part].tolist(), f"column {LABEL!r}") for part in (train, test)),
    )  # fmt: skip
    return _scaled(path, parts, class_names, "the file's", encoder)


def _is_number(field: pa.Field) -> bool:
    return pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)


def _in_one_piece(
    path: Path, features: np.ndarray, labels: np.ndarray, features_name: str, labels_name: str, encoder: str | None
) -> FeatureBank:
    """A bank of features and labels (integers or strings) without a test split."""
    matrix, words = _matrix(features_name, features), _words(labels_name, labels)
    if len(words) != len(matrix):
        raise ValueError(f"{labels_name} has {len(words)} entries; {len(matrix)} were expected, one an instance")
    check_finite(**{features_name: torch.from_numpy(matrix)})
    class_names, numbers, counts = np.unique(words, return_inverse=True, return_counts=True)
    if rare := [str(name) for name in class_names[counts < 2]]:
        raise ValueError(
            f"{labels_name}: the classes {_few(rare)} have one instance; at least 2 were expected, to split them 75/25"
        )
    return _scaled(path, in_two(matrix, numbers, stratify=True), class_names, IN_TWO, encoder)


def _words(name: str, labels: np.ndarray) -> np.ndarray:
    """Labels as integers or strings.  [n]"""
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


def _scaled(
    path: Path, parts: tuple[np.ndarray, ...], class_names: np.ndarray | list[str], split: str, encoder: str | None
) -> FeatureBank:
    train, test, train_labels, test_labels = parts
    scale = training_scale(torch.from_numpy(train))
    return bank(
        train * scale, test * scale, train_labels, test_labels, class_names,
        source=path.name, encoder=encoder, split=split, scaling=f"multiplied by {scale:g}",
    )  # fmt: skip


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


READERS: dict[str, Callable[[Path, str | None], FeatureBank]] = {
    ".safetensors": _feature_bank,
    ".npz": _archive,
    ".parquet": _table,
}
