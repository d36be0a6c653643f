"""The parameters of the notebooks: what each of them may be, wherever it is set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dal_core.checks import check_choice, check_flag, check_text, check_whole
from dal_core.devices import DEVICES
from dal_lab.checks import check_names


def check_values(parameters: Mapping[str, Any]) -> None:
    """Refuse a value that a parameter of the notebooks cannot have: "3" seeds, or `fresh = "no"`, which is true.

    Whatever else `parameters` holds is left alone, so that a notebook can hand in `globals()`. Whether names exist is
    for the notebook to say, which knows its data sets and strategies.

    Raises:
        ValueError: naming the parameter, what was found and what was expected.
    """
    for name, check in CHECKS.items():
        if name in parameters:
            check(name, parameters[name])


def _number(name: str, value: object) -> None:
    if value is not None:
        check_whole(name, value, 1)


def _names(name: str, value: object) -> None:
    check_names(name, value)


def _names_or_none(name: str, value: object) -> None:
    if value is not None:
        check_names(name, value)


def _any_names(name: str, value: object) -> None:
    check_names(name, value, fewest=0)


def _device(name: str, value: object) -> None:
    check_choice(name, value, DEVICES)


def _folder(name: str, value: object) -> None:
    if value is not None:
        check_text(name, str(value) if isinstance(value, Path) else value)


CHECKS: dict[str, Callable[[str, object], None]] = {
    "preset": check_text,
    "seeds": _number,
    "jobs": _number,
    "num_candidates": _number,
    "datasets": _names_or_none,
    "encoders": _names,
    "strategies": _names,
    "oracles": _any_names,
    "ensembles": _any_names,
    "device": _device,
    "data_dir": _folder,
    "output_dir": _folder,
    "results_dir": _folder,
    "fresh": check_flag,
}
