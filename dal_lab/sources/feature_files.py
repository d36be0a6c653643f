"""A user's own features in a file: a FeatureBank, an archive of arrays or a table."""

import functools
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from dal_core.checks import check_finite, free_memory, printable, shown
from dal_core.data import FeatureBank
from dal_lab.checks import expanded
from dal_lab.runs.files import is_file, is_folder
from dal_lab.sources.bank import A_CLASS_EACH, STRATIFIED, TEST_SHARE, Parts, bank, in_two, load_bank, training_scale
from dal_lab.sources.raw import numbered, restated
from dal_lab.sources.tables import LABEL, SPLIT, check_columns, features_of, few, read_table

SPLIT_ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")  # The arrays of an archive with a test split.
ARRAYS = ("x", "y")  # The arrays of an archive without one.
TABLES = (".parquet", ".csv", ".csv.gz", ".tsv")
PARTS = ("train", "test")  # The entries of the column `split`.

# Arrays of both splits, names of classes, who made the split, and names of features where they have some.
Content = tuple[Parts, Iterable[object], str, list[str] | None]


def read_features(path: str | Path) -> FeatureBank:
    """Return the features in a file of your own; cached within the process until the file changes.

    Four kinds are read; what has no test split is split 75/25, stratified by class, with seed 0:

    - `.safetensors`: a FeatureBank that `save_bank` wrote.
    - `.npz`: x_train, y_train, x_test, y_test (integers from 0 on) and classes (their names), or x and y (integers or
      strings) without a test split.
    - `.parquet`: numeric columns of features, `label` (integers, strings or truth values) and, if you like, `split`
      (train or test). An index of pandas is no feature. A folder of Parquet files is one table.
    - `.csv`, `.csv.gz`, `.tsv`: the same, with a line of names, between commas, semicolons or tabs.

    Features of norm one are multiplied by the root of their number, so that one learning rate suits all; others, and
    those of a FeatureBank, stay as they are. Nothing is unpickled.

    The path can be an experiment's `dataset`, too, from the working directory if it is relative. Such data are called
    by the file's name without folder and ending, and stored runs are keyed by that name and the content, so that a file
    may be moved, or saved as another kind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, what was found and what was expected.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"path is {shown(path)}; the path of a feature file was expected")
    path = absolute(path)
    files = [path] if is_file(path) else sorted(path.rglob("*")) if is_there(path) else []
    found = [each.stat() for each in files]
    # The time of change as well, which nobody can set: that of modification may be kept when the file is replaced.
    return _cached(path, tuple((each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found))


@functools.lru_cache(maxsize=16)
def _cached(path: Path, version: tuple[tuple[int, ...], ...]) -> FeatureBank:  # noqa: ARG001 - it renews the cache
    return read(path)


def ending_of(path: str | Path) -> str:
    """Return the ending of a file's name, in small letters: one of `ENDINGS` if it is a feature file."""
    name = Path(path).name.lower()
    known = (each for each in ENDINGS if name.endswith(each) and name != each)
    return next(known, Path(path).suffix.lower())


def is_there(path: Path) -> bool:
    """Return whether there is a file, or the folder that a table of Parquet may be."""
    return is_file(path) or (path.suffix.lower() == ".parquet" and is_folder(path))


def absolute(path: str | Path) -> Path:
    """Return the path from the root on."""
    # Links stay: what they lead to need not have the ending. `~name.npz` is a file, not somebody's home.
    path = Path(path)
    return (expanded("path", path) if path.parts[:1] == ("~",) else path).absolute()


def read(path: Path, encoder: str | None = None) -> FeatureBank:
    """Read a file as `read_features` does, without its cache; `encoder` is for the provenance."""
    place, ending = printable(path), ending_of(path)
    if ending not in ENDINGS:
        raise ValueError(
            f"{place} ends in {path.suffix!r}; {', '.join(ENDINGS)} was expected: a FeatureBank, an archive with the "
            f"arrays {', '.join(ARRAYS)}, or a table with the column {LABEL!r}. Pickled data are not read"
        )
    if not is_there(path):
        raise FileNotFoundError(f"no feature file at {place}{', which is a folder' if is_folder(path) else ''}")
    with restated(ValueError, f"{place}: ", places=[place]):
        if ending not in READERS:
            return load_bank(path)
        (train, test, train_labels, test_labels), class_names, split, names = READERS[ending](path)
        scale = training_scale(torch.from_numpy(train))
        parts, scaling = (train * scale, test * scale, train_labels, test_labels), f"multiplied by {scale:g}"
        about = {"source": path.name, "encoder": encoder, "split": split, "scaling": scaling}
        return bank(parts, class_names, **about | ({} if names is None else {"columns": names}))


