"""Named data sets: what they hold, where they are looked for, and what is said when they are not there."""

import dataclasses
import http.server
import json
import pwd
import subprocess
import sys
import threading
import urllib.error
from collections import Counter

import numpy as np
import pytest
import requests
import torch
from PIL import Image

import dal_lab
from dal_core.data import FeatureBank
from dal_lab.sources import catalogue, extraction, scikit_learn
from dal_lab.sources.bank import save_bank
from dal_lab.sources.catalogue import load
from dal_lab.sources.encoders import LoadedEncoder, encoder_of, load_encoder
from dal_lab.sources.extraction import Extraction
from dal_lab.sources.publishers import Published
from dal_lab.sources.raw import DatasetUnavailableError, UnreadableInstanceError, cache_dir

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr(requests.Session, "request", refuse)
    monkeypatch.setattr(scikit_learn.sklearn_datasets, "fetch_openml", refuse)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- the front door

LIGHT = """
import sys, dal_lab
heavy = {"torch", "numpy", "pandas", "sklearn"} & set(sys.modules)
assert not heavy, heavy
assert {"Grid", "load", "run"} <= set(dir(dal_lab))
from dal_lab.sources.catalogue import load
assert dal_lab.load is load
"""


def test_the_front_door_is_light_and_leads_to_what_it_names():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)
    assert (dal_lab.Grid, dal_lab.run) == (dal_lab.runs.grid.Grid, dal_lab.runs.study.run)
    with pytest.raises(AttributeError, match="module 'dal_lab' has no attribute 'laod'"):
        dal_lab.laod  # noqa: B018 - the error is what counts


def test_load_takes_a_name_or_the_path_of_a_file(tmp_path):
    path = tmp_path / "my.npz"
    np.savez(path, **arrays())
    bank = dal_lab.load(path)
    assert bank.num_features == 5
    assert dal_lab.load(str(path)) is bank
    assert repr(bank) == "FeatureBank(my.npz: 11 + 7 x 5, 3 classes)"


# --- bundled data


def test_digits():
    bank = load("digits")
    assert bank.train_features.shape == (1347, 64)
    assert bank.test_features.shape == (450, 64)
    assert bank.train_features.dtype == torch.float32
    assert (bank.train_features.min(), bank.train_features.max()) == (0, 2)
    assert bank.class_names == tuple("0123456789")
    for labels, share in ((bank.train_labels, 134.7), (bank.test_labels, 45)):  # stratified
        assert (torch.bincount(labels) - share).abs().max() < 5


