"""The session of a notebook: presets, runs of variants, what is shown, and sentences computed from rows."""

import json

import pandas as pd
import pytest

from dal_core import textbook
from dal_core.experiment import Experiment
from dal_lab import companion
from dal_lab.companion import presets
from dal_lab.companion import session as session_module
from dal_lab.companion.origins import numbered, project_root
from dal_lab.companion.presets import data_of, settings, text_of

TOML = """
[all]
protocol = { cycles = 2, optimiser = "radam", subset_size = 60 }
options = { epochs = 2 }
variants.sure = { strategy = "margin" }
variants.one_class = { strategy = "bait", approximation = "top", top_classes = 1 }
[choices]
oracles = ["cdo"]
[tiny]
seeds = 2
[[tiny.data]]
dataset = "digits"
about = { flagged = true, options.margin = {} }
[[tiny.data]]
dataset = "moons"
cycles = 1
"""


@pytest.fixture
def start(tmp_path, monkeypatch, shown):
    """A function that starts the session of a notebook with a table of presets beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "05_mine.toml").write_text(TOML)

    def start(**parameters):
        given = {"preset": "tiny", "jobs": 1, "output_dir": "figures", "results_dir": "results"} | parameters
        return companion.start("05_mine", given)

    return start


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, as Markdown."""
    found = []
    monkeypatch.setattr(session_module, "display", found.append)
    return found


def markdown(shown):
    return [each.text if hasattr(each, "text") else each.data for each in shown]


def test_curves_are_those_of_every_strategy_variant_data_set_and_seed(start):
    session = start()
    rows = session.curves(["random", "one_class"])
    assert rows.groupby(["strategy", "data", "seed"], sort=False).size().to_dict() == {
        (name, data, seed): 3 - (data == "moons") for name in ("random", "one_class") for data in ("digits", "moons")
        for seed in (0, 1)
    }  # fmt: skip
    assert set(rows["optimiser"]) == {"radam"}
    assert rows[rows["strategy"] == "one_class"]["top_classes"].eq(1).all()
    own = session.curves(lambda about: ["sure"] if about.get("flagged") else [], batch_size=5)
    assert set(own["data"]) == {"digits"}
    assert set(own["batch_size"]) == {5}


def test_an_experiment_sees_the_whole_pool_unless_it_is_told_otherwise(start):
    session = start(device="cpu")
    experiment = session.experiment("one_class", dataset="moons")
    assert isinstance(experiment, Experiment)
    assert experiment.strategy.options == {"approximation": "top", "top_classes": 1}
    assert (experiment.protocol.subset_size, experiment.device) == (None, "cpu")
    assert experiment.learner.training.epochs == 2


def test_what_a_figure_and_a_table_rest_on_are_the_runs_of_their_rows_in_the_section(start, shown):
    session = start()
    rows = session.curves("random")
    session.section("(b) benchmark")
    session.table(session.means(rows), "accuracy", [rows, rows])
    entry = json.loads((session.report.folder / "manifest.json").read_text())["05_accuracy.csv"]
    assert (entry["cell"], entry["keys"]) == ("(b) benchmark", sorted(set(rows["run"])))
    assert "Random" in markdown(shown)[-1]


def test_published_cells_of_other_data_are_named_not_shown(start, shown):
    session = start()
    measured = pd.DataFrame(
        {"data": ["digits"], "strategy": ["Random"], "accuracy": [80.0], "accuracy_ci": [1.0], "seeds": [3]}
    )
    paper = pd.DataFrame({"data": ["letter"], "strategy": ["Random"], "accuracy": [60.0]})
    session.cells(measured, paper, ["data", "strategy"], "accuracy", None)
    assert markdown(shown) == ["Published are numbers of letter, which this preset has not measured."]


def rows_of(**accuracies):
    return pd.DataFrame(
        [
            {"data": "digits", "seed": seed, "cycle": 0, "strategy": name, "accuracy": value}
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ]
    )


