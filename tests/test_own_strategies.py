"""Strategies that are registered outside the package, and what becomes of them in worker processes."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import threading

import pandas as pd
import pytest
import torch

from dal_core import strategies
from dal_core.strategies import registry
from dal_lab.runs.grid import Grid
from dal_lab.runs.own_strategies import own_strategies
from dal_lab.runs.settings import experiment_of
from tests.samples import SMALL, STRATEGY

CLOSEST = STRATEGY.format(name="closest_to_origin", descending=False)
USE = """
    from dal_lab.runs.settings import experiment_of
    from dal_lab.runs.study import run
    from dal_lab.runs.grid import Grid

    SMALL = {"cycles": 2, "batch_size": 3, "subset_size": 50, "device": "cpu", "options": {"epochs": 2}}
    experiments = [experiment_of(strategy="closest_to_origin", seed=seed, **SMALL) for seed in range(3)]
    alone = run(experiments[2])
    grid = Grid("results", jobs=2)
    rows = grid.rows(experiments, "runs")
    assert rows["acquired"].map(list).tolist()[-3:] == alone["acquired"].tolist()
    assert rows["accuracy"].tolist()[-3:] == alone["accuracy"].tolist()
    assert len(list(grid.store.folder.glob("*.parquet"))) == 3
    print("well")
"""
ORACLE = """
    from dal_core.snapshot import Truth

    @register("first_class")
    def first_class(snapshot: Truth, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        return torch.argsort(snapshot.hidden_labels, stable=True)[:batch_size]
"""
USE_ORACLE = """
    experiments = [experiment_of(strategy="first_class", seed=seed, allow_oracle=True, **SMALL) for seed in range(2)]
    rows = Grid("of an oracle", jobs=2).rows(experiments, "runs")
    assert rows["acquired"].map(list).tolist()[3:] == run(experiments[1])["acquired"].tolist()
    print("well")
"""


@pytest.fixture
def scratch(monkeypatch):
    """A registry to add to."""
    registry.names()  # or what is imported later would be forgotten with what the test adds
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))


def execute(script, folder, root):
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("well\n"), done.stderr


@pytest.mark.slow
def test_a_script_registers_strategies_and_runs_them_in_several_processes(tmp_path, root):
    script = "\n    from __future__ import annotations" + CLOSEST + ORACLE + USE + USE_ORACLE
    (tmp_path / "mine.py").write_text(textwrap.dedent(script))
    execute(tmp_path / "mine.py", tmp_path, root)


@pytest.mark.slow
def test_a_module_beside_the_script_registers_a_strategy(tmp_path, root):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_strategies.py").write_text(textwrap.dedent(CLOSEST))
    (tmp_path / "code" / "mine.py").write_text("import my_strategies\n" + textwrap.dedent(USE))
    execute(tmp_path / "code" / "mine.py", tmp_path, root)


def test_a_module_that_is_found_later_reaches_workers_that_have_begun(tmp_path, monkeypatch, scratch):
    experiments = [experiment_of(seed=seed, **SMALL) for seed in range(2)]
    Grid(tmp_path / "first", jobs=2).rows(experiments, "runs")
    (tmp_path / "found_later.py").write_text(textwrap.dedent(CLOSEST))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("found_later")
    experiments = [experiment_of(strategy="closest_to_origin", seed=seed, **SMALL) for seed in range(2)]
    rows = Grid(tmp_path / "second", jobs=2).rows(experiments, "runs")
    expected = Grid(tmp_path / "third", jobs=1).rows(experiments, "runs")
    times = ["query_s", "train_s"]
    pd.testing.assert_frame_equal(rows.drop(columns=times), expected.drop(columns=times), check_exact=True)


def test_a_strategy_that_changes_is_computed_anew(tmp_path, scratch):
    """As when a notebook's cell is edited and run again, in workers that know the earlier one."""
    picked = {}
    for order in (False, True, False):
        source = textwrap.dedent(f"""
            @register("by_size", version=2)
            def by_size(snapshot, batch_size, generator):
                return torch.argsort(snapshot.features.norm(dim=1), stable=True, descending={order})[:batch_size]
        """)
        path = tmp_path / f"cell_{order}.py"
        path.write_text(source)
        names = {"torch": torch, "register": strategies.register, "__name__": "__main__"}
        exec(compile(source, str(path), "exec"), names)
        experiments = [experiment_of(strategy="by_size", seed=seed, **SMALL) for seed in range(2)]
        rows = Grid(tmp_path / "results", jobs=2).rows(experiments, "runs")
        picked.setdefault(order, rows["acquired"].map(list).tolist())
        assert rows["acquired"].map(list).tolist() == picked[order]
    assert picked[False][:1] == picked[True][:1]  # the initial labelled set
    assert picked[False][1] != picked[True][1]
    assert len(list((tmp_path / "results").glob("*.parquet"))) == 4


@pytest.mark.parametrize("name", ["sgd", "linear", "digits", "cpu", "epochs"])
def test_a_strategy_that_is_called_like_a_setting_is_no_part_of_other_runs(tmp_path, scratch, name):
    store, study = Grid(tmp_path).store, experiment_of(**SMALL)
    before = store.key(study, "data")
    strategies.register(name)(lambda snapshot, batch_size, generator: torch.arange(batch_size))
    assert store.key(study, "data") == before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mine", {}), ("refine", {"strategies": ["mine", "margin"]}), ("refine", {"final_strategy": "mine"}),
        ("boss", {"strategies": ["mine"]}), ("both", {}), ("outer", {"strategies": ["both"]}),
    ],
)  # fmt: skip
def test_strategies_that_a_run_uses_count_with_their_source_and_no_others(tmp_path, scratch, name, options):
    def mine(snapshot, batch_size, generator):
        return torch.arange(batch_size)

    def both(snapshot, batch_size, generator, *, strategies=("mine", "both")):
        return torch.arange(batch_size)

    def outer(snapshot, batch_size, generator, *, strategies=("margin",)):
        return torch.arange(batch_size)

    for each in (mine, both, outer):
        registry.adopt(each.__name__, each, "first")
    registry.adopt("other", outer, "first")
    store = Grid(tmp_path).store
    study = experiment_of(strategy=name, allow_oracle=True, **SMALL | {"options": options})
    before = store.key(study, "data")
    registry.adopt("other", outer, "second")
    assert store.key(study, "data") == before
    registry.adopt("mine", mine, "second")
    assert store.key(study, "data") != before


