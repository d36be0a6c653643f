"""Makes what the cases are measured on: features clustered by class, and a head that was trained on some of them.

Axes: n pool, m labelled, k classes, d features.
"""

import dataclasses
import math

import torch
from torch import Tensor

from dal_core.models.heads import Head
from dal_core.models.training import Training, train_head
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot, Truth

NUM_FEATURES, NUM_CLASSES = 384, 77


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of what a case is measured on: unlabelled and labelled instances, batch, classes, features, test set."""

    n: int
    m: int
    b: int
    k: int = NUM_CLASSES
    d: int = NUM_FEATURES
    test: int = 0

    def fitted(self, *, small: bool) -> "Size":
        """Return itself, or with `small` no larger than what is done in a moment."""
        if not small:
            return self
        return Size(*(min(mine, few) for mine, few in zip(dataclasses.astuple(self), FEW, strict=True)))

    def snapshot(self, dtype: torch.dtype = torch.float32) -> Snapshot:
        return snapshot(self.n, self.m, num_classes=self.k, num_features=self.d, dtype=dtype)


FEW = (150, 70, 5, 6, 12, 40)  # more labelled than a minibatch, which is dropped where it is incomplete


def clustered(
    num_samples: int,
    generator: torch.Generator,
    *,
    num_classes: int = NUM_CLASSES,
    num_features: int = NUM_FEATURES,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Return features [n, d] around a centre a class, of length sqrt(d) as a layer norm leaves them, and labels [n]."""
    centres = torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    features = torch.randn(num_samples, num_features, generator=generator, dtype=dtype)
    features.mul_(1.5).add_(centres[labels])  # in place: a case measures the largest memory of its process
    features.mul_(math.sqrt(num_features) / torch.linalg.vector_norm(features, dim=1, keepdim=True))
    return features, labels


def snapshot(
    num_pool: int,
    num_labelled: int,
    *,
    num_classes: int = NUM_CLASSES,
    num_features: int = NUM_FEATURES,
    dtype: torch.dtype = torch.float32,
) -> Snapshot:
    """Return a pool of clustered features, and a linear head trained on `num_labelled` others."""
    features, labels = clustered(
        num_labelled + num_pool, generator_for(0, "features"),
        num_classes=num_classes, num_features=num_features, dtype=dtype,
    )  # fmt: skip
    start = Head.initial("linear", num_features, num_classes, generator_for(0, "head"), dtype=dtype)
    indices = torch.arange(num_labelled)
    head = train_head(start, features, labels, indices, Training("sgd"), generator_for(0, "minibatches"))
    return Snapshot.of(
        features, head.logits(features), labelled=indices, labels=labels[indices], weight=head.weight, bias=head.bias
    )  # type: ignore[return-value]


def oracle_snapshot(size: Size) -> Truth:
    """Return a snapshot half way through a run with true labels and a test set, in float32."""
    features, labels = clustered(
        size.m + size.n + size.test, generator_for(0, "features"), num_classes=size.k, num_features=size.d
    )
    (known, pool, test), (known_labels, hidden, test_labels) = (
        each.split([size.m, size.n, size.test]) for each in (features.float(), labels)
    )
    initial = Head.initial("linear", size.d, size.k, generator_for(0, "head"))
    everything = torch.arange(size.m)
    head = train_head(initial, known, known_labels, everything, Training("sgd"), generator_for(0, "minibatches"))
    both = torch.cat((known, pool))
    return Snapshot.of(
        both, head.logits(both), labelled=everything, labels=known_labels, weight=head.weight, bias=head.bias,
        hidden_labels=hidden, test=(test, test_labels),
    )  # type: ignore[return-value]  # fmt: skip


def in_float64(whole: Snapshot, num_pool: int) -> Snapshot:
    """Return the first samples of the pool, in float64: for picks that rounding does not decide."""
    part = whole.at(torch.arange(min(num_pool, len(whole.features))))
    floats = {
        name: each.double()
        for name, each in vars(part).items()
        if torch.is_tensor(each) and each.dtype.is_floating_point
    }
    return dataclasses.replace(part, **floats)


def forgotten(at: Snapshot) -> Snapshot:
    """Return `at` without the probabilities that the first query leaves in it: each query measured is the first one."""
    vars(at).pop("probabilities", None)
    return at


def size_of(at: Snapshot, batch_size: int) -> str:
    """Return the size column of the table."""
    (n, d), k, m = at.features.shape, at.num_classes, len(at.labels)
    return f"n={n:,}, m={m}, b={batch_size}, d={d}, k={k}, {str(at.features.dtype).removeprefix('torch.')}"
