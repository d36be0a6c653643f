import json

import numpy as np
import pandas as pd
import pytest

from dal_lab.companion.artefacts import Report, check_manifest
from dal_lab.companion.command_line import main
from dal_lab.companion.statistics import paired, win_rates
from dal_lab.companion.tables import markdown
from dal_lab.companion.terminal import Comparison, check_strategies, sparkline

TINY = ["--cycles", "2", "--subset-size", "50", "--option", "epochs=3", "--jobs", "1"]
ACCURACIES = {  # data, strategy: a curve a seed
    ("a", "random"): [[0.1, 0.4, 0.7], [0.2, 0.5, 0.8], [0.3, 0.6, 0.6]],
    ("a", "margin"): [[0.1, 0.5, 0.9], [0.2, 0.7, 0.9], [0.3, 0.6, 0.9]],
    ("b", "random"): [[0.5, 0.5, 0.5]] * 3,
    ("b", "margin"): [[0.5, 0.5, 0.5]] * 3,
}


def rows_of(curves):
    return pd.DataFrame(
        {"data": data, "strategy": name, "seed": seed, "cycle": i, "n_labeled": 10 * (i + 1), "accuracy": accuracy}
        for (data, name), seeds in curves.items()
        for seed, curve in enumerate(seeds)
        for i, accuracy in enumerate(curve)
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Arguments of a comparison, and its folder."""
    place = tmp_path_factory.mktemp("comparison")
    command = ["compare", "random", "margin", "entropy", "--dataset", "digits", "moons", "--seeds", "2"]
    command += ["--results-dir", str(place / "results"), "--output-dir", str(place / "out"), *TINY]
    return command, place


def test_tables_hold_means_by_hand():
    comparison = Comparison(rows_of(ACCURACIES))
    table = comparison.accuracy.set_index(["data", "strategy"])
    assert list(table.index) == list(ACCURACIES)
    assert table.loc[("a", "random"), "accuracy"] == pytest.approx(100 * (1.2 + 1.5 + 1.5) / 9)
    assert table.loc[("a", "random"), "final"] == pytest.approx(70)
    assert table.loc[("a", "margin"), "final"] == pytest.approx(90)
    assert table["seeds"].tolist() == [3] * 4
    rows = comparison.rows
    pd.testing.assert_frame_equal(comparison.win_rates, win_rates(rows))
    assert comparison.win_rates.loc["margin", "random"] == pytest.approx(5 / 12)
    differences = comparison.differences.set_index("data")
    expected = paired(rows.assign(accuracy=100 * rows["accuracy"]), "random").set_index("data")
    pd.testing.assert_frame_equal(differences, expected)
    assert differences.loc["a", "difference"] == pytest.approx(100 * (0.3 / 3 + 0.3 / 3 + 0.3 / 3) / 3)
    assert differences.loc["b", "p_holm"] == 1


def test_text_shows_the_tables_in_80_columns():
    long_name = "a_strategy_with_a_name_of_forty_letters__"
    curves = ACCURACIES | {("a", long_name): [[0.1, 0.2, 0.3]] * 3}
    text = Comparison(rows_of(curves)).text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    (random, *_) = [line.split() for line in lines if line.startswith("random")]
    assert random[:2] == ["random", "46.67"]
    assert random[-1] == "3"
    (margin, *_) = [line.split() for line in lines if line.startswith("margin")]
    assert "+10.00" in margin
    assert "a_strategy_with_a_n…" in text
    assert "labels" in text
    assert "▁" in text
    assert "█" in text
    (matrix,) = [line.split() for line in lines if line.startswith(" 2 margin")]
    assert matrix == ["2", "margin", "0.42", "-", "1.00"]


def test_a_long_curve_is_shown_at_its_ends_and_between():
    curve = [[i / 100 for i in range(51)]] * 2
    text = Comparison(rows_of({("a", "random"): curve, ("a", "unc_herding_of_an_own_kind"): curve})).text()
    (head,) = [line.split() for line in text.splitlines() if line.startswith("labels")]
    assert (head[1], head[-1], len(head)) == ("10", "510", 9)
    assert max(map(len, text.splitlines())) <= 80


def test_sparkline_goes_from_the_lowest_to_the_highest_bar():
    assert sparkline(np.array([0.0, 1.0, 4.0, 7.9, 8.0]), 0.0, 8.0) == "▁▂▅██"
    assert sparkline(np.array([3.0, 3.0]), 3.0, 3.0) == "▁▁"


def test_a_single_seed_has_neither_interval_nor_p(tmp_path):
    comparison = Comparison(rows_of({key: seeds[:1] for key, seeds in ACCURACIES.items()}))
    assert "nan" not in comparison.text()
    assert comparison.differences["p_holm"].isna().all()
    comparison.write(Report(tmp_path, "compare"), ["key"])
    check_manifest(tmp_path)


@pytest.mark.parametrize("strategies", [["margin"], ["margin", "random", "margin"]])
def test_too_few_or_repeated_strategies_are_refused(strategies):
    with pytest.raises(ValueError, match=f"the strategies are {', '.join(strategies)}; two or more different ones"):
        check_strategies(strategies)


def test_markdown_takes_names_for_words_whatever_they_look_like():
    text = markdown(pd.DataFrame({"data": ["007", "a|b"], "accuracy": [1.5, 2.0]}))
    assert text.splitlines()[2:] == ["| 007    |           1.50 |", "| a\\|b   |           2.00 |"]


def test_command_prints_and_writes_and_computes_nothing_twice(compared, capsys):
    command, place = compared
    assert main(command) == 0
    first, progress = capsys.readouterr()
    assert "12/12 runs" in progress
    assert len(list((place / "results").glob("*.parquet"))) == 12
    assert main(command) == 0
    assert capsys.readouterr() == (first, "")  # no progress: nothing was computed
    for words in ("digits", "moons", "win rates", "12 runs in", str(place / "out"), "Difference to random"):
        assert words in first
    drawn, tables = ("learning_curves", "win_rates", "differences"), ("accuracy", "tests", "win_rates", "curves")
    names = {f"compare_{name}.{ending}" for name in drawn for ending in ("png", "pdf")}
    names |= {f"compare_{name}.{ending}" for name in tables for ending in ("csv", "md")}
    assert {path.name for path in (place / "out").iterdir()} == {"manifest.json", *names}
    check_manifest(place / "out")
    entries = json.loads((place / "out" / "manifest.json").read_text())
    assert all(len(entry["keys"]) == 12 for entry in entries.values())


def test_the_written_accuracy_is_that_of_grid(compared, capsys):
    command, place = compared
    assert main(command) == 0
    capsys.readouterr()
    grid = ["grid", "--strategy", "random", "margin", "entropy", *command[4:9], "--results-dir", str(place / "results")]
    assert main([*grid, *TINY]) == 0
    printed, progress = capsys.readouterr()
    assert progress == ""  # the same runs
    table = pd.read_csv(place / "out" / "compare_accuracy.csv")
    assert len(table) == 6
    for mean, final in table[["accuracy", "final"]].to_numpy():
        assert f"{mean:.2f}" in printed
        assert f"{final:.2f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["margin"], "the strategies are margin; two or more different ones"),
        (["margin", "margin"], "the strategies are margin, margin; two"),
        (["margin", "margn"], "strategy is 'margn'; it has to be one of"),
        (["margin", "random", "--cycles", "0"], "--cycles is 0; a whole number of at least 1"),
        (["margin", "random", "--seeds", "0"], "--seeds is 0"),
        (["margin", "random", "--dataset", "digit"], "dataset is 'digit'"),
        (["margin", "boss"], "looks at true labels"),
        (["margin", "random", "--features", "my.pkl"], "my.pkl ends in '.pkl'"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith("error: ")
    assert message in complaint
    assert not list(tmp_path.glob("comparison/*"))
