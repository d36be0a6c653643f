"""`python -m benchmarks` at tiny sizes: what it measures, prints, stores and draws."""

import importlib.metadata
import re
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import scaling, scaling_figures, tables
from benchmarks.case import Case, Goal
from benchmarks.cases import CASES, Family
from benchmarks.timing import check_picks, check_picks_but_for_ties, compare
from dal_core import strategies
from dal_core.experiment import Experiment  # noqa: F401 - registers all strategies

BANDWIDTH = 2e9
UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; exit code, output and messages."""
    monkeypatch.setattr(command, "bandwidth", lambda device: BANDWIDTH)

    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
        code = command.main()
        return code, *capsys.readouterr()

    return with_arguments


@pytest.fixture
def families(monkeypatch) -> Callable[..., None]:
    """Replaces what is measured."""

    def replace(*given):
        monkeypatch.setattr(command, "FAMILIES", given)
        cases = {name: maker for family in given for name, maker in family.cases.items()}
        monkeypatch.setattr(command, "CASES", cases)

    return replace


def rows(text, column):
    """Rows of the tables that have the column, by the name of the case."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        header, _, *lines = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines())
        if column in header:
            found |= {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    return found


def seconds(text):
    number, unit = text.split()
    return float(number) * UNITS[unit]


def small(ours, textbook=None, **options):
    return lambda *, small: Case("n=1", ours, textbook, **options)


def test_every_strategy_has_a_case():
    missing = [name for name in strategies.names() if not any(re.fullmatch(rf"{name}(-.*)?", case) for case in CASES)]
    assert missing == []


@pytest.mark.slow
def test_all_of_it(run, monkeypatch, tmp_path):
    curves = {
        name: scaling.CURVES[name] for name in ("badge", "second_order", "boss")
    }  # each measured in a way of its own
    monkeypatch.setattr(scaling, "CURVES", curves)
    output, figures = tmp_path / "results" / "RESULTS.md", tmp_path / "figures"
    output.parent.mkdir()
    code, text, _ = run("--small", "--threads", 1, "--output", output, "--figures", figures)
    assert code == 0
    assert output.read_text().split() == text.split()
    numbers, words = rows(text, "time / floor"), rows(text, "floor reads")
    assert list(numbers) == list(words) == list(CASES)
    assert {row["met"] for row in numbers.values()} == {"-"}  # goals are for the full sizes
    margin = numbers["margin"]  # reads 150 x 6 logits
    assert words["margin"]["floor reads"] == "Z"
    assert seconds(margin["floor"]) == pytest.approx(150 * 6 * 4 / BANDWIDTH)
    multiple = float(margin["time / floor"].replace(",", ""))
    assert multiple == pytest.approx(seconds(margin["time"]) / seconds(margin["floor"]), rel=0.02)
    assert f"torch {importlib.metadata.version('torch')}" in text.partition("## ")[0]
    assert tables.processor() in text
    assert list(rows(text, "base size")) == [scaling_figures.look(name)[0] for name in curves]
    links = re.findall(r"\]\((.*?)\)", text)
    assert sorted(links) == sorted(
        f"../figures/{name}" for name in ["scaling.csv", *(f"scaling_{a}.png" for a in "ndkb")]
    )
    for link in links:
        assert (output.parent / link).stat().st_size > 0
    points = pd.read_csv(figures / "scaling.csv")
    assert set(points["algorithm"]) == set(curves)
    assert (points[["seconds", "bytes"]] > 0).all(axis=None)


def test_a_part_leaves_the_other_part(run, families, tmp_path, monkeypatch):
    families(Family("Few", {"quick": small(lambda: torch.ones(3))}))
    points = [
        {"algorithm": "badge", "axis": axis, "size": n, "seconds": n**2 / 1e6, "bytes": n}
        for axis in "ndkb"
        for n in (10, 20, 40)
    ]
    monkeypatch.setattr(scaling, "costs", lambda *, small: pd.DataFrame(points))
    output = tmp_path / "RESULTS.md"
    for part in ("tables", "scaling"):
        assert run("--small", "--part", part, "--output", output)[0] == 0
    assert rows(output.read_text(), "time / floor")["quick"]["floor"] == "-"
    assert rows(output.read_text(), "base size")["BADGE"]["N"] == "2.00 (1.00)"


def test_a_missed_goal_is_told(run, families):
    met, missed = Goal(seconds=9), Goal(ratio=1e9)
    families(Family("Few", {"met": small(abs_of_one, goal=met), "missed": small(abs_of_one, abs_of_one, goal=missed)}))
    code, text, messages = run("--repeats", 1, "--only", "met", "--only", "missed", "--threads", 2)
    assert code == 1
    assert "goal missed, or failed: missed\n" in messages
    assert [row["met"] for row in rows(text, "time / floor").values()] == ["yes", "NO"]
    assert run("--repeats", 1, "--only", "missed", "--threads", 1)[0] == 0  # goals are for two threads


def test_a_case_that_fails_its_check_leaves_the_others(run, families):
    def differing(*, small):
        check_picks("these", torch.tensor([1, 2]), torch.tensor([1, 3]))

    families(Family("Few", {"differing": differing, "quick": small(abs_of_one)}))
    code, text, messages = run("--small", "--part", "tables")
    assert code == 1
    assert "failed: RuntimeError: these: picked [1, 2], but the textbook picks [1, 3]" in messages
    numbers = rows(text, "time / floor")
    assert (numbers["differing"]["time"], numbers["differing"]["met"], numbers["quick"]["met"]) == ("failed", "NO", "-")
    assert rows(text, "floor reads")["differing"]["size"].startswith("failed: RuntimeError: these")


def test_picks_may_differ_at_a_tie_up_to_rounding_alone():
    ours, theirs = torch.tensor([1, 2, 0]), torch.tensor([1, 3, 2])
    utilities = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="these: picked"):
        check_picks_but_for_ties("these", ours, theirs, utilities)
    utilities[1, 2] = utilities[1, 3] * (1 + 1e-15)
    assert check_picks_but_for_ties("these", ours, theirs, utilities).startswith("same picks up to pick 2")


