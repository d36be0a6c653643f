"""A batch with an update of the last layer after each pick (Huseljic et al. 2025)."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def margin_with_updates(
    features: Tensor, weight: Tensor, bias: Tensor | None, covariance: Tensor, labels: Tensor, batch_size: int,
    gamma: float,
) -> Tensor:  # fmt: skip
    """Pick by margin with a gaussian update after each pick, all logits anew from the updated weight."""
    picked: list[int] = []
    for _ in range(batch_size):
        top = (features @ weight.mT + (0 if bias is None else bias)).softmax(dim=1).topk(2, dim=1).values
        scores = 1 - (top[:, 0] - top[:, 1])
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        phi = features[picked[-1]]
        step = covariance @ phi
        covariance = covariance - torch.outer(step, step) / (1 + phi @ step)
        p = (weight @ phi + (0 if bias is None else bias)).softmax(dim=0)
        weight = weight + gamma * torch.outer(one_hot(labels[picked[-1]], len(weight)) - p, covariance @ phi)
    return torch.tensor(picked)
