"""Bad files: refused in one line that names the file, and nothing that they hold is executed."""

import functools
import io
import json
import pickle
import struct
import warnings
import zipfile

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import Bomb, checked, refusal_of
from safetensors.torch import save, save_file

from dal_core.data import FeatureBank
from dal_lab.companion.artefacts import MANIFEST, check_manifest, read_manifest
from dal_lab.companion.command_line import main
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of
from dal_lab.sources import catalogue, feature_files
from dal_lab.sources.bank import FORMAT, load_bank
from dal_lab.sources.catalogue import load, read_features
from dal_lab.sources.publishers import Published
from dal_lab.sources.raw import Places

pytestmark = pytest.mark.usefixtures("unchecked", "fresh_cache")
ENDINGS = (".npz", ".parquet", ".safetensors")
moderate = settings(deadline=None, max_examples=30, derandomize=True)
SMALL = {"batch_size": 2, "initial_size": 4, "cycles": 1, "subset_size": 15, "options": {"epochs": 2}}
SMALL_ARGUMENTS = [
    "--batch-size",
    "2",
    "--initial-size",
    "4",
    "--cycles",
    "1",
    "--subset-size",
    "15",
    "--option",
    "epochs=2",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that the examples of one test share."""
    return tmp_path_factory.mktemp("files")


@functools.cache
def whole(ending):
    """The bytes of a good file."""
    draw, numbers = np.random.default_rng(0), np.arange(40) % 3
    features, words = draw.normal(size=(40, 5)).astype(np.float32), np.array(["ant", "bee", "cat"])[numbers]
    buffer = io.BytesIO()
    if ending == ".npz":
        np.savez(buffer, x=features, y=words)
    elif ending == ".parquet":
        pd.DataFrame(features, columns=[f"f{i}" for i in range(5)]).assign(label=words).to_parquet(buffer)
    else:
        tensors = {"train_features": torch.from_numpy(features), "train_labels": torch.from_numpy(numbers)}
        tensors |= {name.replace("train", "test"): each.clone() for name, each in tensors.items()}
        bank = FeatureBank(**tensors, class_names=("a", "b", "c"), provenance={})
        header = {"format": FORMAT, "class_names": '["a", "b", "c"]', "provenance": "{}", "digest": bank.digest}
        return save(tensors, header)
    return buffer.getvalue()


def refused(path, *words):
    return refusal_of(lambda: read_features(path), path.name, *words)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_whole_files_are_good_ones(ending, tmp_path):
    (tmp_path / f"my{ending}").write_bytes(whole(ending))
    assert read_features(tmp_path / f"my{ending}").num_features == 5


@pytest.mark.parametrize("ending", ENDINGS)
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"\x93NUMPY\x01\x00")
@example(content=b"PK\x05\x06" + bytes(18))
@example(content=b"PAR1" + bytes(20) + b"PAR1")
@example(content=struct.pack("<Q", 2) + b"{}")
@moderate
def test_arbitrary_bytes_are_no_features(ending, place, content):
    path = place / f"arbitrary{ending}"
    path.write_bytes(content)
    refused(path)
    refusal_of(lambda: load_bank(path), path.name)


@pytest.mark.parametrize("ending", ENDINGS)
@given(share=st.floats(0, 1, exclude_max=True))
@moderate
def test_a_file_that_is_cut_off_is_refused(ending, place, share):
    path = place / f"cut{ending}"
    path.write_bytes(whole(ending)[: int(share * len(whole(ending)))])
    refused(path, "is not a whole")


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
@moderate
def test_a_changed_byte_is_refused_or_changes_nothing(ending, place, position, byte):
    content = bytearray(whole(ending))
    content[position % len(content)] = byte
    path = place / f"changed{ending}"
    path.write_bytes(content)
    good = place / f"good{ending}"
    good.write_bytes(whole(ending))
    feature_files._cached.cache_clear()
    try:
        bank = read_features(path)
    except ValueError as error:
        checked(str(error), path.name)
    else:  # a date in the archive, a space in the header
        assert bank.digest == read_features(good).digest


# --- what would run if it were unpickled


def pickle_of(marker):
    return pickle.dumps({"x": Bomb(marker)})


def write_npz(path, marker):
    np.savez(path, x=np.ones((8, 2)), y=np.array([Bomb(marker)] * 8, dtype=object))


def write_raw_npz(path, marker):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", pickle_of(marker))
        archive.writestr("y.npy", pickle_of(marker))


def write_object_header(path, marker):
    """An array that says that it holds numbers, in a header with a call."""
    header = f"{{'descr': open({str(marker)!r}, 'w'), 'fortran_order': False, 'shape': (8,)}}\n".encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def write_torch(path, marker):
    torch.save(Bomb(marker), path)


def write_joblib(path, marker):
    joblib.dump(Bomb(marker), path)


def write_pickle(path, marker):
    path.write_bytes(pickle_of(marker))


def write_binary_column(path, marker):
    frame = {"f": np.arange(8.0), "label": [pickle_of(marker)] * 8}
    pq.write_table(pa.table(frame), path)


def write_python_type(path, marker):
    """A column whose type old pyarrow unpickled (CVE-2023-47248), and pickles where pandas keeps its metadata."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle_of(marker)}
    field = pa.field("f", pa.binary(), metadata=metadata)
    schema = pa.schema([field, pa.field("label", pa.string())], metadata={b"pandas": pickle_of(marker)})
    pq.write_table(pa.Table.from_arrays([pa.array([b"1"] * 8), pa.array(["a", "b"] * 4)], schema=schema), path)


def write_safetensors(path, marker):
    header = {
        "format": FORMAT,
        "class_names": f"__import__('os').system('touch {marker}')",
        "provenance": "{}",
        "digest": "",
    }
    names = [f"{split}_{what}" for split in ("train", "test") for what in ("features", "labels")]
    save_file({name: torch.ones(2) for name in names}, path, metadata=header)


PAYLOADS = [
    ("my.npz", write_npz), ("my.npz", write_raw_npz), ("my.npz", write_object_header), ("my.npz", write_pickle),
    ("my.npz", write_torch), ("my.npz", write_joblib), ("my.parquet", write_binary_column),
    ("my.parquet", write_pickle),
    ("my.parquet", write_python_type), ("my.parquet", write_torch), ("my.safetensors", write_safetensors),
    ("my.safetensors", write_pickle), ("my.safetensors", write_torch), ("my.safetensors", write_joblib),
    ("my.pt", write_torch), ("my.pkl", write_pickle), ("my.joblib", write_joblib), ("my.npy", write_pickle),
    ("my.bin", write_torch), ("my.pth", write_torch), ("my.csv", write_pickle),
]  # fmt: skip


def test_the_payload_would_run(tmp_path):
    """Or the tests below could not fail."""
    pickle.loads(pickle_of(tmp_path / "marker")).clear()
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(("name", "write"), PAYLOADS)
def test_nothing_in_a_data_file_is_executed(name, write, tmp_path, capsys):
    marker, path = tmp_path / "marker", tmp_path / name
    write(path, marker)
    written = sorted(tmp_path.iterdir())
    refused(path)
    refusal_of(lambda: load_bank(path), name)
    assert main(["run", f"--features={path}", *SMALL_ARGUMENTS]) == 2
    checked(capsys.readouterr().err.rstrip("\n"), name)
    if path.suffix in ENDINGS:  # a file of that name in a data folder, and in the cache
        refusal_of(lambda: load("my", data_dir=tmp_path), name)
    assert sorted(tmp_path.iterdir()) == written


@pytest.mark.parametrize("write", [write_pickle, write_torch, write_python_type])
def test_nothing_in_a_stored_run_is_executed(write, tmp_path):
    """A file of results that is none is told of, and computed anew."""
    experiment = experiment_of(dataset="moons", **SMALL)
    expected = Grid(tmp_path / "r", jobs=1).rows([experiment], "runs")
    (stored,) = (tmp_path / "r").glob("*.parquet")
    write(stored, tmp_path / "marker")
    with pytest.warns(UserWarning, match="is damaged and will be computed anew"):
        rows = Grid(tmp_path / "r", jobs=1).rows([experiment], "runs")
    assert not (tmp_path / "marker").exists()
    assert rows["nll"].tolist() == expected["nll"].tolist()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A results folder with one run, and its content."""
    folder = tmp_path_factory.mktemp("results")
    experiment = experiment_of(dataset="moons", **SMALL)
    grid = Grid(folder, jobs=1)
    grid.rows([experiment], "runs")
    (path,) = folder.glob("*.parquet")
    return experiment, grid, path, path.read_bytes()


@given(content=st.binary(max_size=200) | st.floats(0, 1, exclude_max=True))
@moderate
def test_damaged_results_are_none(stored, content):
    experiment, grid, path, good = stored
    path.write_bytes(content if isinstance(content, bytes) else good[: int(content * len(good))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert grid.store.read(experiment, grid.keys[0]) is None
    checked(str(caught[-1].message), path.name, "damaged")


@pytest.mark.parametrize("about", [b"", b"[]", b"{", b'{"index_columns": ["a"]}', b"[" * 10**5, b"\xff"])
def test_results_with_odd_metadata_are_none(stored, about):
    experiment, grid, path, good = stored
    path.write_bytes(good)
    table = pq.read_table(path)
    for key in (b"pandas", b"dal_core"):
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, key: about}), path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = grid.store.read(experiment, grid.keys[0])
        # Nothing of a run rests on what pandas notes in its file.
        assert rows is None or (key == b"pandas" and list(rows) == list(experiment.columns))


# --- files that want too much


def test_a_header_of_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "my.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    refused(path, "is not a whole safetensors file")


@pytest.mark.parametrize("shape", ["(1000000000000, 5)", "(9223372036854775807, 9)", "(-1, 5)", "(" * 3000, "9" * 5000])
def test_an_array_that_says_it_is_huge_is_refused(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    with zipfile.ZipFile(tmp_path / "my.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    refused(tmp_path / "my.npz", "is not a whole archive of plain arrays")


def test_an_archive_that_unpacks_to_more_than_there_is_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "my.npz"
    np.savez_compressed(path, x=np.zeros((40_000, 5)), y=np.arange(40_000) % 2)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("dal_lab.sources.feature_files.free_memory", lambda _: 10**6)
    refused(path, "it unpacks to", "1,000,000 are free")


# --- what files say about themselves


def header_of(**changes):
    bank = FeatureBank(*(torch.ones(2, 2), torch.tensor([0, 1])) * 2, ("a", "b"))
    known = {"format": FORMAT, "class_names": '["a", "b"]', "provenance": "{}", "digest": bank.digest}
    return {name: each for name, each in (known | changes).items() if each is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": None}, "format None"), ({"format": "pickle"}, "format 'pickle'"),
        ({"format": "\n" * 500}, "format"),
        ({"class_names": None}, "class_names"), ({"class_names": "["}, "JSON"), ({"class_names": "[" * 10**5}, "JSON"),
        ({"class_names": "3"}, "class_names"), ({"class_names": "[1, 2]"}, "class_names"),
        ({"class_names": '["a"]'}, "class_names"), ({"class_names": '{"a": 1, "b": 2}'}, "class_names"),
        ({"provenance": "[]"}, "provenance"), ({"provenance": '{"a":' * 10**5}, "JSON"), ({"digest": ""}, "digest"),
        ({"digest": None}, "digest"), ({"class_names": '["a", "c"]'}, "digest"),
    ],
)  # fmt: skip
def test_odd_headers_of_banks_are_refused(changes, words, tmp_path):
    tensors = {f"{split}_features": torch.ones(2, 2) for split in ("train", "test")}
    tensors |= {f"{split}_labels": torch.tensor([0, 1]) for split in ("train", "test")}
    path = tmp_path / "my.safetensors"
    save_file(tensors, path, metadata=header_of())
    assert load_bank(path).num_classes == 2
    save_file(tensors, path, metadata=header_of(**changes))
    refused(path, words)
    refusal_of(lambda: load_bank(path), path.name, words)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_banks_of_other_dtypes_are_refused(dtype, tmp_path):
    tensors = {f"{split}_features": torch.ones(2, 2).to(dtype) for split in ("train", "test")}
    tensors |= {f"{split}_labels": torch.tensor([0, 1]) for split in ("train", "test")}
    save_file(tensors, tmp_path / "my.safetensors", metadata=header_of())
    refused(tmp_path / "my.safetensors", "train_features", str(dtype))


SPLIT = {"x_train": np.ones((4, 2)), "y_train": np.arange(4) % 2, "x_test": np.ones((4, 2)), "y_test": np.arange(4) % 2,
         "classes": np.array(["a", "b"])}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": np.array("a")}, "classes"), ({"classes": np.array([["a", "b"]])}, "classes"),
        ({"classes": np.array(["a"])}, "class_names"), ({"y_train": np.arange(8).reshape(4, 2) % 2}, "y_train"),
        ({"y_train": np.array([0, 1, 0, 2])}, "train_labels"), ({"y_test": np.array([0, 1, 0, -1])}, "test_labels"),
        ({"y_train": np.array([0, 1, 0, 2**63], dtype=np.uint64)}, "train_labels"), ({"y_test": np.ones(4)}, "y_test"),
        ({"y_train": np.arange(3) % 2}, "train_labels"), ({"x_test": np.ones((4, 3))}, "test_features"),
        ({"x_train": np.full((4, 2), np.inf)}, "train_features"), ({"x_test": np.array([["a", "b"]] * 4)}, "x_test"),
        ({"x_train": np.ones((4, 2), dtype=[("a", "f8")])}, "x_train"),
        ({"x_train": np.zeros((4, 2), "M8[s]")}, "x_train"),
        ({"x_test": np.ones((0, 2))}, "x_test"), ({"x_test": np.array(3.0)}, "x_test"),
    ],
)  # fmt: skip
def test_odd_arrays_are_refused_by_their_name(changes, words, tmp_path):
    np.savez(tmp_path / "my.npz", **SPLIT)
    assert read_features(tmp_path / "my.npz").num_classes == 2
    np.savez(tmp_path / "my.npz", **SPLIT | changes)
    feature_files._cached.cache_clear()
    refused(tmp_path / "my.npz", words)


# --- publishers' files, texts that look like formulas, manifests

LETTER = "\n".join(f"{'AB'[i % 2]}," + ",".join(str((i * j) % 16) for j in range(16)) for i in range(40))
TABLE = "text,category\nhow do i,ask\nlost card,tell\n"
CLINC = json.dumps({"train": [["a", "x"], ["b", "y"]], "test": [["a", "x"]]})
PUBLISHED = {
    "letter": {"letter-recognition.data": LETTER},
    "banking77": {"banking77_train.csv": TABLE, "banking77_test.csv": TABLE},
    "clinc150": {"clinc150_full.json": CLINC},
}
BAD_TEXTS = {
    "letter": [
        "", "A,1", "\0" * 9,
        *(LETTER.replace("0", value, 1) for value in ("=1+1", "nan", "one")),
    ],
    "banking77": [
        "", "a,b\n1,2", "text,category\nhow", "text,category\n1,2,3", "\0",
        "text,category\n" + "x" * 200_000 + ",a",
    ],
    "clinc150": [
        "", "3", "[]", "{}", "[" * 10**5,
        *(json.dumps({"train": part, "test": part}) for part in (3, [], [["a"]], [[1, 2]], ["ab"])),
    ],
}  # fmt: skip


def published(name, folder):
    source = Published("its publisher", dict.fromkeys(PUBLISHED[name], "https://no.where"))
    return source.read(name, Places(folder, folder))


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, bad in BAD_TEXTS.items() for i in range(-1, len(bad))])
def test_files_of_publishers_that_hold_something_else_are_refused(name, i, tmp_path):
    for file, text in PUBLISHED[name].items():
        (tmp_path / file).write_text(text)
    published(name, tmp_path)
    first = next(iter(PUBLISHED[name]))
    (tmp_path / first).write_bytes(BAD_TEXTS[name][i].encode() if i >= 0 else b"\xff\xfe\x00")
    refusal_of(lambda: published(name, tmp_path), first)


@pytest.mark.parametrize("name", PUBLISHED)
@given(content=st.binary(max_size=100))
@moderate
def test_arbitrary_bytes_are_no_file_of_a_publisher(name, place, content):
    for file, text in PUBLISHED[name].items():
        (place / file).write_text(text)
    first = next(iter(PUBLISHED[name]))
    (place / first).write_bytes(content)
    refusal_of(lambda: published(name, place), first)


def test_texts_that_look_like_formulas_stay_texts(tmp_path):
    formula = '=HYPERLINK("http://no.where")'
    for file in PUBLISHED["banking77"]:
        pd.DataFrame({"text": [formula, "@SUM(1)"], "category": ["ask", "tell"]}).to_csv(tmp_path / file, index=False)
    assert published("banking77", tmp_path).train.instances[0] == formula


def test_a_pickle_among_torchvisions_files_is_not_read(tmp_path, monkeypatch):
    """CIFAR's own files are pickles. torchvision compares their digests with the publisher's before it reads one."""
    torchvision = pytest.importorskip("torchvision.datasets")
    folder, marker = tmp_path / "cifar-10-batches-py", tmp_path / "marker"
    folder.mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
        "batches.meta",
    ):
        (folder / name).write_bytes(pickle_of(marker))

    def no_network(*_, **__):
        raise OSError("there is no network")

    monkeypatch.setattr(torchvision.cifar, "download_and_extract_archive", no_network)
    source = catalogue.data_sets()["cifar10"].sources[0]
    refusal_of(lambda: source.read("cifar10", Places(tmp_path, tmp_path / "cache")), "cifar10")
    assert not marker.exists()


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(json.dumps).map(str.encode))
@example(content=b"[" * 10**5)
@example(content=b'{"a.csv": 3}')
@example(content=b'{"a.csv": {"notebook": 1}}')
@example(content=b"[1]")
@moderate
def test_manifests_that_are_none_are_refused(place, content):
    (place / MANIFEST).write_bytes(content)
    for check in (read_manifest, check_manifest):
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            refusal_of(lambda check=check: check(place), MANIFEST)
        else:
            if content.strip() not in (b"{}",):
                refusal_of(lambda check=check: check(place), MANIFEST)


# --- places

ODD = [
    "two words", "it's", 'so "called"', "größe_数", "a..b", "-x", "--help", "$(touch marker)", ";touch marker", "%s",
    "{x}", "\u200d", "a\u3000b", "x" * 180,
]  # fmt: skip
NONE = ["a\nb", "a\rb", "\x1b[31m", "a\u2028b"]


@pytest.mark.parametrize("name", ODD)
def test_odd_places_work_and_nothing_is_written_beside_them(name, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    (home / name).mkdir(parents=True)
    monkeypatch.chdir(home)
    (home / name / f"{name}.npz").write_bytes(whole(".npz"))
    command = ["grid", f"--features={name}/../{name}/{name}.npz", "--seeds=1", "--jobs=1", *SMALL_ARGUMENTS]
    if name in ODD[:2]:  # drawing takes its time
        command = ["report", *command[1:], f"--output-dir={name}/out"]
    assert main([*command, f"--results-dir={name}/../{name}/r"]) == 0, capsys.readouterr().err
    assert sorted(each.name for each in home.iterdir()) == [name]
    assert {each.name for each in (home / name).iterdir()} - {"out"} == {"r", f"{name}.npz"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home"]
    catalogue._load.cache_clear()
    assert load(name, data_dir=home / name).num_features == 5


@pytest.mark.parametrize("name", NONE)
def test_names_that_would_break_a_line_are_refused_in_one(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.npz").write_bytes(whole(".npz"))
    assert main(["grid", f"--features={name}.npz", "--seeds=1", "--jobs=1", *SMALL_ARGUMENTS]) == 2
    message = checked(capsys.readouterr().err.rstrip("\n"), "dataset is ")
    assert message.isprintable()
    refusal_of(lambda: experiment_of(dataset=f"{name}.npz"), "dataset is ")
    assert read_features(tmp_path / f"{name}.npz").num_features == 5  # as data it is fine


@pytest.mark.parametrize("name", ["../secret", "in/../../secret", "/{}/secret", "..", "."])
def test_a_data_set_is_looked_for_in_its_folder_only(name, tmp_path):
    (tmp_path / "data" / "in").mkdir(parents=True)
    for ending in ENDINGS:
        (tmp_path / f"secret{ending}").write_bytes(whole(ending))
    (tmp_path / "secret" / "train" / "a").mkdir(parents=True)
    for call in (load, lambda each, **more: load(each, encoder="clip", **more),
                 lambda each, **more: catalogue.extract(each, "clip", **more)):  # fmt: skip
        refusal_of(lambda call=call: call(name.format(tmp_path), data_dir=tmp_path / "data"), "dataset is ")
    assert not (tmp_path / "cache").exists()


@given(name=st.text(max_size=30))
@example(name="../my")
@example(name="my/../../my")
@moderate
def test_arbitrary_names_of_data_sets_read_and_write_nothing(place, name):
    folder = place / "empty"
    folder.mkdir(exist_ok=True)
    before = sorted(place.iterdir())
    if name not in catalogue.data_sets():
        refusal_of(lambda: load(name, data_dir=folder))
    assert sorted(place.iterdir()) == before
    assert not list(folder.iterdir())
