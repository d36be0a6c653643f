"""Damaged files: read as they were written, or not at all."""

import io
import json
import random
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_grid import assert_same, extracted, grid_command, hidden, stored, table, write_notebook

import dal_lab.runs.store
from dal_core.data import FeatureBank
from dal_lab.companion.artefacts import ManifestError, Report, check_manifest
from dal_lab.companion.command_line import main
from dal_lab.companion.site.notebook_page import read_notebook
from dal_lab.runs.files import UNSEALED, is_intact, sealed
from dal_lab.sources import catalogue, extraction
from dal_lab.sources.bank import save_bank

pytestmark = pytest.mark.faults


# --- damaged files


def flips(content, count):
    """The content with a changed byte, at random positions."""
    draw = random.Random(len(content))
    for _ in range(count):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= draw.choice([0xFF, 1 << draw.randrange(8), draw.randrange(1, 256)])
        yield bytes(changed)


def truncations(content, count):
    draw = random.Random(len(content))
    yield from (content[: draw.randrange(len(content))] for _ in range(count))


def holes(content, count):
    """Blocks that never reached the disk, and blocks of another file."""
    draw = random.Random(len(content))
    for _ in range(count):
        size = draw.choice([16, 512, 4096])
        start = draw.randrange(len(content))
        block = draw.choice([bytes(size), draw.randbytes(size)])[: len(content) - start]
        yield content[:start] + block + content[start + len(block) :]


