"""BAIT as a reader of the paper would first write it: dense matrices, and every score anew in every step.

Symbols as in `dal_core.strategies.bait.select`: x_i [c, s] the factor of a sample's Fisher information
F_i = x_i^T x_i, F that of all samples, M the inverse of that of the labelled ones, s = k d.

Axes: n unlabelled, m labelled, b batch, k classes, d features, c rows a sample, s side of M.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from dal_core.snapshot import Snapshot

Scores = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The factors of the unlabelled samples, scaled, and M and F before anything is picked."""

    x: Tensor  # [n, c, s]
    M: Tensor  # [s, s]
    F: Tensor  # [s, s]


def select(
    features_u: Tensor,
    logits_u: Tensor,
    features_l: Tensor,
    logits_l: Tensor,
    batch_size: int,
    *,
    approximation: str = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: str = "sum",
    prior_precision: float = 1.0,
    selection: str = "forward_backward",
) -> Tensor:
    """As `dal_core.strategies.bait.select.bait_select`, by the general loop."""
    unlabelled, labelled = (
        factors(features, logits, approximation, top_classes, renormalise=renormalise)
        for features, logits in ((features_u, logits_u), (features_l, logits_l))
    )
    begin = start(unlabelled, labelled, batch_size, fisher=fisher, prior_precision=prior_precision)
    if selection == "topk":
        first = scores(unlabelled, begin.M, begin.F, sign=1)
        return first.argsort(descending=True, stable=True)[:batch_size]
    picked, M = forward(begin, min(2 * batch_size, len(unlabelled)))
    return backward(begin, picked, M, batch_size)


def factors(
    features: Tensor, logits: Tensor, approximation: str, top_classes: int | None = None, *, renormalise: bool = True
) -> Tensor:
    """The factors x_i, written out.  [n, c, s]"""
    p = logits.softmax(dim=1)
    if approximation == "binary":
        highest = p.amax(dim=1, keepdim=True)
        weights = torch.cat((highest.sqrt() * (1 - highest), -(1 - highest).sqrt() * highest), dim=1)  # [n, 2]
        return weights.unsqueeze(2) * features.unsqueeze(1)
    count = p.shape[1] if approximation == "exact" else top_classes
    ordered = p.sort(dim=1, descending=True, stable=True)
    highest, classes = ordered.values[:, :count], ordered.indices[:, :count]
    if renormalise:
        highest = highest / highest.sum(dim=1, keepdim=True)
    errors = torch.nn.functional.one_hot(classes, p.shape[1]) - p.unsqueeze(1)  # e_j - p  [n, c, k]
    rows = highest.sqrt().unsqueeze(2) * errors
    return (rows.unsqueeze(3) * features[:, None, None]).flatten(2)


def start(
    unlabelled: Tensor, labelled: Tensor, batch_size: int, *, fisher: str = "sum", prior_precision: float = 1.0
) -> Start:
    """M = (lambda I + A m / (m + b))^-1 and x sqrt(b / (m + b))."""
    m = len(labelled)
    A, U = (each.flatten(0, 1).mT @ each.flatten(0, 1) for each in (labelled, unlabelled))
    F = A + U
    if fisher == "mean":
        A, F = A / m, F / (m + len(unlabelled))
    identity = torch.eye(len(A), dtype=A.dtype)
    M = torch.linalg.inv(prior_precision * identity + A * m / (m + batch_size))
    return Start(unlabelled * (batch_size / (m + batch_size)) ** 0.5, M, F)


def scores(x: Tensor, M: Tensor, F: Tensor, *, sign: int) -> Tensor:
    """sign tr(x M F M x^T (sign I + x M x^T)^-1): gains with sign = 1, losses with sign = -1; O(n c s^2).  [n]"""
    xM = x @ M
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    quotients = torch.linalg.solve(sign * identity + xM @ x.mT, xM @ F @ xM.mT)  # [n, c, c]
    return sign * quotients.diagonal(dim1=1, dim2=2).sum(dim=1)


