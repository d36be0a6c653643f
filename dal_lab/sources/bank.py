"""FeatureBanks from arrays, and as files: safetensors, with class names, provenance and digest in the header."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split

from dal_core.checks import printable, shown
from dal_core.data import FeatureBank
from dal_lab.runs.files import is_file, write_atomically
from dal_lab.sources.raw import restated

FORMAT = "dal_core.FeatureBank.1"
TEST_SHARE = 0.25
STRATIFIED = "stratified 75/25, seed 0"  # The provenance of data that `in_two` splits by class,
A_CLASS_EACH = "stratified, as many for the test as there are classes, seed 0"  # and where a quarter is too few.

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train, test, train labels, test labels


def bank(parts: Parts, class_names: Iterable[object], **provenance: Any) -> FeatureBank:
    """Return a FeatureBank of float32 features and int64 labels."""
    train, test = (torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in parts[:2])
    train_labels, test_labels = (torch.as_tensor(np.asarray(part, dtype=np.int64)) for part in parts[2:])
    return FeatureBank(train, train_labels, test, test_labels, tuple(map(str, class_names)), provenance)


def in_two(features: np.ndarray, labels: np.ndarray, *, stratify: bool) -> Parts:
    """Split instances into 75 % for the train split and 25 % for the test split, with seed 0.

    By class the test split is no smaller than the number of classes; each of them has to have two instances.
    """
    fewest = len(np.unique(labels)) if stratify else 0
    size = fewest if fewest > math.ceil(TEST_SHARE * len(labels)) else TEST_SHARE
    return tuple(
        train_test_split(features, labels, test_size=size, random_state=0, stratify=labels if stratify else None)
    )


def standardised(features: np.ndarray, names: np.ndarray, source: str, *, sort_rows: bool = False) -> FeatureBank:
    """Return a bank of numeric features that are split 75/25 and have mean 0 and deviation 1 on the train split.

    A feature that is constant on the train split is only centred. `sort_rows` sorts the instances by features and class
    before the split, so that it is the same whichever order a publisher has them in.
    """
    class_names, labels = np.unique(names, return_inverse=True)
    if sort_rows:
        order = np.lexsort((labels, *features.T[::-1]))  # The last key comes first.
        features, labels = features[order], labels[order]
    train, test, train_labels, test_labels = in_two(features, labels, stratify=False)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0] = 1
    parts = ((train - mean) / deviation, (test - mean) / deviation, train_labels, test_labels)
    scaling = "standardised on the train split"
    return bank(parts, class_names, source=source, split="75/25, seed 0", scaling=scaling)


def training_scale(features: torch.Tensor) -> float:
    """Return sqrt(d) for L2-normalised features, so that one learning rate suits all encoders, and 1 for others."""
    norms = features.norm(dim=1)
    return math.sqrt(features.shape[1]) if torch.allclose(norms, torch.ones_like(norms), atol=1e-2) else 1.0


def at_unit_length(bank: FeatureBank) -> FeatureBank:
    """Return a bank whose features have length 1, whatever they were multiplied by."""
    train, test = (torch.nn.functional.normalize(each, dim=1) for each in (bank.train_features, bank.test_features))
    provenance = bank.provenance | {"scaling": "length 1"}
    return dataclasses.replace(bank, train_features=train, test_features=test, provenance=provenance)


def save_bank(bank: FeatureBank, path: str | Path) -> None:
    """Write the bank as one safetensors file."""
    header = {
        "format": FORMAT, "digest": bank.digest, "class_names": json.dumps(bank.class_names),
        "provenance": json.dumps(bank.provenance, sort_keys=True),
    }  # fmt: skip
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
        safe_open(str(path), framework="pt") as file,
    ):
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
        names = tuple(names) if isinstance(names, list) else names
        bank = FeatureBank(**tensors, class_names=names, provenance=provenance)
        if bank.digest != header["digest"]:
            raise ValueError(f"{place} is damaged: its arrays do not have the digest that its header states")
        return bank