@pytest.mark.parametrize(("name", "classes"), [("moons", 2), ("blobs", 4)])
def test_toy_data(name, classes):
    bank = load(name)
    assert bank.train_features.shape == (750, 2)
    assert bank.test_features.shape == (250, 2)
    assert bank.class_names == tuple(f"class {k}" for k in range(classes))
    counts = torch.bincount(torch.cat((bank.train_labels, bank.test_labels)))
    assert counts.tolist() == [1000 // classes] * classes


@pytest.mark.parametrize("name", ["digits", "moons", "blobs"])
def test_bundled_data_are_the_same_every_time(name):
    first = load(name)
    assert load(name) is first  # kept within the process
    catalogue._load.cache_clear()
    assert load(name).digest == first.digest


# --- real data, where this machine has them


def test_letter(shared_data):
    bank = load("letter", data_dir=shared_data)
    assert bank.train_features.shape == (15000, 16)
    assert bank.test_features.shape == (5000, 16)
    assert "".join(bank.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    train = bank.train_features.double()
    torch.testing.assert_close(train.mean(dim=0), torch.zeros(16).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(dim=0, correction=0), torch.ones(16).double(), atol=1e-5, rtol=0)
    rows = (shared_data / "letter-recognition.data").read_text().split()
    names = Counter(bank.class_names[label] for label in torch.cat((bank.train_labels, bank.test_labels)).tolist())
    assert names == Counter(row[0] for row in rows)


@pytest.mark.parametrize(("name", "sizes", "classes"), [("banking77", 13083, 77), ("clinc150", 19500, 150)])
def test_prepared_text_features(shared_data, name, sizes, classes):
    bank = load(name, encoder="minilm", data_dir=shared_data)
    assert bank.num_features == 384
    assert bank.num_classes == classes
    assert len(bank.train_labels) + len(bank.test_labels) == sizes
    assert bank.train_labels.unique().tolist() == list(range(classes))
    for features in (bank.train_features, bank.test_features):
        assert features.dtype == torch.float32
        assert features.square().sum(dim=1).mean().item() == pytest.approx(384, rel=1e-3)
    assert bank.provenance["encoder"] == "minilm"
    assert bank.provenance["scaling"] == "multiplied by 19.5959"


# --- local files


def arrays(**changes) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    values = {
        "x_train": 3 * draw.normal(size=(11, 5)), "y_train": np.arange(11) % 3,
        "x_test": 3 * draw.normal(size=(7, 5)), "y_test": np.arange(7) % 3, "classes": np.array(["a", "b", "c"]),
    }  # fmt: skip
    return values | changes


def test_local_archive_of_any_name(tmp_path):
    values = arrays()
    np.savez(tmp_path / "mine.npz", **values)
    bank = load("mine", data_dir=tmp_path)
    np.testing.assert_allclose(bank.train_features, values["x_train"], rtol=1e-6)  # not normalised: left as they are
    np.testing.assert_allclose(bank.test_features, values["x_test"], rtol=1e-6)
    assert bank.train_labels.tolist() == values["y_train"].tolist()
    assert bank.test_labels.tolist() == values["y_test"].tolist()
    assert bank.class_names == ("a", "b", "c")


def test_normalised_features_are_multiplied_by_the_root_of_their_number(tmp_path):
    values = arrays()
    for key in ("x_train", "x_test"):
        values[key] /= np.linalg.norm(values[key], axis=1, keepdims=True)
    np.savez(tmp_path / "mine_coder.npz", **values)
    bank = load("mine", encoder="coder", data_dir=tmp_path)
    np.testing.assert_allclose(bank.train_features, values["x_train"] * 5**0.5, rtol=1e-6)
    np.testing.assert_allclose(bank.test_features, values["x_test"] * 5**0.5, rtol=1e-6)
    assert bank.provenance["encoder"] == "coder"


def test_archive_that_lacks_arrays_is_refused(tmp_path):
    values = arrays()
    del values["y_test"], values["classes"]
    np.savez(tmp_path / "mine.npz", **values)
    with pytest.raises(
        ValueError, match=r"mine\.npz lacks the arrays \['y_test', 'classes'\]; \['x_train', .*expected"
    ):
        load("mine", data_dir=tmp_path)


@pytest.mark.parametrize("key", ["y_train", "y_test"])
def test_archive_with_labels_that_are_no_integers_is_refused(tmp_path, key):
    np.savez(tmp_path / "mine.npz", **arrays(**{key: arrays()[key] + 0.5}))
    with pytest.raises(ValueError, match=rf"mine\.npz: {key} has dtype float64; integer class labels were expected"):
        load("mine", data_dir=tmp_path)


def test_archive_with_values_that_are_not_finite_is_refused(tmp_path):
    values = arrays()
    values["x_test"][2, 3] = np.nan
    np.savez(tmp_path / "mine.npz", **values)
    with pytest.raises(
        ValueError, match=r"test_features holds 1 values that are NaN or infinite, the first at \(2, 3\)"
    ):
        load("mine", data_dir=tmp_path)


def test_feature_bank_comes_before_the_archive(tmp_path):
    bank = load("moons")
    save_bank(bank, tmp_path / "mine_coder.safetensors")
    np.savez(tmp_path / "mine_coder.npz", **arrays())
    assert load("mine", encoder="coder", data_dir=tmp_path).digest == bank.digest


def test_damaged_feature_bank_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_bank(load("moons"), path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.safetensors is damaged|holds labels"):
        load("mine", data_dir=tmp_path)
    path.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"mine\.safetensors is not a whole safetensors file"):
        load("mine", data_dir=tmp_path)


LETTERS = "\n".join(
    ",".join([letter, *(str((7 * i + j * j + ord(letter)) % 16) for j in range(16))])
    for i, letter in enumerate("ABCABCABCABCABCABCAB")
)


def test_publishers_file_in_the_data_folder_is_standardised_on_the_train_split(tmp_path):
    (tmp_path / "letter-recognition.data").write_text(LETTERS)
    bank = load("letter", data_dir=tmp_path)
    assert (len(bank.train_labels), len(bank.test_labels)) == (15, 5)
    assert bank.class_names == ("A", "B", "C")
    torch.testing.assert_close(bank.train_features.mean(dim=0), torch.zeros(16), atol=1e-6, rtol=0)
    torch.testing.assert_close(bank.train_features.std(dim=0, correction=0), torch.ones(16), atol=1e-5, rtol=0)


def test_publishers_file_with_other_content_is_refused(tmp_path):
    (tmp_path / "letter-recognition.data").write_text("<html>\n<body>\n")
    with pytest.raises(ValueError, match=r"letter-recognition\.data does not look like UCI's"):
        load("letter", data_dir=tmp_path)


# --- texts


@pytest.fixture
def fake_encoder(monkeypatch):
    """Encodes a text as a unit vector that tells its length."""

    class Model(torch.nn.Module):
        def forward(self, lengths):
            return type(
                "Outputs", (), {"last_hidden_state": torch.stack((lengths.cos(), lengths.sin()), dim=1)[:, None]}
            )

    encoder = LoadedEncoder(
        lambda texts: {"lengths": torch.tensor([float(len(text)) for text in texts])}, Model(), "mean", False,
        torch.device("cpu"),
    )  # fmt: skip
    monkeypatch.setattr(extraction, "load_encoder", lambda *_: encoder)
    monkeypatch.setattr(catalogue, "resolved_revision", lambda *_, **__: "one")


def write_banking(folder, test_category: str = "lost card") -> None:
    (folder / "banking77_train.csv").write_text('text,category\n"Where, is it?",lost card\nhow much,fees\nhm,fees\n')
    (folder / "banking77_test.csv").write_text(f"text,category\ngone,{test_category}\n")


@pytest.mark.usefixtures("fake_encoder")
def test_banking77_from_its_publishers_files(tmp_path):
    write_banking(tmp_path)
    bank = load("banking77", encoder="fake", data_dir=tmp_path)
    assert bank.class_names == ("fees", "lost card")
    assert bank.train_labels.tolist() == [1, 0, 0]
    assert bank.test_labels.tolist() == [1]
    lengths = np.array([len("Where, is it?"), len("how much"), len("hm")])
    expected = 2**0.5 * np.stack((np.cos(lengths), np.sin(lengths)), axis=1)
    np.testing.assert_allclose(bank.train_features, expected, rtol=1e-5)
    assert bank.provenance["encoder"] == "fake"


@pytest.mark.usefixtures("fake_encoder")
def test_other_texts_under_the_same_name_are_encoded_anew(tmp_path):
    write_banking(tmp_path)
    first = load("banking77", encoder="fake", data_dir=tmp_path)
    (tmp_path / "banking77_test.csv").write_text("text,category\nnow another,fees\n")
    catalogue._load.cache_clear()
    second = load("banking77", encoder="fake", data_dir=tmp_path)
    assert second.test_labels.tolist() == [0]
    assert second.digest != first.digest


@pytest.mark.usefixtures("fake_encoder")
def test_clinc150_from_its_publishers_file(tmp_path):
    splits = {"train": [["one", "b"], ["three", "a"]], "test": [["x", "a"]], "oos_test": [["y", "oos"]]}
    (tmp_path / "clinc150_full.json").write_text(json.dumps(splits))
    bank = load("clinc150", encoder="fake", data_dir=tmp_path)
    assert bank.class_names == ("a", "b")
    assert bank.train_labels.tolist() == [1, 0]
    assert bank.test_labels.tolist() == [0]


@pytest.mark.usefixtures("fake_encoder")
def test_texts_that_do_not_look_like_the_data_set_are_refused(tmp_path):
    write_banking(tmp_path, test_category="weather")
    with pytest.raises(ValueError, match=r"dataset 'banking77': test classes \['weather'\] do not occur in the train"):
        load("banking77", encoder="fake", data_dir=tmp_path)
    (tmp_path / "banking77_train.csv").write_text("question,intent\nhow,fees\n")
    with pytest.raises(
        ValueError, match=r"banking77_train\.csv does not look like Banking77: the columns text and cat"
    ):
        load("banking77", encoder="fake", data_dir=tmp_path)
    (tmp_path / "clinc150_full.json").write_text('{"train": []}')
    with pytest.raises(ValueError, match=r"clinc150_full\.json does not look like CLINC150: the keys train and test"):
        load("clinc150", encoder="fake", data_dir=tmp_path)


def test_texts_need_an_encoder_and_features_need_none():
    with pytest.raises(
        ValueError, match=r"encoder is None, but dataset 'banking77' holds texts: name one, e\.g\. 'bert'"
    ):
        load("banking77")
    with pytest.raises(ValueError, match=r"encoder is None, but dataset 'esc50' holds sounds: name one, .* 'ast'"):
        load("esc50")
    with pytest.raises(ValueError, match="encoder is 'minilm', but dataset 'digits' consists of features already"):
        load("digits", encoder="minilm")
    with pytest.raises(ValueError, match="encoder 'minilm' reads texts; one for images was expected: dinov2, "):
        load("cifar10", encoder="minilm")


# --- folders of images


def write_images(root, sizes=((2, 3), (1, 2)), test="test"):
    """Two classes, cats and dogs, with so many images in the train and the test split."""
    draw = np.random.default_rng(0)
    for split, counts in zip(("train", test), sizes, strict=True):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("name", ["pets", "imagenet"])
def test_a_folder_of_images_is_a_data_set(tmp_path, model_folders, name, test):
    write_images(tmp_path / "data" / name, test=test)
    encoder = str(model_folders / "dinov2")
    bank = load(name, encoder=encoder, data_dir=tmp_path / "data")
    assert bank.class_names == ("cat", "dog")
    assert bank.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert bank.test_labels.tolist() == [0, 1, 1]
    model = load_encoder(encoder_of(encoder, "image"), "image", "", torch.device("cpu"))
    image = Image.open(tmp_path / "data" / name / "train" / "dog" / "1.png")
    torch.testing.assert_close(bank.train_features[3:4], model.encode(model.prepare([image])), atol=1e-5, rtol=1e-5)


def test_extracted_features_are_found_again_and_follow_the_files(tmp_path, model_folders, monkeypatch):
    write_images(tmp_path / "pets")
    encoder = str(model_folders / "dinov2")
    first = load("pets", encoder=encoder, data_dir=tmp_path)
    catalogue._load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "load_encoder", None)  # would fail if it were called
        assert load("pets", encoder=encoder, data_dir=tmp_path).digest == first.digest
    (tmp_path / "pets" / "train" / "cat" / "1.png").unlink()
    catalogue._load.cache_clear()
    assert len(load("pets", encoder=encoder, data_dir=tmp_path).train_labels) == 4


def test_an_image_that_cannot_be_decoded_is_named_and_can_be_skipped(tmp_path, model_folders):
    write_images(tmp_path / "pets")
    broken = tmp_path / "pets" / "train" / "dog" / "0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    encoder = str(model_folders / "dinov2")
    with pytest.raises(
        UnreadableInstanceError, match=rf"dataset 'pets': {broken} cannot be decoded \(OSError: .*\); rep"
    ):
        load("pets", encoder=encoder, data_dir=tmp_path)
    with pytest.warns(UserWarning, match=rf"{broken} cannot be decoded .*; it is left out"):
        bank = catalogue.extract("pets", encoder, data_dir=tmp_path, how=Extraction("cpu", unreadable="skip"))
    assert bank.provenance["skipped"] == {"train": 1, "test": 0}
    assert bank.train_labels.tolist() == [0, 0, 1, 1]
    assert load("pets", encoder=encoder, data_dir=tmp_path).digest == bank.digest  # the decision is kept


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "test").rename(root / "others"),
            r"pets has no test split; a folder named test or val or",
        ),
        (
            lambda root: (root / "test" / "dog").rename(root / "test" / "fish"),
            r"has the classes \['dog', 'fish'\] in one",
        ),
        (lambda root: [path.unlink() for path in (root / "train" / "cat").iterdir()], "train/cat has no image; .jpg"),
    ],
    ids=["no test split", "other classes", "empty class"],
)
def test_a_folder_of_images_that_makes_no_data_set_is_refused(tmp_path, model_folders, spoil, message):
    write_images(tmp_path / "pets")
    spoil(tmp_path / "pets")
    with pytest.raises(ValueError, match=message):
        load("pets", encoder=str(model_folders / "dinov2"), data_dir=tmp_path)


