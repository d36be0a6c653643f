"""BAIT and its approximations (Ash et al. 2021; Huseljic et al. 2024, arXiv 2404.08981, "Fast Fishing").

An instance has the Fisher information F_i = x_i^T x_i of the last layer's parameters (`factors.py`). With F that of all
instances and M the inverse of that of the labelled ones, BAIT picks what lowers tr(M F) most: in `recursion.py`, in one
of two `spaces.py`, or in `diagonal.py`. `dal_core.textbook.bait` is the same with every matrix formed.

Axes: n unlabelled, m labelled, b batch, k classes, d features.
"""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Count, Positive, check_fields, checked
from dal_core.snapshot import Snapshot
from dal_core.strategies.bait.diagonal import DiagonalProblem
from dal_core.strategies.bait.factors import Factors, binary_factors, class_factors
from dal_core.strategies.bait.recursion import Recursion
from dal_core.strategies.bait.spaces import Weights, cheaper_space
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import highest

Approximation = Literal["exact", "top", "binary", "diagonal"]
Fisher = Literal["sum", "mean"]
Selection = Literal["forward_backward", "topk"]
BLOCK_BYTES = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    """What BAIT can be asked for.

    Args:
        approximation: "exact"; "top", the `top_classes` most probable classes; "binary", p_max against the rest;
            "diagonal", the diagonal of the exact Fisher information.
        renormalise: whether the probabilities of the top classes, as weights of their rows, are made to sum to 1.
        fisher: "sum" or "mean" over instances.
        prior_precision: lambda, the multiple of the identity in M^-1.
        selection: "forward_backward", or "topk": the b best scores of the first step, factors left unscaled.
        block_bytes: size of the intermediate results that are held at a time.
    """

    approximation: Approximation = "binary"
    top_classes: int | None = None
    renormalise: bool = True
    fisher: Fisher = "sum"
    prior_precision: Positive = 1.0
    selection: Selection = "forward_backward"
    block_bytes: Count = BLOCK_BYTES

    def __post_init__(self) -> None:
        check_fields(self)
        if self.approximation != "top" and self.top_classes is not None:
            other = f"it belongs to 'top' and approximation is {self.approximation!r}"
            raise ValueError(f"top_classes is {self.top_classes}, but {other}")

    def weights(self, n: int, m: int, b: int) -> Weights:
        labelled, everything, candidate = m / (m + b), 1.0, (b / (m + b)) ** 0.5
        if self.fisher == "mean":
            labelled, everything = labelled / max(m, 1), 1 / (n + m)
        return Weights(self.prior_precision, labelled, everything, 1.0 if self.selection == "topk" else candidate)

    def factors(self, features: Tensor, logits: Tensor) -> Factors:
        if self.approximation == "binary":
            return binary_factors(features, logits, self.block_bytes)
        return class_factors(features, logits, self.block_bytes, self.top_classes, self.renormalise)


@register("bait")
@checked
def bait(
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,  # noqa: ARG001
    *,
    approximation: Approximation = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: Fisher = "sum",
    prior_precision: Positive = 1.0,
    selection: Selection = "forward_backward",
) -> Int[Tensor, " b"]:
    """Return the batch that lowers the trace of (Fisher information of the labelled)^-1 (that of all) most."""
    return bait_select(
        snapshot.features, snapshot.logits, snapshot.labelled_features, snapshot.labelled_logits, batch_size,
        approximation=approximation, top_classes=top_classes, renormalise=renormalise, fisher=fisher,
        prior_precision=prior_precision, selection=selection,
    )  # fmt: skip


@checked
def bait_select(
    features_u: Float[Tensor, "n d"],
    logits_u: Float[Tensor, "n k"],
    features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"],
    batch_size: BatchSize,
    *,
    approximation: Approximation = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: Fisher = "sum",
    prior_precision: Positive = 1.0,
    selection: Selection = "forward_backward",
    block_bytes: Count = BLOCK_BYTES,
) -> Int[Tensor, " b"]:
    """Return positions in the order of picking, those that were removed again left out; `Options` explains the options.

    Forward: 2 b times the instance with the largest tr(x M F M x^T (I + x M x^T)^-1); backward: until b remain, the
    picked instance with the smallest -tr(x M F M x^T (-I + x M x^T)^-1) is removed. Ties go to the lower position.

    Set-up O((n + m) s^2 + s^3) with s = k d (d for "binary"), then O(n k c d) a step, with c rows a factor. Where all
    factors together have fewer rows than s, or not many more, the same runs in their Gram matrix. Memory: four dense
    matrices of that side at the most, and blocks of `block_bytes`. "diagonal" needs no matrix at all.

    Raises:
        ValueError: for a matrix whose side would be above 20,000, or that does not fit into memory, with its bytes.

    >>> features = torch.tensor([[0.1, 0.0], [2.0, 0.0], [1.9, 0.1], [0.0, 1.0]])
    >>> bait_select(features, features, features[:1], features[:1], batch_size=2)
    tensor([2, 1])
    """
    options = Options(approximation, top_classes, renormalise, fisher, prior_precision, selection, block_bytes)
    with torch.inference_mode():  # Without the bookkeeping for gradients, a fifth of the time of small operations.
        problem = _problem((features_u, logits_u), (features_l, logits_l), batch_size, options)
        topk = selection == "topk"
        picked = highest(problem.first_scores(), batch_size) if topk else problem.select(batch_size)
    return picked.clone()  # an ordinary tensor again


@checked
def bait_first_scores(
    features_u: Float[Tensor, "n d"],
    logits_u: Float[Tensor, "n k"],
    features_l: Float[Tensor, "m d"],
    logits_l: Float[Tensor, "m k"],
    batch_size: BatchSize,
    *,
    approximation: Approximation = "binary",
    top_classes: int | None = None,
    renormalise: bool = True,
    fisher: Fisher = "sum",
    prior_precision: Positive = 1.0,
    selection: Selection = "forward_backward",
) -> Float[Tensor, " n"]:
    """Return what `bait_select` with the same options sees first: the drop of tr(M F) that each instance would bring.

    >>> features = torch.tensor([[0.1, 0.0], [2.0, 0.0], [1.9, 0.1], [0.0, 1.0]])
    >>> bait_first_scores(features, features, features[:1], features[:1], batch_size=2).argmax()
    tensor(2)
    """
    options = Options(approximation, top_classes, renormalise, fisher, prior_precision, selection)
    with torch.inference_mode():
        scores = _problem((features_u, logits_u), (features_l, logits_l), batch_size, options).first_scores()
    return scores.clone()


def _problem(
    unlabelled: tuple[Tensor, Tensor], labelled: tuple[Tensor, Tensor], batch_size: int, options: Options
) -> Recursion | DiagonalProblem:
    (n, k), m = unlabelled[1].shape, len(labelled[1])
    if k < 2:
        raise ValueError(
            f"logits_u has shape ({n}, {k}); at least two classes were expected, a sigmoid's as (0, logit)"
        )
    if options.approximation == "top" and not 1 <= (options.top_classes or 0) <= k:
        raise ValueError(f"top_classes is {options.top_classes}; 1 to {k}, the number of classes, was expected")
    weights = options.weights(n, m, batch_size)
    if options.approximation == "diagonal":
        return DiagonalProblem.of(unlabelled, labelled, weights, options.block_bytes)
    return Recursion(cheaper_space(options.factors(*unlabelled), options.factors(*labelled), weights, batch_size))
