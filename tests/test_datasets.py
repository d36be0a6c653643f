"""Named data sets: what they hold, where they are looked for, and what is said when they are not there."""

import dataclasses
import http.server
import json
import threading
import urllib.error
import urllib.request
from collections import Counter

import numpy as np
import pytest
import torch

from dal_core import datasets
from dal_core.datasets import DatasetUnavailableError, load
from dal_core.features import FeatureBank


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing kept from other tests."""
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    datasets._load.cache_clear()
    yield
    datasets._load.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, **_):
        raise urllib.error.URLError("network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


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
    datasets._load.cache_clear()
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
    bank.save(tmp_path / "mine_coder.safetensors")
    np.savez(tmp_path / "mine_coder.npz", **arrays())
    assert load("mine", encoder="coder", data_dir=tmp_path).digest == bank.digest


def test_damaged_feature_bank_is_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    load("moons").save(path)
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

    def encode(texts, encoder, cache):
        angles = np.array([len(text) for text in texts], dtype=np.float32)
        return np.stack((np.cos(angles), np.sin(angles)), axis=1)

    monkeypatch.setattr(datasets, "encode_texts", encode)


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
        ValueError, match=r"encoder is None, but dataset 'banking77' holds texts: name one, e\.g\. 'minilm'"
    ):
        load("banking77")
    with pytest.raises(ValueError, match="encoder is 'minilm', but dataset 'digits' consists of features already"):
        load("digits", encoder="minilm")


# --- what is not there


def test_unknown_name_lists_what_exists():
    with pytest.raises(ValueError, match=r"dataset is 'letters'; it has to be one of 'banking77', .*'letter', 'moons'"):
        load("letters")
    assert datasets.names() == ["banking77", "blobs", "clinc150", "digits", "letter", "moons"]


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
    source = dataclasses.replace(datasets.SOURCES["letter"], files={"letter-recognition.data": url})
    monkeypatch.setitem(datasets.SOURCES, "letter", source)


def test_download_is_kept_in_the_cache_folder_and_used_again(publisher, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    first = load("letter", data_dir=folder)
    assert (tmp_path / "cache" / "letter-recognition.data").read_text() == LETTERS
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache" / "letter-recognition.data"]
    assert list(folder.iterdir()) == []
    datasets._load.cache_clear()
    assert load("letter").digest == first.digest
    assert publisher.requests == 1


def test_local_file_comes_before_the_download(publisher, tmp_path):
    (tmp_path / "letter-recognition.data").write_text(LETTERS)
    load("letter", data_dir=tmp_path)
    assert publisher.requests == 0


@pytest.mark.usefixtures("publisher")
def test_refused_download_leaves_nothing_behind(monkeypatch, tmp_path):
    publish_at(monkeypatch, datasets.SOURCES["letter"].files["letter-recognition.data"].replace("letter.data", "gone"))
    with pytest.raises(DatasetUnavailableError, match=r"the download from http://127\..*/gone failed \(Not Found\)"):
        load("letter")
    assert not list(tmp_path.rglob("*letter*"))


def test_connection_that_breaks_off_leaves_no_part_of_a_file(publisher, tmp_path):
    publisher.length = len(publisher.content) + 1000
    with pytest.raises(DatasetUnavailableError, match="letter"):
        load("letter")
    assert not list(tmp_path.rglob("*letter*"))


def test_cache_folder(monkeypatch, tmp_path):
    assert datasets.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("DAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(datasets.cache_dir()) == "/somewhere/dal_core"


def test_banks_are_feature_banks_with_provenance():
    for name in ("digits", "moons", "blobs"):
        bank = load(name)
        assert isinstance(bank, FeatureBank)
        assert bank.provenance["source"].startswith("scikit-learn")
