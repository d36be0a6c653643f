"""`dal estimate`: the cost of a query from the operations of its algorithm, before it runs and without torch."""

import inspect
import json
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import psutil
import pytest

from dal_core.experiment import Experiment
from dal_core.strategies import registry
from dal_lab import calibration
from dal_lab.companion.command_line import main
from dal_lab.costs import FORMULAS, Query, Rates, cost
from dal_lab.estimate import calibrate, estimate, machine, shipped, two_digits
from dal_lab.runs.plan import query_lines
from dal_lab.sources.raw import DatasetUnavailableError

ONES = Rates(1, 1, 1, 1, 1, 1)
SIZES = {"pool": 4000, "features": 100, "classes": 10, "batch": 20}
ASKED = [f"--{name}={size}" for name, size in SIZES.items()]
PACKAGED = sorted({*registry.names()} - registry.own().keys())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAL_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PACKAGED)
def test_every_strategy_has_a_formula_with_its_options(name):
    def options(function):
        return {each.name: each.default for each in inspect.signature(function).parameters.values()}

    known = options(registry.get(name))
    assert list(options(FORMULAS[name]).items())[1:] == [(each, known[each]) for each in registry.option_names(name)]


def test_the_table_names_every_strategy_and_no_other():
    assert sorted(FORMULAS) == sorted(shipped()["factors"]) == PACKAGED
    assert all(0.1 < factor < 10 for factor in shipped()["factors"].values())


