"""The command `dal`, which `python -m dal_lab` is, too: a function a command.

What takes long to import, such as torch, is imported within them, so that help and usage errors answer at once.
"""

import dataclasses
import functools
import io
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from dal_core import __version__
from dal_lab.companion.options import (
    RESULTS,
    DataDir,
    Device,
    Jobs,
    Names,
    Plugins,
    ResultsDir,
    Runs,
    Setup,
    Whole,
    about,
    check_places,
    named,
    warn_of_unseen_card,
)
from dal_lab.program import INTERRUPTED, STOPPED

RUN_FAILED, USAGE_ERROR = 1, 2
PROGRAM = os.environ.get("DAL_PROGRAM")  # the script that stands for `dal notebooks`
LONGEST = 300  # characters of a message about usage
SETUP, RUNS = Setup(), Runs()
Strategies = Annotated[Names, about("strategies", show_default=" ".join)]

app = App(
    "dal",
    help="Deep active learning on frozen features.",
    version=__version__,
    help_format="plaintext",  # Markdown takes 60 ms to import.
    default_parameter=Parameter(negative=(), allow_repeating=True, show_default=lambda value: value or None),
    suppress_keyboard_interrupt=False,  # `main` says what is kept.
)


@app.command(alias="datasets")
def data(
    *name: Annotated[str, about("with --check: data sets and encoders (default: all)")],
    protocols: Annotated[bool, about("the papers' protocols, a row a paper and data set")] = False,
    check: Annotated[bool, about("ask each address for its head; exit code 1 if one does not answer")] = False,
    json: Annotated[bool, about("as JSON")] = False,
) -> int:
    """List the data sets and encoders that are known by name, the papers' protocols, or which addresses answer."""
    from tabulate import tabulate

    if protocols and check:
        raise ValueError("--protocols and --check are given; one of them was expected")
    if name and not check:
        raise ValueError(f"{name[0]!r} is given without --check, which names belong to")
    if protocols:
        from dal_lab.sources import protocols as papers

        _print_json(papers.rows()) if json else print(papers.printed())
        return 0
    if check:
        from dal_lab.sources import addresses

        answers = [dataclasses.asdict(each) for each in addresses.check(name)]
        table = [each | {"reached": "yes" if each["reached"] else "no"} for each in answers]
        _print_json(answers) if json else print(tabulate(table, headers="keys", intfmt=","))
        return 0 if all(each["reached"] for each in answers) else RUN_FAILED
    from dal_lab.sources.catalogue import data_sets
    from dal_lab.sources.encoders import known_encoders

    known = [
        {
            "data set": name, "title": each.title, "kind": each.kind, "train": each.train_size, "test": each.test_size,
            "classes": each.num_classes, "source": " or ".join(source.where() for source in each.sources),
            "licence": each.licence, "citation": each.citation,
        }
        for name, each in data_sets().items()
    ]  # fmt: skip
    encoders = [
        {"encoder": name} | dataclasses.asdict(each) | {"revision": each.revision or "unpinned"}
        for name, each in known_encoders().items()
    ]
    if json:
        _print_json({"data_sets": known, "encoders": encoders})
        return 0
    for rows in (known, encoders):
        print(tabulate(rows, headers="keys", intfmt=","), end="\n\n")
    print("the papers' protocols: dal data --protocols; any encoder of the kind fits, and so does any")
    print("model of the Hugging Face hub; a long-tailed version of any data set: --option imbalance=10")
    return 0


@app.command
def features(
    *,
    dataset: Annotated[Names, about("data sets, or folders of images in --data-dir")],
    encoder: Annotated[
        Names, about("names, or models of the hub or local folders: MODEL[@REVISION][:cls|mean|pooler][:PIXELS]")
    ],
    image_size: Annotated[
        Whole | None, about("side of the images in pixels, as :PIXELS does behind an encoder (default: the model's)")
    ] = None,
    data_dir: DataDir = None,
    output_dir: Annotated[Path | None, about("also write DATASET_ENCODER.safetensors here, to take along")] = None,
    device: Device = "auto",
    batch_size: Annotated[Whole, about("instances at a time; halved when memory runs out")] = 128,
    workers: Annotated[Whole | None, about("processes that read instances (default: one a core, at most 8)")] = None,
    unreadable: Annotated[str, about("refuse or skip instances that cannot be decoded")] = "refuse",
    fresh: Annotated[bool, about("extract anew, with the newest revision of the model")] = False,
) -> None:
    """Extract features of images, texts or sounds; an interrupted call goes on where it stopped.

    They are kept in the cache folder (DAL_CACHE), where every run finds them.
    """
    from dal_lab.sources.bank import save_bank
    from dal_lab.sources.catalogue import extract, file_stem
    from dal_lab.sources.extraction import Extraction

    check_places(output_dir=output_dir)
    warn_of_unseen_card(device)
    how = Extraction(device, batch_size, workers, unreadable)  # type: ignore[arg-type]  # It checks the words.
    encoders = [each if image_size is None else f"{each}:{image_size}" for each in encoder]
    for name, by in itertools.product(dataset, encoders):
        bank = extract(name, by, data_dir=data_dir, how=how, fresh=fresh)
        skipped = sum(bank.provenance["skipped"].values())
        print(
            f"{name} with {by}: {len(bank.train_labels):,} + {len(bank.test_labels):,} instances, "
            f"{bank.num_features} features, {bank.num_classes} classes, {skipped} skipped"
        )
        if output_dir is not None:
            save_bank(bank, path := output_dir / f"{file_stem(name, by)}.safetensors")
            print(f"    {path}")


