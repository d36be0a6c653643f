"""Addresses: which of them answer, and what becomes of downloads that fail, with a server on this machine."""

import dataclasses
import hashlib
import http.server
import io
import json
import socket
import threading
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import Bunch

from dal_lab.companion.command_line import main
from dal_lab.sources import addresses, catalogue, network, scikit_learn
from dal_lab.sources.bank import standardised
from dal_lab.sources.catalogue import data_sets, load
from dal_lab.sources.images import ImageFolder, TorchVision
from dal_lab.sources.publishers import Published, fetch
from dal_lab.sources.raw import DatasetUnavailableError, Places
from dal_lab.sources.scikit_learn import OpenML

pytestmark = pytest.mark.usefixtures("fresh_cache")
CONTENT = b"T,2,8\n" * 50


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as servers do that work, have moved, refuse, are gone, want no HEAD, break off, or hang."""

    asked: list
    wake: threading.Event

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append((self.command, self.path, self.headers["User-Agent"]))
        where = self.path.strip("/")
        if where == "hanging":
            self.wake.wait(5)
            return
        agent = self.headers["User-Agent"]
        code = {"moved": 302, "refused": 403, "gone": 404, "nohead": 405 if self.command == "HEAD" else 200}.get(
            where, 200
        )
        code = 403 if where == "picky" and agent.lower().startswith(("python", "curl")) else code
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/there")
        self.send_header("Content-Length", str(len(CONTENT) + (100 if where == "short" else 0)) if code == 200 else "0")
        self.end_headers()
        if self.command == "GET" and code == 200:
            self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine; `asked` has the method, path and agent of each request."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(addresses, "CHECK_TIMEOUT", 0.4)
    monkeypatch.setattr(network, "DOWNLOAD_TIMEOUT", 0.4)
    handler = type("Handler", (Server,), {"asked": [], "wake": threading.Event()})
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    handler.address = f"http://127.0.0.1:{found.server_port}"
    yield handler
    handler.wake.set()
    found.shutdown()
    found.server_close()
    thread.join()


def publish(monkeypatch, server, *paths):
    """Let the data set `letter` have these addresses."""
    source = Published("somebody", {path: f"{server.address}/{path}" for path in paths})
    letter = dataclasses.replace(data_sets()["letter"], sources=(source,))
    monkeypatch.setitem(catalogue.data_sets(), "letter", letter)


ANSWERS = {
    "there": (True, "HTTP 200", ""),
    "moved": (True, "HTTP 200, moved to 127.0.0.1", ""),
    "nohead": (True, "HTTP 405", ""),
    "refused": (False, "HTTP 403", "the server refuses"),
    "gone": (False, "HTTP 404", "it is gone"),
    "hanging": (False, "no answer within 0.4 s", "--data-dir"),
}


def test_each_address_is_asked_for_its_head_and_is_a_line(monkeypatch, server, capsys):
    publish(monkeypatch, server, *ANSWERS)
    start = time.perf_counter()
    assert main(["data", "--check", "letter", "--json"]) == 1
    assert time.perf_counter() - start < 3
    found = json.loads(capsys.readouterr().out)
    assert [each["address"].split("/")[-1] for each in found] == list(ANSWERS)
    for each, (reached, said, advice) in zip(found, ANSWERS.values(), strict=True):
        assert each["name"] == "letter"
        assert each["reached"] is reached
        assert each["answer"].startswith(said)
        assert advice in each["what_to_do"]
        assert bool(each["what_to_do"]) != reached
    assert found[0]["size"] == len(CONTENT)
    assert {command for command, _, _ in server.asked} == {"HEAD"}
    assert {agent for _, _, agent in server.asked} == {network.USER_AGENT}

    assert main(["data", "--check", "letter"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(ANSWERS)
    assert lines[0].split() == ["name", "reached", "answer", "size", "seconds", "address", "what_to_do"]


def test_the_check_succeeds_if_all_answer(monkeypatch, server):
    publish(monkeypatch, server, "there", "moved")
    assert main(["data", "--check", "letter"]) == 0
    assert main(["data", "--check", "digits"]) == 0  # comes with scikit-learn


def test_nobody_there_is_a_line_too(monkeypatch, server, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Published("somebody", {"x": f"http://127.0.0.1:{port}/x"})
    monkeypatch.setitem(data_sets(), "letter", dataclasses.replace(data_sets()["letter"], sources=(source,)))
    assert main(["data", "--check", "letter"]) == 1
    assert "no connection (" in capsys.readouterr().out.splitlines()[2]


def test_the_hub_is_asked_for_the_branch_and_the_commit_that_are_read(monkeypatch, server, capsys):
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    assert main(["data", "--check", "trec6", "clip", "dinov3", "--json"]) == 0
    asked = [each["address"].removeprefix(server.address) for each in json.loads(capsys.readouterr().out)]
    assert asked == [
        "/api/datasets/CogComp/trec/revision/refs%2Fconvert%2Fparquet",
        "/openai/clip-vit-base-patch32/resolve/c237dc49a33fc61debc9276459120b7eac67e7ef/config.json",
        "/facebook/dinov3-vits16-pretrain-lvd1689m/resolve/main/config.json",
    ]


def test_all_data_that_are_downloaded_have_addresses():
    found = {name for name, _ in addresses.addresses()}
    assert set(data_sets()) - found == {"digits", "moons", "blobs", "imagenet"}
    assert all(url.startswith(("http://", "https://")) for _, url in addresses.addresses())


def test_addresses_of_torchvision_are_its_own():
    library = pytest.importorskip("torchvision.datasets")
    for known in data_sets().values():
        for source in known.sources:
            if isinstance(source, TorchVision):
                kind = getattr(library, source.name)
                texts = [getattr(kind, name, "") for name in ("url", "_URL", "_download_url_prefix")]
                texts += [*getattr(kind, "mirrors", []), getattr(kind, "split_list", {}).get("train", [""])[0]]
                assert any(text and source.address.startswith(text) for text in texts), source.name


# --- downloads


def download_of(server, path, tmp_path, checksum=None):
    return fetch("letter", "x.data", f"{server.address}/{path}", Places(None, tmp_path / "cache"), checksum)


@pytest.mark.parametrize("path", ["there", "moved", "picky"])
def test_downloads_say_who_asks_and_follow_what_has_moved(server, tmp_path, path):
    """Zenodo has refused the agents that Python's libraries name by default."""
    assert download_of(server, path, tmp_path).read_bytes() == CONTENT
    assert {agent for _, _, agent in server.asked} == {network.USER_AGENT}


