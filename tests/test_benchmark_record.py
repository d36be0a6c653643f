"""The file of results: each command replaces its own part."""

from benchmarks.record import GPU, SCALING, write_gpu, write_scaling, write_table


def test_each_command_leaves_the_others_part(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_table(path, "machine\n\n| table |\n")
    assert path.read_text() == "machine\n\n| table |\n"
    write_gpu(path, f"{GPU}\n\nopen\n")
    assert path.read_text() == f"machine\n\n| table |\n\n{GPU}\n\nopen\n"
    write_table(path, "machine\n\n| newer |\n")
    write_gpu(path, f"{GPU}\n\nmeasured\n")
    assert path.read_text() == f"machine\n\n| newer |\n\n{GPU}\n\nmeasured\n"


def test_the_section_can_come_first(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_gpu(path, f"{GPU}\n\nopen\n")
    assert path.read_text() == f"{GPU}\n\nopen\n"
    write_table(path, "| table |\n")
    assert path.read_text() == f"| table |\n\n{GPU}\n\nopen\n"


def test_three_parts_keep_their_order(tmp_path):
    path = tmp_path / "RESULTS.md"
    write_gpu(path, f"{GPU}\n\nopen\n")
    write_scaling(path, f"{SCALING}\n\nslopes\n")
    write_table(path, "| table |\n")
    assert path.read_text() == f"| table |\n\n{SCALING}\n\nslopes\n\n{GPU}\n\nopen\n"
    write_scaling(path, f"{SCALING}\n\nsteeper\n")
    assert path.read_text() == f"| table |\n\n{SCALING}\n\nsteeper\n\n{GPU}\n\nopen\n"