@pytest.mark.parametrize("name", PACKAGED)
def test_the_line_begins_with_seconds_and_megabytes(name, capsys):
    assert main(["estimate", name, *ASKED]) == 0
    line = re.match(r"([\d.]+) s, ([\d.]+) MB: on \d+ cores?, by rates shipped", capsys.readouterr().out)
    seconds, megabytes = map(float, line.groups())
    assert main(["estimate", name, *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert seconds == pytest.approx(found["seconds"], rel=0.06)
    assert megabytes == pytest.approx(found["peak_bytes"] / 1e6, rel=0.06)


def test_known_numbers():
    query = Query(n=100, m=5, d=8, k=3, b=10, rates=ONES)
    assert cost("random", query) == (100 + 20, 8 * 100)  # draws and calls; positions as int64
    one = Query(n=100, m=5, d=8, k=3, b=10, rates=ONES, factors={"badge": 2.0})
    softmax, norms = 100 * (3 * 3 + 40), 12 * 100 * 8
    a_pick = 4 * 100 * (8 + 3) / 3 + 60 * 100 + 30  # read from the cache
    assert cost("badge", one) == pytest.approx((2 * (softmax + norms + 10 * a_pick), 4 * 100 * (8 + 3 + 2)))


@pytest.mark.parametrize(
    ("name", "axis", "lowest", "highest"),
    [
        ("margin", "n", 1.9, 2.0),
        ("badge", "n", 1.9, 2.1),
        ("badge", "b", 1.8, 2.0),
        ("max_herding", "n", 3.3, 4.0),
        ("probcover", "n", 3.0, 4.0),
        ("typiclust", "b", 1.2, 3.0),
        ("cdo", "b", 1.9, 4.0),
        ("cdo", "n", 1.0, 1.5),
        ("tailor", "n", 1.9, 4.0),
        ("boss", "n", 1.0, 1.01),  # No candidate sees more than 5,000 instances.
    ],
)
def test_growth_where_a_size_doubles(name, axis, lowest, highest):
    query = Query(n=20_000, m=100, d=384, k=20, b=50, rates=shipped()["cpu"])
    once, twice = cost(name, query), cost(name, query.sized(**{axis: 2 * getattr(query, axis)}))
    assert lowest <= twice.seconds / once.seconds <= highest
    assert twice.peak >= once.peak


def test_exact_bait_grows_with_the_square_of_its_side_in_memory():
    query, exact = Query(n=9000, m=100, d=200, k=10, b=5, rates=shipped()["cpu"]), {"approximation": "exact"}
    once, twice = (cost("bait", each, exact) for each in (query, query.sized(d=400)))
    assert 1.9 < twice.peak / once.peak < 4
    assert 4 < twice.seconds / once.seconds < 8


def test_ensembles_cost_their_members():
    query = Query(n=2000, m=100, d=64, k=10, b=10, rates=shipped()["cpu"])
    members = {"strategies": ["margin", "badge"]}
    apart = [cost(name, query) for name in members["strategies"]]
    together = cost("tailor", query, members)
    assert together.seconds == pytest.approx(sum(each.seconds for each in apart) + 200 / query.rates.calls)
    assert together.peak == max(each.peak for each in apart)
    assert cost("tailor", query, {"strategies": ["margin", "typiclust"]}).seconds > together.seconds


def test_more_cores_shorten_what_is_computed_side_by_side():
    known = {"labelled": 100, **SIZES}
    assert estimate("refine", **known, cores=2).seconds < 0.8 * estimate("refine", **known, cores=1).seconds
    assert estimate("refine", **known, cores=2).peak_bytes > estimate("refine", **known, cores=1).peak_bytes
    assert estimate("margin", **known, cores=2).seconds == estimate("margin", **known, cores=1).seconds


def test_memory_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    assert main(["estimate", "max_herding", *ASKED]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: max_herding needs [\d,]+ bytes .* for a pool of 4,000, 1,000,000 are free; .*\n", error
    )
    assert main(["estimate", "random", *ASKED]) == 0
    assert main(["estimate", "max_herding", *ASKED, "--device", "cuda"]) == 0
    assert "how much memory is free is not known without torch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["marginn", *ASKED], r"strategy is 'marginn'; it has to be one of 'alfamix', .*; did you mean 'margin'\?"),
        (["bait", *ASKED, "--option", "fischer=mean"], r"strategy 'bait' has no option 'fischer'; .* mean 'fisher'\?"),
        (["bald", *ASKED, "--option", "draws=many"], "option draws is 'many'; a value like 100 was expected"),
        (["bait", *ASKED, "--option", "approximation=full"], "approximation is 'full'; one of exact, top, binary"),
        (["refine", *ASKED, "--option", "strategies=['mine']"], "strategies names 'mine', of which there is no estim"),
        (["margin", "--pool", "9"], "--features is missing"),
        (["margin", *ASKED[1:], "--pool", "0"], "pool is 0; a whole number of at least 1 was expected"),
        (["margin", *ASKED[1:], "--pool", "19"], "batch is 20; at most 19, the pool, was expected"),
        (["margin", *ASKED, "--device", "tpu"], "device is 'tpu'; cpu or cuda was expected"),
        ([*ASKED], "STRATEGY"),
        (
            ["bait", *ASKED[:2], "--classes=900", "--batch=9", "--option", "approximation=exact"],
            "bait would need matrices of side 90,000; at most 20,000 was expected",
        ),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["estimate", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_torch_is_not_imported():
    code = f"""
        import sys
        from dal_lab.companion.command_line import main
        print(main(["estimate", "refine", *{ASKED}]), {{"torch", "numpy", "pandas"}} & sys.modules.keys())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_measured_rates_are_kept_used_and_named(cache, monkeypatch, capsys):
    before = estimate("margin", **SIZES)
    halved = Rates(*(rate / 2 for rate in shipped()["cpu"]))
    monkeypatch.setattr(calibration, "measure", lambda device: halved)
    assert main(["estimate", "--calibrate"]) == 0
    assert main(["estimate", "margin", *ASKED]) == 0
    assert capsys.readouterr().out.endswith("by rates measured on this machine\n")
    assert json.loads((cache / "rates.json").read_text()) == {machine(): {"cpu": halved._asdict()}}
    assert estimate("margin", **SIZES).seconds == pytest.approx(2 * before.seconds)
    assert not estimate("margin", **SIZES, device="cuda").measured
    monkeypatch.setattr("platform.node", lambda: "another host")
    assert not estimate("margin", **SIZES).measured
    calibrate()
    assert len(json.loads((cache / "rates.json").read_text())) == 2
    (cache / "rates.json").write_text("damaged")
    assert not estimate("margin", **SIZES).measured


def test_rates_of_this_machine_can_be_measured():
    rates = calibration.measure("cpu", seconds=0.01)
    assert all(1e4 < rate < 1e13 for rate in rates)
    assert rates.products > rates.exponentials > rates.calls


def test_dry_runs_say_what_a_query_costs(tmp_path, capsys):
    assert main(["run", "--strategy", "bait", "--dry-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("would run  digits, bait")
    assert re.match(r"a query    bait on digits: [\d.]+ s, [\d.]+ MB: on", second)
    asked = ["--strategy", "margin", "badge", "--dry-run", "--subset-size", "all", "--results-dir", str(tmp_path / "r")]
    assert main(["grid", *asked]) == 0
    *_, one, two = capsys.readouterr().out.splitlines()
    expected = estimate("badge", pool=1347 - 200, labelled=200, features=64, classes=10, batch=10)
    assert one.startswith("a query    margin on digits: ")
    assert two.startswith(f"a query    badge on digits: {expected.short()}")


def test_a_dry_run_without_data_or_formula_says_so(monkeypatch):
    def absent(*_):
        raise DatasetUnavailableError("neither here nor there")

    experiment = Experiment(strategy="margin")
    monkeypatch.setattr("dal_lab.sources.catalogue.load", absent)
    assert query_lines([experiment], None) == [
        "a query    margin on digits: no estimate, because the data are not here"
    ]
    monkeypatch.undo()
    monkeypatch.setitem(registry._STRATEGIES, "mine", registry.get("margin"))
    (line,) = query_lines([Experiment(strategy="mine")], None)
    assert line.startswith("a query    mine on digits: strategy is 'mine'; it has to be one of 'alfamix', ")


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (0.00123, "0.0012"), (0.0999, "0.10"), (9.96, "10"), (128, "130"), (12345, "12000")]
)
def test_two_digits(number, shown):
    assert two_digits(number) == shown
