import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dal_lab.companion.command_line import main
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.sources import catalogue
from dal_lab.sources.bank import in_two, save_bank
from dal_lab.sources.catalogue import load, read_features

SMALL = {"cycles": 1, "batch_size": 2, "initial_size": 3, "subset_size": None, "options": {"epochs": 2}}
SMALL_ARGUMENTS = [
    "--cycles", "1", "--batch-size", "2", "--initial-size", "3", "--subset-size", "all", "--option", "epochs=2",
]  # fmt: skip
ODD_NAMES = ["two words", "it's", 'so "called"', "größe_数", "a..b", "1e5", "$x_$", "a|b", "~mine", "-x"]


def points(n=40, d=5, k=3, seed=0):
    """Features [n, d] in float32, and labels in words."""
    draw = np.random.default_rng(seed)
    numbers = np.arange(n) % k
    features = 3 * draw.normal(size=(n, d)) + 4 * numbers[:, None]
    return features.astype(np.float32), np.array(["ant", "bee", "cat"])[numbers]


def frame(**columns):
    features, words = points()
    return pd.DataFrame(features, columns=[f"f{i}" for i in range(5)]).assign(label=words, **columns)


def write(path, features=None, words=None):
    """The points in the format of the path's ending."""
    if features is None:
        features, words = points()
    if path.suffix == ".npz":
        np.savez(path, x=features, y=words)
    elif path.suffix == ".parquet":
        pd.DataFrame(features, columns=[f"f{i}" for i in range(5)]).assign(label=words).to_parquet(path)
    else:
        write(other := path.with_name("other.npz"), features, words)
        save_bank(read_features(other), path)
    return path


def refusal(path, kind=ValueError):
    with pytest.raises(kind) as error:
        read_features(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- what is read


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".safetensors"])
def test_features_and_labels_are_split_by_class(tmp_path, ending):
    features, _ = points()
    bank = read_features(write(tmp_path / f"my{ending}"))
    assert bank.class_names == ("ant", "bee", "cat")
    train, test, train_labels, test_labels = in_two(features, np.arange(40) % 3, stratify=True)
    assert (len(train), len(test)) == (30, 10)
    torch.testing.assert_close(bank.train_features, torch.from_numpy(train), rtol=0, atol=0)
    torch.testing.assert_close(bank.test_features, torch.from_numpy(test), rtol=0, atol=0)
    assert bank.train_labels.tolist() == train_labels.tolist()
    assert bank.test_labels.tolist() == test_labels.tolist()


def test_the_three_formats_hold_the_same_bank(tmp_path):
    digests = {read_features(write(tmp_path / f"my{ending}")).digest for ending in (".npz", ".parquet", ".safetensors")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "labels",
    [
        np.array([10, 2, 7])[np.arange(40) % 3],
        np.array([10, 2, 7], dtype=np.uint8)[np.arange(40) % 3],
        np.array(["10", "2", "7"])[np.arange(40) % 3],
        np.array([b"10", b"2", b"7"])[np.arange(40) % 3],
    ],
)
def test_labels_are_integers_or_strings(tmp_path, labels):
    features, _ = points()
    np.savez(tmp_path / "my.npz", x=features, y=labels)
    bank = read_features(tmp_path / "my.npz")
    numbers = labels.dtype.kind in "iu"
    assert bank.class_names == (("2", "7", "10") if numbers else ("10", "2", "7"))
    of_class = {str(name): features[np.arange(40) % 3 == i] for i, name in enumerate((10, 2, 7))}
    for name, feature in zip(bank.train_labels, bank.train_features, strict=True):
        assert (of_class[bank.class_names[name]] == feature.numpy()).all(axis=1).any()


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_features_of_norm_one_are_scaled_and_others_are_not(tmp_path, ending):
    features, words = points()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    bank = read_features(write(tmp_path / f"my{ending}", features, words))
    np.testing.assert_allclose(bank.train_features.norm(dim=1), 5**0.5, rtol=1e-5)
    np.testing.assert_allclose(bank.test_features.norm(dim=1), 5**0.5, rtol=1e-5)


