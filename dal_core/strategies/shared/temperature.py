"""The temperature at which a head's confidence fits its accuracy, for strategies that weigh by uncertainty."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Below, Fewest, checked
from dal_core.data import FeatureData
from dal_core.metrics import CALIBRATION_BINS
from dal_core.models.learners import Linear
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.shared.clustering import first_of_smallest
from dal_core.task import Classification

TEMPERATURES = torch.arange(10, 201, dtype=torch.float64) / 10  # 1.0, 1.1, ..., 20.0


@checked
def held_out_temperature(snapshot: Snapshot, generator: torch.Generator) -> float:
    """Return the temperature that calibrates a model on a fifth of the labelled that it was not trained on.

    The run's learner fits it anew on the other four fifths, hidden layers, too, from weights of its own; without a
    learner that is a linear head. 1 where fewer than 5 instances are labelled.
    """
    features, labels = snapshot.labelled_features, snapshot.labels
    if len(labels) < 5:
        return 1.0
    order = choose(len(labels), len(labels), generator).to(features.device)
    count = len(labels) // 5
    held_out, rest = order[:count], order[count:]
    learner = getattr(snapshot, "learner", None)
    if learner is None:
        data, learner = FeatureData(features), Linear()
    else:
        data, held_out, rest = snapshot.data, snapshot.labelled[held_out], snapshot.labelled[rest]
    (model,) = learner.fit(
        Classification(snapshot.num_classes), data, [rest], [labels[order[count:]]], [lambda _: generator]
    )
    logits = model.outputs(data.inputs(held_out)).logits
    assert logits is not None, "a classifier gives logits"
    return calibrating_temperature(logits, labels[order[:count]])


@checked
def calibrating_temperature(
    logits: Annotated[Float[Tensor, "n k"], Fewest("n", 1, "samples"), Fewest("k", 2, "classes")],
    labels: Annotated[Int[Tensor, " n"], Below("k")],
) -> float:
    """Return the one of `TEMPERATURES` with the smallest expected calibration error of softmax(logits / T).

    The error is `metrics.ece`'s, here for all temperatures at once: the predicted class does not depend on T, and its
    confidence is 1 / sum_k exp((logit_k - logit_max) / T). O(n k t) time, in float64 and in blocks. Ties go to the
    lowest temperature.

    >>> calibrating_temperature(torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1]))
    3.6
    """
    highest, prediction = logits.double().max(dim=1, keepdim=True)
    below = logits.double() - highest  # [n, k]
    right = (prediction.squeeze(1) == labels).double()
    inverse = 1 / TEMPERATURES.to(logits.device).view(-1, 1, 1)
    gaps = below.new_zeros(len(TEMPERATURES), CALIBRATION_BINS)  # n_bin (accuracy - confidence)
    for block in blocks(len(logits), 8 * len(TEMPERATURES) * logits.shape[1]):
        confidence = 1 / (below[block] * inverse).exp_().sum(dim=-1)  # [t, r]
        index = (confidence * CALIBRATION_BINS).long().clamp_(max=CALIBRATION_BINS - 1)
        gaps.scatter_add_(1, index, right[block] - confidence)
    errors = gaps.abs().sum(dim=1) / len(logits)
    return float(TEMPERATURES[int(first_of_smallest(errors, 1e-12))])
