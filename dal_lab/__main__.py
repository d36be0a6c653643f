"""Command line: `python -m dal_lab datasets|features|run|grid|report|compare|notebooks|publish`, each with --help."""

import argparse
import ast
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dal_core import __version__
from dal_lab.sources.bank import save_bank

USAGE_ERROR = 2
RUN_FAILED = 1
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Faults of the caller are one line on stderr and exit code 2."""
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unknown {' '.join(unknown)}")
    # Imported late, so that --help and usage errors do not wait for torch.
    from dal_lab.runs.grid import RunError, RunRefusedError

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell  # type: ignore[assignment]
            _check_places(options)
            return options.command(options) or 0
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)  # a line for each kind of failure
        return USAGE_ERROR if isinstance(error, RunRefusedError) else RUN_FAILED
    except (ValueError, OSError) as error:
        return _complain(error, USAGE_ERROR)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


def _check_places(options: argparse.Namespace) -> None:
    """Refuse places to write to that cannot be folders before anything is computed."""
    from dal_lab.checks import check_folder

    for name in ("results_dir", "output_dir"):
        if getattr(options, name, None) is not None:
            check_folder(f"--{name.replace('_', '-')}", getattr(options, name))
    if getattr(options, "output", None) is not None:
        check_folder("the folder of --output", options.output.parent)


def _tell(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """A warning as a line for readers, without the place in the code; what addresses developers is left out."""
    if issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        return
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(error: object, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with what exists instead of the usage."""

    def error(self, message: str) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        sys.exit(_complain(f"{message}; {self.prog} knows {', '.join(known)}", USAGE_ERROR))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = OneLineParser(
        allow_abbrev=False, prog="python -m dal_lab", description="Deep active learning on frozen features."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], **about: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, allow_abbrev=False, **about)
        added.set_defaults(command=command, parser=added)
        return added

    add("datasets", _datasets, help="the data sets and encoders that are known by name")

    features = add(
        "features",
        _features,
        help="extract features of images, texts or sounds; an interrupted call goes on where it stopped",
        description="Extract features into the cache folder (DAL_CACHE), where every run finds them.",
    )
    _add_feature_options(features)

    run = add("run", _run, help="one active learning run, printed as a table")
    _add_experiment_options(run, many=False)
    run.add_argument("--strategy", default="margin", help="strategy (default: margin)")
    run.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    run.add_argument("--output", type=Path, help="also write the rows to this CSV or Parquet file")

    grid = add("grid", _grid, help="many runs, kept in a results folder; finished ones are not repeated")
    _add_experiment_options(grid, many=True)
    _add_strategies(grid)
    _add_grid_options(grid)

    report = add("report", _report, help="learning curves and a table of the runs that `grid` would compute")
    _add_experiment_options(report, many=True)
    _add_strategies(report)
    _add_grid_options(report)
    report.add_argument("--output-dir", type=Path, default=Path("report"), help="where to write (default: report)")

    compare = add(
        "compare",
        _compare,
        help="strategies side by side: table, tests, win rates and learning curves, printed and as files",
        description="Compare strategies, the first one being what the others are tested against.",
    )
    compare.add_argument("strategy", nargs="+", metavar="STRATEGY", help="two or more, before the options")
    _add_experiment_options(compare, many=True)
    _add_grid_options(compare)
    compare.add_argument(
        "--output-dir", type=Path, default=Path("comparison"), help="where to write (default: comparison)"
    )

    program = os.environ.get("DAL_PROGRAM")
    notebooks = add(
        "notebooks",
        _notebooks,
        prog=f"./{program}" if program else None,
        help="execute the notebooks of the papers; what ./run_all.sh does once it has set up",
        description="Execute the notebooks and regenerate their figures and tables.",
    )
    notebooks.add_argument(
        "--preset", default="quick", help="what to run on; --list shows the presets (default: quick)"
    )
    notebooks.add_argument("--only", metavar="01,03", help="numbers of the notebooks to run, comma-separated")
    notebooks.add_argument("--jobs", type=int, help="processes that compute runs side by side (default: one a core)")
    notebooks.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    notebooks.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default: the preset's)")
    notebooks.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with local data files")
    notebooks.add_argument("--list", action="store_true", help="list notebooks and presets, and stop")
    notebooks.add_argument("--dry-run", action="store_true", help="say what would run, with which parameters, and stop")
    notebooks.add_argument("--fresh", action="store_true", help="compute every run anew, stored or not")

    add(
        "publish",
        _publish,
        help="for maintainers: put executed outputs into notebooks/*.ipynb and measured numbers into README.md",
    )
    return parser


