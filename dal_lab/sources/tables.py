"""Feature banks from arrays, and the split of data sets that come in one piece."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from dal_core.data import FeatureBank

TEST_SHARE = 0.25

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # train, test, train labels, test labels


def bank(
    train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray,
    class_names: Iterable[object], **provenance: Any,
) -> FeatureBank:  # fmt: skip
    """A FeatureBank of float32 features and int64 labels."""
    return FeatureBank(
        torch.as_tensor(np.asarray(train, dtype=np.float32)),
        torch.as_tensor(np.asarray(train_labels, dtype=np.int64)),
        torch.as_tensor(np.asarray(test, dtype=np.float32)),
        torch.as_tensor(np.asarray(test_labels, dtype=np.int64)),
        tuple(str(name) for name in class_names),
        provenance,
    )


def in_two(features: np.ndarray, labels: np.ndarray, *, stratify: bool) -> Parts:
    """75 % for the train split, 25 % for the test split, seed 0."""
    return tuple(
        train_test_split(features, labels, test_size=TEST_SHARE, random_state=0, stratify=labels if stratify else None)
    )


def standardised(features: np.ndarray, names: np.ndarray, source: str) -> FeatureBank:
    """A bank of numeric features in one piece: split 75/25, scaled to mean 0 and deviation 1 on the train split.

    A feature that is constant on the train split is only centred.
    """
    class_names, labels = np.unique(names, return_inverse=True)
    train, test, train_labels, test_labels = in_two(features, labels, stratify=False)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation[deviation == 0] = 1
    return bank(
        (train - mean) / deviation, (test - mean) / deviation, train_labels, test_labels, class_names,
        source=source, split="75/25, seed 0", scaling="standardised on the train split",
    )  # fmt: skip


def training_scale(features: torch.Tensor) -> float:
    """sqrt(d) for L2-normalised features, so that one learning rate suits all encoders; 1 for others."""
    norms = features.norm(dim=1)
    return math.sqrt(features.shape[1]) if torch.allclose(norms, torch.ones_like(norms), atol=1e-2) else 1.0