def test_sentences_are_computed_from_the_rows(start, shown):
    session, rows = start(), rows_of(margin=[0.8, 0.9], random=[0.7, 0.8], badge=[0.9, 0.9])
    assert session.ranking(rows) == ["digits: BADGE 90.0 %, Margin 85.0 %, Random 75.0 %."]
    assert session.place(rows, "margin") == "Margin is number 2 of 3 on digits, where BADGE is first."
    assert session.place(rows, "badge") == "BADGE is number 1 of 3 on digits."
    assert session.place(rows, "bald") == "BALD was left out."
    assert session.apart(rows, "margin", "random", "It is {:+.1f} points away") == "It is +10.0 points away on digits."
    assert session.apart(rows, "margin", "bald", "") == "No data of this preset have both Margin and BALD."
    assert [line.split(" (")[0] for line in session.leads(rows, "margin", ["random", "margin", "bald"])] == [
        "digits: Margin is 10.00 ± 0.00 points ahead of Random"
    ]
    session.reading(["one.", "two."], "This.", "Of all:")
    assert markdown(shown) == ["**Reading.** Of all:\n\n- one.\n- two.\n\n**To take home.** This."]


def test_a_method_is_shown_as_it_stands_in_the_package(start, shown):
    start().method(textbook.covariance_matrix)
    assert markdown(shown) == [
        "`dal_core.textbook.laplace.covariance_matrix`\n\n"
        "```python\ndef covariance_matrix(precision: Tensor) -> Tensor:\n"
        '    """S = P^-1."""\n    return torch.linalg.inv(precision)\n```'
    ]


def test_data_that_are_flagged_are_chosen_and_else_the_first(start):
    session = start()
    assert [each["dataset"] for each in session.chosen("flagged")] == ["digits"]
    assert [each["dataset"] for each in session.chosen("other")] == ["digits"]
    assert [each["dataset"] for each in start(datasets=["moons"]).chosen("flagged")] == ["moons"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "quick"}, r"preset is 'quick'; .*tiny"),
        ({"datasets": ["mons"]}, r"datasets is 'mons'.*moons"),
        ({"strategies": ["margn"]}, r"strategies is 'margn'.*margin"),
        ({"oracles": ["sas"]}, r"oracles is 'sas'.*cdo"),
        ({"seeds": "3"}, r"seeds is '3'"),
    ],
)
def test_a_parameter_is_refused_in_one_line_that_names_it(start, parameters, message):
    with pytest.raises(ValueError, match=message):
        start(**parameters)


def test_a_notebook_without_a_table_of_presets_is_told_where_one_is_expected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"notebook '06_new' has no table of presets; 06_new.toml beside it was expected"
    ):
        companion.start("06_new", {"preset": "tiny"})


def test_an_entry_of_data_stands_for_each_of_its_names_and_encoders():
    entry = {"dataset": ["cifar10", "dtd"], "encoder": "each", "cycles": 3, "about": {"a": 1}}
    found = data_of({"data": [entry], "of": {"dtd": {"a": 2, "b": 3}}}, ["dinov2", "clip"])
    assert found == [
        {"dataset": data, "encoder": encoder, "cycles": 3, "about": about}
        for encoder in ("dinov2", "clip")
        for data, about in (("cifar10", {"a": 1}), ("dtd", {"a": 2, "b": 3}))
    ]


def test_data_of_a_paper_are_those_of_its_protocols():
    found = data_of({"protocols": "boss", "of": {"dtd": {"ablations": True}}}, ["dinov2", "swinv2"])
    by_name = {(each["dataset"], each.get("encoder")): each for each in found}
    assert by_name["snacks", "swinv2"]["batch_size"] == 20
    assert by_name["snacks", "dinov2"]["options"] == {"share": 0.9}
    assert ("banking77", "minilm_unit") in by_name  # A text set has its own encoder.
    assert by_name["dtd", "dinov2"]["about"]["ablations"] is True
    inside = by_name["cifar10", "dinov2"]["about"]["options"]
    assert inside["bait"]["fisher"] == "batch_means"
    assert inside["boss"] == {"strategy_options": {"bait": inside["bait"]}}


def test_every_notebook_has_a_table_with_every_preset_and_its_headlines():
    for path in numbered(project_root() / "notebooks", ".py")[0]:
        for preset in presets.PRESETS:
            assert settings(path.stem, preset)["seeds"] >= 2
            assert text_of(path.stem, preset) != text_of(path.stem, "quick") or preset == "quick"
        about = presets.table(path.stem)["about"]
        assert set(about) == {"headline_figures", "headline_tables"}