def test_a_table_says_itself_what_is_for_the_test(tmp_path):
    split = np.where(np.arange(40) < 25, "train", "test")
    table = frame(split=split).astype({"f1": "int64", "label": "category", "split": "category"})
    table.assign(f2=table["f2"] > 0).set_index(pd.Index(range(7, 47))).to_parquet(tmp_path / "my.parquet")
    bank = read_features(tmp_path / "my.parquet")
    assert (len(bank.train_labels), len(bank.test_labels), bank.num_features) == (25, 15, 5)
    np.testing.assert_array_equal(bank.train_features[:, 1], table["f1"][:25])
    np.testing.assert_array_equal(bank.test_features[:, 2], table["f2"][25:] > 0)
    names = np.array(bank.class_names)
    assert names[bank.train_labels].tolist() == table["label"][:25].tolist()
    assert names[bank.test_labels].tolist() == table["label"][25:].tolist()


def test_a_table_of_integer_labels_keeps_their_order(tmp_path):
    split = np.where(np.arange(40) < 25, "train", "test")
    frame(split=split).assign(label=np.array([10, 2, 7])[np.arange(40) % 3]).to_parquet(tmp_path / "my.parquet")
    bank = read_features(tmp_path / "my.parquet")
    assert bank.class_names == ("2", "7", "10")
    assert bank.test_labels[:3].tolist() == [[2, 0, 1][i % 3] for i in (25, 26, 27)]


def test_an_archive_says_itself_what_is_for_the_test(tmp_path):
    features, _ = points()
    labels = np.arange(40) % 3
    parts = {"x_train": features[:30], "y_train": labels[:30], "x_test": features[30:], "y_test": labels[30:]}
    np.savez(tmp_path / "my.npz", **parts, classes=["ant", "bee", "cat"])
    bank = read_features(tmp_path / "my.npz")
    np.testing.assert_array_equal(bank.test_features, features[30:])
    assert bank.test_labels.tolist() == labels[30:].tolist()


def test_a_saved_bank_comes_back(tmp_path):
    bank = load("moons")
    save_bank(bank, tmp_path / "my.safetensors")
    assert read_features(tmp_path / "my.safetensors").digest == bank.digest


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_a_data_folder_holds_such_files_too(tmp_path, ending):
    path = write(tmp_path / f"my{ending}")
    assert load("my", data_dir=tmp_path).digest == read_features(path).digest


def test_a_file_that_changes_is_read_again(tmp_path):
    path = write(tmp_path / "my.npz")
    before = read_features(path)
    assert read_features(path) is before
    features, words = points(seed=1)
    write(path, features, words)
    os.utime(path, ns=(0, 1))  # the clock of the file system may be coarse
    assert read_features(path).digest != before.digest


# --- as the data of an experiment