def damages(content, count):
    yield from flips(content, count)
    yield from truncations(content, count // 3)
    yield from holes(content, count // 3)
    yield content + b"x"
    yield content + content


def test_a_result_is_read_as_it_was_written_or_not_at_all(one_run):
    store, study, key, rows = one_run
    path = store.path(study, key)
    content = path.read_bytes()
    refused = 0
    for damaged in damages(content, 900):
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = store.read(study, key)
        if found is None:
            assert f"{path} is damaged and will be computed anew: " in str(told[0].message)
            refused += 1
        else:
            assert_same(found, rows)  # zeros over zeros, or a byte of the seal's own name
    assert refused > 1400


def unsealed(content):
    """As files were written before they had a seal."""
    table, out = pq.read_table(pa.BufferReader(content)), io.BytesIO()
    metadata = {name: text for name, text in table.schema.metadata.items() if name != dal_lab.runs.store.SEAL}
    pq.write_table(table.replace_schema_metadata(metadata), out, write_page_checksum=True)
    return out.getvalue()


def test_results_without_a_seal_stay_readable_and_fail_in_order(one_run):
    store, study, key, rows = one_run
    path = store.path(study, key)
    old = unsealed(path.read_bytes())
    assert b"sha256" not in old
    path.write_bytes(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(store.read(study, key), rows)
    for damaged in truncations(old, 100):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged and will be computed anew"):
            assert store.read(study, key) is None
    for damaged in flips(old, 600):
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store.read(study, key)  # without an exception


def test_a_grid_of_damaged_files_says_so_line_by_line_and_is_right_in_the_end(tmp_path, whole, capsys):
    assert main(grid_command(tmp_path, 6)) == 0
    before, draw = stored(tmp_path), random.Random(1)
    hurt = draw.sample(sorted(before), 6)
    for name, damage in zip(hurt, (flips, truncations, holes) * 2, strict=True):
        (content,) = damage(before[name], 1)
        (tmp_path / name).write_bytes(content)
    capsys.readouterr()
    assert main(grid_command(tmp_path, 6)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sorted(line.split()[1] for line in told) == sorted(str(tmp_path / name) for name in hurt)
    assert all("is damaged and will be computed anew" in line for line in told)
    assert {name for name, content in stored(tmp_path).items() if content != before[name]} == set(hurt)
    assert_same(table(tmp_path, 6), whole(6))


def test_a_seal_breaks_with_any_byte():
    content = sealed(b"before " + UNSEALED + b" after")
    assert UNSEALED not in content
    assert is_intact(content)
    assert is_intact(b"never sealed")
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1
        in_its_name = 7 <= i < 7 + len(UNSEALED) - 64
        assert is_intact(bytes(changed)) == in_its_name


def test_a_damaged_manifest_is_told_and_no_file_passes_for_another(tmp_path):
    report = Report(tmp_path, "01_made")
    for name in ("first", "second"):
        report.table(pd.DataFrame({"x": [1]}), name, cell="(a)", keys=["k"])
    path = tmp_path / "manifest.json"
    content, refused = path.read_bytes(), 0
    for damaged in [*damages(content, 300), b""]:
        path.write_bytes(damaged)
        try:
            check_manifest(tmp_path)
        except ManifestError as error:
            refused += "\n" not in str(error)
            continue
        told = {name: entry["digest"] for name, entry in json.loads(damaged).items()}
        assert told == {name: entry["digest"] for name, entry in json.loads(content).items()}
    assert refused > 200
    path.write_bytes(content)
    table = tmp_path / "01_first.csv"
    for damaged in damages(table.read_bytes(), 30):
        table.write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"changed after they were written: 01_first\.csv"):
            check_manifest(tmp_path)


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(size, 3, generator=generator) for size in (12, 7))
    return FeatureBank(train, torch.arange(12) % 2, test, torch.arange(7) % 2, ("no", "yes"), {"source": "made"})


def test_a_damaged_bank_is_refused_in_a_line_that_names_it(tmp_path, bank, unchecked):
    path = tmp_path / "made.safetensors"
    save_bank(bank, path)
    cases, refused, same = list(damages(path.read_bytes(), 900)), 0, 0
    for damaged in cases:
        path.write_bytes(damaged)
        catalogue._load.cache_clear()
        try:
            found = catalogue.load("made", data_dir=tmp_path)
        except ValueError as error:
            refused += str(path) in str(error)
        else:
            assert found.digest == bank.digest
            same += 1
    assert refused > 1000
    assert refused + same == len(cases)


def test_damaged_features_in_the_cache_are_extracted_anew(tmp_path, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    (path,) = (tmp_path / "disk" / "features").glob("*.safetensors")
    content = path.read_bytes()
    for damaged in [content[:100], *truncations(content, 3), *holes(content, 3)]:
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main(raw) == 0
        assert f"{path} is not used, and will be computed anew" in capsys.readouterr().err
        assert extracted(tmp_path) == expected


def test_damaged_parts_of_an_extraction_are_not_used(tmp_path, raw, monkeypatch):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    (path,) = (tmp_path / "disk" / "features").glob("*.safetensors")
    path.unlink()
    save = extraction.save_bank

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "save_bank", interrupted)
    assert main(raw) == 130
    (part,) = path.with_suffix(".parts").glob("train*")
    content = part.read_bytes()
    monkeypatch.setattr(extraction, "save_bank", save)
    for damaged in [*flips(content, 4), *truncations(content, 3), *holes(content, 3)]:
        path.unlink(missing_ok=True)
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(damaged)
        assert main(raw) == 0
        assert extracted(tmp_path) == expected


def test_what_is_left_of_an_unfinished_bank_goes_with_its_parts(tmp_path, raw, monkeypatch):
    def killed(_, path, **__):
        Path(path).with_name(".tmpAbCdEf").write_bytes(b"x")  # as safetensors names what it writes to
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dal_lab.sources.bank.save_file", killed)
        assert main(raw) == 130
    assert [path.name for path in hidden(tmp_path / "disk")] == [".tmpAbCdEf"]
    assert main(raw) == 0
    assert {path.suffix for path in (tmp_path / "disk" / "features").iterdir()} == {".lock", ".safetensors"}


def test_a_damaged_executed_notebook_is_named(tmp_path):
    path = write_notebook(tmp_path / "01_made.ipynb").path
    content = path.read_bytes()
    for damaged in [b"", b"null", b"{}", *truncations(content, 40)]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"01_made\.ipynb is damaged: ") as refusal:
            read_notebook(path)
        assert "\n" not in str(refusal.value)