@app.command
def run(
    *,
    strategy: Annotated[str, about("what chooses the instances")] = "margin",
    seed: Annotated[Whole, about("of all that is drawn")] = 0,
    output: Annotated[Path | None, about("also write the rows to this CSV or Parquet file")] = None,
    dry_run: Annotated[bool, about("say what would run and what its last query costs, and stop")] = False,
    setup: Setup = SETUP,
) -> None:
    """Compute one active learning run, printed as a table."""
    from dal_lab.checks import check_folder
    from dal_lab.runs import study
    from dal_lab.runs.files import write_atomically

    if output is not None:
        if output.suffix not in (".csv", ".parquet"):
            raise ValueError(f"--output is {output}; a name that ends in .csv or .parquet was expected")
        check_folder("the folder of --output", output.parent)
        if output.is_dir():
            raise ValueError(f"--output is {output}, which is a folder; a file was expected")
    if len(several := [*setup.dataset, *map(str, setup.features)]) > 1:
        raise ValueError(f"--dataset and --features name {', '.join(several)}; one was expected, `dal grid` takes more")
    (experiment,) = setup.experiments([strategy], [seed])
    if dry_run:
        from dal_lab.runs.plan import query_lines

        print(f"would run  {study.described(experiment)}", *query_lines([experiment], setup.data_dir), sep="\n")
        return
    rows = study.run(experiment, data_dir=setup.data_dir)
    untold = ["record"] if (rows["record"] == "{}").all() else []
    print(rows.drop(columns=["acquired", *untold]).to_string(index=False, float_format="{:.4f}".format))
    if output is not None:
        with write_atomically(output) as temporary:
            rows.to_csv(temporary, index=False) if output.suffix == ".csv" else rows.to_parquet(temporary)


@app.command
def grid(*, strategy: Strategies = ("margin",), setup: Setup = SETUP, runs: Runs = RUNS) -> None:
    """Compute many runs, kept in a results folder; finished ones are not repeated."""
    grid, rows = _learning_curves(setup, strategy, runs)
    if rows is not None:
        print(_summary(rows).to_string(index=False, float_format="{:.2f}".format))
        print("accuracy in percent: aulc is the mean over the curve, _ci the half width of a 95 % interval over seeds; "
              f"{len(grid.keys)} runs in {grid.store.folder}")  # fmt: skip


@app.command
def report(
    *,
    strategy: Strategies = ("margin",),
    output_dir: Annotated[Path, about("where to write")] = Path("report"),
    setup: Setup = SETUP,
    runs: Runs = RUNS,
) -> None:
    """Draw learning curves and write a table of the runs that `grid` would compute, and the runs beside them."""
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.curves import learning_curves
    from dal_lab.companion.figures.style import use_style
    from dal_lab.runs.committed import ENDING, commit

    grid, rows = _learning_curves(setup, strategy, runs, output_dir)
    if rows is not None:
        use_style()
        written, about = Report(output_dir, "report"), {"cell": "learning curves", "keys": grid.keys}
        written.figure(learning_curves(rows), "learning_curves", **about)
        written.table(_summary(rows), "accuracy", **about)
        commit(grid.keys, grid.store, output_dir / f"report{ENDING}")
        print(f"figures and tables:  {output_dir.resolve()}")