def test_a_path_is_a_data_set_whatever_the_file_is_called(tmp_path, monkeypatch, capsys):
    (tmp_path / "in here" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    paths = [f"in here/x/../{name}.parquet" for name in ODD_NAMES]
    for name in ODD_NAMES:
        write(tmp_path / "in here" / f"{name}.parquet")
    strategies = ("random", "margin")
    experiments = [experiment_of(dataset=path, strategy=each, **SMALL) for path in paths for each in strategies]
    rows = Grid(tmp_path / "results", jobs=1).rows(experiments, "runs")
    assert rows["data"].unique().tolist() == ODD_NAMES
    command = ["compare", *strategies, "--features", *paths, "--seeds", "1", *SMALL_ARGUMENTS]
    assert main([*command, "--results-dir", "results"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in ODD_NAMES] == ODD_NAMES
    assert f"{len(experiments)} runs in" in printed[-2]  # the same


def test_key_and_provenance_know_content_and_name_but_not_the_place(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = write(tmp_path / "a" / "my.npz")
    save_bank(read_features(path), tmp_path / "b" / "my.safetensors")
    shutil.copy(path, tmp_path / "b" / "other.npz")
    monkeypatch.chdir(tmp_path / "b")

    def keys(dataset):
        grid = Grid(tmp_path / "results", jobs=1)
        grid.rows([experiment_of(dataset=dataset, **SMALL)], "run")
        return grid.keys

    assert keys(str(path)) == keys("../a/my.npz") == keys("my.safetensors") != keys("other.npz")
    stored = list((tmp_path / "results").glob("*.parquet"))
    assert len(stored) == 2
    provenance = [Grid(tmp_path / "results").store.provenance(each) for each in stored]
    assert {each["configuration"]["data"] for each in provenance} == {"my", "other"}
    assert str(tmp_path) not in str(provenance)


def test_workers_find_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    experiments = [experiment_of(dataset="my.npz", seed=seed, **SMALL) for seed in (0, 1)]
    # The second grid meets workers that were started in the first folder.
    for i, place in enumerate((tmp_path, tmp_path / "elsewhere")):
        monkeypatch.chdir(place)
        write(place / "my.npz", *points(seed=i))
        rows = Grid(tmp_path / f"results{i}", jobs=2).rows(experiments, "runs")
        expected = run(experiments[1])
        assert rows["accuracy"][2:].tolist() == expected["accuracy"].tolist()
        assert rows["nll"][2:].tolist() == expected["nll"].tolist()


def test_different_data_of_one_name_are_refused(tmp_path):
    for i, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "my.npz", *points(seed=i))
    experiments = [experiment_of(dataset=str(tmp_path / place / "my.npz"), **SMALL) for place in "ab"]
    with pytest.raises(ValueError, match=r"a/my\.npz' and '.*b/my\.npz' are different data of the same name 'my'; "):
        Grid(tmp_path / "results", jobs=1).rows(experiments, "runs")


def test_run_grid_and_report_take_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my data.parquet")
    assert main(["run", "--features", "my data.parquet", *SMALL_ARGUMENTS]) == 0
    rows = run(experiment_of(dataset="my data.parquet", **SMALL))
    assert f"{rows['accuracy'].iloc[-1]:.4f}" in capsys.readouterr().out
    for command in ("grid", "report"):
        assert main([command, "--features", "my data.parquet", "--seeds", "1", "--jobs", "1", *SMALL_ARGUMENTS]) == 0
    assert pd.read_csv(tmp_path / "report" / "report_accuracy.csv")["data"].tolist() == ["my data"]


def test_files_and_named_data_sets_go_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.npz")
    command = ["grid", "--dataset", "moons", "--features", "my.npz", "--seeds", "1", "--jobs", "1", *SMALL_ARGUMENTS]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "moons" in printed
    assert "my " in printed
    assert "2 runs in" in printed


# --- what is refused


def _pickled(path):
    path.write_bytes(pickle.dumps({"x": [1]}))


@pytest.mark.parametrize("name", ["my.pkl", "my.pt", "my.npy", "my.csv", "my", ".npz"])
def test_other_files_are_refused_unread(tmp_path, name, monkeypatch):
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    _pickled(tmp_path / name)
    message = refusal(tmp_path / name)
    assert ".safetensors, .npz, .parquet was expected" in message
    assert "Pickled data are not read" in message


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".safetensors"])
def test_what_is_not_such_a_file_is_refused(tmp_path, ending):
    path = tmp_path / f"my{ending}"
    assert "no feature file at" in refusal(path, FileNotFoundError)
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder" / f"my{ending}"
    folder.mkdir()
    assert "no feature file at" in refusal(folder, FileNotFoundError)
    for content in (b"", pickle.dumps({"x": [1]}), b"PK\x03\x04", b"PAR1"):
        path.write_bytes(content)
        assert "is not a whole" in refusal(path)
    whole = write(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is not a whole" in refusal(path)


def test_an_array_alone_and_pickled_objects_are_no_archive(tmp_path):
    with (tmp_path / "alone.npz").open("wb") as file:
        np.save(file, points()[0])
    assert "is not a whole archive of plain arrays" in refusal(tmp_path / "alone.npz")
    np.savez(tmp_path / "objects.npz", x=points()[0], y=points()[1].astype(object))
    assert "is not a whole archive of plain arrays" in refusal(tmp_path / "objects.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"features": x, "labels": y}, r"lacks the arrays ['x_train', 'y_train', 'x_test', 'y_test', 'cl"),
        (lambda x, y: {"x": x}, "or ['x', 'y'] alone, were expected"),
        (lambda x, y: {"x": x, "y": y, "x_train": x}, "lacks the arrays ['y_train'"),
        (lambda x, y: {"x": x[:, 0], "y": y}, "x has shape (40,) and dtype float32; a matrix of numbers"),
        (lambda x, y: {"x": x.reshape(40, 5, 1), "y": y}, "x has shape (40, 5, 1)"),
        (lambda x, y: {"x": x.astype(str), "y": y}, "x has shape (40, 5) and dtype <U"),
        (lambda x, y: {"x": x * 1j, "y": y}, "dtype complex64; a matrix of numbers was expected"),
        (lambda x, y: {"x": x, "y": y[:39]}, "y has 39 entries; 40 were expected, one an instance"),
        (lambda x, y: {"x": x, "y": y[:, None]}, "y has shape (40, 1)"),
        (lambda x, y: {"x": x, "y": np.ones(40)}, "dtype float64; class labels were expected, integers or strings"),
        (lambda x, y: {"x": x, "y": np.ones(40, int)}, "class_names has 1 entries; at least 2 classes"),
        (lambda x, y: {"x": x, "y": np.arange(40) // 39}, "the classes '1' have one instance; at least 2 were"),
        (
            lambda x, y: {"x": x[:0], "y": y[:0]},
            "x has shape (0, 5) and dtype float32; a matrix of numbers was expected, not empty",
        ),
        (lambda x, y: {"x": np.where(np.arange(40)[:, None] == 6, np.nan, x), "y": y}, "the first at (6, 0)"),
        (lambda x, y: {"x": np.full(x.shape, 1e40), "y": y}, "x holds 200 values that are NaN or infinite"),
    ],
)
def test_archives_that_make_no_data_set_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "my.npz", **change(*points()))
    assert message in refusal(tmp_path / "my.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="label"), "one called 'label' was expected"),
        (lambda table: table[["label"]], "columns of features: there are none; numbers were expected in all but"),
        (lambda table: table.assign(f1="high"), "'f1' hold "),
        (lambda table: table.assign(f1=[[1.0, 2.0]] * 40), "'f1' hold 'list<"),
        (lambda table: table.assign(when=pd.Timestamp(0)), "'when' hold 'timestamp["),
        (lambda table: table.assign(f1=[None, *range(39)]), "features holds 1 values that are NaN or infinite"),
        (lambda table: table.assign(f1=table["f1"] * 1e300 * 1e9), "features holds 40 values that are NaN or infinite"),
        (lambda table: table.assign(label=[None, *table["label"][1:]]), "the column 'label' has empty cells"),
        (lambda table: table.assign(label=0.5), "label has shape (40,) and dtype float64; class labels were expected"),
        (lambda table: table.assign(label="ant"), "class_names has 1 entries"),
        (lambda table: table.assign(split="train"), "the column 'split' holds 'train'; train and test were expected"),
        (lambda table: table.assign(split=["train", "test", *["dev"] * 38]), "holds 'dev', 'test', 'train'; train and"),
        (lambda table: table.assign(split=[None, *["train", "test"] * 19, "test"]), "the column 'split' has empty"),
        (
            lambda table: table.assign(split=np.where(table["label"] == "cat", "test", "train")),
            "column 'label': test classes ['cat'] do not occur in the train split",
        ),
    ],
)  # fmt: skip
def test_tables_that_make_no_data_set_are_refused(tmp_path, change, message):
    change(frame().astype({"f1": "float64"})).to_parquet(tmp_path / "my.parquet")
    assert message in refusal(tmp_path / "my.parquet")


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    column = pa.array([1.0, 2.0])
    pq.write_table(pa.Table.from_arrays([column, column], names=["f", "f"]), tmp_path / "my.parquet")
    assert "the columns ['f'] occur more than once" in refusal(tmp_path / "my.parquet")


def test_a_file_of_other_tensors_is_no_bank(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(3)}, tmp_path / "my.safetensors")
    assert "has format None" in refusal(tmp_path / "my.safetensors")