def _archive(path: Path) -> Content:
    """Return x_train, y_train, x_test, y_test (integers) and classes, or what follows from x and y."""
    arrays = arrays_of(path)
    if set(ARRAYS) <= set(arrays) and not set(SPLIT_ARRAYS) & set(arrays):
        return _in_one_piece("x", matrix_of("x", arrays["x"]), "y", arrays["y"])
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
    train, test = (matrix_of(key, arrays[key]) for key in ("x_train", "x_test"))
    return (train, test, arrays["y_train"], arrays["y_test"]), arrays["classes"], "the file's", None


def arrays_of(path: Path) -> dict[str, np.ndarray]:
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
            arrays = {key: _array(archive, key) for key in (*SPLIT_ARRAYS, *ARRAYS) if key in archive.files}
        if others := [key for key, each in arrays.items() if not isinstance(each, np.ndarray)]:
            raise ValueError(f"{others} are no arrays")
        return arrays


def _array(archive: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        found = f"{key} holds Python objects, which would be unpickled"
        raise ValueError(f"{found}; numbers or texts were expected, as {key}.astype(str) makes them") from None


def matrix_of(name: str, features: np.ndarray) -> np.ndarray:
    if features.dtype.kind not in "fiub" or features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"{name} has shape {features.shape} and dtype {features.dtype}; a matrix of numbers was expected, "
            "not empty, one row an instance"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and that is refused
        return features.astype(np.float32, copy=False)


def _table(path: Path) -> Content:
    """Return what follows from numeric columns, the column `label` and, if there is one, the column `split`."""
    check_columns(frame := read_table(path))
    features, names = features_of(frame)
    labels = np.asarray(frame[LABEL])
    if SPLIT not in frame:
        return (*_in_one_piece("features", features, LABEL, labels)[:3], names)
    split = np.asarray(frame[SPLIT]).astype(str)
    if set(split) != set(PARTS):
        found = few(map(repr, sorted(set(split.tolist()))))
        raise ValueError(f"the column {SPLIT!r} holds {found}; {' and '.join(PARTS)} were expected")
    words, (train, test) = _words(LABEL, labels), (split == part for part in PARTS)
    class_names = [str(name) for name in np.unique(words[train])]
    parts = [words[part].astype(str).tolist() for part in (train, test)]
    train_labels, test_labels = numbered(parts, class_names, f"column {LABEL!r}")
    return (features[train], features[test], train_labels, test_labels), class_names, "the file's", names


def _in_one_piece(features_name: str, features: np.ndarray, labels_name: str, labels: np.ndarray) -> Content:
    """Return both splits of features and labels (integers or strings) without a test split."""
    words = _words(labels_name, labels)
    if len(words) != len(features):
        raise ValueError(f"{labels_name} has {len(words)} entries; {len(features)} were expected, one an instance")
    check_finite(**{features_name: torch.from_numpy(features)})
    class_names, numbers, counts = np.unique(words, return_inverse=True, return_counts=True)
    if rare := [str(name) for name in class_names[counts < 2]]:
        found = f"{labels_name}: the classes {few(map(repr, rare))} have one instance"
        raise ValueError(f"{found}; at least 2 were expected, to split them 75/25")
    split = STRATIFIED if len(class_names) <= math.ceil(TEST_SHARE * len(words)) else A_CLASS_EACH
    return in_two(features, numbers, stratify=True), class_names, split, None


def _words(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings.  [n]"""
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind not in "biuU" or labels.ndim != 1:
        found = f"{name} has shape {labels.shape} and dtype {labels.dtype}, {shown(labels.flat[:3].tolist())} first"
        raise ValueError(f"{found}; class labels were expected, integers or strings, one an instance")
    return labels


READERS: dict[str, Callable[[Path], Content]] = {".npz": _archive, **dict.fromkeys(TABLES, _table)}
ENDINGS = (".safetensors", *READERS)  # The kinds of files, in the order in which a folder is searched for them.
