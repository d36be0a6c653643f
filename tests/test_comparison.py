"""Win rates, paired tests, ranks, and the figures of them."""

import itertools
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy import stats

from dal_lab.companion.figures import comparisons as draw
from dal_lab.companion.figures.style import LOOKS, STROKES, label
from dal_lab.companion.paper_numbers import published
from dal_lab.companion.statistics import blocks, friedman, paired, win_rates

TOLERANCE = 1e-12  # float64


def curves(accuracies):
    """Rows from {(data, seed, strategy): [accuracy of cycle 0, 1, ...]}."""
    return pd.DataFrame(
        [
            {"data": data, "seed": seed, "strategy": strategy, "cycle": cycle, "accuracy": value}
            for (data, seed, strategy), values in accuracies.items()
            for cycle, value in enumerate(values)
        ]
    )


def random_curves(names=("d", "b", "c", "a"), data=("letter", "digits", "dtd"), seeds=5, cycles=7):
    """Accuracies on few levels, so that there are ties; in an order that is not the alphabet's."""
    values = np.random.default_rng(0).integers(0, 6, (len(data), seeds, len(names), cycles)) / 8
    places = itertools.product(range(len(data)), range(seeds), range(len(names)))
    return curves({(data[i], s, names[j]): values[i, s, j] for i, s, j in places})


def shuffled(rows, seed=1):
    return rows.sample(frac=1, random_state=seed)


def texts(figure):
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
    plt.close(figure)
    return found


# Win rates


def test_win_rates_by_hand():
    rows = curves({
        ("letter", 0, "b"): [0.9, 0.5, 0.5, 0.7],  # cycle 0 does not count
        ("letter", 0, "a"): [0.1, 0.4, 0.5, 0.8],  # b, tie, a
        ("digits", 3, "b"): [0.1, 0.6],
        ("digits", 3, "a"): [0.9, 0.2],  # b
    })  # fmt: skip
    table = win_rates(rows)
    assert table.index.tolist() == table.columns.tolist() == ["b", "a"]
    np.testing.assert_allclose(table, [[0, 2 / 4], [1 / 4, 0]], atol=TOLERANCE)


def test_win_rates_equal_a_loop_over_cells():
    rows = random_curves()
    names = list(rows["strategy"].unique())
    found = {place: part.set_index("strategy")["accuracy"] for place, part in rows.groupby(["data", "seed", "cycle"])}
    cells = [values for (_, _, cycle), values in found.items() if cycle > 0]
    expected = [[np.mean([each[left] > each[right] for each in cells]) for right in names] for left in names]
    table = win_rates(rows)
    np.testing.assert_allclose(table, expected, atol=TOLERANCE)
    assert ((table + table.T).to_numpy() < 1).all()  # ties count for neither
    pd.testing.assert_frame_equal(win_rates(shuffled(rows)).loc[names, names], table)


def test_win_rates_count_what_both_strategies_have():
    rows = curves({
        ("letter", 0, "a"): [0.5, 0.6, 0.7],
        ("letter", 0, "b"): [0.5, 0.5],  # lacks cycle 2
        ("letter", 1, "b"): [0.5, 0.9, 0.9],  # a seed that a lacks
        ("letter", 1, "c"): [0.5, 0.1, float("nan")],
        ("letter", 0, "c"): [0.5, 0.1, 0.9],
    })  # fmt: skip
    table = win_rates(rows)
    assert table.loc["a", "b"] == 1.0
    assert table.loc["b", "a"] == 0.0
    assert table.loc["a", "c"] == table.loc["c", "a"] == 0.5
    assert table.loc["b", "c"] == 1.0


def test_win_rates_of_another_column():
    rows = curves({("letter", 0, "a"): [0, 1, 1], ("letter", 0, "b"): [0, 2, 2]}).assign(nll=lambda t: -t["accuracy"])
    assert win_rates(rows).loc["a", "b"] == 0
    assert win_rates(rows, y="nll").loc["a", "b"] == 1


