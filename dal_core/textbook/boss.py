"""BoSS (Huseljic et al., arXiv 2603.13109): the batch is bought after which a head has the smallest loss."""

import torch
from torch import Tensor

from dal_core.snapshot import Truth
from dal_core.textbook.training import retrain


def judge(snapshot: Truth, candidates: Tensor, epochs: int, seed: int, loss: str = "zero_one") -> Tensor:
    """Return the test loss after each candidate batch, a head after another, each trained on its true labels.  [t]"""
    assert snapshot.test is not None
    losses = []
    for batch in candidates:
        weight, bias = retrain(snapshot, batch, epochs, seed)
        losses.append(mean_loss(snapshot.test.inputs() @ weight.T + bias, snapshot.test.labels, loss))
    return torch.stack(losses)


def mean_loss(logits: Tensor, labels: Tensor | None, loss: str) -> Tensor:
    """Return the mean loss; without labels with each class as probable as the logits have it."""
    p, classes = logits.softmax(dim=1), torch.eye(logits.shape[1], dtype=logits.dtype)
    if loss == "zero_one":
        of_class = 1 - classes[p.argmax(dim=1)]  # [n, k], the loss of an instance if it were of the class
    elif loss == "cross_entropy":
        of_class = -logits.log_softmax(dim=1)
    else:  # Brier
        of_class = torch.stack([(p - true).square().sum(dim=1) for true in classes], dim=1)
    shares = p if labels is None else classes[labels]
    return (shares * of_class).sum(dim=1).mean()
