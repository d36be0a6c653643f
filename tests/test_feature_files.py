import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dal_core as dal
from dal_lab.companion.command_line import main
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import configuration, run
from dal_lab.sources import catalogue
from dal_lab.sources.bank import in_two, save_bank
from dal_lab.sources.catalogue import load, read_features
from dal_lab.sources.tables import features_of, read_table

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
    elif path.suffix in (".csv", ".gz"):
        pd.DataFrame(features, columns=[f"f{i}" for i in range(5)]).assign(label=words).to_csv(path)
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


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".safetensors", ".csv"])
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


def test_all_formats_hold_the_same_bank(tmp_path):
    endings = (".npz", ".parquet", ".safetensors", ".csv", ".csv.gz")
    assert len({read_features(write(tmp_path / f"my{ending}")).digest for ending in endings}) == 1
    assert {catalogue.short_name(str(tmp_path / f"my{ending}")) for ending in endings} == {"my"}


PLAIN = "a,b,label\n1,2.5,x\n3,4,y\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t").replace(".", ","),
        PLAIN.replace(",", "\t").encode("utf-8-sig"),
        PLAIN.replace(",", ", "),
        PLAIN.replace("x", '"x"').replace("2.5", '"2.5"'),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r"),
        "\n\r\n" + PLAIN.replace(",", "\t").replace(".", ","),
        ",a,b,label\n7,1,2.5,x\n8,3,4,y\n",
        "a,b,label,\n1,2.5,x,\n3,4,y,\n\n",
        "a,b,label,,\n1,2.5,x,,\n3,4,y,,\n",
    ],
)
def test_csv_is_read_in_its_dialects(tmp_path, content):
    (tmp_path / "my.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    features, names = features_of(frame := read_table(tmp_path / "my.csv"))
    assert (names, features.tolist()) == (["a", "b"], [[1, 2.5], [3, 4]])
    assert frame["label"].tolist() == ["x", "y"]


def test_names_in_quotes_may_hold_delimiters_and_breaks(tmp_path):
    (tmp_path / "my.csv").write_text('"a;1;2","b\n(c)",label\n1,2.5,x\n3,4,y\n')
    assert features_of(read_table(tmp_path / "my.csv"))[1] == ["a;1;2", "b\n(c)"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_classes_of_a_csv_keep_their_letters_and_may_be_called_like_nothing(tmp_path, encoding):
    rows = "".join(f"{i};{i + 0.5};{name}\n" for i in range(4) for name in ("Müller", "NA", "null"))
    (tmp_path / "my.csv").write_bytes(f"größe;b;label\n{rows}".encode(encoding))
    bank = read_features(tmp_path / "my.csv")
    assert bank.class_names == ("Müller", "NA", "null")
    assert bank.provenance["columns"] == ["größe", "b"]
    assert repr(bank) == "FeatureBank(my.csv: 9 + 3 x 2, 3 classes)"


NUMBER = np.random.default_rng(0).permutation(10**6)[:40]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(NUMBER),
        pd.Index(NUMBER, name="customer"),
        pd.Index(NUMBER.astype(str), name="customer"),
        pd.MultiIndex.from_arrays([NUMBER, NUMBER[::-1]], names=["shop", "customer"]),
        pd.MultiIndex.from_arrays([NUMBER, NUMBER[::-1]]),
        pd.date_range("2020", periods=40, name="day"),
    ],
)
def test_an_index_is_no_feature(tmp_path, index):
    frame().set_index(index).to_parquet(tmp_path / "my.parquet")
    assert read_features(tmp_path / "my.parquet").digest == read_features(write(tmp_path / "plain.parquet")).digest
    assert read_table(tmp_path / "my.parquet").index.equals(index)  # for who asks which row it was


def test_an_index_may_be_the_label_or_the_split(tmp_path):
    table = frame(split=np.where(np.arange(40) < 25, "train", "test"))
    table.to_parquet(tmp_path / "plain.parquet")
    for name, index in (("one", "label"), ("two", ["split", "label"])):
        table.set_index(index).to_parquet(tmp_path / f"{name}.parquet")
        assert read_features(tmp_path / f"{name}.parquet").digest == read_features(tmp_path / "plain.parquet").digest


def write_parts(folder, tables, names=("part-0.parquet", "part-1.snappy.parquet")):
    for name, table in zip(names, tables, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / name)
    for ignored in ("_SUCCESS", ".part-0.parquet.crc", "_metadata.json"):
        (folder / ignored).touch()