def test_features_need_no_encoder(tmp_path):
    path = str(write(tmp_path / "my.npz"))
    for call in (load, catalogue.extract):
        with pytest.raises(
            ValueError, match=r"encoder is 'minilm', but dataset '.*my\.npz' consists of features already"
        ):
            call(path, encoder="minilm")


def test_a_name_that_is_none_says_that_it_could_be_a_file():
    with pytest.raises(ValueError, match=r"dataset is 'my\.pkl'; it has to be one of .*, 'FILE\.npz', 'FILE\.parquet'"):
        load("my.pkl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--features", "absent.npz"], "no feature file at"),
        (["run", "--features", "digits"], "digits ends in ''; .safetensors, .npz, .parquet was expected"),
        (
            ["run", "--features", "my.npz", "--dataset", "digits"],
            "--dataset and --features name digits and my.npz; one",
        ),
        (["grid", "--features", "my.npz", "--encoder", "minilm"], "consists of features already"),
        (["grid", "--features", "my.npz", "my.pt"], "my.pt ends in '.pt'"),
        (["report", "--features", "x/../../my.pkl"], "my.pkl ends in '.pkl'"),
        (["compare", "random", "margin", "--features", "my.npz", "--cycles", "9"], "but the pool has 30"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.npz")
    small = [] if "--cycles" in arguments else SMALL_ARGUMENTS
    assert main([*arguments, *small]) == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("learning curves: ")]
    (complaint,) = complaints
    assert complaint.startswith("error: ")
    assert message in complaint