@pytest.mark.parametrize(
    ("path", "words"),
    [("refused", "403"), ("gone", "404"), ("hanging", "timed out"), ("short", "more expected|IncompleteRead")],
)
def test_downloads_that_fail_are_one_line_and_leave_nothing(server, tmp_path, path, words):
    start = time.perf_counter()
    with pytest.raises(DatasetUnavailableError, match=rf"^dataset 'letter': .*({words}).*--data-dir$"):
        download_of(server, path, tmp_path)
    assert time.perf_counter() - start < 3
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_download_has_the_checksum_that_is_known(server, tmp_path, kind):
    right = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    with pytest.raises(
        DatasetUnavailableError, match=f"its {kind} is .*, 0000 was expected: it is cut off, or its pub"
    ):
        download_of(server, "there", tmp_path, f"{kind}:0000")
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]
    assert download_of(server, "there", tmp_path, right).read_bytes() == CONTENT


def test_libraries_that_set_no_time_out_get_one(monkeypatch, server, tmp_path):
    """torchvision's and scikit-learn's downloads would wait for ever."""
    library = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(library.CIFAR10, "url", f"{server.address}/hanging")
    start, before = time.perf_counter(), socket.getdefaulttimeout()
    with pytest.raises(DatasetUnavailableError, match=r"torchvision's CIFAR10 is not in .*timed out"):
        TorchVision("CIFAR10").read("cifar10", Places(None, tmp_path))

    def fetch_openml(**_):
        with urllib.request.urlopen(f"{server.address}/hanging") as response:
            return response.read()

    monkeypatch.setattr(scikit_learn.sklearn_datasets, "fetch_openml", fetch_openml)
    with pytest.raises(DatasetUnavailableError, match=r"OpenML's table 6 .*timed out"):
        OpenML(6).read("letter", Places(None, tmp_path))
    assert time.perf_counter() - start < 3
    assert server.asked[-1][2] == network.USER_AGENT
    assert socket.getdefaulttimeout() == before
    assert urllib.request._opener is None or network.USER_AGENT not in dict(urllib.request._opener.addheaders).values()


# --- the table of sources


