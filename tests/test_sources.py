"""Where data come from: small files in each source's own format, read through the real libraries, without a network."""

import dataclasses
import io
import struct
import time
import urllib.error
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from sklearn.utils import Bunch

from dal_lab.sources import catalogue, scikit_learn
from dal_lab.sources.catalogue import data_sets, load
from dal_lab.sources.extraction import Extraction
from dal_lab.sources.hub import HuggingFace, picture, sound
from dal_lab.sources.images import ImageFolder, TorchVision
from dal_lab.sources.raw import DatasetUnavailableError, Places
from dal_lab.sources.scikit_learn import OpenML

torchvision_datasets = pytest.importorskip("torchvision.datasets")
pytestmark = pytest.mark.usefixtures("fresh_cache")
DRAW = np.random.default_rng(0)


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return Places(folder, tmp_path / "cache")


def pixels(*shape):
    return DRAW.integers(0, 255, shape, dtype=np.uint8)


# --- torchvision


def write_idx(path, array):
    """The format of MNIST and its like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def test_fashion_mnist_in_its_own_format(places):
    raw = places.folder / "FashionMNIST" / "raw"
    images, labels = (
        {"train": pixels(7, 28, 28), "t10k": pixels(3, 28, 28)},
        {"train": [3, 1, 9, 0, 0, 2, 5], "t10k": [1, 2, 9]},
    )
    for part in images:
        write_idx(raw / f"{part}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.array(labels[part], dtype=np.uint8))
    (source,) = data_sets()["fashion_mnist"].sources
    data = source.read("fashion_mnist", places)
    assert data.kind == "image"
    assert data.class_names[:2] == ("T-shirt/top", "Trouser")
    assert len(data.class_names) == 10
    assert data.train.labels.tolist() == labels["train"]
    assert data.test.labels.tolist() == labels["t10k"]
    assert np.array_equal(np.asarray(data.test.instances[2]), images["t10k"][2])
    assert data.train.name(4) == "image 4 of FashionMNIST"


def write_textures(root, classes=("dots", "lines")):
    """The folders of DTD: images, and lists of them a split."""
    lists = root / "dtd" / "dtd" / "labels"
    lists.mkdir(parents=True)
    for split, per_class in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for name in classes:
            for i in range(per_class):
                path = root / "dtd" / "dtd" / "images" / name / f"{split}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(30, 30, 3)).save(path)
                lines.append(f"{name}/{path.name}\n")
        (lists / f"{split}1.txt").write_text("".join(lines))


def test_dtd_leaves_its_validation_split_out(places):
    write_textures(places.folder)
    (source,) = data_sets()["dtd"].sources
    data = source.read("dtd", places)
    assert data.class_names == ("dots", "lines")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.name(3).endswith("images/lines/train1.png")
    with Image.open(data.train.name(3)) as image:
        assert np.array_equal(np.asarray(image), np.asarray(data.train.instances[3]))


def test_dtd_through_a_model(places, model_folders):
    write_textures(places.folder)
    bank = load("dtd", encoder=str(model_folders / "dinov2"), data_dir=places.folder)
    assert bank.train_features.shape == (4, 16)
    assert bank.test_labels.tolist() == [0, 1]


def test_food101_in_its_own_format(places):
    root = places.folder / "food-101"
    for name in ("apple_pie", "waffles"):
        (root / "images" / name).mkdir(parents=True)
        for i in (1, 2):
            Image.fromarray(pixels(30, 30, 3)).save(root / "images" / name / f"{i}.jpg")
    (root / "meta").mkdir()
    for split, i in (("train", 1), ("test", 2)):
        (root / "meta" / f"{split}.json").write_text(f'{{"apple_pie": ["apple_pie/{i}"], "waffles": ["waffles/{i}"]}}')
    data = data_sets()["food101"].sources[0].read("food101", places)
    assert data.class_names == ("apple_pie", "waffles")
    assert data.test.labels.tolist() == [0, 1]
    assert data.test.name(1).endswith("waffles/2.jpg")


class Fake(torchvision_datasets.FakeData):
    """torchvision's generated images, with the arguments of its data sets on disk."""

    def __init__(self, root, split="train", train=None, download=False):
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        split = split if train is None else ("train" if train else "test")
        super().__init__(size={"train": 11, "test": 5}[split], image_size=(3, 30, 30), num_classes=3,
                         random_offset=len(split))  # fmt: skip


