"""FeatureBanks as files: one safetensors file each, with class names, provenance and digest in its header."""

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dal_core.checks import printable, shown
from dal_core.data import FeatureBank
from dal_lab.runs.files import is_file, write_atomically
from dal_lab.sources.raw import restated

FORMAT = "dal_core.FeatureBank.1"


def save_bank(bank: FeatureBank, path: str | Path) -> None:
    """Write the bank as one safetensors file."""
    header = {
        "format": FORMAT,
        "class_names": json.dumps(bank.class_names),
        "provenance": json.dumps(bank.provenance, sort_keys=True),
        "digest": bank.digest,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in bank.tensors().items()}
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_bank(path: str | Path) -> FeatureBank:
    """Read a bank that `save_bank` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a whole, unchanged FeatureBank.
    """
    place = printable(path)
    if not is_file(path):
        raise FileNotFoundError(f"no feature file at {place}")
    with (
        restated(SafetensorError, f"{place} is not a whole safetensors file: "),
        restated(ValueError, f"{place}: ", places=[place]),
    ):
        return _read(str(path), place)


def _read(path: str, place: str) -> FeatureBank:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError(f"{place} has format {shown(header.get('format'))}; {FORMAT!r} was expected")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if missing := [name for name in ("class_names", "provenance", "digest") if name not in header]:
        raise ValueError(f"{place} is damaged: its header lacks {', '.join(missing)}")
    expected = {field.name for field in dataclasses.fields(FeatureBank)} - {"class_names", "provenance"}
    if set(tensors) != expected:
        raise ValueError(f"{place} holds the arrays {shown(sorted(tensors))}; {sorted(expected)} were expected")
    with restated((ValueError, RecursionError), f"{place} is damaged: its header is not whole JSON: "):
        names, provenance = json.loads(header["class_names"]), json.loads(header["provenance"])
    bank = FeatureBank(**tensors, class_names=tuple(names) if isinstance(names, list) else names, provenance=provenance)
    if bank.digest != header["digest"]:
        raise ValueError(f"{place} is damaged: its arrays do not have the digest that its header states")
    return bank