def test_a_folder_of_parts_is_one_table(tmp_path):
    whole = frame().astype({"f1": "int64"})
    write_parts(tmp_path / "my.parquet", (whole[:13], whole[13:].astype({"f1": "float64"})))
    whole.to_parquet(tmp_path / "one.parquet")
    expected = read_features(tmp_path / "one.parquet").digest
    assert read_features(f"{tmp_path}/my.parquet/").digest == load("my", data_dir=tmp_path).digest == expected
    write_parts(tmp_path / "my.parquet", (whole[:13], whole[13:30]))
    assert len(read_features(tmp_path / "my.parquet").train_labels) == 22  # It is read again.


def test_folders_in_a_folder_of_parts_may_have_a_column_in_their_names(tmp_path):
    whole = frame(split=np.where(np.arange(40) < 25, "train", "test"))
    parts = [whole[whole["split"] == split].drop(columns="split") for split in ("test", "train")]
    write_parts(tmp_path / "my.parquet", parts, ["split=test/0.parquet", "split=train/0.parquet"])
    whole.to_parquet(tmp_path / "one.parquet")
    assert read_features(tmp_path / "my.parquet").digest == read_features(tmp_path / "one.parquet").digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(more=1.0), "'more' are empty, NaN or infinite in float32 in 20 cells"),
        (lambda table: table.drop(columns="f1"), "'f1' are empty, NaN or infinite in float32 in 20 cells, the first"),
        (lambda table: table.assign(f1="high"), "is no folder of Parquet files of one table"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, change, message):
    write_parts(tmp_path / "my.parquet", (frame()[:20], change(frame()[20:])))
    assert message in refusal(tmp_path / "my.parquet")


def test_a_file_among_parts_that_is_none_is_named(tmp_path):
    write_parts(tmp_path / "my.parquet", (frame()[:20], frame()[20:]))
    (tmp_path / "my.parquet" / "notes.txt").write_text("hello")
    assert "notes.txt" in refusal(tmp_path / "my.parquet")


@pytest.mark.parametrize(
    ("labels", "test_size"),
    [
        (np.arange(40) % 20, 20),
        (np.arange(40) % 11, 11),
        (np.arange(40) % 10, 10),
        (np.array([10**9, -5, 7])[np.arange(40) % 3], 10),
        (np.arange(40) % 2 == 0, 10),
    ],
)
def test_many_classes_of_few_rows_and_any_numbers_are_split(tmp_path, labels, test_size):
    np.savez(tmp_path / "my.npz", x=points()[0], y=labels)
    bank = read_features(tmp_path / "my.npz")
    assert bank.class_names == tuple(map(str, np.unique(labels)))
    assert (len(bank.train_labels), len(bank.test_labels)) == (40 - test_size, test_size)
    assert bank.train_labels.unique().tolist() == list(range(len(bank.class_names)))


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


