"""Named data sets as FeatureBanks: a table of what there is, and `load`.

`load("letter", data_dir="data")` looks, in this order, for a FeatureBank `letter.safetensors`, an archive of arrays
`letter.npz`, a table `letter.parquet`, and the data themselves, first in that folder, then in the cache, then on the
network. With an encoder the first three are named `<dataset>_<encoder>`, e.g. `banking77_minilm.npz`; else features are
extracted once and kept. A name that ends like such a file is one: `load("my.parquet")`.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from dal_core.checks import check_choice, check_text, printable, shown
from dal_core.data import FeatureBank
from dal_lab.checks import LONGEST_NAME, check_file_name, expanded
from dal_lab.sources import feature_files
from dal_lab.sources.bank import at_unit_length
from dal_lab.sources.encoders import Encoder, EncoderUnavailableError, encoder_of, known_encoders, resolved_revision
from dal_lab.sources.extraction import Extraction, Request, extracted, finished
from dal_lab.sources.feature_files import read_features
from dal_lab.sources.hub import HuggingFace
from dal_lab.sources.images import ImageFolder, TorchVision
from dal_lab.sources.publishers import Published
from dal_lab.sources.raw import KINDS, DatasetUnavailableError, Places, Source, rows_of
from dal_lab.sources.scikit_learn import Bundled, OpenML

FEATURES = "features"  # The kind of data that need no encoder.
READERS: dict[str, Callable[..., Source]] = {
    each.__name__: each for each in (Bundled, HuggingFace, ImageFolder, OpenML, Published, TorchVision)
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set that is known by name, as a row of `data_sets.toml` describes it."""

    title: str  # as the papers write it
    description: str
    kind: str  # features, image, text or audio
    sources: tuple[Source, ...]  # in the order in which they are tried
    train_size: int  # as published, like the next two; the pool is made of the train split
    test_size: int
    num_classes: int
    licence: str
    citation: str

    def protocol(self) -> dict[str, int]:
        """Return initial_size, batch_size and cycles of the first paper that uses the data set.

        Kept for notebooks that do not read `protocols.settings` yet.

        Raises:
            ValueError: if no paper uses the data set.
        """
        from dal_lab.sources.protocols import rows

        for row in rows():
            if data_sets()[row["data"]] is self:
                return {name: row[name] for name in ("initial_size", "batch_size", "cycles")}
        raise ValueError(f"dataset {self.title!r} is in none of the papers' protocols; give a batch size")


@functools.cache
def data_sets() -> dict[str, DataSet]:
    """Return the data sets that `load` knows by name, from the table `data_sets.toml`."""

    def source(reader: str, **fields: Any) -> Source:
        return READERS[reader](**{key: tuple(each) if isinstance(each, list) else each for key, each in fields.items()})

    rows = rows_of("data_sets.toml")
    return {
        name: DataSet(**row | {"sources": tuple(source(**s) for s in row["sources"])}) for name, row in rows.items()
    }


def load(
    name: str | Path, encoder: str | None = None, data_dir: str | Path | None = None, *, standardise: bool = False
) -> FeatureBank:
    """Return the data set `name` as float32 features on the CPU; cached within the process.

    Args:
        name: one of `data_sets()`, or any name for which `data_dir` holds a feature file or a folder of images, or the
            path of a feature file (`read_features`).
        encoder: None for data that are features already, else what turns instances into features: a name of
            `encoders.known_encoders`, a model identifier of the Hugging Face hub or a local model folder, see
            `encoders.encoder_of`.
        data_dir: folder with local files; downloads and extracted features are kept in the cache folder (`DAL_CACHE`).
        standardise: give features mean 0 and deviation 1 on the train split.

    Raises:
        ValueError: unknown name, an encoder where none applies or none where one is needed, a file with wrong content,
            an instance that cannot be decoded.
        DatasetUnavailableError, EncoderUnavailableError: nothing local and no network; says what was looked for, where,
            and how to get it.
    """
    name, folder = _checked(name, encoder), _folder(data_dir)
    bank = read_features(name) if is_file(name) else _load(name, encoder, folder)
    return bank.standardised() if standardise else bank


def extract(
    name: str, encoder: str, *, data_dir: str | Path | None = None, how: Extraction | None = None, fresh: bool = False
) -> FeatureBank:
    """Return the features of `name`, extracted as `how` says where they are not in the cache; `fresh` extracts anew.

    A model of the hub that was named without a revision is looked up again with `fresh`. Raises as `load` does.
    """
    _load.cache_clear()
    return _encoded(_checked(name, encoder), encoder, _folder(data_dir), how, fresh=fresh)


def is_file(name: str) -> bool:
    """Return whether a data set's name is the path of a feature file, going by its ending."""
    return feature_files.ending_of(name) in feature_files.ENDINGS


def short_name(name: str) -> str:
    """Return what a data set is called in results: its name, or that of its file without folder and ending."""
    return Path(name).name[: -len(feature_files.ending_of(name))] if is_file(name) else name


def absolute_name(name: str) -> str:
    """Return the name of the same data set for a process with another working directory."""
    return str(feature_files.absolute(name)) if is_file(name) else name


def file_stem(name: str, encoder: str | None) -> str:
    """Return what a file of features is called in a data folder: `<dataset>`, or `<dataset>_<encoder>`."""
    return name if encoder is None else f"{name}_{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder)}"


