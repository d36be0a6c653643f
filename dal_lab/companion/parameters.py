"""The parameters of the notebooks, and what each of them may be."""

import ast
import itertools
from collections.abc import Callable, KeysView, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dal_core.checks import check_choice, check_flag, check_text, check_whole
from dal_core.devices import DEVICES
from dal_lab.checks import check_names
from dal_lab.plugins import load_plugins

OPTIONS = ("preset", "jobs", "seeds", "device", "data_dir", "fresh")  # of the command, for these parameters


def check_values(parameters: Mapping[str, Any]) -> None:
    """Refuse a value that a parameter of the notebooks cannot have: "3" seeds, or `fresh = "no"`, which is true.

    Whatever else `parameters` holds is left alone, so that a notebook can hand in `globals()`. Whether names exist is
    for the notebook to say, which knows its data sets and strategies. A name that papermill was called with and that
    the parameters cell lacks is refused, where papermill only warns.

    Raises:
        ValueError: naming the parameter, what was found and what was expected.
    """
    load_plugins()  # A notebook calls this first, and its strategies may be own ones.
    cells = parameters.get("In", [])  # Of a notebook; papermill's own follows that of the parameters.
    for offered, given in itertools.pairwise(cells):
        if given.startswith("# Parameters\n") and (unknown := _assigned(given) - _assigned(offered)):
            raise ValueError(
                f"there is no parameter {', '.join(sorted(unknown))}; there is {', '.join(_assigned(offered))}"
            )
    for name in (name for name in CHECKS if name in parameters):
        value = parameters[name]
        if value is not None or name not in OPTIONAL:
            CHECKS[name](name, str(value) if name.endswith("_dir") and isinstance(value, Path) else value)


def from_texts(given: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters as the notebooks take them: a text, or texts between commas, is a list where they have one.

    `defaults` are the texts of all defaults, by the parameter's name.

    Raises:
        ValueError: for a name that is not among the defaults, with those that are, or that an option is there for.
    """
    for name in given:
        if name in OPTIONS:
            raise ValueError(f"--set {name} is given; the option --{name.replace('_', '-')} was expected")
        check_choice("the name in --set", name, sorted(defaults.keys() - set(OPTIONS)))
    lists = {name for name, default in defaults.items() if default[:1] == "[" or default == "None"}
    return {
        name: value.split(",") if isinstance(value, str) and name in lists and not name.endswith("_dir") else value
        for name, value in given.items()
    }


def _assigned(cell: str) -> KeysView[str]:
    """Return the names that the code of a cell assigns, in order."""
    targets = [target for node in ast.parse(cell).body if isinstance(node, ast.Assign) for target in node.targets]
    return dict.fromkeys(target.id for target in targets if isinstance(target, ast.Name)).keys()


OPTIONAL = ("seeds", "jobs", "num_candidates", "datasets", "data_dir", "output_dir", "results_dir")  # may be None
CHECKS: dict[str, Callable[[str, Any], None]] = {
    "preset": check_text,
    **dict.fromkeys(("seeds", "jobs", "num_candidates"), partial(check_whole, lowest=1)),
    **dict.fromkeys(("datasets", "encoders", "strategies"), check_names),
    **dict.fromkeys(("oracles", "ensembles"), partial(check_names, fewest=0)),
    "device": partial(check_choice, choices=DEVICES),
    **dict.fromkeys(("data_dir", "output_dir", "results_dir"), check_text),
    "fresh": check_flag,
}
