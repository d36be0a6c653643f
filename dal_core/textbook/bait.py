"""BAIT as its paper states it: dense matrices, and every score anew in every step.

Ash et al. 2021, "Gone Fishing", algorithm 1; the approximations are those of Huseljic et al. 2024, arXiv 2404.08981,
section 4. x_i [c, s] is the factor of a sample's Fisher information F_i = x_i^T x_i, F that of all samples, and M the
inverse of that of the labelled ones; n unlabelled, k classes, d features, c rows a sample, s = k d the side of M.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Scores = Callable[..., Tensor]


def bait_select(
    features_u: Tensor, logits_u: Tensor, features_l: Tensor, logits_l: Tensor, batch_size: int, *,
    approximation: str = "binary", top_classes: int | None = None, renormalise: bool = True, fisher: str = "sum",
    prior_precision: float = 1.0, selection: str = "forward_backward",
) -> Tensor:  # fmt: skip
    """Return 2 b picks of the largest scores, less b of them whose removal costs least; or the b first scores."""
    unlabelled, labelled = (
        factors(features, logits, approximation, top_classes, renormalise=renormalise)
        for features, logits in ((features_u, logits_u), (features_l, logits_l))
    )
    x, M, F = start(unlabelled, labelled, batch_size, fisher=fisher, prior_precision=prior_precision)
    if selection == "topk":
        return scores(unlabelled, M, F, sign=1).argsort(descending=True, stable=True)[:batch_size]
    return backward(x, *forward(x, M, F, 2 * batch_size), F, batch_size)


def factors(
    features: Tensor, logits: Tensor, approximation: str, top_classes: int | None = None, *, renormalise: bool = True
) -> Tensor:
    """Return x_i, row j of which is sqrt(p_j) (e_j - p) (x) phi in the exact case.  [n, c, s]"""
    p = logits.softmax(dim=1)
    if approximation == "binary":  # p_max against the rest
        p = p.amax(dim=1, keepdim=True)
        weights = torch.cat((p.sqrt() * (1 - p), -(1 - p).sqrt() * p), dim=1)  # [n, 2]
        return weights.unsqueeze(2) * features.unsqueeze(1)
    if approximation == "diagonal":
        return torch.einsum("nk,nd->nkd", p * (1 - p), features.square()).flatten(1).sqrt().diag_embed()
    ordered = p.sort(dim=1, descending=True, stable=True)
    highest, classes = ordered.values[:, :top_classes], ordered.indices[:, :top_classes]
    if renormalise:
        highest = highest / highest.sum(dim=1, keepdim=True)
    errors = torch.nn.functional.one_hot(classes, p.shape[1]) - p.unsqueeze(1)  # e_j - p  [n, c, k]
    return torch.einsum("nc,nck,nd->nckd", highest.sqrt(), errors, features).flatten(2)


def start(
    unlabelled: Tensor, labelled: Tensor, batch_size: int, *, fisher: str = "sum", prior_precision: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x sqrt(b / (m + b)), M = (lambda I + A m / (m + b))^-1 with A of the labelled samples, and F."""
    m = len(labelled)
    A, F = information(labelled, fisher), information(torch.cat((unlabelled, labelled)), fisher)
    identity = torch.eye(len(A), dtype=A.dtype)
    M = torch.linalg.inv(prior_precision * identity + A * m / (m + batch_size))
    return unlabelled * (batch_size / (m + batch_size)) ** 0.5, M, F


def information(x: Tensor, fisher: str = "sum") -> Tensor:
    """Return the sum or mean of F_i = x_i^T x_i, or with "batch_means" the sum of the means over each 32."""
    total = x.new_zeros(x.shape[2], x.shape[2])
    for batch in x.split(32 if fisher == "batch_means" else max(len(x), 1)):
        rows = batch.flatten(0, 1)
        total += rows.mT @ rows / (1 if fisher == "sum" else max(len(batch), 1))
    return total


def scores(x: Tensor, M: Tensor, F: Tensor, *, sign: int) -> Tensor:
    """Return sign tr(x M F M x^T (sign I + x M x^T)^-1): gains with sign = 1, losses with sign = -1.  [n]"""
    xM = x @ M
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    quotients = torch.linalg.solve(sign * identity + xM @ x.mT, xM @ F @ xM.mT)  # [n, c, c]
    return sign * quotients.diagonal(dim1=1, dim2=2).sum(dim=1)


def updated(x: Tensor, M: Tensor, *, sign: int) -> Tensor:
    """Return M - M x^T (sign I + x M x^T)^-1 x M for one factor x [c, s]."""
    xM = x @ M
    identity = torch.eye(len(x), dtype=x.dtype)
    return M - xM.mT @ torch.linalg.solve(sign * identity + xM @ x.mT, xM)


def forward(x: Tensor, M: Tensor, F: Tensor, count: int, scores: Scores = scores) -> tuple[Tensor, Tensor]:
    """Pick the sample with the largest gain `count` times; return the picks and M."""
    picked = torch.empty(0, dtype=torch.int64)
    for _ in range(min(count, len(x))):
        best = scores(x, M, F, sign=1).index_fill(0, picked, -torch.inf).argmax()
        M = updated(x[best], M, sign=1)
        picked = torch.cat((picked, best.unsqueeze(0)))
    return picked, M


def backward(x: Tensor, picked: Tensor, M: Tensor, F: Tensor, batch_size: int, scores: Scores = scores) -> Tensor:
    """Remove the pick with the smallest loss until `batch_size` remain."""
    while len(picked) > batch_size:
        worst = scores(x[picked], M, F, sign=-1).argmin()
        M = updated(x[picked[worst]], M, sign=-1)
        picked = torch.cat((picked[:worst], picked[worst + 1 :]))
    return picked


def one_row(features: Tensor, logits: Tensor) -> Tensor:
    """Return sqrt(p (1 - p)) phi, p = p_max, with the Gram matrix of the two rows of "binary".  [n, 1, d]"""
    p = logits.softmax(dim=1).amax(dim=1, keepdim=True)
    return ((p * (1 - p)).sqrt() * features).unsqueeze(1)


def rank_one_scores(x: Tensor, M: Tensor, F: Tensor, *, sign: int) -> Tensor:
    """Return `scores` for c = 1 in two products of the rows: q / (1 + sign a), a = x M x^T, q = x M F M x^T.  [n]"""
    rows = x.squeeze(1)
    xM = rows @ M
    a, q = (xM * rows).sum(dim=1), ((xM @ F) * xM).sum(dim=1)
    return q / (1 + sign * a)


def rank_one_select(
    features_u: Tensor, logits_u: Tensor, features_l: Tensor, logits_l: Tensor, batch_size: int, *, fisher: str = "sum"
) -> Tensor:
    """Return what `bait_select` does with "binary", by one row a sample."""
    x, M, F = start(one_row(features_u, logits_u), one_row(features_l, logits_l), batch_size, fisher=fisher)
    return backward(x, *forward(x, M, F, 2 * batch_size, rank_one_scores), F, batch_size, rank_one_scores)
