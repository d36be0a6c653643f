"""Batches to label and labels that come back: what is asked, what is remembered, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dal_core.strategies import registry
from dal_lab import annotation
from dal_lab.annotation import State, ingest, suggest
from dal_lab.companion.command_line import main
from dal_lab.runs import files
from dal_lab.sources import unlabelled

pytestmark = pytest.mark.filterwarnings("ignore:.*the scale of features")
X, Y = (each[:120] for each in load_digits(return_X_y=True))
IDS = [f"{i:03}" for i in range(len(X))]  # Numbers to whoever reads a CSV carelessly.
TRUTH = dict(zip(IDS, map(str, Y), strict=True))
TABLE = pd.DataFrame(X / 16, columns=[f"p{i}" for i in range(X.shape[1])]).assign(id=IDS)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the features of digits in a table, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    TABLE.to_csv("digits.csv", index=False)
    return tmp_path


def batch(number, folder="state"):
    return pd.read_csv(f"{folder}/batches/{number}.csv", dtype=str)["id"].tolist()


def label(ids, name="labels.csv", **how):
    pd.DataFrame({"label": [TRUTH[each] for each in ids], "id": ids}).to_csv(name, index=False, **how)
    return Path(name)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, command, *words):
    """See that the command is refused with these words in the last line."""
    capsys.readouterr()
    assert main([*command, "--state", "state"]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after the progress of an encoder
    assert line.startswith("error: ")
    for each in words:
        assert each in line


def test_a_cycle_of_batches_and_labels(place, capsys):
    assert main(["suggest", "--features", "digits.csv", "--state", "state", "--batch", "20"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "batch 1: 20 instances, chosen by typiclust: state/batches/1.csv",
        "labelled: 0; asked and not labelled yet: 20; left: 100",
    ]
    assert main(["ingest", str(label(batch(1))), "--state", "state"]) == 0
    told = capsys.readouterr().out.splitlines()
    counts = pd.Series([TRUTH[each] for each in batch(1)]).value_counts().sort_index()
    assert told[0] == "20 new labels of 20 in labels.csv"
    assert told[1].startswith(f"labelled: 20 of {len(counts)} classes (0: {counts['0']}, ")
    assert main(["suggest", "--state", "state", "--batch", "30"]) == 0  # The data are remembered.
    assert "batch 2: 30 instances, chosen by badge" in capsys.readouterr().out
    assert main(["ingest", str(label(batch(2)[:10])), "--state", "state"]) == 0
    assert "; asked and not labelled yet: 20; left: 70" in capsys.readouterr().out
    assert main(["suggest", "--state", "state", "--batch", "1000", "--strategy", "coreset"]) == 0
    assert "batch 3: 70 instances, all that is left of 1,000, chosen by coreset" in capsys.readouterr().out
    asked = list(itertools.chain(*map(batch, (1, 2, 3))))
    assert sorted(asked) == IDS
    before = content(place)
    assert main(["suggest", "--state", "state"]) == 0
    assert capsys.readouterr().out.startswith("nothing is left to ask\n")
    assert content(place) == before
    assert State.load(place / "state").labels == {each: TRUTH[each] for each in [*batch(1), *batch(2)[:10]]}


def test_the_strategy_sees_what_is_labelled_and_only_what_was_not_asked(place, monkeypatch):
    seen, query = [], registry.query
    monkeypatch.setattr(
        registry, "query", lambda how, snapshot, *more: seen.append(snapshot) or query(how, snapshot, *more)
    )
    for _ in range(2):
        suggest(place / "state", "features", place / "digits.csv")
    asked = [IDS.index(each) for each in batch(1)]
    assert sorted(seen[1].labelled.tolist()) == sorted(asked)  # without labels: a second batch looks elsewhere
    assert "logits" not in vars(seen[1])
    ingest(label(batch(1)), place / "state")
    suggest(place / "state", strategy="margin", seed=3)
    taken, others = seen[2], {*range(len(IDS))} - {*asked} - {IDS.index(each) for each in batch(2)}
    assert taken.instances.tolist() == sorted(others)
    names = sorted({TRUTH[each] for each in batch(1)})
    assert [names[i] for i in taken.labels] == [TRUTH[IDS[i]] for i in taken.labelled]
    assert taken.logits.shape == (len(others), len(names))
    assert (taken.labelled_logits.argmax(dim=1) == taken.labels).float().mean() > 0.9
    margins = taken.probabilities.topk(2, dim=1).values
    expected = (margins[:, 0] - margins[:, 1]).argsort()[:10]
    assert {IDS[i] for i in taken.instances[expected]} == set(batch(3))


def test_the_same_state_and_seed_give_the_same_batch(place):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        suggest(place / folder, "features", place / "digits.csv", strategy="random", seed=seed)
        ingest(label(IDS[:30]), place / folder)
        suggest(place / folder, seed=seed)
    assert [batch(number, "a") for number in (1, 2)] == [batch(number, "b") for number in (1, 2)]
    assert batch(1, "a") != batch(1, "c")


def test_known_labels_of_the_file_count_and_rows_may_be_added(place):
    known = TABLE.assign(label=[TRUTH[each] if i < 40 else "" for i, each in enumerate(IDS)], split="train")
    known[:100].to_csv("some.csv", index=False)
    suggest(place / "state", "features", place / "some.csv", batch=7)
    state = State.load(place / "state")
    assert state.labels == {each: TRUTH[each] for each in IDS[:40]}
    assert state.batches[0]["strategy"] == "badge"
    known[::-1].to_csv("some.csv", index=False)  # more rows, in another order
    assert suggest(place / "state", batch=5)[1].endswith("; asked and not labelled yet: 12; left: 68")
    assert not {*batch(1)} & {*batch(2)}


def by_number(frame, path):
    np.savez(path, x=frame.drop(columns="id").to_numpy())


KINDS_OF_FILES = {
    "semicolons.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";", decimal=","),
    "tabs.tsv": lambda frame, path: frame.rename(columns={"id": " ID"}).to_csv(path, index=False, sep="\t"),
    "windows.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n"),
    "ids.parquet": lambda frame, path: frame.to_parquet(path),
    "index.parquet": lambda frame, path: frame.set_index("id").rename_axis("customer").to_parquet(path),
    "numbers.parquet": lambda frame, path: frame.assign(id=frame["id"].astype(int)).to_parquet(path),
    "rows.parquet": lambda frame, path: frame.drop(columns="id").to_parquet(path),
    "rows.npz": by_number,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS_OF_FILES)
def test_ids_are_those_of_the_file_else_numbers_of_rows(name, place):
    KINDS_OF_FILES[name](TABLE, name)
    suggest(place / "state", "features", place / name)
    plain = [str(int(each)) for each in IDS] if name.startswith(("rows", "numbers")) else IDS
    state = State.load(place / "state")
    assert list(state.instances) == plain
    assert set(batch(1)) == set(state.batches[0]["ids"]) <= set(plain)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id,label\n007,NA\n008,true\n", {"007": "NA", "008": "true"}),
        ("\ufeffLabel;ID;remark\r\n01;007;x\r\n2,5;008;y\r\n", {"007": "01", "008": "2,5"}),
        ('label\tid\n"a\tb"\t007\n\t008\n', {"007": "a\tb"}),  # A row without a label is not labelled yet.
        ("id,label\n007,a\n007,a\n", {"007": "a"}),
        ('"remark, if any","id","label"\n"x, y","007","01"\n', {"007": "01"}),
        ("id,label\n", {}),
    ],
)
def test_labels_in_odd_dialects(text, found, place):
    suggest(place / "state", "features", place / "digits.csv")
    (place / "labels.csv").write_text(text, encoding="utf-8", newline="")
    ingest(place / "labels.csv", place / "state")
    assert State.load(place / "state").labels == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label\n007,7\n7,7\n", ["labels.csv has unknown ids: '7'; one of the 120 ids of"]),
        ("id,label\n008,8\n007,1\n", ["1 ids have two labels, e.g. '007' has '1', and '7' before"]),
        ("id,label\n008,8\n008,9\n", ["1 ids have two labels, e.g. '008'"]),
        ("id,lable\n007,7\n", ["labels.csv has the columns 'id', 'lable'; 'label' expected, too"]),
        ("", ["labels.csv is not a whole CSV"]),
    ],
)
def test_labels_that_do_not_fit_change_nothing(text, words, place, capsys):
    suggest(place / "state", "features", place / "digits.csv")
    ingest(label(["007"]), place / "state")
    (place / "labels.csv").write_text(text)
    before = content(place)
    refused(capsys, ["ingest", "labels.csv"], *words)
    assert content(place) == before


def changed_rows(frame):
    return frame.assign(p20=frame["p20"].where(frame["id"] != "005", 0.123))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_rows, "has changed since the last batch: 1 instances are gone or have other contents, e.g. '005'"),
        (lambda frame: frame[1:], "e.g. '000'"),
        (lambda frame: frame.assign(id="x"), "1 ids occur more than once, e.g. 'x'"),
        (lambda frame: frame.assign(id=["", *IDS[1:]]), "1 ids are empty"),
        (lambda frame: frame.assign(town="Kassel"), "'town' (string, e.g. 'Kassel') hold no numbers"),
        (lambda frame: frame[:0], "it holds no instance"),
    ],
)
def test_data_that_do_not_fit_change_nothing(change, words, place, capsys):
    suggest(place / "state", "features", place / "digits.csv")
    change(TABLE).to_csv("digits.csv", index=False)
    before = content(place)
    refused(capsys, ["suggest"], "digits.csv", words)
    assert content(place) == before


def test_a_strategy_that_needs_labels_is_refused_before_there_are_some(place, capsys):
    command = ["suggest", "--features", "digits.csv", "--strategy", "margin"]
    refused(capsys, command, "strategy 'margin' needs labels of at least 2 classes, and there are 0 of 0; until then")
    suggest(place / "state", "features", place / "digits.csv")
    ingest(label(["001"]), place / "state")
    refused(capsys, command, "there are 1 of 1")
    refused(capsys, [*command[:3], "--strategy", "refine"], "strategy 'refine' needs labels of at least 2 classes")
    refused(capsys, [*command[:3], "--encoder", "minilm"], "encoder is 'minilm', but --features are features already")


@pytest.mark.parametrize("write", range(4))
def test_an_interrupted_command_leaves_a_state_that_goes_on(write, place, monkeypatch):
    """Labels, state and batch are written in this order; the process ends before one of them has its name."""
    for folder in ("whole", "state"):
        suggest(place / folder, "features", place / "digits.csv")
        ingest(label(IDS[:30]), place / folder)
    suggest(place / "whole")
    written, real = itertools.count(), files.os.fsync

    def fsync(number):
        if next(written) == write:
            raise KeyboardInterrupt
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        if write < 3:
            with pytest.raises(KeyboardInterrupt):
                suggest(place / "state")
        else:
            suggest(place / "state")
    state = State.load(place / "state")
    assert len(state.labels) == 30
    assert len(state.batches) == (1 if write < 2 else 2)
    suggest(place / "state")
    assert batch(2) == batch(2, "whole")  # The batch that was recorded is told.
    assert not {*batch(1), *batch(2)} & {*batch(3)} if write > 1 else not (place / "state/batches/3.csv").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"format": "dal_core.Annotation.1"}'])
def test_a_damaged_state_is_one_line(text, place, capsys):
    suggest(place / "state", "features", place / "digits.csv")
    (place / "state" / "state.json").write_text(text)
    refused(capsys, ["suggest", "--features", "digits.csv"], "state.json is no state that `dal suggest` wrote")


def test_files_that_no_state_knows_are_not_overwritten(place, capsys):
    suggest(place / "state", "features", place / "digits.csv")
    ingest(label(IDS[:9]), place / "state")
    (place / "state" / "state.json").unlink()
    before = content(place)
    refused(capsys, ["suggest", "--features", "digits.csv"], "1.csv is there, and state.json knows no such batch")
    assert content(place) == before
    (place / "state" / "batches" / "1.csv").unlink()
    suggest(place / "state", "features", place / "digits.csv")
    assert list(State.load(place / "state").labels) == IDS[:9]
    (place / "state" / "labels.csv").write_text("id,label\nnobody,3\n")
    refused(capsys, ["suggest"], "labels.csv has unknown ids: 'nobody'")


def test_a_strategy_of_ones_own(place, capsys):
    (place / "mine.py").write_text(
        "import torch\nimport dal_core as dal\n@dal.register('brightest')\n"
        "def brightest(snapshot, batch_size, generator, *, sign=1):\n"
        "    return torch.argsort(-sign * snapshot.features.sum(dim=1), stable=True)[:batch_size]\n"
    )
    command = ["suggest", "--features", "digits.csv", "--state", "state", "--plugin", "mine.py"]
    try:
        assert main([*command, "--strategy", "brightest", "--batch", "3", "--option", "sign=-1"]) == 0
    finally:
        registry.forget_own()
    assert batch(1) == [IDS[i] for i in np.argsort(X.sum(axis=1), kind="stable")[:3]]
    assert State.load(place / "state").batches[0]["options"] == {"sign": -1}


@pytest.fixture
def encoded(monkeypatch):
    """How many instances were encoded at each call."""
    counts, encode = [], unlabelled.encoded
    monkeypatch.setattr(
        unlabelled, "encoded", lambda request, split, how: counts.append(len(split)) or encode(request, split, how)
    )
    return counts


@pytest.mark.parametrize("name", ["texts.txt", "texts.csv"])
def test_texts_are_encoded_once_and_told_with_their_ids(name, place, model_folders, encoded):
    texts = [f"how do i card {'lost ' * i}fees, {i}" for i in range(8)]

    def write(count):
        if name == "texts.txt":  # An empty line is no text, and has a number.
            return (place / name).write_text("\n".join(["", *texts[:count]]) + "\n")
        return pd.DataFrame({"text": texts[:count], "id": range(1, count + 1)}).to_csv(name, index=False)

    write(6)
    encoder = str(model_folders / "bert")
    suggest(place / "state", "texts", place / name, encoder=encoder, batch=4)
    frame = pd.read_csv(place / "state" / "batches" / "1.csv")
    assert frame["text"].tolist() == [texts[i - 1] for i in frame["id"]]
    write(8)
    suggest(place / "state", batch=3)
    assert encoded == [6, 2]
    assert {path.name for path in (place / "state").iterdir() if not path.name.startswith(".")} == {
        "batches", "features.safetensors", "state.json"
    }  # fmt: skip
    suggest(place / "state", encoder=f"{encoder}:cls", batch=1)
    assert encoded == [6, 2, 8]  # Features of another encoder are others.


def test_features_of_a_refused_call_are_kept_as_long_as_the_texts_are_the_same(place, model_folders, encoded, capsys):
    asking = ["suggest", "--texts", "texts.txt", "--encoder", str(model_folders / "bert")]
    for text in ("how\ndo\ni", "how\ndo\ni", "how\ndo\nfees"):
        (place / "texts.txt").write_text(text)
        refused(capsys, [*asking, "--strategy", "margin"])
    assert encoded == [3, 3]


def test_images_are_named_by_their_paths(place, model_folders, encoded):
    for i, name in enumerate(["a.png", "cats/b.png", "cats/c.JPG", ".hidden.png", "cats/.x/d.png", "readme.txt"]):
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (place / "photos" / name).write_text("none")
        else:
            Image.new("RGB", (32, 32), (60 * i, 100, 0)).save(place / "photos" / name)
    suggest(place / "state", "images", place / "photos", encoder=str(model_folders / "dinov2"), batch=2)
    assert list(State.load(place / "state").instances) == ["a.png", "cats/b.png", "cats/c.JPG"]
    suggest(place / "state", batch=2)
    assert sorted(batch(1) + batch(2)) == ["a.png", "cats/b.png", "cats/c.JPG"]
    assert encoded == [3]


def test_standardised_features_stay_so(place, monkeypatch):
    seen = []
    monkeypatch.setattr(annotation, "_chosen", lambda state, features, *_: seen.append(features) or ["000"])
    suggest(place / "state", "features", place / "digits.csv", standardise=True)
    suggest(place / "state")
    for features in seen:
        assert features.mean(dim=0).abs().max() < 1e-5
        assert set(features.std(dim=0, correction=0).round(decimals=3).tolist()) == {0.0, 1.0}
