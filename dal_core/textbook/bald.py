"""BALD (Houlsby et al. 2011, arXiv 1112.5745)."""

from collections.abc import Iterable

import torch
from torch import Tensor


def mutual_information(predictions: Iterable[Tensor]) -> Tensor:
    """Return H[E p] - E H[p] in nats (equation 2), of the probabilities [n, k] that each hypothesis predicts.  [n]"""
    total, entropies, count = torch.zeros(()), torch.zeros(()), 0
    for p in predictions:
        total, entropies, count = total + p, entropies + torch.special.entr(p).sum(dim=1), count + 1
    return torch.special.entr(total / count).sum(dim=1) - entropies / count
