"""FeatureBank refuses what does not fit, and comes back from disk unchanged or not at all."""

import dataclasses
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from dal_core.data import FeatureBank, FeatureData, Labelled, as_labelled, standardised, warn_of_scales
from dal_lab.sources.bank import FORMAT, load_bank, save_bank

N, N_TEST, D, K = 11, 7, 5, 3


def arrays(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "train_features": torch.randn(N, D, generator=draw, dtype=dtype),
        "train_labels": torch.arange(N) % K,
        "test_features": torch.randn(N_TEST, D, generator=draw, dtype=dtype),
        "test_labels": torch.arange(N_TEST) % K,
    }


def make(dtype: torch.dtype = torch.float32, **changes) -> FeatureBank:
    values = {"class_names": ("ä", "b", "c"), "provenance": {"source": "test", "scale": 2.5}}
    return FeatureBank(**(arrays(dtype) | values | changes))


def with_value(name: str, place: tuple[int, ...], value: float) -> dict[str, torch.Tensor]:
    tensor = arrays()[name].clone()
    tensor[place] = value
    return {name: tensor}


def test_sizes():
    bank = make()
    assert (bank.num_classes, bank.num_features) == (K, D)


def test_prints_as_one_line():
    assert repr(make()) == f"FeatureBank(test: {N} + {N_TEST} x {D}, {K} classes)"
    assert repr(make(provenance={})) == f"FeatureBank({N} + {N_TEST} x {D}, {K} classes)"
    assert "\n" not in repr(make(provenance={"source": "a\nb"}))


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().train_labels = torch.zeros(N, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("only",)}, "class_names has 1 entries; at least 2 classes"),
        (
            {"train_features": torch.zeros(0, D), "train_labels": torch.zeros(0, dtype=torch.int64)},
            r"train_features has shape \(0, 5\); a non-empty matrix",
        ),
        ({"test_features": torch.zeros(N_TEST, D).double()}, "test_features has dtype torch.float64; torch.float32"),
        ({"train_features": torch.zeros(N, D).half()}, "train_features has dtype torch.float16; float32 or float64"),
        (with_value("train_labels", (4,), K), "train_labels holds labels from 0 to 3; 0 to 2 was expected"),
        (with_value("test_labels", (4,), -1), "test_labels holds labels from -1 to 2; 0 to 2 was expected"),
        (with_value("train_features", (2, 3), torch.nan), r"train_features holds 1 values .* the first at \(2, 3\)"),
        (with_value("test_features", (6, 0), torch.inf), r"test_features holds 1 values .* the first at \(6, 0\)"),
    ],
)
def test_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_digest_is_the_same_for_the_same_data_whatever_their_provenance():
    assert make().digest == make(provenance={"source": "elsewhere"}).digest


@pytest.mark.parametrize(
    "changes",
    [
        with_value("train_features", (0, 0), 9.0),
        with_value("train_labels", (0,), 2),
        with_value("test_features", (0, 0), 9.0),
        with_value("test_labels", (0,), 2),
        {"class_names": ("ä", "b", "d")},
        {"train_features": arrays()["train_features"].double(), "test_features": arrays()["test_features"].double()},
    ],
)
def test_digest_tells_different_data_apart(changes):
    assert make(**changes).digest != make().digest


def test_to_keeps_every_array_in_its_place():
    bank, moved = make(), make().to("cpu")
    assert moved.digest == bank.digest
    assert moved.provenance == bank.provenance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_comes_back_from_disk_unchanged(tmp_path, dtype):
    bank, path = make(dtype), tmp_path / "new" / "bank.safetensors"
    save_bank(bank, path)
    loaded = load_bank(path)
    for name in arrays():
        torch.testing.assert_close(getattr(loaded, name), getattr(bank, name), atol=0, rtol=0)
    assert loaded.class_names == ("ä", "b", "c")
    assert loaded.provenance == {"source": "test", "scale": 2.5}
    assert loaded.digest == bank.digest
    assert list(path.parent.iterdir()) == [path]


def test_non_contiguous_arrays_are_saved_by_value(tmp_path):
    wide = torch.randn(D, N)
    bank = make(train_features=wide.mT)
    save_bank(bank, tmp_path / "bank.safetensors")
    assert torch.equal(load_bank(tmp_path / "bank.safetensors").train_features, wide.mT)


def test_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no feature file at .*absent\.safetensors"):
        load_bank(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 60, -1], ids=lambda kept: f"first {kept} bytes")