def available(
    wanted: Sequence[dict[str, Any]], data_dir: str | Path | None = None, known: Container[str] = ()
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Return those settings (with entries `dataset` and `encoder`) whose data are available, and why others are not.

    Features are extracted on the way. The second result maps a reason to the data sets and encoders it concerns. What
    is named in `known`, as "letter" or "banking77 (minilm)", counts as to be had.

    Raises:
        DatasetUnavailableError: if none is available.
    """
    there, absent = [], collections.defaultdict(list)
    for each in wanted:
        name, encoder = each["dataset"], each.get("encoder")
        try:
            load(name, encoder, data_dir)
            there.append(each)
        except (DatasetUnavailableError, EncoderUnavailableError) as error:
            words = name if encoder is None else f"{name} ({encoder})"
            there.append(each) if words in known else absent[str(error)].append(words)
    if not there:
        raise DatasetUnavailableError(f"none of the data sets is to be had: {'; '.join(absent)}")
    return there, dict(absent)


def _checked(name: str | Path, encoder: str | None) -> str:
    """Return the name, which together with the encoder leads to no file outside of the folders that are searched."""
    name = str(name) if isinstance(name, Path) else name
    check_text("dataset", name)
    if encoder is not None:
        check_text("encoder", encoder)
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in encoder.split("/")):  # a model of the hub, or a folder
            raise ValueError(f"encoder is {shown(encoder)}; names of at most {LONGEST_NAME} bytes were expected")
        if is_file(name):
            raise _features_already(name, encoder)
    if not is_file(name):
        check_file_name("dataset", name)
    return name


def _folder(data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    if not isinstance(data_dir, str | Path):
        raise ValueError(f"data_dir is {shown(data_dir)}; the path of a folder was expected")
    folder = Path(data_dir)
    # A name that no folder can have, or a home that nobody has, is an error of one of these kinds.
    with contextlib.suppress(OSError, ValueError):
        folder = expanded("data_dir", folder).resolve()
        if folder.is_dir():
            return folder
    raise DatasetUnavailableError(f"data_dir {printable(folder)} is not a folder")


@functools.lru_cache(maxsize=64)  # more than a preset has: banks in the cache are mapped, and take no memory
def _load(name: str, encoder: str | None, folder: Path | None) -> FeatureBank:
    named = known_encoders().get(encoder or "", Encoder(""))
    stems = [file_stem(name, each) for each in ([encoder, named.files_of] if named.files_of else [encoder])]
    files = [f"{stem}{ending}" for stem in stems for ending in feature_files.ENDINGS]
    for path in [] if folder is None else [folder / file for file in files]:
        if feature_files.is_there(path):
            bank = feature_files.read(path, encoder)
            return at_unit_length(bank) if named.unit_length else bank
    if encoder is not None:
        return _encoded(name, encoder, folder, None)
    check_choice("dataset", name, [*sorted(data_sets()), *(f"FILE{ending}" for ending in feature_files.ENDINGS)])
    known, places = data_sets()[name], Places(folder)
    if known.kind != FEATURES:
        fitting = next(each for each, encoder in known_encoders().items() if encoder.kind == known.kind)
        raise ValueError(f"encoder is None, but dataset {name!r} holds {KINDS[known.kind]}: name one, e.g. {fitting!r}")
    return _first_available(known.sources, lambda source: source.read(name, places))


def _encoded(
    name: str, encoder: str, folder: Path | None, how: Extraction | None, *, fresh: bool = False
) -> FeatureBank:
    """Return features of raw data, from the cache or extracted, from the first source that has the data."""
    known, places = data_sets().get(name), Places(folder)
    sources: tuple[Source, ...] = (ImageFolder(),)
    if folder is not None and (folder / name / "train").is_dir() and (known is None or known.kind == "image"):
        kind = "image"
    elif known is None:
        stem = file_stem(name, encoder)
        raise DatasetUnavailableError(
            f"dataset {name!r} with encoder {encoder!r}: no {stem}.safetensors, {stem}.npz, {stem}.parquet or folder "
            f"{name}/train ({f'looked in {folder}' if folder else 'no --data-dir was given'}); make one with "
            f"save_bank and name its folder with --data-dir, or use one of {', '.join(sorted(data_sets()))}"
        )
    elif known.kind == FEATURES:
        raise _features_already(name, encoder)
    else:
        kind, sources = known.kind, tuple(sorted(known.sources, key=lambda source: not source.is_local(places)))
    parsed = encoder_of(encoder, kind)
    revision = functools.cache(lambda: resolved_revision(parsed, places.cache, renew=fresh))

    def of(source: Source) -> FeatureBank:
        identity = source.identity(name, places)
        request = Request(name, parsed, revision(), kind, identity, places.cache / "features")
        if not fresh and (bank := finished(request)) is not None:
            return bank
        data: Any = source.read(name, places)  # RawData, as this is no source of features
        return extracted(request, data, how or Extraction(), fresh=fresh)

    return _first_available(sources, of)


def _first_available(sources: Sequence[Source], read: Callable[[Source], Any]) -> FeatureBank:
    """Return what `read` makes of the first source that has the data, or raise with the reasons of all."""
    reasons = []
    for source in sources:
        try:
            return read(source)
        except DatasetUnavailableError as error:
            reasons.append(str(error))
    raise DatasetUnavailableError("; ".join(dict.fromkeys(reasons)))


def _features_already(name: str, encoder: str) -> ValueError:
    return ValueError(f"encoder is {encoder!r}, but dataset {name!r} consists of features already: None was expected")