def committed(x: Tensor, M: Tensor, *, sign: int) -> Tensor:
    """M - M x^T (sign I + x M x^T)^-1 x M for one factor x [c, s]."""
    xM = x @ M
    identity = torch.eye(len(x), dtype=x.dtype)
    return M - xM.mT @ torch.linalg.solve(sign * identity + xM @ x.mT, xM)


def forward(begin: Start, count: int, scores: Scores = scores) -> tuple[Tensor, Tensor]:
    """`count` times the sample with the largest gain; the picks and M."""
    M, picked = begin.M, torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        gains = scores(begin.x, M, begin.F, sign=1)
        gains[picked] = -torch.inf
        best = gains.argmax()
        M = committed(begin.x[best], M, sign=1)
        picked = torch.cat((picked, best.unsqueeze(0)))
    return picked, M


def backward(begin: Start, picked: Tensor, M: Tensor, batch_size: int, scores: Scores = scores) -> Tensor:
    """Remove the pick with the smallest loss until `batch_size` remain."""
    while len(picked) > batch_size:
        worst = scores(begin.x[picked], M, begin.F, sign=-1).argmin()
        M = committed(begin.x[picked[worst]], M, sign=-1)
        picked = torch.cat((picked[:worst], picked[worst + 1 :]))
    return picked


# The binary approximation with one row, whose Gram is that of the two


def one_row(features: Tensor, logits: Tensor) -> Tensor:
    """sqrt(p (1 - p)) phi.  [n, 1, d]"""
    highest = logits.softmax(dim=1).amax(dim=1, keepdim=True)
    return ((highest * (1 - highest)).sqrt() * features).unsqueeze(1)


def rank_one_scores(x: Tensor, M: Tensor, F: Tensor, *, sign: int) -> Tensor:
    """`scores` for c = 1: q / (1 + sign a) with a = x M x^T and q = x M F M x^T, in two products of the rows.  [n]"""
    rows = x.squeeze(1)
    xM = rows @ M
    a, q = (xM * rows).sum(dim=1), ((xM @ F) * xM).sum(dim=1)
    return q / (1 + sign * a)


def rank_one_select(begin: Start, batch_size: int) -> Tensor:
    """As `select`, with `rank_one_scores`."""
    picked, M = forward(begin, min(2 * batch_size, len(begin.x)), rank_one_scores)
    return backward(begin, picked, M, batch_size, rank_one_scores)


# The diagonal of the exact Fisher information, one sample after another


def diagonal_select(at: Snapshot, batch_size: int, steps: int | None = None) -> Tensor:
    """As `bait_select` with its default options and diagonals; after `steps` forward steps no more is done."""
    m = len(at.labelled_features)
    unlabelled, labelled = (
        (p * (1 - p), features.square())
        for p, features in ((at.probabilities, at.features), (at.labelled_logits.softmax(dim=1), at.labelled_features))
    )
    known = labelled[0].mT @ labelled[1]  # [k, d]
    F = known + unlabelled[0].mT @ unlabelled[1]
    precision = 1 + known * m / (m + batch_size)
    scaled = unlabelled[0] * batch_size / (m + batch_size)

    def change(sample: int, sign: int) -> float:
        f = torch.outer(scaled[sample], unlabelled[1][sample]) / precision  # M f
        return float((F / precision * f / (1 + sign * f)).sum())

    picked: list[int] = []
    for _ in range(steps or min(2 * batch_size, len(at.features))):
        gains = [-torch.inf if i in picked else change(i, 1) for i in range(len(at.features))]
        picked.append(gains.index(max(gains)))
        precision = precision + torch.outer(scaled[picked[-1]], unlabelled[1][picked[-1]])
    while steps is None and len(picked) > batch_size:
        losses = [change(i, -1) for i in picked]
        worst = picked.pop(losses.index(min(losses)))
        precision = precision - torch.outer(scaled[worst], unlabelled[1][worst])
    return torch.tensor(picked)
