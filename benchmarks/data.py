"""What the cases are measured on: features clustered by class, and a head that was trained on some of them.

Axes: n pool, m labelled, k classes, d features.
"""

import dataclasses
import math

import torch
from torch import Tensor

from dal_core.heads import PROTOCOLS, Head, train_head
from dal_core.pool import Snapshot
from dal_core.randomness import generator_for

NUM_FEATURES, NUM_CLASSES = 384, 77


def clustered(
    num_samples: int,
    generator: torch.Generator,
    *,
    num_classes: int = NUM_CLASSES,
    num_features: int = NUM_FEATURES,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Features [n, d] around a centre a class, of length sqrt(d) as a layer norm leaves them, and labels [n]."""
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
    """A pool of clustered features, and a linear head trained on `num_labelled` others."""
    features, labels = clustered(
        num_labelled + num_pool, generator_for(0, "features"),
        num_classes=num_classes, num_features=num_features, dtype=dtype,
    )  # fmt: skip
    start = Head.initial("linear", num_features, num_classes, generator_for(0, "head"), dtype=dtype)
    indices = torch.arange(num_labelled)
    head = train_head(start, features, labels, indices, PROTOCOLS["sgd"], generator_for(0, "minibatches"))
    known, unknown = features[:num_labelled], features[num_labelled:]
    return Snapshot(
        unknown, head.logits(unknown), known, head.logits(known), labels[:num_labelled], head.weight, head.bias
    )


def in_float64(whole: Snapshot, num_pool: int) -> Snapshot:
    """The first samples of the pool, in float64: for picks that rounding does not decide."""
    values = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    values |= {name: values[name][:num_pool] for name in ("features", "logits")}
    floats = {name: value.double() for name, value in values.items() if torch.is_tensor(value) and name != "labels"}
    return Snapshot(**(values | floats))


def size_of(at: Snapshot, batch_size: int) -> str:
    """The size column of the table."""
    (n, d), k, m = at.features.shape, at.num_classes, len(at.labels)
    return f"n={n:,}, m={m}, b={batch_size}, d={d}, k={k}, {str(at.features.dtype).removeprefix('torch.')}"