def test_scales_are_warned_of_and_standardised_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    features, words = points()
    frame = pd.DataFrame(features * [1, 1e4, 1, 1, 1], columns=["age", "income", "c", "d", "e"]).assign(label=words)
    frame.to_csv("people.csv", index=False)
    bank = load("people.csv", standardise=True)
    assert bank.digest == load("people.csv").standardised().digest
    assert main(["run", "--features", "people.csv", *SMALL_ARGUMENTS]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("warning: people.csv: the scale of features is far from 1 (income ")
    assert "--standardise" in told[0]
    assert main(["run", "--features", "people.csv", "--standardise", *SMALL_ARGUMENTS]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    both = [experiment_of(dataset="people.csv", standardise=each, **SMALL) for each in (True, False)]
    assert ["standardise" in configuration(each)["protocol"] for each in both] == [True, False]  # Old keys stay.
    grid = Grid("results", jobs=1)
    with pytest.warns(UserWarning, match="far from 1"):
        rows = grid.rows(both, "runs")
    assert len(set(grid.keys)) == 2
    assert rows["standardise"].fillna(False).tolist() == [True] * 2 + [False] * 2
    expected = dal.run(both[1], bank)
    assert rows["nll"][:2].tolist() == expected["nll"].tolist()
    assert f"{expected['nll'].iloc[-1]:.4f}" in printed.out


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


@pytest.mark.parametrize("name", ["my.pkl", "my.pt", "my.npy", "my.csv.zip", "my", ".npz", ".csv.gz"])
def test_other_files_are_refused_unread(tmp_path, name, monkeypatch):
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    _pickled(tmp_path / name)
    message = refusal(tmp_path / name)
    assert ".safetensors, .npz, .parquet, .csv, .csv.gz, .tsv was expected" in message
    assert "Pickled data are not read" in message


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".safetensors", ".csv", ".csv.gz"])
def test_what_is_not_such_a_file_is_refused(tmp_path, ending):
    path = tmp_path / f"my{ending}"
    assert "no feature file at" in refusal(path, FileNotFoundError)
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder" / f"my{ending}"
    folder.mkdir()
    if ending == ".parquet":
        assert "is a folder without a Parquet file; at least one was expected" in refusal(folder)
    else:
        assert "which is a folder" in refusal(folder, FileNotFoundError)
    for content in (b"", pickle.dumps({"x": [1]}), b"PK\x03\x04", b"PAR1"):
        path.write_bytes(content)
        message = refusal(path)
        assert "is not a whole" in message or (ending == ".csv" and "is no text" in message)
    if ending == ".csv":
        return  # A table without its last rows is a table.
    whole = write(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is not a whole" in refusal(path)


def test_an_array_alone_and_pickled_objects_are_no_archive(tmp_path):
    with (tmp_path / "alone.npz").open("wb") as file:
        np.save(file, points()[0])
    assert "is not a whole archive of plain arrays" in refusal(tmp_path / "alone.npz")
    np.savez(tmp_path / "objects.npz", x=points()[0], y=points()[1].astype(object))
    assert "y holds Python objects, which would be unpickled; numbers or texts" in refusal(tmp_path / "objects.npz")


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
        (
            lambda x, y: {"x": x, "y": np.ones(40)},
            "float64, [1.0, 1.0, 1.0] first; class labels were expected",
        ),
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
        (lambda table: table.rename(columns={"label": "Target"}), "did you mean 'Target'? Call it 'label'"),
        (lambda table: table.rename(columns={"label": "lable"}), "'label' was expected; did you mean 'lable'"),
        (lambda table: table[:0], "the table has no rows; at least one was expected"),
        (lambda table: table.assign(f1=table["label"].astype("category")), "'f1' (categorical) hold no numbers"),
        (lambda table: table.assign(f1=[None, *[True] * 39]), "'f1' are empty, NaN or infinite in float32 in 1 cells"),
        (lambda table: table.assign(f1=None), "'f1' (empty) hold no numbers"),
        (lambda table: table.assign(label=range(40)), "the classes '0', '1', '2', '3', '4' and 35 more have one inst"),
        (lambda table: table.assign(label=["", *table["label"][1:]]), "the column 'label' has empty cells: 1, the fi"),
        (lambda table: table.assign(f1="high"), "'f1' (string, e.g. 'high') hold no numbers; numbers"),
        (lambda table: table.assign(f1=[[1.0, 2.0]] * 40), "'f1' (mixed) hold no numbers"),
        (lambda table: table.assign(when=pd.Timestamp(0)), "'when' (datetime64) hold no numbers"),
        (lambda table: table.assign(f1=[None, *range(39)]), "'f1' are empty, NaN or infinite in float32 in 1 cells"),
        (lambda table: table.assign(f1=table["f1"] * 1e300 * 1e9), "'f1' are empty, NaN or infinite in float32 in 40"),
        (lambda table: table.assign(label=[None, *table["label"][1:]]), "the column 'label' has empty cells"),
        (lambda table: table.assign(label=0.5), "label has shape (40,) and dtype float64, [0.5, 0.5, 0.5]"),
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
    (tmp_path / "my.csv").write_text("f,f,label\n1,2,x\n")
    assert "the columns ['f'] occur more than once" in refusal(tmp_path / "my.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a whole CSV"),
        ("a,label\n1,2,x\n", "is not a whole CSV: CSV parse error: Expected 2 columns, got 3"),
        ("a,label\n?,x\n1,y\n", "'a' (string, e.g. '?') hold no numbers"),
        ("a,label\n,x\n1,y\n", "'a' are empty, NaN or infinite in float32 in 1 cells, the first in row 1"),
        ("a,label\n1,\n1,y\n", "the column 'label' has empty cells: 1, the first in row 1"),
        ("a,class\n1,x\n", "did you mean 'class'?"),
        ("a,when,label\n1,2020-01-01,x\n", "'when' (date) hold no numbers"),
        ("a,label,split\n1,x,training\n1,y,val\n", "'split' holds 'training', 'val'; train and test were expected"),
        ("a,label\n1,x\n".encode("utf-16-le"), "is no text in UTF-8"),
        ("a,label\n1,x\n".encode("utf-16")[:-1], "is not a whole text in UTF-16"),
    ],
)
def test_csv_that_makes_no_data_set_is_refused(tmp_path, content, message):
    (tmp_path / "my.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refusal(tmp_path / "my.csv")


def test_a_folder_that_is_no_table_is_not_searched(tmp_path):
    (tmp_path / "absent").symlink_to(tmp_path / "nowhere")
    assert "ends in ''" in refusal(tmp_path)


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
        (["run", "--features", "digits"], "digits ends in ''; .safetensors, .npz, .parquet, .csv"),
        (
            ["run", "--features", "my.npz", "--dataset", "digits"],
            "--dataset and --features name digits, my.npz; one",
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