@app.command
def compare(
    *strategy: Annotated[str, about("two or more, before the options")],
    output_dir: Annotated[Path, about("where to write")] = Path("comparison"),
    setup: Setup = SETUP,
    runs: Runs = RUNS,
) -> None:
    """Compare strategies with the first one: table, tests, win rates and learning curves, printed and as files."""
    from dal_core.checks import check_whole
    from dal_lab.companion.artefacts import Report
    from dal_lab.companion.figures.style import use_style
    from dal_lab.companion.terminal import Comparison, check_strategies

    check_strategies(strategy)
    check_whole("--cycles", setup.cycles, 1)  # Without an acquisition there is nothing to compare.
    grid, rows = _learning_curves(setup, strategy, runs, output_dir)
    if rows is not None:
        use_style()
        comparison = Comparison(rows)
        print(comparison.text())
        comparison.write(Report(output_dir, "compare"), grid.keys)
        print(f"{len(grid.keys)} runs in {grid.store.folder}")
        print(f"figures and tables: {output_dir.resolve()}")


@app.command
def check(file: Annotated[Path, about("registers one or more strategies")], /) -> int:
    """Check that the strategies of a Python file do what every strategy has to do; exit code 1 if one does not."""
    from dal_lab.strategy_check import check_file

    return check_file(file)


@app.command
def plan_study(
    reference: Annotated[str, about("a strategy")],
    other: Annotated[str, about("another one")],
    /,
    *,
    effect: Annotated[float, about("difference of the mean accuracy over the curve, in points")],
    power: Annotated[float, about("probability that a two-sided paired t test (level 5 %) finds it")] = 0.8,
    results_dir: ResultsDir = RESULTS,
    setup: Setup = SETUP,
) -> None:
    """Say how many seeds show a difference of two strategies, and for how long they compute, by runs that are there."""
    from dal_lab.companion.power import plan_lines
    from dal_lab.companion.terminal import check_strategies

    check_places(results_dir=results_dir)
    check_strategies((reference, other))
    experiments_of = functools.partial(setup.experiments, (reference, other))
    grid = Runs(results_dir=results_dir).grid(setup.data_dir)
    print(*plan_lines(grid, experiments_of, effect, power), sep="\n")


@app.command(name="estimate")
def estimated(
    strategy: Annotated[str | None, about("what chooses the instances")] = None,
    /,
    *,
    pool: Annotated[Whole | None, about("unlabelled instances", metavar="N")] = None,
    features: Annotated[Whole | None, about("number of features", metavar="D")] = None,
    classes: Annotated[Whole | None, about("number of classes", metavar="K")] = None,
    batch: Annotated[Whole | None, about("instances to choose", metavar="B")] = None,
    labelled: Annotated[Whole, about("labelled instances", metavar="M")] = 100,
    test: Annotated[Whole, about("instances that an oracle judges by")] = 1000,
    device: Annotated[str, about("cpu or cuda")] = "cpu",
    option: Annotated[tuple[str, ...], about("of the strategy; repeatable", metavar="NAME=VALUE")] = (),
    calibrate: Annotated[bool, about("measure this machine first, about 20 s, and keep the rates")] = False,
    json: Annotated[bool, about("as JSON")] = False,
) -> None:
    """Say how many seconds and bytes one query takes, before it runs; exit code 2 if its memory is not there."""
    from dal_lab import estimate

    sizes = {"pool": pool, "features": features, "classes": classes, "batch": batch}
    given = {name: size for name, size in sizes.items() if size is not None}
    if (strategy is not None or not calibrate) and (missing := [name for name in sizes if name not in given]):
        raise ValueError(f"--{missing[0]} is missing; STRATEGY --pool N --features D --classes K --batch B is expected")
    if calibrate:
        rates = estimate.calibrate(device)._asdict()
        if strategy is None:
            lines = (f"{name:13} {rate:.3g} a second" for name, rate in rates.items())
            _print_json(rates) if json else print(*lines, sep="\n")
            return
    if strategy is None:
        raise ValueError("a STRATEGY is missing, whose query is to be estimated")
    found = estimate.estimate(
        strategy, labelled=labelled, test=test, device=device, options=named(option, "--option"), **given
    )
    _print_json(dataclasses.asdict(found)) if json else print(found.line())


@app.command
def verify(
    folder: Annotated[Path | None, about("with figures, or such folders in it (default: figures)")] = None, /
) -> int:
    """Compare published figures, tables and runs with their digests; exit code 1 if some differ."""
    from dal_lab.companion.verification import faults_by_folder
    from dal_lab.runs.committed import project_figures

    found = faults_by_folder(project_figures() if folder is None else folder)
    for place, faults in found.items():
        print(f"{place}: {'; '.join(faults) or 'as published'}")
    return RUN_FAILED if any(found.values()) else 0


