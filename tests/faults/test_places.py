"""Full disks, read-only folders, and other things where files or folders should be: told before they cost anything."""

import contextlib
import os
import shutil
import socket
import subprocess

import pandas as pd
import pytest
from faulty import files_of_at_most
from small_grid import (
    OPTIONS,
    SETTINGS,
    assert_same,
    extracted,
    grid_command,
    hidden,
    only_complaint,
    stored,
    table,
    write_notebook,
)

from dal_lab.companion.artefacts import check_manifest
from dal_lab.companion.command_line import main
from dal_lab.companion.notebooks import execute, run_all
from dal_lab.runs.files import check_writable, write_atomically
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run

pytestmark = pytest.mark.faults


# --- no space


@pytest.fixture
def mount(tmp_path):
    """Mounts over a folder, with options of mount(8)."""
    folders = []

    def mounted(folder, *options):
        folder.mkdir(exist_ok=True)
        ended = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if ended.returncode:
            pytest.skip(f"nothing can be mounted here: {ended.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mounted
    for folder in reversed(folders):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path, mount):
    """A small file system of 4 KiB pages."""
    return mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs")


def fill(disk, *, leave=0):
    """Use up all space but some pages; returns what to delete to get it back."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, filler.stat().st_size // 4096 * 4096 - 4096 * leave)
    return filler


@pytest.mark.parametrize("leave", [0, 1, 2, 3, 4, 8])
def test_a_grid_on_a_full_disk(disk, capsys, whole, leave):
    folder = disk / "results"
    filler = fill(disk, leave=leave)
    assert main(grid_command(folder, 3)) == 2
    told = only_complaint(capsys.readouterr().err)
    assert str(folder) in told
    assert "No space left on device" in told
    kept = stored(folder) if folder.is_dir() else {}
    assert (len(kept) > 0) >= (leave == 8)
    assert len(kept) <= leave / 2
    assert not hidden(disk)
    filler.unlink()
    assert main(grid_command(folder, 3)) == 0
    assert {name: stored(folder)[name] for name in kept} == kept
    assert_same(table(folder, 3), whole(3))


def test_a_grid_whose_files_may_not_grow(tmp_path, commands, whole):
    code, out = commands.run(grid_command(tmp_path, 2), files_of_at_most, 4096)
    assert code == 2
    only_complaint(out)
    assert f"{tmp_path}/experiment-" in out
    assert "File too large" in out
    assert not stored(tmp_path)
    assert not hidden(tmp_path)
    assert main(grid_command(tmp_path, 2)) == 0
    assert_same(table(tmp_path, 2), whole(2))


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_the_output_of_a_run_on_a_full_disk(disk, capsys, name):
    command, target = ["run", *OPTIONS, "--output", str(disk / name)], disk / name
    filler = fill(disk)
    assert main(command) == 2
    told = only_complaint(capsys.readouterr().err)
    assert told == f"error: {target} cannot be written: No space left on device"
    assert list(disk.iterdir()) == [filler]
    filler.unlink()
    assert main(command) == 0
    written = pd.read_csv(target) if target.suffix == ".csv" else pd.read_parquet(target)
    expected = run(experiment_of(**SETTINGS))
    assert written["accuracy"].tolist() == pytest.approx(expected["accuracy"].tolist())


def test_a_report_on_a_full_disk(tmp_path, disk, capsys):
    command = ["report", *grid_command(tmp_path / "results", 2)[1:], "--output-dir"]
    assert main([*command, str(tmp_path / "report")]) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    pages = sum(-(-len(content) // 4096) for content in expected.values())
    for leave in (0, pages // 2, pages - 1):
        filler = fill(disk, leave=leave)
        capsys.readouterr()
        assert main([*command, str(disk / "report")]) == 2
        told = only_complaint(capsys.readouterr().err)
        assert str(disk / "report") in told
        assert "No space left on device" in told
        assert not hidden(disk)
        for path in (disk / "report").glob("*.[!j]*"):
            assert path.read_bytes() == expected[path.name]
        filler.unlink()
        shutil.rmtree(disk / "report", ignore_errors=True)  # Else the next call needs room for less.
    assert main([*command, str(disk / "report")]) == 0
    assert {path.name: path.read_bytes() for path in (disk / "report").iterdir()} == expected
    check_manifest(disk / "report")


def test_features_on_a_full_disk(tmp_path, disk, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    codes = []
    for leave in range(12):
        shutil.rmtree(disk / "features")
        shutil.rmtree(tmp_path / "out")
        filler = fill(disk, leave=leave)
        capsys.readouterr()
        codes.append(main(raw))
        if codes[-1]:
            told = only_complaint(capsys.readouterr().err)
            assert str(disk) in told
            assert "No space left on device" in told
            assert not list(disk.glob("features/*.safetensors"))
        filler.unlink()
        assert main(raw) == 0
        assert extracted(tmp_path) == expected
        assert [path.suffix for path in (disk / "features").iterdir() if path.suffix != ".lock"] == [".safetensors"]
    assert set(codes) == {0, 2}
    assert codes == sorted(codes, reverse=True)


def test_features_carried_to_a_full_disk(tmp_path, disk, raw, capsys, monkeypatch):
    monkeypatch.setenv("DAL_CACHE", str(tmp_path / "cache"))
    raw = [*raw[:-1], str(disk)]
    filler = fill(disk)
    assert main(raw) == 2
    assert f"{disk / 'banking77_'}" in (told := only_complaint(capsys.readouterr().err))
    assert "No space left on device" in told
    assert list(disk.iterdir()) == [filler]
    filler.unlink()
    assert main(raw) == 0


def test_a_notebook_that_reports_to_a_full_disk(tmp_path, disk, capsys, root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))  # of the kernel
    notebook = write_notebook(tmp_path / "01_made.ipynb")
    places = {"executed": tmp_path / "executed", "figures": disk / "figures"}
    filler = fill(disk, leave=1)
    with pytest.raises(OSError, match=r"/figures/tiny.* cannot be written: No space left|No space left.*/figures/tiny"):
        run_all([notebook], preset="tiny", **places, parameters={})  # the site finds no space either
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert str(disk / "figures") in told
    assert "No space left on device" in told
    assert [path.name for path in (tmp_path / "executed" / "tiny").iterdir()] == ["01_made.failed.ipynb"]
    filler.unlink()
    assert run_all([notebook], preset="tiny", **places, parameters={})
    check_manifest(disk / "figures" / "tiny")
    assert (disk / "figures" / "tiny" / "01_table.csv").read_text() == "x\n1\n"


def test_a_notebook_that_is_kept_on_a_full_disk(tmp_path, disk):
    notebook = write_notebook(tmp_path / "01_made.ipynb", cell="1 + 1")
    fill(disk)
    executed = disk / "executed" / "01_made.ipynb"
    with pytest.raises(OSError, match=r"/disk/executed/01_made\S* cannot be written: No space left on device"):
        execute(notebook, executed, {})
    assert not list(executed.parent.iterdir())


# --- read-only


@pytest.fixture
def read_only(mount):
    """Makes a folder read-only, also for an administrator."""
    changed = []

    def protect(folder):
        if os.geteuid():
            folder.chmod(0o555)
            changed.append(folder)
        else:
            mount(folder, "--bind", str(folder))
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        return folder

    yield protect
    for folder in changed:
        folder.chmod(0o755)


def test_a_read_only_folder_is_told_before_anything_is_computed(tmp_path, read_only, computed, capsys):
    folder = tmp_path / "results"
    assert main(grid_command(folder, 1)) == 0
    read_only(folder)
    del computed[:]
    assert main(grid_command(folder, 2)) == 2
    told = only_complaint(capsys.readouterr().err)
    assert f"the folder {folder} cannot be written to: " in told
    assert ("Read-only file system" in told) or ("Permission denied" in told)
    assert not computed


def test_a_read_only_folder_with_all_runs_is_read(tmp_path, read_only, computed, whole):
    folder, out = tmp_path / "results", tmp_path / "report"
    main(grid_command(folder, 2))
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftover = folder / f".experiment-0~{socket.gethostname()}~{gone.pid}~0123abcd.part.parquet"
    leftover.touch()
    read_only(folder)
    del computed[:]
    assert main(["report", *grid_command(folder, 2)[1:], "--output-dir", str(out)]) == 0
    check_manifest(out)
    assert not computed
    assert leftover.exists()
    assert_same(table(folder, 2), whole(2))


def test_a_report_into_a_read_only_folder(tmp_path, read_only, capsys):
    command = ["report", *grid_command(tmp_path / "results", 2)[1:], "--output-dir", str(tmp_path / "report")]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    read_only(tmp_path / "report")
    assert main(command) == 2
    assert f"{tmp_path / 'report'}/report_learning_curves.png cannot" in only_complaint(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_features_in_a_read_only_cache_are_used(tmp_path, read_only, raw, capsys):
    assert main(raw) == 0
    expected = extracted(tmp_path)
    read_only(tmp_path / "disk")
    shutil.rmtree(tmp_path / "out")
    assert main(raw) == 0
    assert extracted(tmp_path) == expected
    (tmp_path / "banking77_test.csv").write_text("text,category\nfees,ask\nlost,tell\n")
    capsys.readouterr()
    assert main(raw) == 2  # other data, which are not there
    assert str(tmp_path / "disk") in only_complaint(capsys.readouterr().err)


# --- something else where a file or folder should be


def test_a_folder_in_place_of_a_result_is_told_before_anything_is_computed(tmp_path, one_run, computed, capsys):
    store, study, key, _ = one_run
    path = store.path(study, key)
    path.unlink()
    (path / "something").mkdir(parents=True)
    assert main(grid_command(tmp_path, 1)) == 2
    assert f"{path} is a folder" in only_complaint(capsys.readouterr().err)
    assert not computed
    assert (path / "something").is_dir()


def test_a_dangling_link_in_place_of_a_result_is_a_missing_run(tmp_path, one_run, whole):
    store, study, key, _ = one_run
    path = store.path(study, key)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert main(grid_command(tmp_path, 1)) == 0
    assert not path.is_symlink()
    assert_same(table(tmp_path, 1), whole(1))


def test_results_behind_links_are_read(tmp_path, whole):
    main(grid_command(tmp_path / "there", 1))
    (tmp_path / "folder").symlink_to(tmp_path / "there")
    assert_same(table(tmp_path / "folder", 1), whole(1))
    (tmp_path / "files").mkdir()
    for path in (tmp_path / "there").iterdir():
        (tmp_path / "files" / path.name).symlink_to(path)
    assert_same(table(tmp_path / "files", 1), whole(1))
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    assert main(grid_command(tmp_path / "dangling", 1)) == 0
    assert len(stored(tmp_path / "later")) == 2


@pytest.mark.parametrize("below", ["", "results"])
def test_a_file_in_place_of_the_results_folder_is_told_before_anything_is_computed(tmp_path, below, computed, capsys):
    place = tmp_path / "file"
    place.write_text("mine")
    assert main(grid_command(place / below, 1)) == 2
    assert str(place) in only_complaint(capsys.readouterr().err)
    assert not computed
    assert place.read_text() == "mine"


def test_other_things_in_the_results_folder_do_not_hurt(tmp_path, whole):
    (tmp_path / "notes.parquet").write_text("mine")
    (tmp_path / "experiment-mine.parquet").mkdir()
    (tmp_path / "failures").write_text("no folder")
    assert main(grid_command(tmp_path, 1)) == 0
    assert_same(table(tmp_path, 1), whole(1))
    assert (tmp_path / "notes.parquet").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "rows.csv" / "below").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"rows.csv cannot be written: Is a directory"):
        write_whole(tmp_path / "rows.csv")
    assert not hidden(tmp_path)
    with pytest.raises(OSError, match="the connection broke off"), write_atomically(tmp_path / "x.csv"):
        raise OSError("the connection broke off")  # not about the file


def write_whole(path):
    with write_atomically(path) as temporary:
        temporary.write_text("1,2")


def test_a_folder_is_tried_before_it_is_relied_on(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file is a file; a folder was expected"):
        check_writable(tmp_path / "file")


def test_a_damaged_note_of_a_revision_is_asked_for_again(tmp_path, monkeypatch):
    from dal_lab.sources import encoders

    asked = []
    monkeypatch.setattr(encoders, "_commit", lambda encoder: asked.append(encoder) or "a" * 40)
    about = encoders.Encoder("org/model")
    for _ in range(2):
        assert encoders.resolved_revision(about, tmp_path) == "a" * 40
    assert len(asked) == 1
    (note,) = (tmp_path / "revisions").iterdir()
    for damaged in (b"", b"a" * 39, b"\xff" * 40):
        note.write_bytes(damaged)
        assert encoders.resolved_revision(about, tmp_path) == "a" * 40
    assert len(asked) == 4