CALLED = """
    import dataclasses
    import functools
    import torch
    from dal_lab.runs.settings import experiment_of
    from dal_core.strategies import register
    from dal_lab.runs.grid import Grid

    @dataclasses.dataclass
    class Sorted:
        descending: bool = False

        def __call__(self, snapshot, batch_size, generator):
            return torch.argsort(snapshot.features.norm(dim=1), stable=True, descending=self.descending)[:batch_size]

    def ordered(snapshot, batch_size, generator, *, descending=False):
        return Sorted(descending)(snapshot, batch_size, generator)

    SMALL = {"cycles": 2, "batch_size": 3, "subset_size": 50, "device": "cpu", "options": {"epochs": 2}}
    picks, keys = [], set()
    for descending in (False, True):
        register("object")(Sorted(descending))
        register("partial")(functools.partial(ordered, descending=descending))
        for jobs in (2, 1):
            experiments = [experiment_of(strategy=name, **SMALL) for name in ("object", "partial")]
            rows = Grid(f"results {jobs}", jobs=jobs).rows(experiments)
            first, second = (group["acquired"].map(list).tolist() for _, group in rows.groupby("strategy"))
            assert first == second
            picks.append(first)
            keys |= set(rows["run"])
    assert picks[0] == picks[1] != picks[2] == picks[3]
    assert len(keys) == 4
    print("well")
"""


@pytest.mark.slow
def test_objects_and_partials_run_like_functions_and_count_with_what_they_hold(tmp_path, root):
    (tmp_path / "mine.py").write_text(textwrap.dedent(CALLED))
    execute(tmp_path / "mine.py", tmp_path, root)


TYPED = """
    from __future__ import annotations
    from typing import TYPE_CHECKING
    from dal_core.strategies import register
    if TYPE_CHECKING:
        import torch
        from dal_core.snapshot import Snapshot, Truth

    @register("typed")
    def typed(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        return snapshot.features.norm(dim=1).argsort(stable=True)[:batch_size]

    @register("typed_oracle")
    def typed_oracle(snapshot: Truth, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        return snapshot.hidden_labels.argsort(stable=True)[:batch_size]
"""


def test_types_that_only_checkers_import_are_understood_in_processes_too(tmp_path, monkeypatch, scratch):
    (tmp_path / "typed_strategies.py").write_text(textwrap.dedent(TYPED))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("typed_strategies")
    assert registry.needs_oracle("typed_oracle")
    assert not registry.needs_oracle("typed")
    names = ("typed", "typed_oracle")
    experiments = [experiment_of(strategy=name, allow_oracle=True, **SMALL) for name in names]
    rows = Grid(tmp_path / "2", jobs=2).rows(experiments)
    expected = Grid(tmp_path / "1", jobs=1).rows(experiments)
    assert rows["acquired"].map(list).tolist() == expected["acquired"].map(list).tolist()