def test_sources_come_in_the_order_in_which_they_hold():
    places = {name: [source.where() for source in each.sources] for name, each in data_sets().items()}
    assert places["cifar10"] == ["Hugging Face uoft-cs/cifar10", "torchvision CIFAR10"]
    assert places["cifar100"] == ["Hugging Face uoft-cs/cifar100", "torchvision CIFAR100"]
    assert places["stl10"] == ["torchvision STL10", "Hugging Face tanganke/stl10"]
    assert places["food101"] == ["torchvision Food101", "Hugging Face ethz/food101"]
    assert places["dopanim"] == ["Zenodo 14016659"]
    hub = {name: data_sets()[name].sources for name in places}
    assert (hub["cifar10"][0].instance, hub["cifar10"][0].label) == ("img", "label")
    assert (hub["cifar100"][0].instance, hub["cifar100"][0].label) == ("img", "fine_label")
    assert hub["food101"][1].test == "validation"
    assert [source.train for source in (hub["flowers102"][0], hub["dtd"][0])] == [({"split": "train"},)] * 2
    assert hub["dopanim"][0].checksums == {"train": "md5:95e628ed85927c1ac82d7680072d317b"}
    assert all("14016659" in url for url in hub["dopanim"][0].addresses())


def test_checksums_are_those_of_the_files(shared_data):
    for name in ("letter", "banking77", "clinc150"):
        source = data_sets()[name].sources[0]
        for file, checksum in source.checksums.items():
            assert checksum == f"sha256:{hashlib.sha256((shared_data / file).read_bytes()).hexdigest()}"
        assert source.checksums.keys() == source.files.keys()


def test_files_of_torchvision_in_the_data_folder_come_before_the_hub(monkeypatch, tmp_path, model_folders):
    library = pytest.importorskip("torchvision.datasets")

    class Local(library.FakeData):
        def __init__(self, root, train=True, download=False):
            if root != tmp_path:
                raise RuntimeError("not found")
            super().__init__(size=6, image_size=(3, 30, 30), num_classes=2)

    monkeypatch.setattr(library, "CIFAR10", Local)
    asked = []
    monkeypatch.setattr("dal_lab.sources.hub.HuggingFace._rows", lambda *_: asked.append(1))
    assert len(load("cifar10", encoder=str(model_folders / "clip"), data_dir=tmp_path).train_labels) == 6
    assert asked == []


def test_letter_is_split_alike_whichever_publisher_answers(monkeypatch, tmp_path):
    """OpenML has the rows of UCI in another order; two rows are equal but for their class."""
    draw = np.random.default_rng(0)
    features = draw.integers(0, 16, (40, 16))
    features[3] = features[7]
    names = np.array(list("ABCD") * 10)
    rows = [",".join([name, *map(str, row)]) for name, row in zip(names, features, strict=True)]
    (tmp_path / "letter-recognition.data").write_text("\n".join(rows))
    uci = load("letter", data_dir=tmp_path)
    order = draw.permutation(40)
    table = Bunch(data=features[order], target=names[order])
    monkeypatch.setattr(scikit_learn.sklearn_datasets, "fetch_openml", lambda **_: table)
    openml = data_sets()["letter"].sources[1].read("letter", Places(None, tmp_path / "cache"))
    assert openml.digest == uci.digest
    plain = standardised(features.astype(float), names, "x")
    assert plain.digest != uci.digest


def test_an_archive_may_hold_all_splits(monkeypatch, tmp_path):
    """As images.zip of Snacks does: data/<split>/<class>/*."""
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "snacks.zip", "w") as archive:
        archive.writestr("LICENSE", "text")
        for split in ("train", "val", "test"):
            for name in ("apple", "waffle"):
                image = io.BytesIO()
                Image.new("RGB", (8, 8)).save(image, "png")
                archive.writestr(f"data/{split}/{name}/{split}.png", image.getvalue())
    source = data_sets()["snacks"].sources[1]
    data = source.read("snacks", Places(folder, tmp_path / "cache"))
    assert data.class_names == ("apple", "waffle")
    assert [len(data.train), len(data.test)] == [2, 2]
    assert data.train.name(0).endswith("train/apple/train.png")
    assert source.addresses() == ["https://huggingface.co/datasets/Matthijs/snacks/resolve/main/images.zip"]
    other = dataclasses.replace(source, archives=dict.fromkeys(("train", "validation"), "http://127.0.0.1:9/x"))
    with pytest.raises(ValueError, match=r"snacks\.zip has no folder validation; one was expected"):
        other.read("snacks", Places(folder, tmp_path / "elsewhere"))


def test_the_test_split_of_a_folder_may_be_a_link(tmp_path):
    """As for ImageNet, whose validation images lie elsewhere on many machines."""
    for split in ("pets/train", "elsewhere"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    (tmp_path / "pets" / "val").symlink_to(tmp_path / "elsewhere")
    data = ImageFolder().read("pets", Places(tmp_path, tmp_path / "cache"))
    assert data.test.labels.tolist() == [0, 1]