def test_a_features_file_of_an_encoder_with_a_path_for_a_name(tmp_path):
    assert catalogue.file_stem("pets", "org/model@v1:mean") == "pets_org-model-v1-mean"
    bank = load("moons")
    save_bank(bank, tmp_path / "pets_org-model-v1-mean.safetensors")
    assert load("pets", encoder="org/model@v1:mean", data_dir=tmp_path).digest == bank.digest


# --- what is to be had


@pytest.mark.usefixtures("no_network")
def test_settings_whose_data_are_not_to_be_had_are_left_out_with_the_reason(tmp_path):
    there, absent = catalogue.available([{"dataset": "digits", "seeds": 3}, {"dataset": "letter"}], tmp_path)
    assert there == [{"dataset": "digits", "seeds": 3}]
    ((reason, names),) = absent.items()
    assert names == ["letter"]
    assert "no letter-recognition.data" in reason


@pytest.mark.usefixtures("no_network")
def test_nothing_to_be_had_is_an_error_in_one_line(tmp_path):
    wanted = [{"dataset": "letter"}, {"dataset": "imagenet", "encoder": "dinov2"}]
    with pytest.raises(DatasetUnavailableError) as error:
        catalogue.available(wanted, tmp_path)
    message = one_line(error)
    for part in ("none of the data sets is to be had", "letter-recognition.data", "imagenet/train"):
        assert part in message