def test_win_rates_need_something_shared():
    rows = curves({("letter", 0, "a"): [0.5, 0.6], ("letter", 1, "b"): [0.5, 0.5]})
    with pytest.raises(ValueError, match="'a' and 'b' share no data set, seed and cycle after cycle 0"):
        win_rates(rows)
    with pytest.raises(ValueError, match=r"{'data': 'letter', 'seed': 0, 'cycle': 0, 'strategy': 'a'} more than once"):
        win_rates(pd.concat([rows, rows]))


# Paired tests


def test_paired_by_hand():
    """Means over the curve b - a: 0.1, 0.2, 0.3 by seed; mean 0.2, standard error 0.1 / sqrt(3)."""
    rows = curves({
        ("letter", 0, "a"): [0.2, 0.4], ("letter", 0, "b"): [0.3, 0.5],
        ("letter", 1, "a"): [0.5, 0.5], ("letter", 1, "b"): [0.6, 0.8],
        ("letter", 2, "a"): [0.0, 0.2], ("letter", 2, "b"): [0.5, 0.3],
    })  # fmt: skip
    (row,) = paired(rows, "a").to_dict("records")
    assert list(row) == ["data", "strategy", "difference", "difference_ci", "p", "p_holm", "seeds"]
    assert (row["data"], row["strategy"], row["seeds"]) == ("letter", "b", 3)
    assert row["difference"] == pytest.approx(0.2)
    assert row["difference_ci"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)  # t_0.975 of 2 degrees of freedom
    # For 2 degrees of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2); t = 0.2 / (0.1 / sqrt(3)) = sqrt(12)
    assert row["p"] == row["p_holm"] == pytest.approx(1 - (12 / 14) ** 0.5)


def test_paired_equal_scipys_for_each_data_set():
    rows = random_curves()
    table = paired(rows, "b").set_index(["data", "strategy"])
    assert table.index.tolist() == list(itertools.product(["letter", "digits", "dtd"], ["d", "c", "a"]))
    means = rows.groupby(["data", "seed", "strategy"])["accuracy"].mean().unstack("strategy")
    for (data, name), row in table.iterrows():
        test = stats.ttest_rel(means.loc[data][name], means.loc[data]["b"])
        interval = test.confidence_interval(0.95)
        assert row["p"] == pytest.approx(test.pvalue, rel=1e-9)
        assert row["difference"] == pytest.approx((interval.low + interval.high) / 2, abs=TOLERANCE)
        assert row["difference_ci"] == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)
    for data, part in table.groupby(level="data"):  # three comparisons each, not nine
        np.testing.assert_allclose(part["p_holm"], stepped_down(part["p"].to_numpy()), err_msg=data)
    again = paired(shuffled(rows), "b").set_index(["data", "strategy"]).loc[table.index]
    pd.testing.assert_frame_equal(again, table)


def test_pairs_are_seeds_that_both_have():
    rows = random_curves()
    lost = (rows["strategy"] == "b") & (rows["seed"] == 0) | (rows["strategy"] == "a") & (rows["seed"] == 4)
    gone = (rows["strategy"] == "c") & (rows["data"] == "dtd")
    table = paired(rows[~lost & ~gone], "b").set_index(["data", "strategy"])
    assert table["seeds"].to_dict() == {
        (data, name): 3 if name == "a" else 4
        for data, name in itertools.product(["letter", "digits", "dtd"], "dca")
        if (data, name) != ("dtd", "c")
    }
    both = rows[rows["seed"].between(1, 3)]
    alone = paired(both, "b").set_index(["data", "strategy"])
    assert table.loc[("letter", "a"), "p"] == pytest.approx(alone.loc[("letter", "a"), "p"])