def _add_feature_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", nargs="+", required=True, help="data sets, or folders of images in --data-dir")
    parser.add_argument(
        "--encoder", nargs="+", required=True,
        help="names, or models of the Hugging Face hub or local folders, as MODEL[@REVISION][:cls|mean|pooler]",
    )  # fmt: skip
    parser.add_argument("--data-dir", type=Path, help="folder with local data files")
    parser.add_argument(
        "--output-dir", type=Path, help="also write <dataset>_<encoder>.safetensors here, to carry along"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--batch-size", type=int, default=128, help="instances at a time; halved when memory runs out")
    parser.add_argument("--workers", type=int, help="processes that read instances (default: one a core, at most 8)")
    parser.add_argument(
        "--unreadable", default="refuse", help="refuse (default) or skip an instance that cannot be decoded"
    )
    parser.add_argument("--fresh", action="store_true", help="extract anew, with the newest revision of the model")


def _add_experiment_options(parser: argparse.ArgumentParser, *, many: bool) -> None:
    # A single run has one data set, too, but as a list like the others.
    several: dict[str, Any] = {"nargs": "+" if many else 1, "default": []}
    hint = ", one or more" if many else ""
    parser.add_argument("--dataset", **several, help=f"data set{hint} (default: digits)")
    parser.add_argument(
        "--features", type=Path, metavar="FILE", **several,
        help=f"features of your own{hint}: FILE.safetensors, FILE.npz or FILE.parquet",
    )  # fmt: skip
    parser.add_argument("--encoder", help="what turns texts or images into features, e.g. minilm")
    parser.add_argument("--batch-size", type=int, default=10, help="instances bought in a cycle (default: 10)")
    parser.add_argument("--initial-size", type=int, default=10, help="labelled at the start, at random (default: 10)")
    parser.add_argument("--cycles", type=int, default=20, help="number of acquisitions (default: 20)")
    parser.add_argument("--subset-size", default="1000", help="the strategy sees so many instances, or `all` (1000)")
    parser.add_argument("--head", default="linear", help="linear or mlp (default: linear)")
    parser.add_argument("--optimiser", default="sgd", help="sgd or radam, with their papers' protocol (default: sgd)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--allow-oracle", action="store_true", help="allow a strategy that looks at true labels")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the strategy, the training or updates within a batch; repeatable",
    )  # fmt: skip
    parser.add_argument("--data-dir", type=Path, help="folder with local data files")


def _add_strategies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", nargs="+", default=["margin"], help="strategy, one or more (default: margin)")


