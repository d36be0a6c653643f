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
from dal_core.strategies import names as known_strategies
from dal_core.strategies import needs_oracle
from dal_lab.companion import presets, statistics
from dal_lab.companion.artefacts import Report
from dal_lab.companion.figures.style import label, use_style
from dal_lab.companion.paper_numbers import cell_by_cell
from dal_lab.companion.parameters import check_values
from dal_lab.companion.verdicts import Claim, judged
from dal_lab.runs.grid import Grid
from dal_lab.runs.settings import experiment_of

Rows = pd.DataFrame | Sequence[pd.DataFrame] | None
Strategies = str | Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]]
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
        choices = {"strategies": known_strategies(), "datasets": [each["dataset"] for each in wanted]}
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

    def curves(
        self, strategies: Strategies, options: Mapping[str, Any] | None = None,
        data: Sequence[Mapping[str, Any]] | None = None, **changes: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """Return the rows of runs of all strategies, on all data and with all seeds, strategy by strategy.

        Args:
            strategies: a name, names, or {name in the rows: (strategy, its options)}.
            options: of all of them.
            data: None: all of the session.
            **changes: to the settings of `data`; without `subset_size` strategies see the whole pool.
        """
        names = [strategies] if isinstance(strategies, str) else strategies
        pairs = dict(names) if isinstance(names, Mapping) else {name: (name, {}) for name in names}
        runs = {
            name: [
                experiment_of(
                    **{"subset_size": None} | {key: value for key, value in each.items() if key != "about"} | changes,
                    strategy=strategy, seed=seed, device=self.device, allow_oracle=needs_oracle(strategy),
                    options=self.setting.options | each["about"].get("options", {}).get(strategy, {}) | (options or {}) | own,
                )
                for each in (self.data if data is None else data)
                for seed in range(self.setting.seeds)
            ]
            for name, (strategy, own) in pairs.items()
        }  # fmt: skip
        # One call computes all of them side by side; those after it read.
        self.grid.rows([run for part in runs.values() for run in part], ", ".join(map(label, runs)))
        return pd.concat([self.grid.rows(part, label(name)).assign(strategy=name) for name, part in runs.items()])

    def figure(self, figure: Figure, name: str, rows: Rows = None, caption: str = "") -> None:
        """Save a figure, which rests on the runs of `rows`, and show it; `caption` says what is seen."""
        display(self.report.figure(figure, name, cell=self._section, keys=_keys(rows), caption=caption))

    def table(self, table: pd.DataFrame, name: str, rows: Rows = None) -> None:
        """Save a table, which rests on the runs of `rows`, and show it."""
        display(self.report.table(table, name, cell=self._section, keys=_keys(rows)))

    def means(self, rows: pd.DataFrame, by: Sequence[str] = ("strategy",), values: Sequence[str] = ("accuracy", "nll")) -> pd.DataFrame:
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
        else:
            of_paper = ", ".join(map(str, paper[by[0]].unique()))
            display(Markdown(f"Published are numbers of {of_paper}, which this preset has not measured."))

    def leads(self, rows: pd.DataFrame, name: str, others: Iterable[str], by: str = "strategy", form: str = "{}") -> list[str]:
        """Return a sentence for each data set and each of `others` that it has: who is ahead, and how sure that is."""
        lines = []
        for data, part in statistics.in_percent(rows).groupby("data", sort=False):
            known = set(part[by])
            there = [other for other in map(label, others) if other in known and other != label(name)]
            lines += [f"{data}: {statistics.verdict(part, label(name), other, by=by, form=form)}." for other in there]
        return lines

    def reading(self, lines: Sequence[str], take_home: str, about: str = "Mean accuracy over the learning curve:") -> None:
        """Show what the numbers say, line by line, and the one sentence to take home."""
        listed = "\n".join(line if line.startswith("  ") else f"- {line}" for line in lines)
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


def _keys(rows: Rows) -> list[str]:
    """Return the runs that rows come from."""
    frames = [] if rows is None else [rows] if isinstance(rows, pd.DataFrame) else rows
    return list(dict.fromkeys(key for frame in frames for key in frame["run"]))