def test_differences_without_scatter_are_no_reason_to_warn():
    rows = random_curves(names=("a",))
    same, higher = (
        rows.assign(strategy=n, accuracy=rows["accuracy"] + d) for n, d in {"same": 0.0, "higher": 0.5}.items()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = paired(pd.concat([rows, same, higher]), "a")
    found = table.set_index("strategy")
    assert (found.loc["same", ["difference", "difference_ci"]] == 0).all(axis=None)
    assert (found.loc["same", ["p", "p_holm"]] == 1).all(axis=None)
    assert (found.loc["higher", "p_holm"] < 1e-20).all()


def test_one_seed_has_neither_interval_nor_p():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = paired(random_curves(seeds=1), "a")
    assert (table["seeds"] == 1).all()
    assert table["difference"].notna().all()
    assert table[["difference_ci", "p", "p_holm"]].isna().all(axis=None)


def test_paired_of_a_value_that_cycle_0_lacks():
    rows = random_curves()
    rows["query_s"] = rows["accuracy"].where(rows["cycle"] > 0)
    expected = paired(rows[rows["cycle"] > 0], "a")
    pd.testing.assert_frame_equal(paired(rows, "a", value="query_s"), expected)


def test_paired_name_what_is_not_there():
    rows = random_curves(names=("a", "b"))
    with pytest.raises(ValueError, match="reference is 'x'; it has to be one of 'a', 'b'"):
        paired(rows, "x")
    with pytest.raises(ValueError, match="'b' on digits shares no seed with 'a'"):
        paired(rows[(rows["strategy"] == "b") | (rows["data"] != "digits")], "a")
    with pytest.raises(ValueError, match="'a' on letter, seed 0 has fewer cycles than others there; whole"):
        paired(rows.drop(3), "a")
    with pytest.raises(ValueError, match="more than once"):
        paired(pd.concat([rows, rows]), "a")


def test_holm_counts_the_tests_that_there_are():
    """b and c share three seeds with a, d one, which is no test: the smaller p counts twice, the larger once."""
    rows = curves({
        ("letter", seed, name): [value]
        for name, values in {"a": (0, 0, 0), "b": (1, 2, 4), "c": (1, -1, 1), "d": (5,)}.items()
        for seed, value in enumerate(values)
    })  # fmt: skip
    p, corrected = (paired(rows, "a").set_index("strategy")[name] for name in ("p", "p_holm"))
    assert 2 * p["b"] < p["c"]
    assert corrected.to_dict() == pytest.approx(
        {"b": 2 * p["b"], "c": p["c"], "d": float("nan")}, nan_ok=True, rel=TOLERANCE
    )


def stepped_down(p):
    """Holm 1979 in a loop: the j-th smallest of c counts c - j + 1 times, and is no smaller than those before."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


# Ranks


def drawn_ranks(rows):
    """What the names in the figure say: {name: its average rank}."""
    named = [re.fullmatch(r" *(\S+) \(([\d.]+)\) *", text) for text in texts(draw.ranks(blocks(rows)))]
    return {found[1]: float(found[2]) for found in named if found}


def test_ranks_by_hand():
    rows = curves({
        ("letter", 0, "a"): [0.1, 0.3], ("letter", 0, "b"): [0.3, 0.1], ("letter", 0, "c"): [0.4, 0.4],  # 2.5, 2.5, 1
        ("letter", 1, "a"): [0.5, 0.7], ("letter", 1, "b"): [0.5, 0.5], ("letter", 1, "c"): [0.6, 0.9],  # 2, 3, 1
        ("digits", 0, "a"): [0.3, 0.3], ("digits", 0, "b"): [0.2, 0.2], ("digits", 0, "c"): [0.1, 0.1],  # 1, 2, 3
    })  # fmt: skip
    assert len(blocks(rows)) == 3
    four_times = pd.concat([rows.assign(seed=rows["seed"] + 10 * i) for i in range(4)])
    assert drawn_ranks(four_times) == pytest.approx({"c": 5 / 3, "a": 5.5 / 3, "b": 7.5 / 3}, abs=0.0051)
    # Chi^2 = (12 / (N k (k+1)) sum of squared rank sums - 3 N (k+1)) / (1 - ties / (N (k^3 - k))), 2 degrees of freedom
    square = (12 / (3 * 3 * 4) * (5**2 + 5.5**2 + 7.5**2) - 3 * 3 * 4) / (1 - 6 / (3 * 24))
    assert friedman(blocks(rows)) == pytest.approx(np.exp(-square / 2))
    again = blocks(shuffled(rows))
    pd.testing.assert_frame_equal(again.loc[blocks(rows).index, ["a", "b", "c"]], blocks(rows))
    assert friedman(again) == pytest.approx(friedman(blocks(rows)))


def test_means_that_differ_in_the_last_digit_are_ties():
    """0.1 + 0.2 + 0.3 + 0.4 depends on the order of the terms."""
    orders = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.3, 0.1, 0.4, 0.2], [0.2, 0.4, 0.1, 0.3]]
    pairs = itertools.product(range(10), zip("abcd", orders, strict=True))
    rows = curves({("letter", seed, name): values for seed, (name, values) in pairs})
    assert drawn_ranks(rows) == dict.fromkeys("abcd", 2.5)
    assert friedman(blocks(rows)) == 1.0


@pytest.mark.parametrize(
    ("k", "q"),
    [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_difference_is_that_of_demsars_table(k, q):
    found = blocks(random_curves(names="abcdefghij"[:k], seeds=10, cycles=2))
    assert len(found) == 30
    difference = draw.critical_difference(30, k)
    assert difference == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 30)), rel=5e-4)
    if k == 5:
        assert difference == pytest.approx(1.114, abs=5e-4)
    assert any(text.endswith(f"; CD = {difference:.2f})") for text in texts(draw.ranks(found)))


def test_ranks_need_every_strategy_in_every_block():
    rows = random_curves()
    lost = (rows["strategy"] == "a") & (rows["data"] == "digits") & (rows["seed"] == 2)
    with pytest.raises(ValueError, match="rows lack 'a' on digits, seed 2; every strategy was expected"):
        blocks(rows[~lost])
    with pytest.raises(ValueError, match="'a' on letter, seed 4 and 5 more; every strategy was expected"):
        blocks(rows[(rows["strategy"] != "a") | (rows["data"] == "dtd")])
    with pytest.raises(ValueError, match="rows have 2 strategies; at least 3 were expected"):
        blocks(random_curves(names=("a", "b")))


# Figures


def test_heat_maps_print_the_shares_and_leave_the_diagonal_blank():
    names = ["random", "boss", "coreset"]
    measured = pd.DataFrame([[0, 0.123, 0.5], [0.8, 0, 1.0], [0.456, 0, 0]], index=names, columns=names)
    figure = draw.win_rates({"measured": measured, "published": measured.iloc[:2, :2]})
    first, second, _ = figure.axes
    assert [text.get_text() for text in first.texts] == ["0.12", "0.50", "0.80", "1.00", "0.46", "0.00"]
    assert [text.get_text() for text in second.texts] == ["0.12", "0.80"]
    assert to_rgb(first.get_facecolor()) != to_rgb("white")  # which is one half; the diagonal has no value
    assert "grey squares have no value" in figure.get_label()
    found = texts(figure)
    assert {"measured", "published", "Random", "BoSS", "Core-set"} <= set(found)
    assert not any("oracle" in text for text in found)


def test_heat_maps_of_all_published_strategies_lie_within_the_figure():
    matrix = published("refine_win_rates").set_index("strategy")
    figure = draw.win_rates({"measured": matrix, "published": matrix})
    assert_inside(figure)
    assert {label(name) for name in matrix} <= set(texts(figure))


def test_heat_maps_refuse_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"published has the rows .* and the columns .*; the same strategies"):
        draw.win_rates({"published": published("refine_win_rates")})


def in_order(names, count):
    """`count` blocks in all of which the strategies come in the order of `names`."""
    return pd.DataFrame([np.linspace(0.9, 0.1, len(names))] * count, columns=names)


@pytest.mark.parametrize(("count", "number"), [(3, 10), (3, 30), (9, 12), (14, 60), (16, 10), (16, 60)])
def test_critical_difference_diagrams_name_every_strategy_and_its_rank(count, number):
    names = [*published("refine_win_rates")["strategy"], "boss", "coreset"][:count]
    figure = draw.ranks(in_order(names, number))
    assert_inside(figure)
    found = [text.strip() for text in texts(figure)]
    named = [f"{label(name).removesuffix(' (oracle)')} ({rank}.00)" for rank, name in enumerate(names, start=1)]
    assert set(named) <= set(found)
    p = stats.chi2.sf(number * (count - 1), count - 1)  # Friedman's statistic is the largest that it can be
    said = f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"
    note = f"Average rank, 1 is best ({number} blocks of data set and seed; Friedman's p {said}; CD"
    assert any(text.startswith(note) for text in found)


@pytest.mark.parametrize(
    ("names", "number", "expected"),
    [
        ("abc", 10, [[1.0, 2.0], [2.0, 3.0]]),  # 1.05 is the critical difference
        ("abcdefg", 15, [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0], [4.0, 5.0, 6.0], [5.0, 6.0, 7.0]]),  # 2.33
        ("abcdef", 10, [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0], [4.0, 5.0, 6.0]]),  # 2.38
        ("abc", 200, []),  # 0.23
    ],
)
def test_bars_join_the_largest_groups_within_the_critical_difference(names, number, expected):
    figure = draw.ranks(in_order(list(names), number))
    bars = [sorted(line.get_xdata()) for line in figure.axes[0].lines if line.get_linewidth() == draw.BAR]
    assert bars == expected
    plt.close(figure)


def test_below_ten_blocks_there_is_no_diagram():
    few, enough = (in_order(list("abc"), number) for number in (9, 10))
    assert not draw.enough_blocks(few)
    assert draw.enough_blocks(enough)
    with pytest.raises(ValueError, match=r"blocks has 9 rows \(data set and seed\); at least 10 were expected"):
        draw.ranks(few)
    assert "Seeds of a data set count as blocks of their own" in draw.ranks(enough).get_label()


def test_differences_are_drawn_around_0_with_the_first_strategy_on_top():
    table = pd.DataFrame({
        "data": ["dtd", "dtd", "letter"], "strategy": ["badge", "random", "random"],
        "difference": [1.5, -0.5, 0.25], "difference_ci": [0.5, 0.25, float("nan")], "seeds": [3, 3, 1],
    })  # fmt: skip
    figure = draw.differences(table, "points")
    left, right = figure.axes
    drawn = {(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines if len(line.get_xdata()) == 1}
    assert {(1.5, 0), (-0.5, 1), (2.0, 0), (-0.75, 1)} <= drawn  # the values, and ends of their intervals
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert (0.25, 1) in {(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines}
    assert figure.get_label().startswith(
        "Mean over 1 to 3 seeds; bars: 95 % intervals of the difference, paired by seed"
    )
    assert {"dtd", "letter", "BADGE", "Random", "points"} <= set(texts(figure))


def assert_inside(figure):
    """No text is cut off by the figure's edge, and no two of them overlap except in rotated rows."""
    figure.canvas.draw()
    width, height = figure.bbox.size
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text, text.get_window_extent()) for text in shown]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} is cut off: {box}"
    level = [(text, box) for text, box in boxes if not text.get_rotation()]
    for (one, first), (other, second) in itertools.combinations(level, 2):
        assert not first.overlaps(second), f"{one.get_text()!r} and {other.get_text()!r} overlap"