def _add_grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 0 to N-1 (default: 3)")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where runs are kept (results)")
    parser.add_argument("--jobs", type=int, help="processes side by side (default: one a core)")
    parser.add_argument("--dask", metavar="ADDRESS", help="compute on this Dask cluster, e.g. tcp://host:8786")
    parser.add_argument(
        "--slurm", metavar="NAME=VALUE,...",
        help="compute on workers that Slurm starts, e.g. cores=4,memory=16GB,walltime=02:00:00,jobs=10",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what is stored and what would run, and stop")
    parser.add_argument("--fresh", action="store_true", help="compute every run anew, stored or not")


def _datasets(_: argparse.Namespace) -> int:
    from tabulate import tabulate

    from dal_lab.sources.catalogue import data_sets
    from dal_lab.sources.encoders import known_encoders

    known = {
        name: {
            "title": each.title,
            "kind": each.kind,
            "train": each.train_size,
            "test": each.test_size,
            "classes": each.num_classes,
            "batch": each.batch_size,
            "source": " or ".join(source.where() for source in each.sources),
            "licence": each.licence,
            "citation": each.citation,
        }
        for name, each in data_sets().items()
    }
    encoders = {name: dataclasses.asdict(each) for name, each in known_encoders().items()}
    for what, table in (("data set", known), ("encoder", encoders)):
        print(tabulate([{what: name} | row for name, row in table.items()], headers="keys", intfmt=","), end="\n\n")
    print("batch: of the papers' protocols, or what the notebooks take; any encoder of the kind fits, and so does any")
    print("model of the Hugging Face hub; a long-tailed version of any data set: --option imbalance=10")
    return 0


def _features(options: argparse.Namespace) -> int:
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
    return 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of an Experiment, but for those that a grid runs over."""
    names = ("encoder", "batch_size", "initial_size", "cycles", "head", "optimiser", "device", "allow_oracle")
    return {
        **{name: getattr(options, name) for name in names},
        "subset_size": _subset_size(options.subset_size),
        "options": _options(options.option),
    }


def _data(options: argparse.Namespace) -> list[str]:
    """Names of data sets, and paths of files whose content has been looked at."""
    from dal_lab.sources.catalogue import read_features

    for path in options.features:
        read_features(path)  # refuses what is no such file, which could be taken for a name
    return [*options.dataset, *map(str, options.features)] or ["digits"]


def _subset_size(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"--subset-size is {text[:20]!r}; a whole number or 'all' was expected")
    return int(text)


def _option(text: str, argument: str = "--option") -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"{argument} is {text!r}; NAME=VALUE was expected")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as likelihood=gaussian
    except (RecursionError, MemoryError):
        raise ValueError(
            f"{argument} {name} has a value that is nested too deeply; a number or a word was expected"
        ) from None


def _options(texts: list[str], argument: str = "--option") -> dict[str, Any]:
    pairs = [_option(text, argument) for text in texts]
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{argument} {twice[0]} is given {names.count(twice[0])} times; once was expected")
    return dict(pairs)


def _run(options: argparse.Namespace) -> int:
    from dal_core.experiment import Experiment
    from dal_lab.runs.files import write_atomically
    from dal_lab.runs.study import run

    if options.output is not None and options.output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--output is {options.output}; a name that ends in .csv or .parquet was expected")
    if len(data := _data(options)) > 1:
        raise ValueError(f"--dataset and --features name {' and '.join(data)}; one of the two was expected")
    settings = {"dataset": data[0], "strategy": options.strategy, "seed": options.seed}
    rows = run(Experiment(**settings, **_settings(options)), data_dir=options.data_dir)
    print(rows.drop(columns="acquired").to_string(index=False, float_format="{:.4f}".format))
    if options.output is not None:
        with write_atomically(options.output) as temporary:
            rows.to_csv(temporary, index=False) if options.output.suffix == ".csv" else rows.to_parquet(temporary)
    return 0


def _learning_curves(options: argparse.Namespace) -> tuple[Any, Any]:
    """The grid and its rows; with --dry-run no rows, but what would run is printed."""
    from dal_core.experiment import Experiment
    from dal_lab.runs.grid import Grid

    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; at least 1 was expected")
    experiments = [
        Experiment(dataset=dataset, strategy=strategy, seed=seed, **_settings(options))
        for dataset in _data(options)
        for strategy in options.strategy
        for seed in range(options.seeds)
    ]
    slurm = None if options.slurm is None else _options(options.slurm.split(","), "--slurm")
    where = {"jobs": options.jobs, "dask": options.dask, "slurm": slurm}
    grid = Grid(options.results_dir, data_dir=options.data_dir, fresh=options.fresh, **where)
    if options.dry_run:
        print(*grid.plan(experiments).lines(), sep="\n")
        return grid, None
    return grid, grid.rows(experiments, "learning curves")


def _summary(rows: Any) -> Any:
    """Mean over the curve and final accuracy in percent, a row a data set and strategy."""
    from dal_lab.companion.statistics import mean_over_seeds

    rows = rows.assign(aulc=100 * rows["accuracy"])
    last = rows[rows["cycle"] == rows["cycle"].max()].rename(columns={"aulc": "final"})
    table = mean_over_seeds(rows, ["data", "strategy"], ["aulc"])
    return table.merge(mean_over_seeds(last, ["data", "strategy"], ["final"]).drop(columns="seeds"))


def _grid(options: argparse.Namespace) -> int:
    grid, rows = _learning_curves(options)
    if rows is None:
        return 0
    print(_summary(rows).to_string(index=False, float_format="{:.2f}".format))
    print(f"accuracy in percent: aulc is the mean over the curve, _ci the half width of a 95 % interval over seeds; "
          f"{len(grid.keys)} runs in {grid.store.folder}")  # fmt: skip
    return 0


def _report(options: argparse.Namespace) -> int:
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.curves import learning_curves
    from dal_lab.companion.figures.style import use_style

    grid, rows = _learning_curves(options)
    if rows is None:
        return 0
    use_style()
    report = Report(options.output_dir, "report")
    report.figure(learning_curves(rows), "learning_curves", cell="learning curves", keys=grid.keys)
    report.table(_summary(rows), "accuracy", cell="learning curves", keys=grid.keys)
    print(f"figures and tables:  {options.output_dir.resolve()}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from dal_core.checks import check_whole
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.style import use_style
    from dal_lab.companion.terminal import Comparison, check_strategies

    check_strategies(options.strategy)
    check_whole("--cycles", options.cycles, 1)  # nobody has chosen anything before
    grid, rows = _learning_curves(options)
    if rows is None:
        return 0
    use_style()
    comparison = Comparison(rows)
    # A terminal that cannot show the bars gets question marks.
    encoding = sys.stdout.encoding or "utf-8"
    print(comparison.text().encode(encoding, "replace").decode(encoding))
    comparison.write(Report(options.output_dir, "compare"), grid.keys)
    print(f"{len(grid.keys)} runs in {grid.store.folder}")
    print(f"figures and tables: {options.output_dir.resolve()}")
    return 0


def _project_root() -> Path:
    root = Path(os.environ.get("DAL_ROOT") or Path(__file__).resolve().parent.parent)
    if not (root / "notebooks").is_dir():
        raise FileNotFoundError(f"no notebooks in {root}; run this from a clone of the project, or set DAL_ROOT to one")
    return root


def _notebooks(options: argparse.Namespace) -> int:
    from dal_core.checks import check_choice
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
    for name in ("jobs", "seeds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; a whole number of at least 1 was expected")
    parameters = {"device": options.device, "fresh": options.fresh, "results_dir": str(root / "results")}
    for name in ("jobs", "seeds"):
        if getattr(options, name) is not None:
            parameters[name] = getattr(options, name)
    if options.data_dir is not None:
        if not options.data_dir.is_dir():
            raise ValueError(f"--data-dir is {options.data_dir}; an existing folder was expected")
        parameters["data_dir"] = str(options.data_dir.resolve())
    chosen = notebooks.choose(found, options.only)
    if options.dry_run:
        for each in chosen:
            print(f"would run {each.number}  {each.title}, preset {options.preset}, with {parameters}")
        return 0
    well = notebooks.run_all(
        chosen,
        preset=options.preset,
        executed=root / "results" / "notebooks",
        figures=root / "figures",
        parameters=parameters,
    )
    return 0 if well else RUN_FAILED


def _publish(_: argparse.Namespace) -> int:
    from dal_lab.companion.readme import publish_notebooks, render_readme

    root = _project_root()
    for path in publish_notebooks(root / "notebooks", root / "results" / "notebooks" / "quick"):
        print(f"outputs put into {path}")
    render_readme(root)
    print(f"numbers put into {root / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