def test_faults_that_are_not_absence_are_not_left_out(tmp_path):
    (tmp_path / "letter-recognition.data").write_text("<html>\n<body>\n")
    with pytest.raises(ValueError, match="does not look like UCI's"):
        catalogue.available([{"dataset": "letter"}, {"dataset": "digits"}], tmp_path)


# --- the table


def test_the_table_states_what_the_data_hold(shared_data):
    for name, source in catalogue.data_sets().items():
        if name in ("digits", "moons", "blobs", "letter", "banking77", "clinc150"):
            bank = load(name, encoder="minilm" if source.kind == "text" else None, data_dir=shared_data)
            found = len(bank.train_labels), len(bank.test_labels), bank.num_classes
            assert found == (source.train_size, source.test_size, source.num_classes), name


def test_every_row_of_the_table_is_whole():
    for source in catalogue.data_sets().values():
        assert source.kind in ("features", "image", "text", "audio")
        assert source.sources
        assert all(each.where() for each in source.sources)
        assert source.licence
        assert source.citation


# --- what is not there


def test_unknown_name_lists_what_exists():
    with pytest.raises(ValueError, match=r"dataset is 'letters'; it has to be one of 'agnews', .*'letter', 'moons'"):
        load("letters")
    assert {"banking77", "cifar10", "digits", "esc50", "imagenet", "letter"} <= set(catalogue.data_sets())