def test_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "bank.safetensors"
    save_bank(make(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"bank\.safetensors is not a whole safetensors file"):
        load_bank(path)


def test_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_bank(make(), path)
    content = bytearray(path.read_bytes())
    place = content.rindex(arrays()["train_features"].numpy().tobytes())
    content[place] ^= 1  # the last bit of a mantissa
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bank\.safetensors is damaged: .* digest"):
        load_bank(path)


def test_changed_class_names_are_noticed(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_bank(make(), path)
    header = {"format": FORMAT, "class_names": '["x", "y", "z"]', "provenance": "{}", "digest": make().digest}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(ValueError, match="is damaged"):
        load_bank(path)


def test_other_safetensors_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors has format None; 'dal_core\.FeatureBank\.1'"):
        load_bank(path)


def test_missing_array_is_named(tmp_path):
    path = tmp_path / "bank.safetensors"
    tensors = {name: tensor for name, tensor in arrays().items() if name != "test_labels"}
    header = {"format": FORMAT, "class_names": json.dumps(["a", "b", "c"]), "provenance": "{}", "digest": ""}
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match=r"holds the arrays \['test_features', .*'test_labels', .*were expected"):
        load_bank(path)


# --- scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardised_features_have_mean_0_and_deviation_1_on_the_train_split(dtype):
    scale, shift = torch.tensor([1e-3, 1, 50, 1e6, 0], dtype=dtype), torch.tensor([0, 3, 0, 1e7, 0.1], dtype=dtype)
    values = arrays(dtype)
    bank = make(dtype, **{name: values[name] * scale + shift for name in ("train_features", "test_features")})
    found = bank.standardised()
    train, test = values["train_features"].double(), values["test_features"].double()
    expected = (test - train.mean(dim=0)) / train.std(dim=0, correction=0)
    expected[:, 4] = 0  # It is constant.
    tolerance = 1e-5 if dtype == torch.float64 else 0.01  # 1e7 has seven figures in float32.
    torch.testing.assert_close(found.test_features.double(), expected, atol=tolerance, rtol=tolerance)
    assert found.train_features.dtype == dtype
    assert found.train_features.double().mean(dim=0).abs().max() < 1e-5
    assert found.digest != bank.digest
    assert found.provenance == {"source": "test", "scale": 2.5, "scaling": "standardised"}


def test_what_has_no_features_cannot_be_standardised():
    part = Labelled(range(3), torch.arange(3))
    with pytest.raises(ValueError, match=r"standardise is True, but the data are range\(0, 3\); a row of features"):
        standardised(part, part)


@pytest.mark.parametrize(
    ("scales", "named"),
    [
        ([0.5, 1.0, 20.0], None),
        ([0.0, 0.02, 1.0], None),
        ([0.001] + [1.0] * 30, None),  # like units of a network that are nearly dead
        ([30.0, 0.05, 1.0], "column 0 30, column 1 0.05"),
        ([1.0, 2e3, 5.0], "column 1 2e+03"),
        ([1e5, 2e5, 1e9, 1e4], "column 2 1e+09, column 1 2e+05, column 0 1e+05, ..."),
        ([1e-6, 2e-6], "column 0 1e-06, column 1 2e-06"),
    ],
)
def test_scales_far_from_one_are_named(scales, named):
    features = torch.tensor([[1.0], [-1.0], [0.5]]) * torch.tensor(scales)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_scales(Labelled(FeatureData(features), torch.arange(3)), {"source": "mine"})
    expected = [] if named is None else [f"mine: the scale of features is far from 1 ({named}), so that models learn"]
    assert [str(each.message)[: len(expected[0])] for each in caught] == expected


# --- classes


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 3), (-1, 0, 5), (-(10**9), 7, 10**15)])
def test_classes_are_the_values_that_occur(values):
    plain = arrays()
    labels = [torch.tensor(values)[plain[f"{split}_labels"]] for split in ("train", "test")]
    train, test = as_labelled((plain["train_features"], labels[0], plain["test_features"], labels[1]))
    assert train.labels.tolist() == plain["train_labels"].tolist()
    assert test.labels.tolist() == plain["test_labels"].tolist()


@pytest.mark.parametrize(("num_classes", "label"), [(None, 0), (5, 3)])
def test_labels_of_one_class_or_of_a_task_with_more_of_them(num_classes, label):
    labels = torch.full((4,), 3)
    train, _ = as_labelled((torch.zeros(4, 2), labels, torch.zeros(4, 2), labels), num_classes=num_classes)
    assert train.labels.tolist() == [label] * 4


def test_labels_beyond_those_of_a_task_are_refused():
    parts = (torch.zeros(4, 2), torch.full((4,), 10**9), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="train_labels holds labels from 1000000000 to 1000000000; 0 to 2 was expecte"):
        as_labelled(parts, num_classes=3)