def of_torchvision(name):
    return next(each for each in data_sets()[name].sources if isinstance(each, TorchVision))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "svhn"])
def test_data_sets_that_are_downloaded_go_through_a_model(monkeypatch, model_folders, name):
    source = of_torchvision(name)
    monkeypatch.setattr(torchvision_datasets, source.name, Fake)
    bank = load(name, encoder=str(model_folders / "clip"))
    assert bank.train_features.shape == (11, 16)
    assert bank.test_features.shape == (5, 16)
    assert bank.class_names == ("0", "1", "2")
    fakes = Fake("", "train", download=True)
    assert bank.train_labels.tolist() == [int(label) for _, label in fakes]


def test_workers_read_images(monkeypatch, model_folders):
    monkeypatch.setattr(torchvision_datasets, "CIFAR10", Fake)
    encoder = str(model_folders / "swinv2")
    alone = catalogue.extract("cifar10", encoder, how=Extraction("cpu", workers=0))
    several = catalogue.extract("cifar10", encoder, how=Extraction("cpu", batch_size=3, workers=2), fresh=True)
    torch.testing.assert_close(several.train_features, alone.train_features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name, each in data_sets().items() if any(isinstance(s, TorchVision) for s in each.sources)]
)
def test_torchvision_data_without_a_network_are_named_in_one_line(monkeypatch, places, name):
    def refuse(*_, **__):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    with pytest.raises(DatasetUnavailableError) as error:
        of_torchvision(name).read(name, places)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"dataset {name!r}: torchvision's {of_torchvision(name).name} is not in {places}")
    assert "network is unreachable" in message or "Error downloading" in message
    assert "--data-dir" in message


# --- archives of image folders


def zipped(folders, wrapped):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in folders:
            image = io.BytesIO()
            Image.fromarray(pixels(30, 30, 3)).save(image, "png")
            archive.writestr(f"{'all/' if wrapped else ''}{name}/1.png", image.getvalue())
    return content.getvalue()


@pytest.mark.parametrize("wrapped", [False, True])
def test_archives_are_unpacked_once(places, wrapped):
    for split in ("train", "test"):
        (places.folder / f"pets_{split}.zip").write_bytes(zipped(("cat", "dog"), wrapped))
    source = ImageFolder("Nobody", {"train": "http://127.0.0.1:9/1", "test": "http://127.0.0.1:9/2"})
    data = source.read("pets", places)
    assert data.class_names == ("cat", "dog")
    assert data.test.labels.tolist() == [0, 1]
    identity = source.identity("pets", places)
    for path in places.folder.glob("*.zip"):
        path.unlink()
    assert source.identity("pets", places) == identity
    assert source.where() == "Nobody"


def test_what_is_hidden_is_neither_a_class_nor_an_image(places):
    root, source = places.folder / "pets", ImageFolder()
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            (root / split / name / "more").mkdir(parents=True)
            Image.fromarray(pixels(30, 30, 3)).save(root / split / name / "b.png")
            Image.fromarray(pixels(30, 30, 3)).save(root / split / name / "more" / "a.JPG")
    before = source.identity("pets", places)
    for hidden in (".ipynb_checkpoints/1.png", "cat/.ipynb_checkpoints/1.png", "cat/._b.png", "__MACOSX/cat/1.png"):
        (root / "train" / hidden).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / hidden).write_bytes(b"no image")
    data = source.read("pets", places)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    found = [Path(data.train.name(i)).relative_to(root / "train").as_posix() for i in range(4)]
    assert found == ["cat/b.png", "cat/more/a.JPG", "dog/b.png", "dog/more/a.JPG"]
    assert np.asarray(data.train.instances[3]).shape == (30, 30, 3)
    assert source.identity("pets", places) == before


