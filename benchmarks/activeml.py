"""The strategies of scikit-activeml, asked for the same pool; they are published by some of the papers' authors.

Only the benchmarks and a test use it. It keeps all instances in one array with NaN for unknown labels; here the
unlabelled ones come first, so that its answers are positions in the pool. Its classifier is replaced by our head.
"""

import warnings
from typing import Any

import numpy as np
import torch
from skactiveml.base import SingleAnnotatorPoolQueryStrategy, SkactivemlClassifier

from dal_core.snapshot import Snapshot


class FixedHead(SkactivemlClassifier):
    """A linear head that is trained already."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, classes: list[int]) -> None:
        super().__init__(classes=classes)
        self.weight, self.bias = weight, bias

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> "FixedHead":  # noqa: ARG002
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return torch.from_numpy(X @ self.weight.T + self.bias).softmax(dim=1).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.predict_proba(X).argmax(axis=1)


def query(
    strategy: SingleAnnotatorPoolQueryStrategy,
    at: Snapshot,
    batch_size: int,
    *,
    normalised: bool = False,
    **arguments: Any,
) -> Any:
    """Return what the strategy answers for the snapshot's pool; with `normalised` for features of length 1."""
    features = torch.cat((at.features, at.labelled_features))
    X = (torch.nn.functional.normalize(features, dim=1) if normalised else features).numpy()
    y = np.concatenate((np.full(len(at.features), np.nan), at.labels.numpy()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The maximum purity")  # of a given radius, which it does not compute
        return strategy.query(X, y, batch_size=batch_size, **arguments)


def with_head(at: Snapshot) -> dict[str, Any]:
    """Return the arguments of `query` for a strategy that looks at predictions."""
    assert at.bias is not None
    head = FixedHead(at.weight.numpy(), at.bias.numpy(), list(range(at.num_classes)))
    return {"clf": head, "fit_clf": False}
