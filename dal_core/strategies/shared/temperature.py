"""The temperature at which a head's confidence fits its accuracy, for strategies that weigh by uncertainty."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_finite, check_labels, check_shape
from dal_core.metrics import CALIBRATION_BINS
from dal_core.models.heads import Head
from dal_core.models.training import train_head
from dal_core.randomness import choose
from dal_core.snapshot import Snapshot
from dal_core.strategies.shared.clustering import first_of_smallest

BLOCK_BYTES = 64 * 2**20  # of scaled logits held at a time
TEMPERATURES = torch.arange(10, 201, dtype=torch.float64) / 10  # 1.0, 1.1, ..., 20.0


def held_out_temperature(snapshot: Snapshot, generator: torch.Generator) -> float:
    """The temperature that calibrates a last layer on a fifth of the labelled instances that it was not trained on.

    The layer starts from new weights and is trained on the other four fifths as the head was. 1 where fewer than 5
    instances are labelled.
    """
    features, labels = snapshot.labelled_features, snapshot.labels
    if len(labels) < 5:
        return 1.0
    order = choose(len(labels), len(labels), generator).to(features.device)
    held_out, rest = order[: len(labels) // 5], order[len(labels) // 5 :]
    initial = Head.initial(
        "linear", features.shape[1], snapshot.num_classes, generator, dtype=features.dtype, device=features.device
    )
    head = train_head(initial, features, labels, rest, snapshot.training, generator)
    return calibrating_temperature(head.logits(features[held_out]), labels[held_out])


def calibrating_temperature(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], temperatures: Float[Tensor, " t"] = TEMPERATURES
) -> float:
    """Of `temperatures` the one with the smallest expected calibration error of softmax(logits / T).

    The error is `metrics.ece`'s, here for all temperatures at once: the predicted class does not depend on T, and its
    confidence is 1 / sum_k exp((logit_k - logit_max) / T). O(n k t) time, in float64 and in blocks. Ties go to the
    temperature named first.

    Raises:
        ValueError: if there are no samples, or the arguments do not fit each other.
    """
    check_shape("labels", labels, (len(logits),))
    check_labels("labels", labels, logits.shape[1])
    check_finite(logits=logits)
    if len(logits) == 0:
        raise ValueError("logits is empty; at least one sample was expected")
    highest, prediction = logits.double().max(dim=1, keepdim=True)
    below = logits.double() - highest  # [n, k]
    right = (prediction.squeeze(1) == labels).double()
    inverse = 1 / temperatures.double().to(logits.device).view(-1, 1, 1)
    gaps = below.new_zeros(len(temperatures), CALIBRATION_BINS)  # n_bin (accuracy - confidence)
    rows = max(1, BLOCK_BYTES // (8 * len(temperatures) * logits.shape[1]))
    for start in range(0, len(logits), rows):
        confidence = 1 / (below[start : start + rows] * inverse).exp_().sum(dim=-1)  # [t, r]
        index = (confidence * CALIBRATION_BINS).long().clamp_(max=CALIBRATION_BINS - 1)
        gaps.scatter_add_(1, index, right[start : start + rows] - confidence)
    errors = gaps.abs().sum(dim=1) / len(logits)
    return float(temperatures[int(first_of_smallest(errors, errors.new_tensor(1e-12)))])