def test_two_at_once_unpack_once(places, monkeypatch):
    (places.folder / "pets_train.zip").write_bytes(zipped(("cat", "dog"), wrapped=True))
    (places.folder / "pets_test.zip").write_bytes(zipped(("cat", "dog"), wrapped=False))
    source, calls, extract = (
        ImageFolder("Nobody", {"train": "http://127.0.0.1:9/1", "test": "http://127.0.0.1:9/2"}),
        [],
        zipfile.ZipFile.extractall,
    )

    def slowly(archive, target):
        calls.append(target.name)
        time.sleep(0.1)
        extract(archive, target)

    monkeypatch.setattr(zipfile.ZipFile, "extractall", slowly)
    left_over = places.cache / "pets" / ".train.part" / "all" / "bird"
    left_over.mkdir(parents=True)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: source.read("pets", places).class_names, range(3)))
    assert found == [("cat", "dog")] * 3
    assert calls == [".train.part", ".test.part"]
    assert {path.name for path in (places.cache / "pets").iterdir()} == {"train", "test"}


def test_an_archive_that_is_none_is_refused(places):
    (places.folder / "pets_train.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"pets_train\.zip is not a whole zip archive"):
        ImageFolder("Nobody", {"train": "http://127.0.0.1:9/1"}).read("pets", places)
    assert not (places.cache / "pets" / "train").exists()


# --- Hugging Face


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """A cache of its own for the library, and no network."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True, raising=False)
    return library


def write_table(library, folder, split, columns, features):
    folder.mkdir(exist_ok=True)
    table = library.Dataset.from_dict(columns, features=library.Features(features))
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def png(seed):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 30, 3), dtype=np.uint8)).save(content, "png")
    return content.getvalue()


def test_images_of_the_hub_go_through_a_model(monkeypatch, hub_cache, places, model_folders):
    features = {"image": hub_cache.Image(), "label": hub_cache.ClassLabel(names=["waffle", "apple"])}
    folder = places.folder / "snacks_hub"
    for split, count in (("train", 5), ("test", 2)):
        images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)]
        write_table(hub_cache, folder, split, {"image": images, "label": [i % 2 for i in range(count)]}, features)
    source = dataclasses.replace(data_sets()["snacks"].sources[0], path=str(folder), revision=None)
    data = source.read("snacks", places)
    assert data.class_names == ("waffle", "apple")  # the publisher's order
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.train.name(3).endswith("snacks_hub, train row 3 (3.png)")
    assert np.array_equal(np.asarray(data.train.instances[3]), np.asarray(picture(png(3))))
    monkeypatch.setitem(data_sets(), "snacks", dataclasses.replace(data_sets()["snacks"], sources=(source,)))
    bank = load("snacks", encoder=str(model_folders / "dinov2_registers"))
    assert bank.train_features.shape == (5, 16)


def test_an_image_of_the_hub_that_cannot_be_decoded_is_named(hub_cache, places):
    features = {"image": hub_cache.Image(), "label": hub_cache.ClassLabel(names=["a", "b"])}
    folder = places.folder / "hub"
    for split in ("train", "test"):
        images = [{"bytes": png(0), "path": None}, {"bytes": b"no image", "path": "odd.png"}]
        write_table(hub_cache, folder, split, {"image": images, "label": [0, 1]}, features)
    data = HuggingFace(str(folder), "image", "image").read("x", places)
    assert data.train.name(1).endswith("train row 1 (odd.png)")
    assert data.train.name(0).endswith("train row 0")
    with pytest.raises(OSError, match="cannot identify image"):
        data.train.instances[1]


def test_texts_of_the_hub_without_what_is_out_of_scope(hub_cache, places, model_folders, monkeypatch):
    features = {"text": hub_cache.Value("string"), "intent": hub_cache.ClassLabel(names=["pay", "oos", "ask"])}
    folder = places.folder / "hub"
    write_table(hub_cache, folder, "train", {"text": ["how do", "card", "i", "fees"], "intent": [2, 1, 0, 0]}, features)
    write_table(hub_cache, folder, "test", {"text": ["lost", "how"], "intent": [1, 2]}, features)
    source = dataclasses.replace(data_sets()["clinc150"].sources[1], path=str(folder), configuration=None)
    data = source.read("clinc150", places)
    assert data.class_names == ("pay", "ask")
    assert list(data.train.instances) == ["how do", "i", "fees"]
    assert data.train.labels.tolist() == [1, 0, 0]
    assert data.test.labels.tolist() == [1]
    monkeypatch.setitem(data_sets(), "clinc150", dataclasses.replace(data_sets()["clinc150"], sources=(source,)))
    assert load("clinc150", encoder=str(model_folders / "bert")).train_features.shape == (3, 16)


def test_labels_that_are_words_are_numbered_in_alphabetical_order(hub_cache, places):
    features = {"text": hub_cache.Value("string"), "label": hub_cache.Value("string")}
    folder = places.folder / "hub"
    write_table(hub_cache, folder, "train", {"text": ["x", "y"], "label": ["b", "a"]}, features)
    write_table(hub_cache, folder, "test", {"text": ["z"], "label": ["b"]}, features)
    data = HuggingFace(str(folder), "text", "text").read("x", places)
    assert data.class_names == ("a", "b")
    assert data.train.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"dataset 'x': .* has no column \['sentence'\]; it has \['text', 'label'\]"):
        HuggingFace(str(folder), "text", "sentence").read("x", places)


def wav(samples, rate=44_100):
    content = io.BytesIO()
    wavfile.write(content, rate, samples)
    return content.getvalue()


def test_sounds_of_the_hub_in_one_table_are_split_by_fold(monkeypatch, hub_cache, places, model_folders):
    waves = [(2000 * np.sin(np.arange(9000) / (5 + i))).astype(np.int16) for i in range(5)]
    columns = {
        "audio": [{"bytes": wav(wave), "path": f"{i}.wav"} for i, wave in enumerate(waves)],
        "category": ["rain", "dog", "dog", "rain", "dog"],
        "fold": [1, 5, 2, 5, 4],
    }
    folder = places.folder / "hub"
    folder.mkdir()
    stored = {"bytes": hub_cache.Value("binary"), "path": hub_cache.Value("string")}
    kinds = {"audio": stored, "category": hub_cache.Value("string"), "fold": hub_cache.Value("int64")}
    rows = hub_cache.Dataset.from_dict(columns, features=hub_cache.Features(kinds))
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    source = dataclasses.replace(data_sets()["esc50"].sources[0], path=str(folder))
    data = source.read("esc50", places)
    assert data.class_names == ("dog", "rain")
    assert data.train.labels.tolist() == [1, 0, 0]
    assert data.test.labels.tolist() == [0, 1]
    found, rate = data.test.instances[1]
    assert rate == 44_100
    np.testing.assert_allclose(found, waves[3] / 2**15, atol=1e-6)
    monkeypatch.setitem(data_sets(), "esc50", dataclasses.replace(data_sets()["esc50"], sources=(source,)))
    bank = load("esc50", encoder=str(model_folders / "ast"))
    assert bank.train_features.shape == (3, 16)
    assert (bank.test_features[0] - bank.test_features[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, -(2**15), 2**14], dtype=np.int16), [0, -1, 0.5]),
        (np.array([0, 2**30], dtype=np.int32), [0, 0.5]),
        (np.array([128, 0, 192], dtype=np.uint8), [0, -1, 0.5]),
        (np.array([0.25, -0.5], dtype=np.float32), [0.25, -0.5]),
        (np.array([[2**14, 0], [0, 2**14]], dtype=np.int16), [0.25, 0.25]),
    ],
    ids=["int16", "int32", "uint8", "float", "stereo"],
)
def test_sounds_become_one_channel_between_minus_one_and_one(samples, expected):
    found, rate = sound(wav(samples, 8000))
    assert rate == 8000
    assert found.dtype == np.float32
    assert found.tolist() == expected


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", ["cifar10", "snacks", "tinyimagenet", "agnews", "dbpedia", "trec6", "sst2", "esc50"])
def test_data_of_the_hub_without_a_network_are_named_in_one_line(places, name):
    source = data_sets()[name].sources[0]
    with pytest.raises(DatasetUnavailableError) as error:
        source.read(name, places)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"dataset {name!r}: {source.path} is neither in the cache of Hugging Face nor to be had")


@pytest.mark.usefixtures("hub_cache")
def test_what_the_library_has_in_its_cache_is_asked_of_it_even_without_a_network(monkeypatch, hub_cache, places):
    source = data_sets()["snacks"].sources[0]
    asked = []

    def load_dataset(path, **about):
        asked.append((path, about["split"], about["revision"]))
        raise ConnectionError("not all of it")

    monkeypatch.setattr(hub_cache, "load_dataset", load_dataset)
    with pytest.raises(DatasetUnavailableError, match="OfflineModeIsEnabled"):
        source.read("snacks", places)
    assert asked == []
    Path(hub_cache.config.HF_DATASETS_CACHE, "Matthijs___snacks").mkdir(parents=True)
    with pytest.raises(DatasetUnavailableError, match=r"\(ConnectionError: not all of it\)"):
        source.read("snacks", places)
    assert asked == [("Matthijs/snacks", "train", "refs/convert/parquet")]


def test_the_library_of_the_hub_is_named_when_it_is_absent(monkeypatch, places):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        DatasetUnavailableError, match=r"package datasets, which is not installed; `pip install dal-core\["
    ):
        data_sets()["agnews"].sources[0].read("agnews", places)


# --- OpenML


def test_tables_of_openml_are_split_and_standardised(monkeypatch, places):
    asked = []

    def fetch(data_id, data_home, **_):
        asked.append((data_id, data_home))
        values = DRAW.normal(3, 2, (40, 4))
        values[:, 2] = 7  # constant
        return Bunch(data=values, target=np.arange(40) % 5)

    monkeypatch.setattr(scikit_learn.sklearn_datasets, "fetch_openml", fetch)
    bank = OpenML(42396).read("aloi", places)
    assert asked == [(42396, places.cache / "openml")]
    assert bank.train_features.shape == (30, 4)
    assert bank.test_features.shape == (10, 4)
    assert bank.class_names == ("0", "1", "2", "3", "4")
    torch.testing.assert_close(bank.train_features.mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0)
    deviations = bank.train_features.std(dim=0, correction=0)
    torch.testing.assert_close(deviations, torch.tensor([1.0, 1, 0, 1]), atol=1e-5, rtol=0)


def test_letter_falls_back_on_openml(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr("requests.Session.request", refuse)
    monkeypatch.setattr(
        scikit_learn.sklearn_datasets,
        "fetch_openml",
        lambda **_: Bunch(data=DRAW.normal(size=(40, 16)), target=np.array(list("ABCD") * 10)),
    )
    bank = load("letter")
    assert bank.class_names == ("A", "B", "C", "D")
    assert bank.provenance["source"] == "OpenML 6"


@pytest.mark.parametrize("error", [urllib.error.URLError("network is unreachable"), ValueError("no such dataset")])
def test_openml_without_a_network_is_named_in_one_line(monkeypatch, places, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr(scikit_learn.sklearn_datasets, "fetch_openml", refuse)
    with pytest.raises(DatasetUnavailableError, match=r"^dataset 'aloi': OpenML's table 42396 is neither in .*\)$"):
        OpenML(42396).read("aloi", places)


def test_identities_tell_versions_apart(places):
    assert TorchVision("CIFAR10").identity("x", places) != TorchVision("CIFAR100").identity("x", places)
    one = HuggingFace("owner/name", "text", "text")
    assert one.identity("x", places) != dataclasses.replace(one, revision="v2").identity("x", places)
    assert OpenML(6).identity("x", places) != OpenML(7).identity("x", places)
