"""Options that several commands have, a dataclass a group, and what they become: experiments and a grid.

Nothing that takes long to import, such as torch, is imported before a command begins.
"""

import ast
import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter


def about(text: str, **more: Any) -> Parameter:
    """Return the help of an option."""
    return Parameter(help=" ".join(text.split()), **more)


def whole(_: Any, tokens: Sequence[Any]) -> int:
    """Return a whole number; cyclopts would round 2.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


def sizes(_: Any, tokens: Sequence[Any]) -> int | tuple[int, ...]:
    """Return a whole number, or several that commas separate."""
    try:
        first, *others = map(int, tokens[0].value.split(","))
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number, nor a list of them like 10,20,40") from None
    return (first, *others) if others else first


Whole = Annotated[int, Parameter(converter=whole)]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]
Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=(1, None), metavar="FILE")]
Sizes = Annotated[int | tuple[int, ...], Parameter(converter=sizes, n_tokens=1, metavar="N[,N...]")]
Device = Annotated[str, about("auto, cpu, cuda or mps")]
DataDir = Annotated[Path | None, about("folder with local data files")]
Jobs = Annotated[Whole | None, about("processes that compute side by side (default: one a core)")]
ResultsDir = Annotated[Path, about("where runs are kept")]
Plugins = Annotated[tuple[Path, ...], about("Python file that registers own strategies; repeatable", metavar="FILE")]
RESULTS = Path("results")
OPTION = """\
of the strategy; of the training: epochs, learning_rate, weight_decay, drop_last, training_batch_size; of updates within
a batch: update_every, update_gamma, update_likelihood, update_prior_precision; of the protocol: initial, share,
imbalance, validation_size; repeatable"""


@Parameter(name="*", group=Group("What is computed", sort_key=1))
@dataclasses.dataclass(frozen=True)
class Setup:
    """Data, model and protocol, with the defaults of an Experiment."""

    dataset: Annotated[Names, about("names of data sets (default: digits)")] = ()
    features: Annotated[Files, about("own features: .safetensors, .npz, .parquet or .csv")] = ()
    encoder: Annotated[str | None, about("what turns images, texts or sounds into features")] = None
    initial_size: Annotated[Whole, about("instances labelled at the start")] = 10
    batch_size: Annotated[Sizes, about("instances bought in a cycle; 10,20,40: in each of three cycles")] = 10
    cycles: Annotated[Whole, about("number of acquisitions")] = 20
    subset_size: Annotated[str, about("the strategy sees so many instances, or `all`", metavar="N|all")] = "1000"
    head: Annotated[str, about("linear or mlp")] = "linear"
    optimiser: Annotated[
        str, about("sgd (BoSS, REFINE) or radam (Laplace updates, Fast Fishing), with the training of those papers")
    ] = "sgd"
    device: Device = "auto"
    allow_oracle: Annotated[bool, about("allow a strategy that looks at true labels")] = False
    standardise: Annotated[bool, about("give features mean 0 and deviation 1 on the train split")] = False
    option: Annotated[tuple[str, ...], about(OPTION, metavar="NAME=VALUE")] = ()
    data_dir: DataDir = None
    plugin: Plugins = ()

    def experiments(self, strategies: Sequence[str], seeds: Iterable[int]) -> list[Any]:
        """Return an Experiment for each data set, strategy and seed."""
        from dal_lab.plugins import load_plugins
        from dal_lab.runs.settings import experiment_of
        from dal_lab.sources.catalogue import read_features

        load_plugins(self.plugin)
        warn_of_unseen_card(self.device)
        for path in self.features:
            read_features(path)  # refuses what is no such file, and could be taken for a name
        subset = self.subset_size
        if subset != "all" and (not subset.isdecimal() or len(subset) > 18):
            raise ValueError(f"--subset-size is {subset[:20]!r}; a whole number or 'all' was expected")
        others = ("dataset", "features", "option", "data_dir", "plugin")
        given: dict[str, Any] = {name: value for name, value in vars(self).items() if name not in others}
        given |= {"subset_size": None if subset == "all" else int(subset), "options": named(self.option, "--option")}
        data = [*self.dataset, *map(str, self.features)] or ["digits"]
        runs = itertools.product(data, strategies, seeds)
        return [experiment_of(name, strategy=strategy, seed=seed, **given) for name, strategy, seed in runs]


@Parameter(name="*", group=Group("How runs are computed and kept", sort_key=2))
@dataclasses.dataclass(frozen=True)
class Runs:
    """How many runs, and where; the defaults are those of a Grid."""

    seeds: Annotated[Whole, about("number of seeds, 0 to N-1")] = 3
    results_dir: ResultsDir = RESULTS
    jobs: Jobs = None
    dask: Annotated[str | None, about("compute on the Dask cluster with this address, e.g. tcp://host:8786")] = None
    slurm: Annotated[
        str | None,
        about("compute on workers that Slurm starts, e.g. cores=4,memory=16GB,jobs=10", metavar="NAME=VALUE,..."),
    ] = None
    dry_run: Annotated[bool, about("say what is stored and what would run, and stop")] = False
    fresh: Annotated[bool, about("compute all runs anew, once, stored or not")] = False

    def grid(self, data_dir: Path | None, committed: Sequence[Path] = ()) -> Any:
        """Return a Grid; runs in the folders `committed` are finished, too."""
        from dal_lab.runs.grid import Grid

        slurm = None if self.slurm is None else named(self.slurm.split(","), "--slurm")
        return Grid(self.results_dir, self.jobs, data_dir, self.fresh, self.dask, slurm, committed)


def named(texts: Sequence[str], argument: str) -> dict[str, Any]:
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


def check_places(**folders: Path | None) -> None:
    """Refuse places to write to that cannot be folders, before anything is computed."""
    from dal_lab.checks import check_folder

    for name, folder in folders.items():
        if folder is not None:
            check_folder(f"--{name.replace('_', '-')}", folder)


def warn_of_unseen_card(device: str) -> None:
    """Warn where a command would compute on an NVIDIA card, and torch cannot use the one that is there."""
    from dal_lab.nvidia import unseen_card

    if device in ("auto", "cuda") and (line := unseen_card()):
        warnings.warn(line, stacklevel=2)