# Looks


# What eyes without one kind of cones see of linear RGB (Machado et al. 2009), and OKLab, in which distances are alike.
EYES = {
    "all": np.eye(3),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}
TO_CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]])
TO_LAB = np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def as_seen(colour, eyes):
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    return TO_LAB @ np.cbrt(TO_CONES @ np.clip(EYES[eyes] @ linear, 0, 1))


@pytest.mark.parametrize(
    "names",
    [
        list(published("refine_win_rates")["strategy"]),  # fourteen in one panel
        ["random", "margin", "coreset", "badge", "typiclust", "alfamix", "dropquery", "bait", "boss"],
        ["random", "bait_top_1", "bait_top_2", "bait_top_5", "bait_exact"],
    ],
)
def test_strategies_that_share_a_figure_look_different(names):
    assert len({LOOKS[name][1] for name in names}) == len({LOOKS[name][0] for name in names}) == len(names)
    for one, other in itertools.combinations(names, 2):
        colours = LOOKS[one][1], LOOKS[other][1]
        apart = {eyes: np.linalg.norm(as_seen(colours[0], eyes) - as_seen(colours[1], eyes)) for eyes in EYES}
        assert apart["all"] > 0.1, (one, other)
        assert min(apart.values()) > 0.07 or STROKES.get(one, "-") != STROKES.get(other, "-"), (one, other, apart)