@app.command
def suggest(
    *,
    state: Annotated[Path, about("folder that remembers what was asked and labelled; made if it is not there")],
    features: Annotated[
        Path | None, about("own features, without labels: .npz, .parquet or .csv", metavar="FILE")
    ] = None,
    texts: Annotated[Path | None, about("texts, one a line, or a table with a column `text`", metavar="FILE")] = None,
    images: Annotated[Path | None, about("folder of images", metavar="FOLDER")] = None,
    encoder: Annotated[str | None, about("what turns texts or images into features")] = None,
    strategy: Annotated[
        str | None, about("what chooses (default: typiclust, and badge when two classes have labels)")
    ] = None,
    batch: Annotated[Whole, about("number of instances")] = 10,
    option: Annotated[tuple[str, ...], about("of the strategy; repeatable", metavar="NAME=VALUE")] = (),
    standardise: Annotated[bool, about("give features mean 0 and deviation 1, from now on")] = False,
    seed: Annotated[Whole, about("of all that is drawn")] = 0,
    plugin: Plugins = (),
) -> None:
    """Suggest which of your own instances to label next, as a CSV; without data those of the call before."""
    from dal_lab import annotation
    from dal_lab.plugins import load_plugins

    check_places(state=state)
    given = {"features": features, "texts": texts, "images": images}
    sources = [(kind, path) for kind, path in given.items() if path is not None]
    if len(sources) > 1:
        raise ValueError(f"{' and '.join(f'--{kind}' for kind, _ in sources)} are given; one of them was expected")
    load_plugins(plugin)
    print(*annotation.suggest(
        state, *(sources[0] if sources else ()), encoder=encoder, strategy=strategy, batch=batch,
        options=named(option, "--option"), standardise=standardise, seed=seed,
    ), sep="\n")  # fmt: skip


@app.command
def ingest(
    labels: Annotated[Path, about("CSV with the columns id and label")],
    /,
    *,
    state: Annotated[Path, about("folder that `dal suggest` wrote")],
) -> None:
    """Take in labels of what `dal suggest` asked for, or of other instances."""
    from dal_lab import annotation

    check_places(state=state)
    print(*annotation.ingest(labels, state), sep="\n")


@app.command(usage=f"Usage: ./{PROGRAM} [OPTIONS]" if PROGRAM else None)
def notebooks(
    *,
    preset: Annotated[str, about("what to run on; --list shows the presets")] = "quick",
    only: Annotated[str | None, about("notebooks to run, like 1,3 (default: all)")] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    seeds: Annotated[Whole | None, about("number of seeds (default: the preset's)")] = None,
    data_dir: DataDir = None,
    values: Annotated[
        tuple[str, ...],
        about("another parameter, e.g. strategies=margin,bait; repeatable", name="--set", metavar="NAME=VALUE"),
    ] = (),
    plugin: Plugins = (),
    listed: Annotated[bool, about("list notebooks and presets, and stop", name="--list")] = False,
    dry_run: Annotated[bool, about("say what would run, and stop")] = False,
    fresh: Annotated[bool, about("compute every run anew")] = False,
    check: Annotated[bool, about("execute nothing, list what was published and is stale, and stop")] = False,
    strict: Annotated[bool, about("with --check: stale figures of long presets fail, too")] = False,
) -> int:
    """Execute the notebooks of the papers and regenerate their figures and tables."""
    root = _project_root()
    if strict and not check:
        raise ValueError("--strict is given without --check, which it belongs to")
    if check:
        from dal_lab.companion import freshness

        return freshness.check(root, strict=strict)
    from dal_core.checks import check_choice
    from dal_core.devices import resolve_device
    from dal_lab import plugins
    from dal_lab.companion import notebooks
    from dal_lab.companion.parameters import check_values, from_texts

    found = notebooks.find(root / "notebooks")
    if listed:
        print("notebooks (--only)", *(f"  {each.number}  {each.title}" for each in found), sep="\n")
        print("presets (--preset)", *(f"  {name:6} {what}" for name, what in notebooks.PRESETS.items()), sep="\n")
        return 0
    check_choice("--preset", preset, notebooks.PRESETS)
    warn_of_unseen_card(device)
    resolve_device(device)
    if data_dir is not None and not data_dir.is_dir():
        raise ValueError(f"--data-dir is {data_dir}; an existing folder was expected")
    where = None if data_dir is None else str(data_dir.resolve())
    given = {"device": device, "fresh": fresh, "jobs": jobs, "seeds": seeds, "data_dir": where}
    given["results_dir"] = str(root / "results")
    parameters = {name: value for name, value in given.items() if value is not None}
    plugins.pass_on(plugin)
    chosen = notebooks.choose(found, only)
    if values:
        defaults = {name: text for each in chosen for name, text in each.parameters().items()}
        parameters |= from_texts(named(values, "--set"), defaults)
    check_values(parameters)
    executed = Path(str(parameters["results_dir"])) / "notebooks"
    to = {"executed": executed, "figures": Path(str(parameters.get("output_dir") or root / "figures"))}
    if dry_run:
        print(*notebooks.planned(chosen, preset=preset, parameters=parameters, **to), sep="\n")
        return 0
    return 0 if notebooks.run_all(chosen, preset=preset, parameters=parameters, **to) else RUN_FAILED