def test_only_the_functions_of_a_notebook_or_script_can_be_defined_again(scratch):
    def one():
        def mine(snapshot, batch_size, generator):
            return None

        return mine

    strategies.register("mine")(one())
    with pytest.raises(ValueError, match="strategy 'mine' is registered already"):
        strategies.register("mine")(one())
    first, second, other = one(), one(), one()
    for function in (first, second, other):
        function.__module__ = "__main__"
    other.__qualname__ = "other"
    strategies.register("again")(first)
    strategies.register("again")(second)
    assert strategies.get("again") is second
    with pytest.raises(ValueError, match="strategy 'again' is registered already, by __main__"):
        strategies.register("again")(other)


def test_what_cannot_be_sent_to_workers_is_named_and_stops_nothing_else(tmp_path, scratch):
    lock = threading.Lock()

    @strategies.register("locked")
    def locked(snapshot, batch_size, generator):
        with lock:
            return torch.arange(batch_size)

    experiments = [experiment_of(strategy="locked", seed=seed, **SMALL) for seed in range(2)]
    with pytest.raises(
        ValueError, match=r"strategy 'locked' of the module 'test_own_strategies' does not reach "
    ) as error:
        Grid(tmp_path, jobs=2).rows(experiments, "runs")
    assert "put it into a file of its own that can be imported, or compute with jobs=1" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(Grid(tmp_path, jobs=1).rows(experiments, "runs")) == 6
    Grid(tmp_path, jobs=2).rows([experiment_of(seed=seed, **SMALL) for seed in range(2)], "runs")


def test_a_module_that_workers_do_not_find_is_named(tmp_path, monkeypatch, scratch):
    (tmp_path / "hidden.py").write_text(textwrap.dedent(CLOSEST))
    spec = importlib.util.spec_from_file_location("hidden", tmp_path / "hidden.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hidden", module)
    spec.loader.exec_module(module)
    experiments = [experiment_of(strategy="closest_to_origin", seed=seed, **SMALL) for seed in range(2)]
    with pytest.raises(
        ValueError, match=r"'closest_to_origin' of the module 'hidden' does not reach .*No module named"
    ):
        Grid(tmp_path / "results", jobs=2).rows(experiments, "runs")


def test_the_process_that_registered_a_strategy_keeps_its_own(scratch):
    @strategies.register("mine")
    def mine(snapshot, batch_size, generator):
        return torch.arange(batch_size)

    own_strategies({"mine"}).register()
    assert strategies.get("mine") is mine


def test_an_ensemble_of_own_strategies_reaches_workers(tmp_path, scratch):
    @strategies.register("first_ones")
    def first_ones(snapshot, batch_size, generator):
        return torch.arange(batch_size)

    options = {"epochs": 2, "strategies": ["first_ones", "margin"], "final_strategy": "first_ones"}
    experiments = [experiment_of(strategy="refine", seed=seed, **SMALL | {"options": options}) for seed in range(2)]
    rows = Grid(tmp_path / "2", jobs=2).rows(experiments, "runs")
    expected = Grid(tmp_path / "1", jobs=1).rows(experiments, "runs")
    assert rows["accuracy"].tolist() == expected["accuracy"].tolist()
    assert rows["run"].tolist() == expected["run"].tolist()


def starting_at(value):
    def mine(snapshot, batch_size, generator):
        return torch.arange(value, value + batch_size)

    return mine


class StartingAt:
    __slots__ = ("value",)

    def __call__(self, snapshot, batch_size, generator):
        return torch.arange(self.value, self.value + batch_size)


def test_what_a_strategy_holds_when_a_run_is_asked_for_is_part_of_its_key(tmp_path, scratch):
    keys, held = [], StartingAt()
    strategies.register("object")(held)
    strategies.register("method")(held.__call__)
    for held.value in (0, 50, 0):
        registry.adopt("function", starting_at(held.value), "its text")
        studies = [experiment_of(strategy=name, **SMALL) for name in ("function", "object", "method")]
        keys.append([Grid(tmp_path).store.key(study, "data") for study in studies])
    assert keys[0] == keys[2]
    assert all(first != second for first, second in zip(*keys[:2], strict=True))