def abs_of_one():
    return torch.ones(()).abs()


def test_what_is_not_installed_is_told(run, families):
    families(Family("Beside something", {}, "something"))
    code, text, _ = run("--small", "--part", "tables")
    assert code == 0
    assert "## Beside something\n\nLeft out: something is not installed.\n" in text


def test_memory_is_what_is_held_at_a_time():
    def ours():
        for _ in range(3):
            torch.ones(1000)  # gone before the next one

    def textbook():
        return [torch.ones(1000, dtype=torch.float64) for _ in range(3)]

    timing = compare(ours, textbook, repeats=1, shortest=0.0)
    assert (timing.memory, timing.textbook_memory) == (4000, 24_000)
    assert compare(ours, None, repeats=1, warm=False).memory is None


def test_names_of_lines_stay_apart_and_in_order():
    wanted = [0.5, 0.51, 0.1, 0.52, 0.9, 0.45]
    heights = scaling_figures._apart(wanted)
    assert np.argsort(heights).tolist() == np.argsort(wanted).tolist()
    assert np.diff(sorted(heights)).min() >= scaling_figures.GAP - 1e-12
    assert (heights[2], heights[4]) == pytest.approx((0.1, 0.9))
    assert np.mean([heights[i] for i in (0, 1, 3, 5)]) == pytest.approx(np.mean([0.5, 0.51, 0.52, 0.45]))


@pytest.mark.parametrize(
    ("value", "expected"), [(1.5, "1.50 s"), (0.25, "250 ms"), (0.0123, "12.3 ms"), (4.5e-6, "4.50 µs")]
)
def test_durations_are_short(value, expected):
    assert tables.duration(value) == expected
