"""A closer look at runs in the plane: reasons, figures, and the page of a live notebook."""

import base64
import itertools
import os
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from test_watching import experiment

from dal_core.experiment import Strategy
from dal_core.randomness import generator_for
from dal_core.strategies import registry
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.uncertainty import margin_scores
from dal_lab.companion.description import describe
from dal_lab.companion.explorer import candidates, page, picks, rounds, updates
from dal_lab.companion.explorer.maps import Plane
from dal_lab.companion.explorer.page import Page
from dal_lab.companion.explorer.reasons import REASONS, reason
from dal_lab.companion.site.notebook_page import WIDGET
from dal_lab.runs import progress
from dal_lab.runs.study import walk

BOSS = {"num_candidates": 6, "retraining_epochs": 3}
REFINE = {"num_batches": 9, "depth": 2}
ONE_BY_ONE = {"update_every": 1, "update_gamma": 5.0}


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


# Reasons


@pytest.mark.parametrize("name", ["margin", "entropy", "least_confident"])
def test_what_is_ranked_by_a_score_is_picked_from_its_top(name):
    for step in walk(experiment(name)):
        found = reason(Strategy(name), step)
        assert found.scores.sort(descending=True, stable=True).indices[:4].tolist() == step.picked.tolist()
        assert "4 of 4 picks have one of the 4 highest scores" in found.text


@pytest.mark.parametrize("name", ["badge", "coreset"])
def test_the_first_pick_has_the_highest_score(name):
    for step in walk(experiment(name)):
        found = reason(Strategy(name), step)
        assert int(found.scores.argmax()) == int(step.picked[0])
        held = int((found.scores[step.picked] >= found.scores.sort(descending=True).values[3]).sum())
        assert f"{held} of 4 picks" in found.text


@pytest.mark.parametrize("approximation", ["binary", "exact", "diagonal"])
def test_bait_goes_by_the_approximation_that_the_run_has(approximation):
    """Where the highest first scores are what is bought, they are the scores of the run's own approximation."""
    asked = experiment("bait", {"approximation": approximation, "selection": "topk"})
    for step in walk(asked):
        scores = reason(asked.strategy, step).scores
        assert scores.sort(descending=True, stable=True).indices[:4].tolist() == step.picked.tolist()


def test_typiclust_takes_the_most_typical_of_the_clusters_that_it_made():
    asked = experiment("typiclust", subset_size=None)
    for step in walk(asked):
        found, seen = reason(asked.strategy, step), step.snapshot
        together = torch.cat((seen.features, seen.labelled_features))
        generator = generator_for(asked.seed, "strategy", step.context.cycle)
        clusters = k_means(together, len(seen.labels) + 4, generator)
        own, labelled = clusters[: len(seen.features)], set(clusters[len(seen.features) :].tolist())
        chosen = own[step.picked]
        assert len(set(chosen.tolist())) == 4
        for position, cluster in zip(step.picked, chosen, strict=True):
            members = found.scores[own == cluster]
            assert float(found.scores[position]) == pytest.approx(float(members.max()))
        assert f"{len(set(chosen.tolist()) - labelled)} of 4 picks" in found.text


def test_random_looks_at_nothing_and_classes_without_a_label_are_named():
    step = walk(experiment("random", initial_size=2))[0]
    found = reason(Strategy("random"), step)
    assert found.scores is None
    missing = sorted({0, 1, 2, 3} - set(step.snapshot.labels.tolist()))
    assert missing
    assert found.text.endswith(f"Without a label so far: class {', '.join(map(str, missing))}.")
    assert reason(Strategy("falcun"), step).text == f"Without a label so far: class {', '.join(map(str, missing))}."


def test_reasons_are_of_registered_strategies():
    assert set(REASONS) <= set(registry.names())


# What the notebooks look at


@pytest.mark.parametrize("name", ["margin", "typiclust", "bait", "falcun"])
def test_a_figure_of_strategies_says_how_many_labels_there_were_and_how_good_the_head_is(name):
    found = picks.views(experiment(name))
    steps = [each.step for each in found]
    figure = picks.figure({name: found, "random": found}, (0, 2))
    plane = Plane.of("blobs")
    expected = [
        f"{len(steps[cycle].snapshot.labelled)} labels, {plane.accuracy(steps[cycle].head):.1f} %" for cycle in (0, 2)
    ]
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == expected * 2
    rings = [each for axes in figure.axes[:2] for each in axes.collections if each.get_zorder() == 6]
    for each, cycle in zip(rings, (0, 2), strict=True):
        assert each.get_offsets().tolist() == plane.places(steps[cycle].instances).tolist()
    assert "picked now" in describe(figure)
    figure.canvas.draw()


def test_the_summary_names_each_strategy_with_its_accuracy():
    found = picks.views(experiment("margin"))
    last = found[-1].step
    correct = Plane.of("blobs").accuracy(last.head)
    text = picks.summary({"margin": found}, 1)
    assert text.startswith(
        f"- **Margin** ({correct:.1f} % correct with {len(last.snapshot.labelled)} labels). Margin takes"
    )


