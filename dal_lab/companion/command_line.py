"""The command `dal`, which `python -m dal_lab` is, too: one function a subcommand, each with --help.

Nothing here imports torch before a command begins, so that help and usage errors answer at once.
"""

import argparse
import ast
import dataclasses
import importlib.util
import itertools
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dal_core import __version__

RUN_FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
ENTRY = re.compile(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", re.MULTILINE)  # names and text in the Args of a docstring
SETTINGS = (
    "encoder",
    "batch_size",
    "initial_size",
    "cycles",
    "head",
    "optimiser",
    "device",
    "allow_oracle",
    "standardise",
)
TYPES = {"int": int, "Count": int, "Size": int, "Path": Path}  # of options, by annotation; others are texts


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Faults of the caller are one line on stderr and exit code 2."""
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unknown {' '.join(unknown)}")
    from dal_lab.checks import check_folder
    from dal_lab.nvidia import unseen_card
    from dal_lab.runs.failures import RunError, RunRefusedError

    os.environ["MPLBACKEND"] = "agg"  # Figures go into files; a user's choice may need a display.
    try:
        if getattr(options, "device", None) in ("auto", "cuda") and (line := unseen_card()):
            print(f"warning: {line}", file=sys.stderr)
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]
            # Places to write to that cannot be folders are refused before anything is computed.
            for name in ("results_dir", "output_dir"):
                if getattr(options, name, None) is not None:
                    check_folder(f"--{name.replace('_', '-')}", getattr(options, name))
            if getattr(options, "output", None) is not None:
                check_folder("the folder of --output", options.output.parent)
            return options.command(options) or 0
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)  # a line for each kind of failure
        return USAGE_ERROR if isinstance(error, RunRefusedError) else RUN_FAILED
    except (ValueError, OSError) as error:
        return _complain(error)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def _print_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print a warning as a line for readers, without the place in the code; those for developers are left out."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return USAGE_ERROR


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with what exists instead of the usage."""

    def error(self, message: str) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        sys.exit(_complain(f"{message}; {self.prog} knows {', '.join(known)}"))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, with the options of the table beside this module."""
    parser = OneLineParser(
        allow_abbrev=False, prog="python -m dal_lab", description="Deep active learning on frozen features."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    fields = _fields("dal_lab.runs.grid", "Grid") | _fields("dal_core.experiment", "Experiment")
    fields |= _fields("dal_core.experiment", "Protocol")
    extraction = fields | _fields("dal_lab.sources.extraction", "Extraction")
    program = os.environ.get("DAL_PROGRAM")
    for name, entries in table["commands"].items():
        command = globals()[name]
        prog = f"./{program}" if program and name == "notebooks" else None
        about = {"help": command.__doc__.splitlines()[0].rstrip("."), "description": command.__doc__}
        added = commands.add_parser(name, allow_abbrev=False, prog=prog, **about)
        added.set_defaults(command=command, parser=added)
        known = (extraction if name == "features" else fields) | table["options"]
        for option in itertools.chain.from_iterable(table["lists"].get(entry, [entry]) for entry in entries):
            settings = dict(known.get(f"{name} {option}") or known[option])
            if "type" in settings:
                settings["type"] = TYPES.get(settings["type"], str)
            if name == "run" and "nargs" in settings:
                settings["nargs"] = 1
            positional = (name, option) == ("compare", "strategy")
            added.add_argument(option if positional else f"--{option.replace('_', '-')}", **settings)
    return parser


def _fields(module: str, name: str) -> dict[str, dict[str, Any]]:
    """Return arguments of `add_argument` for each field of a dataclass: type, default, and text in the docstring.

    They are read from the module's source, since an import would wait for torch.
    """
    tree = ast.parse(Path(getattr(importlib.util.find_spec(module), "origin", "")).read_text(encoding="utf-8"))
    (found,) = (each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    texts = {
        field: text for names, text in ENTRY.findall(ast.get_docstring(found) or "") for field in names.split(", ")
    }
    options: dict[str, dict[str, Any]] = {}
    for each in found.body:
        if not isinstance(each, ast.AnnAssign) or (field := ast.unparse(each.target)) not in texts:
            continue
        annotation, about = ast.unparse(each.annotation), " ".join(texts[field].split()).rstrip(".").replace("%", "%%")
        if annotation == "bool":
            options[field] = {"action": "store_true", "help": about}
        elif isinstance(each.value, ast.Constant):
            default: Any = each.value.value
            about += "" if default is None else f" (default: {default})"
            options[field] = {"type": re.split(r"\W", annotation)[0], "default": default, "help": about}
    return options


def datasets(_: argparse.Namespace) -> None:
    """List the data sets and encoders that are known by name."""
    from tabulate import tabulate

    from dal_lab.sources.catalogue import data_sets
    from dal_lab.sources.encoders import known_encoders

    known = [
        {
            "data set": name, "title": each.title, "kind": each.kind, "train": each.train_size, "test": each.test_size,
            "classes": each.num_classes, "batch": each.batch_size,
            "source": " or ".join(source.where() for source in each.sources),
            "licence": each.licence, "citation": each.citation,
        }
        for name, each in data_sets().items()
    ]  # fmt: skip
    encoders = [{"encoder": name} | dataclasses.asdict(each) for name, each in known_encoders().items()]
    for rows in (known, encoders):
        print(tabulate(rows, headers="keys", intfmt=","), end="\n\n")
    print("batch: of the papers' protocols, or what the notebooks take; any encoder of the kind fits, and so does any")
    print("model of the Hugging Face hub; a long-tailed version of any data set: --option imbalance=10")


def features(options: argparse.Namespace) -> None:
    """Extract features of images, texts or sounds; an interrupted call goes on where it stopped.

    They are kept in the cache folder (DAL_CACHE), where every run finds them.
    """
    from dal_lab.sources.bank import save_bank
    from dal_lab.sources.catalogue import extract, file_stem
    from dal_lab.sources.extraction import Extraction

    how = Extraction(options.device, options.batch_size, options.workers, options.unreadable)
    for dataset in options.dataset:
        for encoder in options.encoder:
            bank = extract(dataset, encoder, data_dir=options.data_dir, how=how, fresh=options.fresh)
            skipped = sum(bank.provenance["skipped"].values())
            print(
                f"{dataset} with {encoder}: {len(bank.train_labels):,} + {len(bank.test_labels):,} instances, "
                f"{bank.num_features} features, {bank.num_classes} classes, {skipped} skipped"
            )
            if options.output_dir is not None:
                save_bank(bank, path := options.output_dir / f"{file_stem(dataset, encoder)}.safetensors")
                print(f"    {path}")


def run(options: argparse.Namespace) -> None:
    """Compute one active learning run, printed as a table."""
    from dal_lab.runs import study
    from dal_lab.runs.files import write_atomically

    if options.output is not None and options.output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--output is {options.output}; a name that ends in .csv or .parquet was expected")
    if options.dataset and options.features:
        named = f"{options.dataset[0]} and {options.features[0]}"
        raise ValueError(f"--dataset and --features name {named}; one of the two was expected")
    (experiment,) = _experiments(options, [options.seed])
    rows = study.run(experiment, data_dir=options.data_dir)
    untold = ["record"] if (rows["record"] == "{}").all() else []
    print(rows.drop(columns=["acquired", *untold]).to_string(index=False, float_format="{:.4f}".format))
    if options.output is not None:
        with write_atomically(options.output) as temporary:
            rows.to_csv(temporary, index=False) if options.output.suffix == ".csv" else rows.to_parquet(temporary)


def grid(options: argparse.Namespace) -> None:
    """Compute many runs, kept in a results folder; finished ones are not repeated."""
    stored, rows = _learning_curves(options)
    if rows is not None:
        print(_summary(rows).to_string(index=False, float_format="{:.2f}".format))
        print("accuracy in percent: aulc is the mean over the curve, _ci the half width of a 95 % interval over seeds; "
              f"{len(stored.keys)} runs in {stored.store.folder}")  # fmt: skip


def report(options: argparse.Namespace) -> None:
    """Draw learning curves and write a table of the runs that `grid` would compute, and the runs beside them."""
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.curves import learning_curves
    from dal_lab.companion.figures.style import use_style
    from dal_lab.runs.committed import ENDING, commit

    stored, rows = _learning_curves(options)
    if rows is not None:
        use_style()
        written, about = Report(options.output_dir, "report"), {"cell": "learning curves", "keys": stored.keys}
        written.figure(learning_curves(rows), "learning_curves", **about)
        written.table(_summary(rows), "accuracy", **about)
        commit(stored.keys, stored.store, options.output_dir / f"report{ENDING}")
        print(f"figures and tables:  {options.output_dir.resolve()}")


def compare(options: argparse.Namespace) -> None:
    """Compare strategies with the first one: table, tests, win rates and learning curves, printed and as files."""
    from dal_core.checks import check_whole
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.style import use_style
    from dal_lab.companion.terminal import Comparison, check_strategies

    check_strategies(options.strategy)
    check_whole("--cycles", options.cycles, 1)  # Without an acquisition there is nothing to compare.
    stored, rows = _learning_curves(options)
    if rows is not None:
        use_style()
        comparison = Comparison(rows)
        encoding = sys.stdout.encoding or "utf-8"  # A terminal that cannot show the bars gets question marks.
        print(comparison.text().encode(encoding, "replace").decode(encoding))
        comparison.write(Report(options.output_dir, "compare"), stored.keys)
        print(f"{len(stored.keys)} runs in {stored.store.folder}")
        print(f"figures and tables: {options.output_dir.resolve()}")


def notebooks(options: argparse.Namespace) -> int:
    """Execute the notebooks of the papers and regenerate their figures and tables."""
    from dal_core.checks import check_choice, check_whole
    from dal_core.devices import resolve_device
    from dal_lab.companion import notebooks

    root = _project_root()
    found = notebooks.find(root / "notebooks")
    if options.list:
        print("notebooks (--only)", *(f"  {each.number}  {each.title}" for each in found), sep="\n")
        print("presets (--preset)", *(f"  {name:6} {what}" for name, what in notebooks.PRESETS.items()), sep="\n")
        return 0
    check_choice("--preset", options.preset, notebooks.PRESETS)
    resolve_device(options.device)
    parameters = {"device": options.device, "fresh": options.fresh, "results_dir": str(root / "results")}
    for name in ("jobs", "seeds"):
        if (value := getattr(options, name)) is not None:
            check_whole(f"--{name}", value, 1)
            parameters[name] = value
    if options.data_dir is not None:
        if not options.data_dir.is_dir():
            raise ValueError(f"--data-dir is {options.data_dir}; an existing folder was expected")
        parameters["data_dir"] = str(options.data_dir.resolve())
    chosen = notebooks.choose(found, options.only)
    places = {"executed": root / "results" / "notebooks", "figures": root / "figures"}
    if options.dry_run:
        print(*notebooks.planned(chosen, preset=options.preset, parameters=parameters, **places), sep="\n")
        return 0
    return 0 if notebooks.run_all(chosen, preset=options.preset, parameters=parameters, **places) else RUN_FAILED


def publish(_: argparse.Namespace) -> None:
    """For maintainers: put executed outputs into notebooks/*.ipynb and measured numbers into README.md."""
    from dal_lab.companion.readme import publish_notebooks, render_readme

    root = _project_root()
    for path in publish_notebooks(root / "notebooks", root / "results" / "notebooks" / "quick"):
        print(f"outputs put into {path}")
    render_readme(root)
    print(f"numbers put into {root / 'README.md'}")


def _experiments(options: argparse.Namespace, seeds: Iterable[int]) -> list[Any]:
    """Return an Experiment for each data set, strategy and seed."""
    from dal_lab.runs.settings import experiment_of
    from dal_lab.sources.catalogue import read_features

    for path in options.features:
        read_features(path)  # refuses what is no such file, and could be taken for a name
    data, subset = [*options.dataset, *map(str, options.features)] or ["digits"], options.subset_size
    if subset != "all" and (not subset.isdecimal() or len(subset) > 18):
        raise ValueError(f"--subset-size is {subset[:20]!r}; a whole number or 'all' was expected")
    given: dict[str, Any] = {name: getattr(options, name) for name in SETTINGS}
    given |= {"subset_size": None if subset == "all" else int(subset), "options": _named(options.option)}
    runs = itertools.product(data, options.strategy, seeds)
    return [experiment_of(name, strategy=strategy, seed=seed, **given) for name, strategy, seed in runs]


def _named(texts: Sequence[str], argument: str = "--option") -> dict[str, Any]:
    """Return the values of NAME=VALUE texts by name: Python's numbers and lists, or words."""
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ValueError(f"{argument} is {text!r}; NAME=VALUE was expected")
        if name in values:
            count = sum(each.startswith(f"{name}=") for each in texts)
            raise ValueError(f"{argument} {name} is given {count} times; once was expected")
        values[name] = value  # a word, such as likelihood=gaussian
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pass
        except (RecursionError, MemoryError):
            raise ValueError(
                f"{argument} {name} has a value that is nested too deeply; a number or a word was expected"
            ) from None
    return values


def _learning_curves(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the grid and its rows; with --dry-run None in their place, and the plan is printed."""
    from dal_core.checks import check_whole
    from dal_lab.runs.grid import Grid

    check_whole("--seeds", options.seeds, 1)
    experiments = _experiments(options, range(options.seeds))
    slurm = None if options.slurm is None else _named(options.slurm.split(","), "--slurm")
    where = {"data_dir": options.data_dir, "jobs": options.jobs, "dask": options.dask, "slurm": slurm}
    written = [options.output_dir] if "output_dir" in options else []  # A report's runs lie beside its figures.
    stored = Grid(options.results_dir, fresh=options.fresh, committed=written, **where)
    if options.dry_run:
        print(*stored.plan(experiments).lines(), sep="\n")
        return stored, None
    return stored, stored.rows(experiments, "learning curves")


def _summary(rows: Any) -> Any:
    """Return mean over the curve and final accuracy in percent, a row a data set and strategy."""
    from dal_lab.companion.statistics import mean_over_seeds

    rows = rows.assign(aulc=100 * rows["accuracy"])
    last = rows[rows["cycle"] == rows["cycle"].max()].rename(columns={"aulc": "final"})
    table = mean_over_seeds(rows, ["data", "strategy"], ["aulc"])
    return table.merge(mean_over_seeds(last, ["data", "strategy"], ["final"]).drop(columns="seeds"))


def _project_root() -> Path:
    from dal_lab.companion.origins import project_root

    root = project_root()
    if not (root / "notebooks").is_dir():
        raise FileNotFoundError(f"no notebooks in {root}; run this from a clone of the project, or set DAL_ROOT to one")
    return root
