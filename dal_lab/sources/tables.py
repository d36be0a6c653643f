"""Feature banks from arrays, and the split of data sets that come in one piece."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from dal_core.data import FeatureBank

TEST_SHARE = 0.25
STRATIFIED = "stratified 75/25, seed 0"  # The provenance of data that `in_two` splits by class.

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train, test, train labels, test labels


def bank(parts: Parts, class_names: Iterable[object], **provenance: Any) -> FeatureBank:
    """Return a FeatureBank of float32 features and int64 labels."""
    train, test = (torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in parts[:2])
    train_labels, test_labels = (torch.as_tensor(np.asarray(part, dtype=np.int64)) for part in parts[2:])
    return FeatureBank(train, train_labels, test, test_labels, tuple(map(str, class_names)), provenance)


def in_two(features: np.ndarray, labels: np.ndarray, *, stratify: bool) -> Parts:
    """Split instances into 75 % for the train split and 25 % for the test split, with seed 0."""
    return tuple(
        train_test_split(features, labels, test_size=TEST_SHARE, random_state=0, stratify=labels if stratify else None)
    )


def standardised(features: np.ndarray, names: np.ndarray, source: str) -> FeatureBank:
    """Return a bank of numeric features that are split 75/25 and have mean 0 and deviation 1 on the train split.

    A feature that is constant on the train split is only centred.
    """
    class_names, labels = np.unique(names, return_inverse=True)
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
