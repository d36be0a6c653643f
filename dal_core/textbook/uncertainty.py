"""Uncertainty sampling (Lewis & Gale 1994; Scheffer et al. 2001; Settles 2009), one instance after another."""

import math

import torch
from torch import Tensor


def margin_scores(probabilities: Tensor) -> Tensor:
    """Return 1 - (p1 - p2) for the two most probable classes.  [n]"""
    ranked = [sorted(row, reverse=True) for row in probabilities.tolist()]
    return torch.tensor([1 - (row[0] - row[1]) for row in ranked], dtype=torch.float64)


def entropy_scores(probabilities: Tensor) -> Tensor:
    """Return the entropy in nats.  [n]"""
    rows = probabilities.tolist()
    return torch.tensor([-sum(p * math.log(p) for p in row if p > 0) for row in rows], dtype=torch.float64)


def least_confident_scores(probabilities: Tensor) -> Tensor:
    """Return 1 - p_max.  [n]"""
    return torch.tensor([1 - max(row) for row in probabilities.tolist()], dtype=torch.float64)


def highest(scores: Tensor, batch_size: int) -> Tensor:
    """Return the positions of the highest scores, best first; ties go to the lower position."""
    values = scores.tolist()
    return torch.tensor(sorted(range(len(values)), key=lambda i: -values[i])[:batch_size])
