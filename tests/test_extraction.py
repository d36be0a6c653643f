"""Extraction: the same features whatever the parts, batches and workers; interruptions; damage; what cannot be read."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from dal_lab.sources import extraction
from dal_lab.sources.bank import load_bank, save_bank
from dal_lab.sources.encoders import Encoder, LoadedEncoder
from dal_lab.sources.extraction import Extraction, Request, extracted, finished
from dal_lab.sources.raw import RawData, Split, UnreadableInstanceError

D = 5
HOW = Extraction("cpu", batch_size=4, workers=0)


class Pictures(Sequence):
    """Instances that are vectors; those in `broken` cannot be decoded."""

    def __init__(self, n, seed, broken=()):
        self.values = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
        self.broken, self.read = set(broken), []

    def __getitem__(self, i):
        self.read.append(i)
        if i in self.broken:
            raise OSError("image file is truncated")
        return self.values[i]

    def __len__(self):
        return len(self.values)


def split_of(instances, part):
    return Split(instances, np.arange(len(instances), dtype=np.int64) % 3, lambda i: f"{part}/{i}.jpg")


def raw(broken=(), n=23, n_test=6):
    train, test = Pictures(n, 0, broken), Pictures(n_test, 1)
    return RawData("image", split_of(train, "train"), split_of(test, "test"), ("a", "b", "c"))


WEIGHT = torch.randn(3, D, generator=torch.Generator().manual_seed(2))


class Linear(torch.nn.Module):
    """A model whose outputs are linear, and which counts what it is asked for."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, pixel_values):
        self.sizes.append(len(pixel_values))
        return type("Outputs", (), {"pooler_output": pixel_values @ WEIGHT})


def prepare(instances):
    return {"pixel_values": torch.stack(instances)}


@pytest.fixture
def model(monkeypatch):
    """Extraction with `Linear` as the encoder, in parts of 8."""
    linear = Linear()
    encoder = LoadedEncoder(prepare, linear, "pooler", False, torch.device("cpu"))
    monkeypatch.setattr(extraction, "load_encoder", lambda *_: encoder)
    monkeypatch.setattr(extraction, "PART_SIZE", 8)
    return linear


def request_for(folder, **changes):
    values = {"dataset": "pets", "encoder": Encoder("org/model"), "revision": "abc", "kind": "image"}
    return Request(**values | {"identity": "v1", "folder": folder} | changes)


def expected(data):
    return data.train.instances.values @ WEIGHT, data.test.instances.values @ WEIGHT


def assert_holds(bank, data):
    train, test = expected(data)
    torch.testing.assert_close(bank.train_features, train)
    torch.testing.assert_close(bank.test_features, test)
    assert bank.train_labels.tolist() == data.train.labels.tolist()
    assert bank.test_labels.tolist() == data.test.labels.tolist()


# --- what comes out


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("workers", [0, 2])
def test_features_and_labels_are_in_order_whatever_the_batches(model, tmp_path, batch_size, workers):
    data = raw()
    bank = extracted(request_for(tmp_path), data, Extraction("cpu", batch_size, workers))
    assert_holds(bank, data)
    assert bank.class_names == ("a", "b", "c")
    assert bank.provenance["skipped"] == {"train": 0, "test": 0}


def test_texts_are_encoded_by_length_and_come_back_in_order(model, monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    texts = ["x" * int(size) for size in draw.permutation(23)]
    batches = []

    def of_lengths(instances):
        batches.append([len(text) for text in instances])
        return {"pixel_values": torch.tensor([[float(len(text)), 1, 0] for text in instances])}

    encoder = LoadedEncoder(of_lengths, model, "pooler", False, torch.device("cpu"))
    monkeypatch.setattr(extraction, "load_encoder", lambda *_: encoder)
    data = RawData("text", split_of(texts, "train"), split_of(texts[:4], "test"), ("a", "b", "c"))
    bank = extracted(request_for(tmp_path, kind="text"), data, HOW)
    lengths = torch.tensor([[float(len(text)), 1, 0] for text in texts])
    torch.testing.assert_close(bank.train_features, lengths @ WEIGHT)
    assert all(batch == sorted(batch) for batch in batches)


def test_normalised_features_are_scaled_for_training(monkeypatch, model, tmp_path):
    encoder = LoadedEncoder(prepare, model, "pooler", True, torch.device("cpu"))
    monkeypatch.setattr(extraction, "load_encoder", lambda *_: encoder)
    bank = extracted(request_for(tmp_path), raw(), HOW)
    torch.testing.assert_close(bank.test_features.norm(dim=1), torch.full((6,), D**0.5))
    assert bank.provenance["scaling"] == "multiplied by 2.23607"
    unit = extracted(request_for(tmp_path, encoder=Encoder("org/model", unit_length=True)), raw(), HOW)
    torch.testing.assert_close(unit.test_features.norm(dim=1), torch.ones(6))


def test_the_bank_is_mapped_from_its_file(model, tmp_path):
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps on this system")
    request = request_for(tmp_path)
    bank = extracted(request, raw(), HOW)
    address = bank.train_features.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            assert line.endswith(str(request.path))
            return
    raise AssertionError("the features are in no mapping")


def test_the_global_random_state_is_left_alone(model, tmp_path):
    before = torch.get_rng_state()
    extracted(request_for(tmp_path), raw(), HOW)
    assert torch.equal(torch.get_rng_state(), before)


# --- the cache


def test_a_finished_bank_is_read_and_leaves_no_parts(model, tmp_path):
    request = request_for(tmp_path)
    first = extracted(request, raw(), HOW)
    asked = len(model.sizes)
    again = raw()
    assert extracted(request, again, HOW).digest == first.digest
    assert len(model.sizes) == asked
    assert again.train.instances.read == []
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ".safetensors"]
    assert finished(request).digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"identity": "v2"},
        {"revision": "def"},
        {"encoder": Encoder("org/model", pooling="cls")},
        {"encoder": Encoder("org/model", image_size=160)},
    ],
    ids=lambda change: str(*change.values()),
)
def test_whatever_features_depend_on_is_part_of_the_name(tmp_path, change):
    assert request_for(tmp_path, **change).path != request_for(tmp_path).path