def test_unknown_name_with_an_encoder_says_what_was_looked_for(tmp_path):
    with pytest.raises(DatasetUnavailableError) as error:
        load("mine", encoder="coder", data_dir=tmp_path)
    message = one_line(error)
    for part in ("mine_coder.safetensors", "mine_coder.npz", str(tmp_path), "digits"):
        assert part in message


def test_data_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DatasetUnavailableError, match=r"data_dir .*/nowhere is not a folder"):
        load("digits", data_dir=tmp_path / "nowhere")


@pytest.mark.usefixtures("no_network")
def test_absent_data_without_network_say_what_to_do_in_one_line(tmp_path):
    with pytest.raises(DatasetUnavailableError) as error:
        load("letter", data_dir=tmp_path)
    message = one_line(error)
    for part in (
        "dataset 'letter'", "no letter-recognition.data", str(tmp_path), str(tmp_path / "cache"),
        "network is unreachable", "--data-dir", "https://archive.ics.uci.edu",
    ):  # fmt: skip
        assert part in message
    assert not list(tmp_path.rglob("*letter*"))  # nothing half-made stays behind


# --- downloads


class Publisher(http.server.BaseHTTPRequestHandler):
    """Serves `content` and states `length` as its length; counts requests."""

    content, length, requests = b"", None, 0

    def do_GET(self):
        type(self).requests += 1
        if self.path != "/letter.data":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.length or len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(monkeypatch):
    """A local server that publishes the letter data."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (Publisher,), {"content": LETTERS.encode()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    publish_at(monkeypatch, f"http://127.0.0.1:{server.server_port}/letter.data")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def publish_at(monkeypatch, url: str) -> None:
    source = Published("UCI", {"letter-recognition.data": url})
    letter = dataclasses.replace(catalogue.data_sets()["letter"], sources=(source,))
    monkeypatch.setitem(catalogue.data_sets(), "letter", letter)


def test_download_is_kept_in_the_cache_folder_and_used_again(publisher, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    first = load("letter", data_dir=folder)
    assert (tmp_path / "cache" / "letter-recognition.data").read_text() == LETTERS
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache" / "letter-recognition.data"]
    assert list(folder.iterdir()) == []
    catalogue._load.cache_clear()
    assert load("letter").digest == first.digest
    assert publisher.requests == 1


def test_local_file_comes_before_the_download(publisher, tmp_path):
    (tmp_path / "letter-recognition.data").write_text(LETTERS)
    load("letter", data_dir=tmp_path)
    assert publisher.requests == 0


@pytest.mark.usefixtures("publisher")
def test_refused_download_leaves_nothing_behind(monkeypatch, tmp_path):
    publish_at(
        monkeypatch,
        catalogue.data_sets()["letter"].sources[0].files["letter-recognition.data"].replace("letter.data", "gone"),
    )
    with pytest.raises(
        DatasetUnavailableError, match=r"the download from http://127\..*/gone failed \(404 .*Not Found"
    ):
        load("letter")
    assert not list(tmp_path.rglob("*letter*"))


def test_connection_that_breaks_off_leaves_no_part_of_a_file(publisher, tmp_path):
    publisher.length = len(publisher.content) + 1000
    with pytest.raises(DatasetUnavailableError, match="letter"):
        load("letter")
    assert not list(tmp_path.rglob("*letter*"))


def test_cache_folder(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_dir()) == "/somewhere/dal_core"


@pytest.mark.usefixtures("no_network")
def test_without_a_home_only_what_needs_the_cache_is_refused(monkeypatch, tmp_path):
    for name in ("DAL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a KeyError, as for a user without an entry
    assert load("digits").num_classes == 10
    for absent, encoder in (("letter", None), ("cifar10", "dinov2")):
        with pytest.raises(DatasetUnavailableError, match=r"^[^;]*no home folder; name one with DAL_CACHE$"):
            load(absent, encoder=encoder)
    with pytest.raises(ValueError, match=r"path is '~/features.npz'; an existing home folder in place of ~ was"):
        load("~/features.npz")
    (tmp_path / "letter-recognition.data").write_text(LETTERS)
    assert load("letter", data_dir=tmp_path).num_features == 16


def test_banks_are_feature_banks_with_provenance():
    for name in ("digits", "moons", "blobs"):
        bank = load(name)
        assert isinstance(bank, FeatureBank)
        assert bank.provenance["source"].startswith("scikit-learn")


def test_features_of_boss_texts_stay_at_length_one(shared_data):
    scaled, unit = (load("banking77", encoder=name, data_dir=shared_data) for name in ("minilm", "minilm_unit"))
    norms = unit.train_features.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    torch.testing.assert_close(unit.test_features * 384**0.5, scaled.test_features, atol=1e-2, rtol=0)
    assert unit.provenance["scaling"] == "length 1"
