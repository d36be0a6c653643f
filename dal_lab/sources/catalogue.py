"""Named data sets as FeatureBanks: a table of what there is, and `load`.

`load("letter", data_dir="data")` looks, in this order, for a FeatureBank `letter.safetensors`, an archive of arrays
`letter.npz`, a table `letter.parquet`, and the data themselves, first in that folder, then in the cache, then on the
network. With an encoder the first three are named `<dataset>_<encoder>`, e.g. `banking77_minilm.npz`; else features are
extracted once and kept. A name that ends like such a file is one: `load("my.parquet")`.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dal_core.checks import check_choice, check_text, printable, shown
from dal_core.data import FeatureBank
from dal_lab.checks import LONGEST_NAME, check_file_name
from dal_lab.runs import files
from dal_lab.sources import bundled, extraction, feature_files, publishers
from dal_lab.sources.bundled import Bundled
from dal_lab.sources.encoders import ENCODERS, EncoderUnavailableError, encoder_of, resolved_revision
from dal_lab.sources.hub import HuggingFace
from dal_lab.sources.images import ImageFolder, TorchVision, ZippedFolders
from dal_lab.sources.open_ml import OpenML
from dal_lab.sources.publishers import Published
from dal_lab.sources.raw import KINDS, DatasetUnavailableError, Origin, Places, RawData, cache_dir

FEATURES = "features"  # the kind of data that need no encoder
MOST_ACQUISITIONS = 20  # of the papers' protocols


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that is known by name.

    Args:
        title: as the papers write it.
        description: one line for readers.
        kind: features, image, text or audio.
        origins: where it can be had, in the order in which they are tried.
        train_size, test_size, num_classes: as published; of the train split the pool is made.
        licence, citation: of the data.
        batch_size: of the papers' protocol; None: none of them uses the data set.
        initial_size: labelled at the start; None: as many as in a batch.
    """

    title: str
    description: str
    kind: str
    origins: tuple[Origin, ...]
    train_size: int
    test_size: int
    num_classes: int
    licence: str
    citation: str
    batch_size: int | None = None
    initial_size: int | None = None

    def protocol(self) -> dict[str, int]:
        """Settings of an Experiment: initial_size, batch_size, and cycles, at most 20 and no more than the pool has.

        Raises:
            ValueError: if no paper uses the data set.
        """
        if self.batch_size is None:
            raise ValueError(f"dataset {self.title!r} is in none of the papers' protocols; give a batch size")
        initial_size = self.initial_size or self.batch_size
        cycles = min(MOST_ACQUISITIONS, (self.train_size - initial_size) // self.batch_size)
        return {"initial_size": initial_size, "batch_size": self.batch_size, "cycles": cycles}


def load(name: str, *, encoder: str | None = None, data_dir: str | Path | None = None) -> FeatureBank:
    """The data set `name` as float32 features on the CPU; cached within the process.

    Args:
        name: one of `names()`, or any name for which `data_dir` holds a feature file or a folder of images, or the path
            of a feature file (`read_features`).
        encoder: None for data that are features already, else what turns instances into features: a name of
            `encoders.ENCODERS`, a model identifier of the Hugging Face hub or a local model folder, see
            `encoders.encoder_of`.
        data_dir: folder with local files; downloads and extracted features are kept in the cache folder (`DAL_CACHE`).

    Raises:
        ValueError: unknown name, an encoder where none applies or none where one is needed, a file with wrong content,
            an instance that cannot be decoded.
        DatasetUnavailableError, EncoderUnavailableError: nothing local and no network; says what was looked for, where,
            and how to get it.
    """
    folder = _folder(data_dir)
    check_text("dataset", name)
    if encoder is not None:
        _check_encoder(encoder)
    if not is_file(name):
        check_file_name("dataset", name)
        return _load(name, encoder, folder)
    if encoder is not None:
        raise _features_already(name, encoder)
    return read_features(name)


def read_features(path: str | Path) -> FeatureBank:
    """The features in a file of your own; cached within the process until the file changes.

    Three kinds are read; what has no test split is split 75/25, stratified by class, with seed 0:

    - `.safetensors`: a FeatureBank that `save_bank` wrote.
    - `.npz`: x_train, y_train, x_test, y_test (integers from 0 on) and classes (their names), or x and y (integers or
      strings) without a test split.
    - `.parquet`: numeric columns of features, `label` (integers or strings) and, if you like, `split` (train or test).

    Features of norm one are multiplied by the root of their number, so that one learning rate suits all; others stay as
    they are. Nothing is unpickled.

    The path can be an experiment's `dataset`, too, from the working directory if it is relative. Such data are called
    by the file's name without folder and ending, and stored runs are keyed by that name and the content, so that a file
    may be moved, or saved as another of the three kinds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, what was found and what was expected.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"path is {shown(path)}; the path of a feature file was expected")
    path = _absolute(path)
    found = path.stat() if files.is_file(path) else None
    # The time of change as well, which nobody can set: that of modification may be kept by whoever replaces the file.
    times = None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _read_features(path, times)


@lru_cache(maxsize=16)
def _read_features(path: Path, version: tuple[int, ...] | None) -> FeatureBank:  # noqa: ARG001 - renews the cache
    return feature_files.read(path)


def is_file(name: str) -> bool:
    """Whether a data set's name is the path of a feature file, going by its ending."""
    return Path(name).suffix.lower() in feature_files.READERS


def short_name(name: str) -> str:
    """What a data set is called in results: its name, or that of its file without folder and ending."""
    return Path(name).stem if is_file(name) else name


def wherever(name: str) -> str:
    """The same data set for a process with another working directory."""
    return str(_absolute(name)) if is_file(name) else name


def _absolute(path: str | Path) -> Path:
    # Links stay: what they lead to need not have the ending. `~name.npz` is a file, not somebody's home.
    path = Path(path)
    return (path.expanduser() if path.parts[:1] == ("~",) else path).absolute()


def names() -> list[str]:
    """The data sets that `load` can make by itself."""
    return sorted(SOURCES)


def titles() -> dict[str, str]:
    """The papers' name of each data set."""
    return {name: source.title for name, source in SOURCES.items()}


def available(
    wanted: Sequence[dict[str, Any]], data_dir: str | Path | None = None
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Those settings (with the entries `dataset` and `encoder`) whose data are to be had, and why the others are not.

    Features are extracted on the way. The second result maps a reason to the data sets and encoders it concerns.

    Raises:
        DatasetUnavailableError: if nothing is to be had.
    """
    there, absent = [], collections.defaultdict(list)
    for each in wanted:
        name, encoder = each["dataset"], each.get("encoder")
        try:
            load(name, encoder=encoder, data_dir=data_dir)
            there.append(each)
        except (DatasetUnavailableError, EncoderUnavailableError) as error:
            absent[str(error)].append(name if encoder is None else f"{name} ({encoder})")
    if not there:
        raise DatasetUnavailableError(f"none of the data sets is to be had: {'; '.join(absent)}")
    return there, dict(absent)


def extract(
    name: str,
    encoder: str,
    *,
    data_dir: str | Path | None = None,
    how: extraction.Extraction | None = None,
    fresh: bool = False,
) -> FeatureBank:
    """The features of `name`, extracted as `how` says where they are not in the cache; `fresh` extracts them anew.

    A model of the hub that was named without a revision is looked up again with `fresh`. Raises as `load` does.
    """
    _load.cache_clear()
    check_text("dataset", name)
    _check_encoder(encoder)
    if not is_file(name):
        check_file_name("dataset", name)
    return _encoded(name, encoder, _folder(data_dir), how, fresh=fresh)


def _folder(data_dir: str | Path | None) -> Path | None:
    if data_dir is None:
        return None
    if not isinstance(data_dir, str | Path):
        raise ValueError(f"data_dir is {shown(data_dir)}; the path of a folder was expected")
    try:
        folder = Path(data_dir).expanduser().resolve()
        found = folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # a name that no folder can have, or a home that nobody has
        folder, found = Path(data_dir), False
    if not found:
        raise DatasetUnavailableError(f"data_dir {printable(folder)} is not a folder")
    return folder


def _check_encoder(encoder: str) -> None:
    check_text("encoder", encoder)
    for part in encoder.split("/"):  # a model of the hub, or a folder
        if len(os.fsencode(part)) > LONGEST_NAME:
            raise ValueError(f"encoder is {shown(encoder)}; names of at most {LONGEST_NAME} bytes were expected")


def file_stem(name: str, encoder: str | None) -> str:
    """How a file of features is called in a data folder: `<dataset>`, or `<dataset>_<encoder>`."""
    return name if encoder is None else f"{name}_{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder)}"


@lru_cache(maxsize=64)  # more than one preset has: banks in the cache are mapped, and take no memory of their own
def _load(name: str, encoder: str | None, folder: Path | None) -> FeatureBank:
    stem = file_stem(name, encoder)
    if folder is not None:
        for ending in feature_files.READERS:
            if files.is_file(path := folder / f"{stem}{ending}"):
                return feature_files.read(path, encoder)
    if encoder is not None:
        return _encoded(name, encoder, folder, None)
    check_choice("dataset", name, [*names(), *(f"FILE{ending}" for ending in feature_files.READERS)])
    source = SOURCES[name]
    if source.kind != FEATURES:
        first = next(known for known, each in ENCODERS.items() if each.kind == source.kind)
        raise ValueError(f"encoder is None, but dataset {name!r} holds {KINDS[source.kind]}: name one, e.g. {first!r}")
    return _first_of(name, source.origins, Places(folder, cache_dir()))


def _first_of(name: str, origins: Sequence[Origin], places: Places) -> FeatureBank:
    """Features from the first origin that has them."""
    reasons = []
    for origin in origins:
        try:
            bank = origin.read(name, places)
        except DatasetUnavailableError as error:
            reasons.append(str(error))
            continue
        assert isinstance(bank, FeatureBank), "an origin of features makes a bank"
        return bank
    raise DatasetUnavailableError("; ".join(reasons))


def _encoded(
    name: str, encoder: str, folder: Path | None, how: extraction.Extraction | None, *, fresh: bool = False
) -> FeatureBank:
    """Features of raw data, from the cache or extracted, from the first origin that has the data."""
    places = Places(folder, cache_dir())
    kind, origins = _raw_origins(name, encoder, places)
    parsed = encoder_of(encoder, kind)
    reasons, revision = [], None
    for origin in origins:
        try:
            identity = origin.identity(name, places)
            revision = revision or resolved_revision(parsed, places.cache, renew=fresh)
            request = extraction.Request(name, parsed, revision, kind, identity, places.cache / "features")
            if not fresh and (bank := extraction.finished(request)) is not None:
                return bank
            data = origin.read(name, places)
        except DatasetUnavailableError as error:
            reasons.append(str(error))
            continue
        assert isinstance(data, RawData), "an origin of images, texts or sounds leaves the features to the encoder"
        return extraction.extracted(request, data, how or extraction.Extraction(), fresh=fresh)
    raise DatasetUnavailableError("; ".join(reasons))


def _raw_origins(name: str, encoder: str, places: Places) -> tuple[str, tuple[Origin, ...]]:
    """The kind of instances of a data set, and where they can be had; a folder of images goes before everything."""
    source, folder = SOURCES.get(name), places.folder
    if is_file(name):
        raise _features_already(name, encoder)
    if folder is not None and (folder / name / "train").is_dir() and (source is None or source.kind == "image"):
        return "image", (ImageFolder(),)
    if source is None:
        stem = file_stem(name, encoder)
        raise DatasetUnavailableError(
            f"dataset {name!r} with encoder {encoder!r}: no {stem}.safetensors, {stem}.npz, {stem}.parquet or folder "
            f"{name}/train ({f'looked in {folder}' if folder else 'no --data-dir was given'}); make one with "
            f"save_bank and name its folder with --data-dir, or use one of {', '.join(names())}"
        )
    if source.kind == FEATURES:
        raise _features_already(name, encoder)
    return source.kind, source.origins


def _features_already(name: str, encoder: str) -> ValueError:
    return ValueError(f"encoder is {encoder!r}, but dataset {name!r} consists of features already: None was expected")


_POLYAI = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
_CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json"
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/letter-recognition/letter-recognition.data"
_DOPANIM = "https://zenodo.org/records/11479590/files"
_PARQUET = "refs/convert/parquet"  # the hub's own conversion of a data set that is kept as a script
_SPLIT, _THREE = ({"split": "train"},), ({"split": "train"}, {"split": "val"})
_TEST = ({"split": "test"},)
_NO_LICENCE = "none stated"
_BANKING_FILES = {"banking77_train.csv": f"{_POLYAI}/train.csv", "banking77_test.csv": f"{_POLYAI}/test.csv"}

SOURCES = {
    "digits": Source(
        "digits", "handwritten digits of 8x8 pixels", FEATURES, (Bundled(bundled.digits),), 1347, 450, 10,
        "CC BY 4.0", "Alpaydin and Kaynak 1998", batch_size=10,
    ),
    "moons": Source(
        "moons", "two interleaved half circles in the plane", FEATURES, (Bundled(bundled.moons),), 750, 250, 2,
        "generated", "scikit-learn, make_moons", batch_size=10,
    ),
    "blobs": Source(
        "blobs", "four Gaussian clusters in the plane", FEATURES, (Bundled(bundled.blobs),), 750, 250, 4,
        "generated", "scikit-learn, make_blobs", batch_size=10,
    ),
    "letter": Source(
        "Letter", "capital letters, 16 numeric features", FEATURES,
        (Published("UCI", {"letter-recognition.data": _UCI}, publishers.letter), OpenML(6)), 15_000, 5000, 26,
        "CC BY 4.0", "Frey and Slate 1991", batch_size=30, initial_size=10,
    ),
    "aloi": Source(
        "ALOI", "photographed objects, 128 colour features", FEATURES, (OpenML(42396),), 81_000, 27_000, 1000,
        _NO_LICENCE, "Geusebroek et al. 2005",
    ),
    "cifar10": Source(
        "CIFAR-10", "small photographs", "image", (TorchVision("CIFAR10"),), 50_000, 10_000, 10,
        _NO_LICENCE, "Krizhevsky 2009", batch_size=10,
    ),
    "cifar100": Source(
        "CIFAR-100", "small photographs", "image", (TorchVision("CIFAR100"),), 50_000, 10_000, 100,
        _NO_LICENCE, "Krizhevsky 2009", batch_size=100,
    ),
    "stl10": Source(
        "STL-10", "photographs from ImageNet", "image", (TorchVision("STL10", _SPLIT, _TEST),), 5000, 8000, 10,
        _NO_LICENCE, "Coates et al. 2011", batch_size=10,
    ),
    "svhn": Source(
        "SVHN", "house numbers", "image", (TorchVision("SVHN", _SPLIT, _TEST),), 73_257, 26_032, 10,
        "non-commercial", "Netzer et al. 2011",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST", "grey images of clothes", "image", (TorchVision("FashionMNIST"),), 60_000, 10_000, 10,
        "MIT", "Xiao et al. 2017",
    ),
    "food101": Source(
        "Food101", "dishes", "image", (TorchVision("Food101", _SPLIT, _TEST),), 75_750, 25_250, 101,
        _NO_LICENCE, "Bossard et al. 2014", batch_size=100,
    ),
    # The publishers' validation splits of the next two are part of the pool: 1020 flowers would not last for 20
    # acquisitions of 100.
    "flowers102": Source(
        "Flowers102", "flowers; train and validation split", "image", (TorchVision("Flowers102", _THREE, _TEST),),
        2040, 6149, 102, _NO_LICENCE, "Nilsback and Zisserman 2008", batch_size=100,
    ),
    "dtd": Source(
        "DTD", "textures; train and validation split", "image", (TorchVision("DTD", _THREE, _TEST),), 3760, 1880, 47,
        "research only", "Cimpoi et al. 2014", batch_size=50,
    ),
    "snacks": Source(
        "Snacks", "snacks, from Open Images", "image",
        (HuggingFace("Matthijs/snacks", "image", "image", revision=_PARQUET),), 4838, 952, 20,
        "CC BY 4.0", "Hollemans 2022", batch_size=10,
    ),
    "tinyimagenet": Source(
        "Tiny ImageNet", "small photographs; tested on the validation split", "image",
        (HuggingFace("zh-plus/tiny-imagenet", "image", "image", test="valid"),), 100_000, 10_000, 200,
        "non-commercial", "Le and Yang 2015", batch_size=200,
    ),
    "dopanim": Source(
        "Dopanim", "animals that look alike", "image",
        (ZippedFolders("Zenodo 11479590", {part: f"{_DOPANIM}/{part}.zip" for part in ("train", "test")}),),
        10_484, 4500, 15, "CC BY-NC 4.0", "Herde et al. 2024", batch_size=50,
    ),
    "imagenet": Source(
        "ImageNet", "photographs of 1000 classes; tested on the validation split", "image", (ImageFolder(),),
        1_281_167, 50_000, 1000, "non-commercial", "Russakovsky et al. 2015", batch_size=1000,
    ),
    "banking77": Source(
        "Banking77", "questions of bank customers by intent", "text",
        (
            Published("PolyAI", _BANKING_FILES, publishers.banking77),
            HuggingFace("PolyAI/banking77", "text", "text", revision=_PARQUET),
        ),
        10_003, 3080, 77, "CC BY 4.0", "Casanueva et al. 2020", batch_size=77,
    ),
    "clinc150": Source(
        "CLINC150", "requests to an assistant by intent", "text",
        (
            Published("CLINC", {"clinc150_full.json": _CLINC}, publishers.clinc150),
            HuggingFace("clinc/clinc_oos", "text", "text", "intent", configuration="plus", left_out=("oos",)),
        ),
        15_000, 4500, 150, "CC BY 3.0", "Larson et al. 2019", batch_size=150,
    ),
    "agnews": Source(
        "AG News", "news by topic", "text", (HuggingFace("fancyzhx/ag_news", "text", "text"),), 120_000, 7600, 4,
        "non-commercial", "Zhang et al. 2015",
    ),
    "dbpedia": Source(
        "DBpedia-14", "encyclopedia entries by kind", "text", (HuggingFace("fancyzhx/dbpedia_14", "text", "content"),),
        560_000, 70_000, 14, "CC BY-SA 3.0", "Zhang et al. 2015",
    ),
    "trec6": Source(
        "TREC-6", "questions by kind of answer", "text",
        (HuggingFace("CogComp/trec", "text", "text", "coarse_label", revision=_PARQUET),), 5452, 500, 6,
        _NO_LICENCE, "Li and Roth 2002",
    ),
    "sst2": Source(
        "SST-2", "film reviews by sentiment; tested on the validation split", "text",
        (HuggingFace("stanfordnlp/sst2", "text", "sentence", test="validation"),), 67_349, 872, 2,
        _NO_LICENCE, "Socher et al. 2013",
    ),
    "esc50": Source(
        "ESC-50", "environmental sounds of five seconds; tested on fold 5", "audio",
        (HuggingFace("ashraq/esc50", "audio", "audio", "category", test_rows=("fold", 5)),), 1600, 400, 50,
        "CC BY-NC 3.0", "Piczak 2015", batch_size=20,
    ),
}  # fmt: skip