def test_the_name_shows_the_image_size_and_stays_without_one(tmp_path):
    sized = request_for(tmp_path, encoder=Encoder("org/model", image_size=160))
    assert sized.path.name.startswith("pets_model-160_")
    assert request_for(tmp_path).path.name == "pets_model_5e853d07b59297a7.safetensors"


def test_fresh_extracts_anew(model, tmp_path):
    request = request_for(tmp_path)
    extracted(request, raw(), HOW)
    asked = len(model.sizes)
    extracted(request, raw(), HOW, fresh=True)
    assert len(model.sizes) == 2 * asked


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed"])
def test_a_damaged_bank_is_told_and_computed_anew(model, tmp_path, damage):
    request, data = request_for(tmp_path), raw()
    first = extracted(request, data, HOW)
    digest, content = first.digest, bytearray(request.path.read_bytes())
    del first
    content[-7] ^= 1
    request.path.unlink()  # a new file: the old one is mapped
    request.path.write_bytes({"cut": content[:-100], "emptied": b"", "changed": content}[damage])
    with pytest.warns(
        UserWarning, match=r"is not used, and will be computed anew: .*(whole safetensors|damaged|labels)"
    ):
        bank = extracted(request, data, HOW)
    assert bank.digest == digest
    assert load_bank(request.path).digest == digest


def test_a_foreign_bank_is_told_and_computed_anew(model, tmp_path):
    request, data = request_for(tmp_path), raw()
    other = extracted(request_for(tmp_path, revision="def"), data, HOW)
    save_bank(dataclasses.replace(other, train_features=other.train_features + 1), request.path)
    with pytest.warns(UserWarning, match="computed anew: it holds features of .*'revision': 'def'"):
        assert_holds(extracted(request, data, HOW), data)


# --- interruptions


class Interruption(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def interrupt_after(monkeypatch, batches):
    """Let the model fail after so many batches."""
    encode, count = LoadedEncoder.encode, []

    def limited(self, inputs):
        count.append(1)
        if len(count) > batches:
            raise Interruption
        return encode(self, inputs)

    monkeypatch.setattr(LoadedEncoder, "encode", limited)


@pytest.mark.parametrize(("batches", "parts"), [(0, 0), (1, 0), (2, 1), (5, 2), (6, 3), (7, 3)])
def test_an_interrupted_extraction_goes_on_where_it_stopped(model, tmp_path, batches, parts):
    request, data = request_for(tmp_path), raw()
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, batches)
        with pytest.raises(Interruption):
            extracted(request, data, HOW)
    assert finished(request) is None
    assert len(list(tmp_path.rglob("*-0*.safetensors"))) == parts
    again = raw()
    bank = extracted(request, again, HOW)
    assert_holds(bank, again)
    assert sorted(again.train.instances.read) == list(range(8 * min(parts, 3), 23))


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_a_damaged_part_is_computed_anew_and_the_others_are_not(model, tmp_path, damage):
    request, data = request_for(tmp_path), raw()
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 6)
        with pytest.raises(Interruption):
            extracted(request, data, HOW)
    part = request.parts / "train-000000008.safetensors"
    content = bytearray(part.read_bytes())
    content[-7] ^= 1
    if damage == "foreign":
        save_file(load_file(part), part, metadata={"description": "of something else"})
    else:
        part.write_bytes(content[:-9] if damage == "cut" else content)
    again = raw()
    assert_holds(extracted(request, again, HOW), again)
    assert sorted(again.train.instances.read) == list(range(8, 16))


