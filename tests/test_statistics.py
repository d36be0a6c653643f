import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dal_lab.companion.statistics import difference_to, in_percent, mean_over_seeds, paired, readings, verdict


def rows():
    return pd.DataFrame(
        {
            "strategy": ["a"] * 6 + ["b"] * 6,
            "seed": [0, 0, 1, 1, 2, 2] * 2,
            "accuracy": [1.0, 3.0, 3.0, 5.0, 6.0, 6.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
        }
    )


def test_seeds_are_averaged_before_the_interval_is_made():
    table = mean_over_seeds(rows(), ["strategy"], ["accuracy"])
    per_seed = np.array([2.0, 4.0, 6.0])
    low, high = stats.t.interval(0.95, df=2, loc=per_seed.mean(), scale=stats.sem(per_seed))
    first = table.iloc[0]
    assert (first["strategy"], first["accuracy"], first["seeds"]) == ("a", pytest.approx(4.0), 3)
    assert first["accuracy_ci"] == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval():
    table = mean_over_seeds(rows().query("seed == 0"), ["strategy"], ["accuracy"])
    assert table["accuracy"].tolist() == [2.0, 1.0]
    assert table["accuracy_ci"].isna().all()


def test_pairing_takes_out_what_a_seed_does_to_both():
    (row,) = paired(rows(), "b", within=None).to_dict("records")
    differences = np.array([1.0, 2.0, 3.0])
    assert (row["strategy"], row["difference"], row["seeds"]) == ("a", 2.0, 3)
    assert row["difference_ci"] == pytest.approx(stats.sem(differences) * stats.t.ppf(0.975, 2))
    assert row["p"] == row["p_holm"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert paired(rows(), "a", within=None)["difference"].tolist() == [-2.0]


def test_pairing_names_what_is_not_there():
    with pytest.raises(ValueError, match="reference is 'c'; it has to be one of 'a', 'b'"):
        paired(rows(), "c", within=None)
    with pytest.raises(ValueError, match="left is 'c'; it has to be one of 'a'"):
        verdict(rows(), "c", "b")


def apart(*differences):
    """Rows of A and B, which are so far apart for each seed."""
    names = {"A": differences, "B": [0.0] * len(differences)}
    return pd.DataFrame([{"method": name, "seed": seed, "accuracy": value}
                         for name, values in names.items() for seed, value in enumerate(values)])  # fmt: skip


ALONE = "a single comparison, uncorrected"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((1.8, 2.0, 2.2), f"A is 2.00 ± 0.50 points ahead of B (3 seeds; more than their scatter explains, {ALONE})"),
        ((-0.1, -0.5, -0.9), "B is not told from A: 0.50 ± 0.99 points above it, within the scatter of 3 seeds "
                             f"({ALONE})"),
        ((0.0, 0.0, 0.0), "A is level with B (0.00 ± 0.00 points; 3 seeds)"),
        ((-0.004, -0.004, -0.005), "A is level with B (0.00 ± 0.00 points; 3 seeds)"),  # below, and by nothing
        ((-0.001, 4.0, -4.0), "A is level with B (0.00 ± 9.94 points; 3 seeds)"),
        ((2.0,), "A is 2.00 points above B (1 seed, which says nothing about scatter)"),
        ((0.0,), "A is level with B (0.00 points; 1 seed, which says nothing about scatter)"),
    ],
)  # fmt: skip
def test_verdict_says_who_is_ahead_and_how_sure_that_is(differences, expected):
    assert verdict(apart(*differences), "A", "B", by="method") == expected


def test_names_in_a_verdict_are_written_as_asked():
    assert verdict(apart(2.0), "A", "B", by="method", form="*{}*").startswith("*A* is 2.00 points above *B*")


def test_readings_of_several_pairs_are_corrected_together():
    """A against B has p = 0.03, which is decided alone, and not as the smaller of two."""
    rows = pd.concat([apart(1.0, 2.0, 1.4), apart(1.4, -1.0, 0.1).query("method == 'A'").assign(method="C")])
    p = paired(rows, "B", by="method", within=None).set_index("method")["p"]
    assert 0.025 < p["A"] < 0.05
    first, second = readings(rows, [("A", "B"), ("C", "B")], by="method")
    assert first.startswith("A is not told from B: 1.47 ± 1.25 points above it")
    assert first.endswith("(corrected for 2 comparisons)")
    assert second.startswith("C is not told from B")
    assert "ahead of B (3 seeds; more than their scatter explains" in readings(rows, [("A", "B")], by="method")[0]


def test_tables_are_in_percent_with_names_for_readers():
    table = in_percent(pd.DataFrame({"strategy": ["margin"], "accuracy": [0.5], "nll": [0.7], "seed": [1]}))
    assert table.to_dict("records") == [{"strategy": "Margin", "accuracy": 50.0, "nll": 0.7, "seed": 1}]


def test_differences_are_to_the_same_data_seed_and_cycle():
    curves = pd.DataFrame(
        [
            {"data": data, "strategy": strategy, "seed": seed, "cycle": cycle, "accuracy": value}
            for (data, strategy, seed, cycle), value in {
                ("a", "random", 0, 0): 0.1, ("a", "random", 0, 1): 0.2, ("a", "random", 1, 0): 0.3,
                ("a", "random", 1, 1): 0.4, ("b", "random", 0, 0): 0.5, ("a", "margin", 1, 1): 0.9,
                ("a", "margin", 0, 1): 0.1, ("b", "margin", 0, 0): 0.5,
            }.items()
        ]
    )  # fmt: skip
    found = difference_to(curves, "random").query("strategy == 'margin'")["difference"]
    assert found.tolist() == pytest.approx([0.5, -0.1, 0.0])
    assert (difference_to(curves, "random").query("strategy == 'random'")["difference"] == 0).all()
    with pytest.raises(ValueError, match="rows lack the strategy 'margin'"):
        difference_to(curves, "margin")
