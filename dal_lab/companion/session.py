"""A notebook's session: its parameters checked, its preset chosen, and runs, figures, tables and readings at hand."""

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from dal_core.checks import check_choice
from dal_core.experiment import Experiment
from dal_core.strategies import names as known_strategies
from dal_core.strategies import needs_oracle
from dal_lab.companion import presets, statistics
from dal_lab.companion.artefacts import Report
from dal_lab.companion.figures.style import label, use_style
from dal_lab.companion.paper_numbers import cell_by_cell, expected_misses
from dal_lab.companion.parameters import check_values
from dal_lab.companion.verdicts import Claim, judged
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of

NOT_SETTINGS = ("about", "options")  # Of a data set: what the notebook knows of it, and options of its runs.
Rows = pd.DataFrame | Sequence[pd.DataFrame] | None
RULE = """\
Each claim says where a mean lies, in the column *measure*: pairs that share their seed, a value a seed, averaged over
the learning curve unless it says otherwise; over the data sets' means where there are several. The claim *holds* if the
95 % interval lies wholly there, is *contradicted* if it lies wholly outside, and else *open*: few seeds leave much
open, whatever the means are. Intervals are corrected for the number of claims (Holm). "No worse" and "as good" allow
for half a point of accuracy; the best strategy is that with the highest mean over the seeds of a data set."""