KILLED = """
import sys, time
sys.path[:0] = {paths!r}
import test_extraction as t
from dal_lab.sources import extraction
class Slow(t.Linear):
    def forward(self, pixel_values):
        time.sleep(0.15)
        return super().forward(pixel_values)
encoder = extraction.LoadedEncoder(t.prepare, Slow(), "pooler", False, t.torch.device("cpu"))
extraction.load_encoder, extraction.PART_SIZE = (lambda *_: encoder), 8
print("ready", flush=True)
t.extracted(t.request_for(t.Path({folder!r})), t.raw(), t.HOW)
"""


def test_a_killed_process_loses_at_most_a_part(model, tmp_path):
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(paths=paths, folder=str(tmp_path))])
    part, deadline = request_for(tmp_path).parts / "train-000000000.safetensors", time.monotonic() + 60
    while not part.exists():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    data = raw()
    assert_holds(extracted(request_for(tmp_path), data, HOW), data)
    assert min(data.train.instances.read) >= 8
    assert not list(tmp_path.rglob(".*"))


def test_a_second_process_waits_for_the_first(tmp_path):
    request = request_for(tmp_path)
    with FileLock(request.path.with_suffix(".lock")):
        code = KILLED.format(
            paths=[str(Path(__file__).parent), str(Path(__file__).parent.parent)], folder=str(tmp_path)
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        assert not list(tmp_path.rglob("*.safetensors"))
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert finished(request) is not None


# --- memory


def short_of_memory(monkeypatch, most, error):
    encode = LoadedEncoder.encode

    def limited(self, inputs):
        if len(inputs["pixel_values"]) > most:
            raise error
        return encode(self, inputs)

    monkeypatch.setattr(LoadedEncoder, "encode", limited)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
     RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
     RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)")],
    ids=["cuda", "cpu", "mps"],
)  # fmt: skip
def test_the_batch_shrinks_until_it_fits_and_stays_small(monkeypatch, model, tmp_path, error):
    short_of_memory(monkeypatch, 3, error)
    data = raw()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bank = extracted(request_for(tmp_path), data, Extraction("cpu", batch_size=8, workers=0))
    assert_holds(bank, data)
    told = [str(each.message) for each in caught if "memory ran out" in str(each.message)]
    assert told == [f"memory ran out; going on with {size} instances at a time" for size in (4, 2)]
    assert max(model.sizes) == 2


def test_memory_for_not_even_one_instance_is_an_error(monkeypatch, model, tmp_path):
    short_of_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.warns(UserWarning, match="memory ran out"), pytest.raises(torch.OutOfMemoryError):
        extracted(request_for(tmp_path), raw(), HOW)


def test_other_errors_of_the_model_are_not_taken_for_lack_of_memory(monkeypatch, model, tmp_path):
    short_of_memory(monkeypatch, 3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        extracted(request_for(tmp_path), raw(), HOW)
    assert model.sizes == []


# --- what cannot be read


def test_an_unreadable_instance_is_refused_by_name(model, tmp_path):
    with pytest.raises(UnreadableInstanceError) as error:
        extracted(request_for(tmp_path), raw(broken={9}), HOW)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(
        "dataset 'pets': train/9.jpg cannot be decoded (OSError: image file is truncated); repair or remove it"
    )
    assert "--unreadable skip" in message


@pytest.mark.parametrize("broken", [{0}, {9, 22}, set(range(8, 16))], ids=["first", "two", "a whole part"])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_instances_are_skipped_with_a_count_if_wanted(model, tmp_path, broken, workers):
    data = raw(broken)
    how = dataclasses.replace(HOW, unreadable="skip", workers=workers)
    with pytest.warns(UserWarning, match="it is left out") as told:
        bank = extracted(request_for(tmp_path), data, how)
    why = "cannot be decoded (OSError: image file is truncated); it is left out"
    assert {str(each.message) for each in told} == {f"dataset 'pets': train/{i}.jpg {why}" for i in broken}
    kept = [i for i in range(23) if i not in broken]
    torch.testing.assert_close(bank.train_features, expected(data)[0][kept])
    assert bank.train_labels.tolist() == data.train.labels[kept].tolist()
    assert bank.provenance["skipped"] == {"train": len(broken), "test": 0}


def test_a_split_that_cannot_be_read_at_all_is_refused(model, tmp_path):
    how = dataclasses.replace(HOW, unreadable="skip")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="dataset 'pets': no instance of the train split can be decoded; at least one"),
    ):
        extracted(request_for(tmp_path), raw(broken=range(23)), how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; a whole number of at least 1 was expected"),
        ({"workers": -1}, "workers is -1; a whole number of at least 0 was expected"),
        ({"unreadable": "ignore"}, "unreadable is 'ignore'; it has to be one of 'refuse', 'skip'"),
        ({"device": "tpu"}, "device is 'tpu'; it has to be one of 'auto', 'cpu', 'cuda', 'mps'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Extraction(**options)


def test_texts_are_tokenised_in_this_process_and_images_are_read_by_others():
    assert Extraction().workers_for("text") == 0
    assert 1 <= Extraction().workers_for("image") <= extraction.MOST_WORKERS
    assert Extraction(workers=3).workers_for("text") == 3
