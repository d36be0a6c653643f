"""Files are whole or absent."""

import pytest

from dal_lab.runs.files import write_atomically, write_text


def test_writes_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "rows.csv"
    with write_atomically(path) as temporary:
        temporary.write_text("1,2")
    assert path.read_text() == "1,2"
    assert list(path.parent.iterdir()) == [path]


def test_temporary_file_is_hidden_beside_the_target_and_keeps_the_suffix(tmp_path):
    with write_atomically(tmp_path / "rows.parquet") as temporary:
        temporary.write_text("x")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".rows")
        assert temporary.suffix == ".parquet"
        assert not (tmp_path / "rows.parquet").exists()


def test_reader_sees_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_reader_of_the_old_file_keeps_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with open(path) as reader:
        write_text(path, "a longer new one")
        assert reader.read() == "old"  # the file was replaced, not overwritten


def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")

    def fail_halfway() -> None:
        with write_atomically(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), write_atomically(path):
        pass
    assert path.read_text() == "old"


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "rows.csv"
    with write_atomically(path) as first, write_atomically(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the block that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_write_text_is_utf8(tmp_path):
    write_text(str(tmp_path / "notes.md"), "γ = 10 µs")
    assert (tmp_path / "notes.md").read_bytes() == "γ = 10 µs".encode()