def test_accuracy_is_that_of_the_runs_rows():
    from dal_lab.runs.study import run

    asked = experiment("margin")
    measured = 100 * run(asked)["accuracy"].iloc[:-1]
    assert [Plane.of("blobs").accuracy(step.head) for step in walk(asked)] == pytest.approx(measured.tolist())


def test_data_that_are_not_in_the_plane_are_refused():
    with pytest.raises(ValueError, match="dataset 'digits' has 64 features; 2 were expected"):
        Plane.of("digits")


def test_updates_know_the_retrained_head_and_the_plain_batch():
    asked = experiment("margin", ONE_BY_ONE, cycles=2)
    found = updates.views(asked)
    assert [each.number for each in found] == [0, 1, 2, 3] * 2
    for start in (0, 4):
        first = found[start]
        for name in ("weight", "hidden_weight"):  # at the beginning of a batch both are the head of the run
            torch.testing.assert_close(getattr(first.retrained, name), getattr(first.step.head, name))
        plain = margin_scores(first.step.snapshot.probabilities).sort(descending=True, stable=True).indices[:4]
        assert first.at_once.equal(first.step.snapshot.instances[plain])
        assert found[start + 3].batch.equal(torch.cat([each.step.instances for each in found[start : start + 4]]))
        assert not found[start + 3].retrained.weight.equal(first.retrained.weight)
    figure = updates.figure({5.0: found, 7.0: found}, (0, 3))
    assert len([axes for axes in figure.axes if axes.get_title()]) == 6
    assert updates.summary({5.0: found}, 3).startswith("- γ = 5: With 3 new labels of the batch")
    with pytest.raises(ValueError, match=r"Updates\(every=1\) was expected"):
        updates.views(experiment("margin", {"update_every": 2}))


def test_candidates_are_those_that_the_run_judged():
    asked = experiment("boss", BOSS)
    for choice in candidates.views(asked):
        told = choice.step.context.record
        assert choice.batches[choice.bought].equal(choice.step.instances)
        assert choice.suppliers == told["strategies"]
        assert float(choice.losses[choice.bought]) == pytest.approx(100 * min(told["losses"]))
        assert float(choice.proposals.sum()) == choice.batches.numel()
        assert f"{100 * told['loss_before']:.1f} % before" in choice.reason
    figure = candidates.figure(candidates.views(asked), (0, 2))
    assert len(figure.axes) == 4
    for wrong in (experiment("margin"), experiment("boss", BOSS | {"loss": "brier"})):
        with pytest.raises(ValueError, match="'boss' with the zero-one loss was expected"):
            candidates.views(wrong)


def test_rounds_shrink_to_what_the_batch_is_picked_from():
    asked = experiment("refine", REFINE, cycles=2)
    found = rounds.views(asked)
    for cleaning in found[:: len(found[0].pools) + 1]:
        sizes = [len(pool) for pool in cleaning.pools]
        assert sizes == [len(cleaning.step.snapshot.instances), *cleaning.step.context.record["pool_sizes"]]
        for before, after in itertools.pairwise(cleaning.pools):
            assert torch.isin(after, before).all()
        assert torch.isin(cleaning.step.picked, cleaning.pools[-1]).all()
    figure = rounds.figure(found, (0, 1), (0, 2))
    assert [axes.get_title() for axes in figure.axes][:2] == [
        f"whole pool: {len(found[0].pools[0])} left", f"after round 2: {len(found[0].pools[2])} left"
    ]  # fmt: skip
    assert "the pool shrinks from 60 to" in rounds.summary(found)
    left = len(found[0].pools[-1])
    assert f"The filter leaves {left} of 60 instances at the first acquisition" in rounds.taken_home(found)
    with pytest.raises(ValueError, match="'refine' was expected"):
        rounds.views(experiment("margin"))


# The page


ALL = {
    "picks": lambda: picks.views(experiment("bait", cycles=2)),
    "random": lambda: picks.views(experiment("random", cycles=1)),
    "updates": lambda: updates.views(experiment("badge", ONE_BY_ONE, cycles=1, batch_size=3)),
    "candidates": lambda: candidates.views(experiment("boss", BOSS, cycles=2)),
    "rounds": lambda: rounds.views(experiment("refine", REFINE, cycles=1)),
}


@pytest.mark.parametrize("name", ALL)
def test_every_state_is_drawn(name):
    shown = Page({"what": [name]}, lambda what: ALL[what]())
    seen = []
    for position in range(shown.slider.max + 1):
        shown.slider.value = position
        seen.append(shown.shown.value)
        png = base64.b64decode(re.search(r'base64,([^"]+)"', shown.shown.value)[1])
        assert png.startswith(b"\x89PNG")
        assert re.search(r'<img alt="cycle \d[^"]{30,}"', shown.shown.value)
        assert re.search(r'<figcaption role="status"[^>]*>[^<]{30,}</figcaption>', shown.shown.value)
    assert len(set(seen)) == len(seen)
    assert not plt.get_fignums()  # drawn, and closed again