@app.command
def publish() -> None:
    """For maintainers: put executed outputs into notebooks/*.ipynb and measured numbers into README.md and docs/."""
    from dal_lab.companion.readme import publish_notebooks, render_documents

    root = _project_root()
    for path in publish_notebooks(root / "notebooks", root / "results" / "notebooks" / "quick"):
        print(f"outputs put into {path}")
    for path in render_documents(root):
        print(f"numbers put into {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Faults of the caller are one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # What a terminal cannot write never costs a result.
            stream.reconfigure(errors="replace")
    os.environ["MPLBACKEND"] = "agg"  # Figures go into files; a user's choice may need a display.
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning  # type: ignore[assignment]
            given = sys.argv[1:] if arguments is None else arguments
            if not given:
                raise ValueError(f"a COMMAND is missing; dal knows {_known(())}")
            code = app(given, exit_on_error=False, print_error=False, result_action="return_value") or 0
            print(end="", flush=True)  # A disk that is full behind the output is found out here.
            return code
    except CycloptsError as error:
        return _complain(_about_usage(error))
    except BrokenPipeError:  # Whoever read the output stopped; the program ends quietly.
        raise
    except RuntimeError as error:
        from dal_lab.runs.failures import RunError, RunRefusedError

        if not isinstance(error, RunError):
            raise
        print(f"error: {error}", file=sys.stderr)  # a line for each kind of failure
        return USAGE_ERROR if isinstance(error, RunRefusedError) else RUN_FAILED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # what rich, which prints the help, makes of a closed pipe
            raise
        return _complain(f"SystemExit: {error}; a strategy or a library ended the program")
    except (ValueError, OSError) as error:
        return _complain(error)
    except KeyboardInterrupt as stop:
        print(str(stop) or STOPPED, file=sys.stderr)
        return INTERRUPTED


def _print_json(found: Any) -> None:
    import json

    print(json.dumps(found, indent=2, ensure_ascii=False))


def _print_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print a warning as a line for readers, without the place in the code; those for developers are left out."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _complain(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return USAGE_ERROR


def _about_usage(error: CycloptsError) -> str:
    """Return what is wrong, and for what is unknown the options or commands that there are."""
    chain, text = error.command_chain or (), str(error).partition(" Available commands:")[0]
    if isinstance(error, UnusedCliTokensError):
        text = f"Unknown: {' '.join(error.unused_tokens or ())}."
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    called = f"./{PROGRAM}" if PROGRAM else " ".join(("dal", *chain))
    known = f" {called} knows {_known(chain)}" if text.startswith("Unknown") else ""
    return f"{text[:1].lower()}{text[1:]}{known}"


def _known(chain: Sequence[str]) -> str:
    """Return the commands, or the options of one."""
    if not chain:
        return ", ".join(each for each in app if not each.startswith("-"))
    options = app[chain[0]].assemble_argument_collection(default_parameter=app.default_parameter)
    return ", ".join(name for each in options for name in each.names if name.startswith("--")) or "--help"


def _learning_curves(setup: Setup, strategies: Sequence[str], runs: Runs, output_dir: Path | None = None) -> Any:
    """Return a grid and its rows; with --dry-run None in place of the rows, and the plan is printed."""
    from dal_core.checks import check_whole

    check_places(results_dir=runs.results_dir, output_dir=output_dir)
    check_whole("--seeds", runs.seeds, 1)
    experiments = setup.experiments(strategies, range(runs.seeds))
    grid = runs.grid(setup.data_dir, [] if output_dir is None else [output_dir])  # A report's runs lie beside it.
    if runs.dry_run:
        from dal_lab.runs.plan import query_lines

        plan = grid.plan(experiments)
        print(*plan.lines(), *query_lines(experiments, setup.data_dir, plan.side_by_side), sep="\n")
        return grid, None
    return grid, grid.rows(experiments, "learning curves")


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
