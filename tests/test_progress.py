"""Progress is a live bar for a person and throttled lines in a log, always on stderr."""

import io
import sys

import pytest

from dal_lab.runs import progress as progress_module
from dal_lab.runs.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a person at a terminal sees of three steps."""
    stream = Terminal()
    # Patched within the test: pytest puts its own stream in place between a fixture and its test.
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for variable in ("DAL_PROGRESS",):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert list(progress(range(3), "watched")) == [0, 1, 2]
    return stream.getvalue()


def lines_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def test_items_pass_through_and_lines_state_what_and_how_far(capsys):
    assert list(progress(["x", "y", "z"], "training", unit="heads")) == ["x", "y", "z"]
    out, err = capsys.readouterr()
    lines = lines_of(err)
    assert out == ""
    assert lines[0].startswith("training: 0/3 heads, 00:00 gone")
    assert lines[-1].startswith("training: 3/3 heads, 00:00 gone")


def test_lines_hold_no_control_characters(capsys):
    for _ in progress(progress(range(3), "outer"), "inner"):
        pass
    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b" not in err


def test_lines_are_throttled(capsys):
    for _ in progress(range(5000), "fast"):
        pass
    assert len(lines_of(capsys.readouterr().err)) == 2  # the start and the end


def test_a_line_follows_once_the_interval_has_passed(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_INTERVAL", 0.0)
    for _ in progress(range(4), "slow"):
        pass
    reported = [line.split(":")[1].split("/")[0].strip() for line in lines_of(capsys.readouterr().err)]
    assert [int(count) for count in dict.fromkeys(reported)] == [0, 1, 2, 3, 4]


def test_total_and_update_instead_of_an_iterable(capsys):
    with progress(total=7, what="runs") as bar:
        bar.update(5)
    assert lines_of(capsys.readouterr().err)[-1].startswith("runs: 5/7 runs")


def test_a_person_at_a_terminal_gets_a_bar_that_redraws_itself(monkeypatch):
    assert "\rwatched: " in watch(monkeypatch)


@pytest.mark.parametrize("variable", ["DAL_PROGRESS"])
def test_environment_asks_for_lines_at_a_terminal_too(monkeypatch, variable):
    seen = watch(monkeypatch, **{variable: "plain"})
    assert "\r" not in seen
    assert lines_of(seen)[0].startswith("watched: 0/3 runs")