class Drawings:
    """Frames that note what was computed and drawn."""

    def __init__(self, sizes):
        self.sizes, self.computed, self.drawn = sizes, [], []

    def frames(self, strategy, data):
        self.computed.append((strategy, data))
        return [
            SimpleNamespace(
                where=f"{data}, step {i}", draw=lambda i=i: self.draw(strategy, i), reason=f"<{strategy}> & {i}"
            )
            for i in range(self.sizes[strategy])
        ]

    def draw(self, strategy, i):
        self.drawn.append((strategy, i))
        figure, axes = plt.subplots(figsize=(1, 1))
        axes.set_title(f"{strategy} {i}")
        return figure


@pytest.fixture
def drawings():
    return Drawings({"a": 4, "b": 2})


@pytest.fixture
def shown(drawings):
    return Page({"strategy": {"Strategy A": "a", "Strategy B": "b"}, "data": ["x", "y"]}, drawings.frames)


def test_the_slider_draws_another_state_and_what_was_drawn_is_kept(shown, drawings):
    assert drawings.drawn == [("a", 0)]  # nothing that nobody has asked for
    first = shown.shown.value
    shown.slider.value = 3
    assert shown.where.value == "4 of 4: x, step 3"
    assert "&lt;a&gt; &amp; 3" in shown.shown.value
    assert shown.shown.value != first
    shown.slider.value = 0
    assert shown.shown.value == first
    assert drawings.drawn == [("a", 0), ("a", 3)]
    assert drawings.computed == [("a", "x")]


def test_another_choice_shows_its_frames_and_has_as_many_steps(shown, drawings):
    shown.slider.value = 3
    shown.dropdowns["strategy"].value = "b"
    assert (shown.slider.max, shown.play.max, shown.slider.value) == (1, 1, 1)
    assert shown.where.value == "2 of 2: x, step 1"
    assert "&lt;b&gt; &amp; 1" in shown.shown.value
    shown.dropdowns["data"].value = "y"
    assert shown.where.value == "2 of 2: y, step 1"
    shown.dropdowns["data"].value = "x"
    shown.dropdowns["strategy"].value = "a"
    assert (shown.slider.max, shown.slider.value) == (3, 1)
    assert drawings.computed == [("a", "x"), ("b", "x"), ("b", "y")]


def test_playing_moves_the_slider(shown):
    shown.play.value = 2
    assert shown.slider.value == 2
    assert shown.where.value == "3 of 4: x, step 2"
    shown.slider.value = 1
    assert shown.play.value == 1


def test_controls_have_names_and_hold_all_options(shown):
    assert [each.description for each in shown.dropdowns.values()] == ["Strategy", "Data"]
    assert dict(shown.dropdowns["strategy"].options) == {"Strategy A": "a", "Strategy B": "b"}
    assert shown.slider.description == "Step"


@pytest.mark.parametrize("live", [True, False])
def test_the_page_is_shown_where_a_person_is(live, drawings, monkeypatch):
    monkeypatch.setattr(page, "notebook_is_live", lambda: live)
    displayed = []
    monkeypatch.setattr(page, "display", displayed.append)
    page.show({"strategy": ["a"], "data": ["x"]}, drawings.frames)
    assert len(displayed) == live
    assert bool(drawings.computed) == live  # and nothing is computed where nobody looks


def test_a_notebook_is_live_in_a_kernel_alone_and_not_in_a_batch(monkeypatch):
    import sys

    monkeypatch.delenv("DAL_PROGRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    for batch in (True, False):
        monkeypatch.setattr(progress, "_runs_in_a_batch", lambda batch=batch: batch)
        assert progress.notebook_is_live() == (not batch)
    monkeypatch.setenv("DAL_PROGRESS", "plain")
    assert not progress.notebook_is_live()
    monkeypatch.delenv("DAL_PROGRESS")
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert not progress.notebook_is_live()


CELL = """
from types import SimpleNamespace
import matplotlib.pyplot as plt
from dal_lab.companion.explorer.page import show
frame = SimpleNamespace(where="one", draw=plt.figure, reason="because")
show({"strategy": ["a"]}, lambda strategy: [frame])
"""


@pytest.mark.parametrize("live", [True, False])
def test_a_kernel_shows_the_page_to_a_person_alone(live, root):
    environment = {name: value for name, value in os.environ.items() if name != "DAL_PROGRESS"}
    environment |= {"PYTHONPATH": str(root)} | ({} if live else {"DAL_PROGRESS": "plain"})
    manager, client = start_new_kernel(env=environment)
    try:
        messages = []
        reply = client.execute_interactive(CELL, output_hook=messages.append, timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok"
    displayed = [each["content"]["data"] for each in messages if each["msg_type"] == "display_data"]
    assert [WIDGET in data for data in displayed] == ([True] if live else [])