@dataclasses.dataclass
class Session:
    """What the cells of a notebook share.

    Attributes:
        setting: the preset's settings, by attribute: those of the notebook's table in `presets`, and `preset`.
        data: settings of the data sets that can be had, with `about`, what the notebook knows of each.
        grid: computes and keeps runs.
        serial: the same for measured times, one run at a time.
        report: writes figures and tables.
        device: where models are trained.
    """

    setting: SimpleNamespace
    data: list[dict[str, Any]]
    grid: Grid
    serial: Grid
    report: Report
    device: str
    _section: str = ""

    @classmethod
    def of(cls, notebook: str, parameters: Mapping[str, Any]) -> "Session":
        """Return the session of a notebook with these parameters, and print what it runs on.

        Raises:
            ValueError: naming a parameter, what was found and what was expected.
        """
        check_values(parameters)
        given = {name: parameters.get(name) for name in ("seeds", "datasets", "data_dir", "output_dir", "results_dir")}
        beside, preset = Path().resolve(), parameters["preset"]
        setting = presets.settings(notebook, preset, beside) | {"preset": preset}
        setting |= {} if given["seeds"] is None else {"seeds": given["seeds"]}
        wanted = presets.data_of(setting, parameters.get("encoders", []))
        choices = {
            "strategies": [*known_strategies(), *setting.get("variants", {})],
            "datasets": [each["dataset"] for each in wanted],
        }
        choices |= presets.table(notebook, beside).get("choices", {})
        for name, known in choices.items():
            for each in parameters.get(name) or []:
                check_choice(name, each, known)
        wanted = [each for each in wanted if each["dataset"] in (given["datasets"] or [each["dataset"]])]
        home = Path("..") if Path("../pyproject.toml").exists() else Path()
        kept = {"data_dir": given["data_dir"], "fresh": parameters.get("fresh", False)}
        grid = Grid(given["results_dir"] or home / "results", jobs=parameters.get("jobs"), **kept)
        data, absent = grid.available(wanted)  # extracts features, once
        for reason, names in absent.items():
            print(f"left out: {', '.join(names)}: {reason}", file=sys.stderr)
        use_style()
        folder = Path(given["output_dir"] or home / "figures") / preset
        report = Report(folder, notebook, grid.digests, grid.strategies)
        print(f"preset {preset}: {', '.join(each['dataset'] for each in data)}; seeds: {setting['seeds']}")
        serial = Grid(grid.store.folder, jobs=1, **kept)
        setting.setdefault("options", {})
        return cls(SimpleNamespace(**setting), data, grid, serial, report, parameters.get("device", "auto"))

    def section(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Make `name` the section that figures and tables belong to from here on, such as "(c) benchmark"."""
        self._section = name
        return contextlib.nullcontext()

    def chosen(self, flag: str) -> list[dict[str, Any]]:
        """Return the data whose `about` has the flag, with the first of their encoders; the first data if none has."""
        flagged = [each for each in self.data if each["about"].get(flag)]
        return [each for each in flagged if each.get("encoder") == flagged[0].get("encoder")] or self.data[:1]

    def experiment(self, strategy: str, options: Mapping[str, Any] | None = None, **settings: Any) -> Experiment:
        """Return a run of a strategy, or of one of the preset's `variants`: names of a strategy with options.

        Without `subset_size` the strategy sees the whole pool.
        """
        variant = dict(getattr(self.setting, "variants", {}).get(strategy, {"strategy": strategy}))
        name = variant.pop("strategy")
        settings = {"subset_size": None, "device": self.device, "allow_oracle": needs_oracle(name)} | settings
        return experiment_of(strategy=name, options=self.setting.options | (options or {}) | variant, **settings)

    def curves(
        self, strategies: str | Iterable[str] | Callable[[dict[str, Any]], Iterable[str]],
        options: Mapping[str, Any] | None = None, data: Iterable[Mapping[str, Any]] | None = None, **changes: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """Return the rows of runs of all strategies, on all data and with all seeds, strategy by strategy.

        Args:
            strategies: names, of variants too, which the rows then have as their strategy; a function has the `about`
                of a data set and returns the names for it.
            options: of all of them; the `options` of a data set's `about`, by the name of a strategy, come before.
            data: None: all of the session.
            **changes: to the settings of the data and to the preset's `protocol`.
        """
        runs: dict[str, list[Experiment]] = {}
        for each in self.data if data is None else data:
            about, protocol = each["about"], getattr(self.setting, "protocol", {})
            settings = {**protocol, **each, **changes}
            settings = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
            names = strategies(about) if callable(strategies) else strategies
            for name in [names] if isinstance(names, str) else names:
                own = protocol.get("options", {}) | each.get("options", {})
                own = own | about.get("options", {}).get(name, {}) | (options or {})
                runs.setdefault(name, [])
                runs[name] += [self.experiment(name, own, seed=seed, **settings) for seed in range(self.setting.seeds)]
        # One call computes all of them side by side; those after it read.
        self.grid.rows([run for part in runs.values() for run in part], ", ".join(map(label, runs)))
        return pd.concat([self.grid.rows(part, label(name)).assign(strategy=name) for name, part in runs.items()])

    def figure(self, figure: Figure, name: str, rows: Rows = None, caption: str = "") -> None:
        """Save a figure, which rests on the runs of `rows`, and show it; `caption` says what is seen."""
        display(self.report.figure(figure, name, cell=self._section, keys=_keys(rows), caption=caption))

    def table(self, table: pd.DataFrame, name: str, rows: Rows = None) -> None:
        """Save a table, which rests on the runs of `rows`, and show it; strategies have their names for readers."""
        table = table.assign(**{name: table[name].map(label) for name in statistics.NAMES if name in table})
        display(self.report.table(table, name, cell=self._section, keys=_keys(rows)))

    def means(
        self, rows: pd.DataFrame, by: Sequence[str] = ("strategy",), values: Sequence[str] = ("accuracy", "nll")
    ) -> pd.DataFrame:
        """Return means over seeds with their intervals, in percent, for each data set and entry of `by`."""
        table = statistics.mean_over_seeds(statistics.in_percent(rows), ["data", *by], list(values))
        return table.sort_values("data", kind="stable")

    def times(self, rows: pd.DataFrame, by: str = "strategy") -> pd.DataFrame:
        """Return mean and longest time of an acquisition for each data set and entry of `by`."""
        groups = statistics.in_percent(rows.dropna(subset="query_s")).groupby(["data", by], sort=False)["query_s"]
        return groups.agg(query_s="mean", longest_s="max").reset_index().sort_values("data", kind="stable")

    def cells(
        self, measured: pd.DataFrame, paper: pd.DataFrame, by: Sequence[str], name: str, rows: Rows,
        value: str = "accuracy", unit: str = "%",
    ) -> None:  # fmt: skip
        """Show published beside measured values cell by cell where the paper has cells of these data; else say so.

        `measured` is what `means` returns; `paper` has the columns `by` and `value`, in the same unit.
        """
        cells = cell_by_cell(measured, paper, by, value, unit)
        if len(cells):
            self.table(cells, f"{name}_cells", rows)
            display(Markdown(expected_misses(cells)))
        else:
            found = list(map(str, paper[by[0]].unique()))
            of_paper = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            display(Markdown(f"Published are numbers of {of_paper}, which this preset has not measured."))

    def leads(
        self, rows: pd.DataFrame, name: str, others: Iterable[str], by: str = "strategy", form: str = "{}"
    ) -> list[str]:
        """Return a sentence for each data set and each of `others` that it has: who is ahead, and how sure that is."""
        lines = []
        for data, part in statistics.in_percent(rows).groupby("data", sort=False):
            known = [each for each in map(label, others) if each in set(part[by]) and each != label(name)]
            known = known if label(name) in set(part[by]) else []
            pairs = [(label(name), each) for each in known]
            lines += [f"{data}: {line}." for line in statistics.readings(part, pairs, by=by, form=form)]
        return lines

    def ranking(self, rows: pd.DataFrame, by: str = "strategy") -> list[str]:
        """Return a line for each data set with the mean accuracies, the highest first."""
        return [
            f"{data}: " + ", ".join(f"{label(str(name))} {100 * value:.1f} %" for name, value in means.items()) + "."
            for data, means in _ordered(rows, by).items()
        ]

    def place(self, rows: pd.DataFrame, name: str, by: str = "strategy") -> str:
        """Return a sentence with the place of `name` by mean accuracy on each data set, and who is first."""
        places = [
            f"number {[*means.index].index(name) + 1} of {len(means)} on {data}"
            + ("" if means.index[0] == name else f", where {label(means.index[0])} is first")
            for data, means in _ordered(rows, by).items()
            if name in means
        ]
        return f"{label(name)} is {'; '.join(places)}." if places else f"{label(name)} was left out."

    def apart(self, rows: pd.DataFrame, name: str, other: str, sentence: str, by: str = "strategy") -> str:
        """Return `sentence`, with a place for the difference of two mean accuracies in points, for each data set."""
        means = {data: 100 * each for data, each in _ordered(rows, by).items() if {name, other} <= {*each.index}}
        said = [f"{sentence.format(each[name] - each[other])} on {data}" for data, each in means.items()]
        return f"{'; '.join(said)}." if said else f"No data of this preset have both {label(name)} and {label(other)}."

    def reading(
        self, lines: Sequence[str] | str, take_home: str, about: str = "Mean accuracy over the learning curve:"
    ) -> None:
        """Show what the numbers say, line by line or as a Markdown list, and the one sentence to take home."""
        listed = lines if isinstance(lines, str) else "\n".join(f"- {line}" for line in lines)
        display(Markdown(f"**Reading.** {about}\n\n{listed}\n\n**To take home.** {take_home}"))

    def method(self, *functions: Callable[..., Any]) -> None:
        """Show the source of functions, as it stands in the package."""
        for function in functions:
            name = f"{function.__module__}.{function.__qualname__}"
            display(Markdown(f"`{name}`\n\n```python\n{inspect.getsource(function).rstrip()}\n```"))

    def verdicts(self, claims: Sequence[Claim]) -> None:
        """Write and show the verdicts on the claims of the paper, with the rule that decides them."""
        display(Markdown(f"**Protocol.** {' '.join(RULE.splitlines())}"))
        for shown in judged(self.report, claims, cell=self._section, keys=self.grid.keys):
            display(shown)


def _ordered(rows: pd.DataFrame, by: str) -> dict[str, pd.Series]:
    """Return for each data set the mean accuracies of the entries of `by`, the highest first."""
    means = rows.groupby(["data", by], sort=False)["accuracy"].mean()
    return {
        str(data): part.droplevel("data").sort_values(ascending=False)
        for data, part in means.groupby(level="data", sort=False)
    }


def _keys(rows: Rows) -> list[str]:
    """Return the runs that rows come from."""
    frames = [] if rows is None else [rows] if isinstance(rows, pd.DataFrame) else rows
    return list(dict.fromkeys(key for frame in frames for key in frame["run"]))
