"""Verdicts: the rule, its intervals and its correction, by hand and beside SciPy and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from dal_lab.companion.artefacts import Report, read_manifest
from dal_lab.companion.statistics import holm
from dal_lab.companion.verdicts import COLUMNS, Claim, all_verdicts, counted, judged, lead_over, verdicts

NOTHING = pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["data", "seed"]))


def of_seeds(*values, data="digits"):
    index = pd.MultiIndex.from_product([[data], range(len(values))], names=["data", "seed"])
    return pd.Series(values, index, dtype=float)


def claim(*values, name="it is so", **region):
    sample = values[0] if isinstance(values[0], pd.Series) else of_seeds(*values)
    return Claim(name, "table 1", "gain (points)", sample, **(region or {"above": 0}))


def judge(*claims):
    return verdicts(claims).to_dict("records")


def test_a_row_by_hand():
    (row,) = judge(claim(1, 2, 3))
    assert list(row) == COLUMNS
    assert (row["claim"], row["source"], row["seeds"]) == ("it is so", "table 1", 3)
    assert row["measure"] == "gain (points), above 0"
    # standard deviation 1, standard error 1 / sqrt(3), Student's factor for 2 degrees of freedom 4.302653
    assert row["value"] == 2.0
    assert row["low"] == pytest.approx(2 - 2.484138, abs=1e-6)
    assert row["high"] == pytest.approx(2 + 2.484138, abs=1e-6)
    assert row["verdict"] == "open"


@pytest.mark.parametrize(
    ("region", "verdict"),
    [
        ({"above": 0}, "holds"),
        ({"above": 2}, "open"),
        ({"above": 4}, "contradicted"),
        ({"below": 0}, "contradicted"),
        ({"below": 2}, "open"),
        ({"below": 4}, "holds"),
        ({"above": 1, "below": 3}, "holds"),
        ({"above": 1, "below": 2}, "open"),
        ({"above": 1.8, "below": 2.3}, "open"),
        ({"above": 1.7, "below": 2.3}, "holds"),
        ({"above": 3, "below": 5}, "contradicted"),
        ({"above": -5, "below": 1}, "contradicted"),
    ],
)
def test_the_rule(region, verdict):
    (row,) = judge(claim(1.9, 2.0, 2.1, **region))  # an interval from 1.752 to 2.248
    assert row["verdict"] == verdict
    words = " and ".join(f"{side} {end:g}" for side, end in region.items())
    assert row["measure"] == f"gain (points), {words}"


def test_the_correction_by_hand():
    """Two claims: the one with the smaller p at 2.5 %, the other at 5 %; both at 2.5 % if the first stays open."""
    clear, doubtful = claim(9.9, 10.0, 10.1), claim(1, 2, 3)
    rows = judge(doubtful, clear)
    assert [row["verdict"] for row in rows] == ["open", "holds"]
    assert rows[1]["high"] - 10 == pytest.approx(6.205347 * 0.1 / np.sqrt(3), rel=1e-6)
    assert rows[0]["high"] - 2 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    for row in judge(doubtful, claim(1, 2, 3.5)):
        assert row["verdict"] == "open"
    assert judge(doubtful, claim(1, 2, 3.5))[0]["high"] - 2 == pytest.approx(6.205347 / np.sqrt(3), rel=1e-6)


def test_a_claim_is_decided_exactly_if_holms_procedure_decides_it():
    generator = np.random.default_rng(0)
    numbers = set()
    for _ in range(10):
        samples = generator.normal(generator.choice([-3, 0, 1, 3], size=(6, 1)), 1.0, size=(6, 4))
        rows = judge(*(claim(*sample) for sample in samples))
        p = stats.ttest_1samp(samples, 0, axis=1).pvalue
        decided = holm(p, 0.05)[0]  # that of statsmodels
        assert [row["verdict"] != "open" for row in rows] == decided.tolist()
        ranks, first = p.argsort().argsort(), decided.sum()
        for row, sample, rank in zip(rows, samples, ranks, strict=True):
            level = 0.05 / (6 - min(rank, first))
            assert (row["low"], row["high"]) == pytest.approx(DescrStatsW(sample).tconfint_mean(level))
            assert row["verdict"] in ("open", "holds" if sample.mean() > 0 else "contradicted")
        numbers.add(first)
    assert len(numbers) >= 4


def test_a_region_with_two_ends_is_tested_against_the_nearer_one():
    rows = judge(claim(-0.1, 0.0, 0.1, above=-0.5, below=0.7), claim(9.9, 10.0, 10.1))
    assert [row["verdict"] for row in rows] == ["holds", "holds"]
    assert rows[0]["high"] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval_and_is_no_test():
    alone, other = judge(claim(5), claim(1.9, 2.0, 2.1))
    assert (alone["value"], alone["seeds"], alone["verdict"]) == (5.0, 1, "open")
    assert np.isnan([alone["low"], alone["high"]]).all()
    assert other["high"] == judge(claim(1.9, 2.0, 2.1))[0]["high"]


def test_values_without_scatter():
    rows = judge(claim(1, 1, 1), claim(0, 0, 0), claim(0, 0, 0, above=-0.5), claim(-1, -1), claim(1, 2, 3))
    assert [row["verdict"] for row in rows] == ["holds", "open", "holds", "contradicted", "open"]
    assert [(row["low"], row["high"]) for row in rows[:2]] == [(1, 1), (0, 0)]
    # Three claims are decided; the fourth smallest p of five has 5 % / 2.
    assert rows[4]["high"] - 2 == pytest.approx(6.205347 / np.sqrt(3), rel=1e-6)
    assert judge(claim(0.1 + 0.2 - 0.3, 0, 0))[0]["verdict"] == "open"  # 5.6e-17 is no difference


def test_pairs_that_are_not_there_are_left_out():
    (row,) = judge(claim(1.9, 2.0, float("nan"), 2.1))
    assert (row["value"], row["seeds"]) == (2.0, 3)
    for values in (NOTHING, of_seeds(float("nan"))):
        (row,) = judge(claim(values))
        assert (row["seeds"], row["verdict"]) == (0, "open")
        assert np.isnan([row["value"], row["low"], row["high"]]).all()
        assert row["measure"] == "gain (points), above 0; not measured in this preset"


def test_several_values_of_a_seed_are_one():
    several = pd.concat([of_seeds(1.8, 2.0, 2.2), of_seeds(2.0, 2.0, 2.0)])
    assert judge(claim(several)) == judge(claim(1.9, 2.0, 2.1))


def test_several_data_sets_are_compared_by_their_means():
    sets = pd.concat([of_seeds(1, 3, data="a"), of_seeds(5, 7, 9, data="b"), of_seeds(4, data="c"), NOTHING])
    (row,) = judge(claim(sets))
    assert (row["value"], row["seeds"]) == (pytest.approx(13 / 3), 1)
    assert row["measure"] == "gain (points), above 0; over 3 data sets"
    assert (row["low"], row["high"]) == pytest.approx(DescrStatsW([2.0, 7.0, 4.0]).tconfint_mean(0.05))


def test_times_are_compared_as_ratios():
    faster, slower = (judge(claim(*values, above=1, time=True))[0] for values in ((2, 4, 8), (0.5, 0.25, 0.125)))
    assert faster["value"] == pytest.approx(4)
    assert faster["low"] == pytest.approx(4 / 2 ** (4.302653 / np.sqrt(3)), rel=1e-6)
    assert slower["value"] == pytest.approx(1 / 4)
    assert slower["high"] == pytest.approx(1 / faster["low"])
    assert judge(claim(3.9, 4, 4.1, above=3, below=5, time=True))[0]["verdict"] == "holds"


def test_faults_of_the_caller_are_named():
    with pytest.raises(ValueError, match="claim 'it is so' has no region; a finite `above` or `below` was expected"):
        judge(claim(1, above=-np.inf))
    with pytest.raises(ValueError, match="claim 'it is so' has infinite values"):
        judge(claim(1, 0, time=True, above=1))


def test_no_claims_make_an_empty_table():
    assert verdicts([]).columns.tolist() == COLUMNS
    assert len(verdicts([])) == 0


def test_tables_are_written_and_times_have_one_of_their_own(tmp_path):
    claims = [claim(1, 2, 3), claim(9.9, 10, 10.1), claim(3.9, 4.0, 4.1, name="it is fast", above=1, time=True)]
    shown = judged(Report(tmp_path, "01_it"), claims, cell="(h) verdicts", keys=["k"])
    assert [part.text.splitlines()[0][:2] for part in shown] == ["| ", "| ", "**"]
    assert shown[2].text == "**Reading.** Claims that hold: 2 of 3; contradicted: 0; open: 1."
    assert sorted(read_manifest(tmp_path)) == [
        f"01_verdicts{part}.{ending}" for part in ("", "_time") for ending in ("csv", "md")
    ]
    table, times = (pd.read_csv(tmp_path / f"01_{name}.csv") for name in ("verdicts", "verdicts_time"))
    assert table.columns.tolist() == times.columns.tolist() == COLUMNS
    assert times["claim"].tolist() == ["it is fast"]
    # Two of three claims: two thirds of 5 %, halved for the smaller p.
    level = 0.05 * 2 / 3 / 2
    assert table["high"][1] - 10 == pytest.approx(stats.t.isf(level / 2, 2) * 0.1 / np.sqrt(3))
    both = all_verdicts(tmp_path)
    assert both["notebook"].tolist() == ["01"] * 3
    assert both["verdict"].tolist() == [*table["verdict"], *times["verdict"]]
    assert counted(both) == shown[2].text.removeprefix("**Reading.** ")


def test_other_times_leave_the_other_intervals_alone(tmp_path):
    for name, times in (("one", (3.9, 4.0, 4.1)), ("other", (0.5, 4.0, 9.0))):
        claims = [claim(1, 2, 3), claim(*times, above=1, time=True)]
        judged(Report(tmp_path / name, "01_it"), claims, cell="(h) verdicts", keys=[])
    first, second = ((tmp_path / name / "01_verdicts.csv").read_bytes() for name in ("one", "other"))
    assert first == second


def test_a_folder_without_verdicts_has_none(tmp_path):
    assert all_verdicts(tmp_path).columns.tolist() == ["notebook", *COLUMNS]
    assert all_verdicts(tmp_path).empty


def test_the_lead_is_over_the_best_of_each_data_set():
    index = pd.MultiIndex.from_product([["x", "y"], [0, 1]], names=["data", "seed"])
    means = pd.DataFrame({"a": [5.0, 6, 5, 6], "b": [4, 3, 4, 4], "c": [1, 5, 6, 2.5]}, index)
    # b is the best of x although c is for seed 1; c is the best of y.
    assert lead_over(means, "a", ["b", "c"]).tolist() == [1, 3, -1, 3.5]
    assert lead_over(means, "a", ["b", "absent"]).tolist() == [1, 3, 1, 2]
    for name, others in (("absent", ["a"]), ("a", ["absent"]), ("a", [])):
        assert lead_over(means, name, others).isna().all()
        assert judge(claim(lead_over(means, name, others)))[0]["seeds"] == 0
