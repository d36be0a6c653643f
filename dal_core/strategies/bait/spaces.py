"""Where BAIT's recursion runs: the space of the last layer's parameters, or that of the rows of all factors.

A candidate's rows x are vectors of length `side`. With N_0 = M_0 F M_0, either space has `curvatures`, x M_0 x^T and
x N_0 x^T of all candidates; `columns`, x M_0 and x N_0 of one; `rows`, a function that multiplies some candidates' rows
with vectors [v, s]; and `products`, which does it for all. The pool is worked on in the dtype of its features; what
comes out is float64, because the recursion subtracts hundreds of such terms from each other.

Axes: n candidates, c rows a sample, k classes, d features, r rows of all samples, s side of a space, v vectors.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_memory
from dal_core.strategies.bait.factors import Factors

LARGEST_SIDE = 20_000  # of a dense matrix
MATRICES = 4  # of that side that are held at a time
LARGEST_RATIO = 3  # of the sides, up to which memory is given for time
WAY_OUT = "use approximation='binary', 'top' with fewer classes, or a smaller subset of the pool"
Curvatures = tuple[Float[Tensor, "n c c"], Float[Tensor, "n c c"]]
Products = Callable[[Float[Tensor, "v s"]], Float[Tensor, "n c v"]]


class Weights(NamedTuple):
    """What the identity, the sums of Fisher information and the candidates' factors are multiplied with."""

    prior: float
    labelled: float
    everything: float
    candidate: float


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterSpace:
    """s = k d: the rows as they are, with the Kronecker structure of classes and features."""

    candidates: Factors
    matrices: Float[Tensor, "2 s s"]  # M_0, N_0

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weights: Weights) -> "ParameterSpace":
        # In double precision: the directions that nothing labelled covers are as small as lambda beside the others.
        precision = labelled.double().information().mul_(weights.labelled)
        precision.diagonal().add_(weights.prior)
        precision = torch.linalg.cholesky(precision)  # under the same name, so that one matrix less is held
        precision = torch.cholesky_inverse(precision)
        inverse, sandwich = matrices = unlabelled.features.new_empty(2, *precision.shape)
        inverse.copy_(precision)
        del precision
        everything = unlabelled.information().add_(labelled.information()).mul_(weights.everything)
        torch.mm(inverse @ everything, inverse, out=sandwich)
        return cls(dataclasses.replace(unlabelled, weights=unlabelled.weights * weights.candidate), matrices)

    @property
    def side(self) -> int:
        return self.matrices.shape[1]

    def curvatures(self) -> Curvatures:
        return self.candidates.quadratic(self.matrices[0]), self.candidates.quadratic(self.matrices[1])

    def columns(self, candidate: Int[Tensor, " 1"]) -> Float[Tensor, "2 c s"]:
        x = self.candidates[candidate]
        partial = self.matrices.view(-1, x.features.shape[1]) @ x.features[0]  # features first: s^2 operations
        return x.class_products(partial.view(2, self.side, -1).mT).double()

    def rows(self, candidates: Int[Tensor, " p"]) -> Products:
        return self.candidates[candidates].double().products

    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "n c v"]:
        return self.candidates.products(vectors)


@dataclasses.dataclass(frozen=True, eq=False)
class GramSpace:
    """s = r: a vector stands for its products with all rows, those of the candidates first."""

    kernel: Float[Tensor, "r r"]  # X M_0 X^T over all rows X, candidates' unscaled
    num_candidates: int
    c: int
    weights: Weights

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weights: Weights) -> "GramSpace":
        n, c = unlabelled.weights.shape
        vectors = torch.cat((unlabelled.class_vectors(), labelled.class_vectors())).flatten(0, 1)  # [r, k]
        features = torch.cat((unlabelled.features, labelled.features)).repeat_interleave(c, dim=0)  # [r, d]
        kernel = (vectors @ vectors.mT).mul_(features @ features.mT)
        if len(labelled):
            inner = kernel[n * c :, n * c :].to(torch.float64, copy=True)
            inner.diagonal().add_(weights.prior / weights.labelled)
            half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), kernel[n * c :].double(), upper=False)
            kernel = kernel.double().addmm_(half.mT, half, alpha=-1).to(kernel.dtype)  # Woodbury
        return cls(kernel.div_(weights.prior), n, c, weights)

    @property
    def side(self) -> int:
        return len(self.kernel)

    def curvatures(self) -> Curvatures:
        n, c, scale = self.num_candidates, self.c, self.weights.candidate**2
        rows = self.kernel[: n * c].view(n, c, -1)
        own = self.kernel[: n * c, : n * c].view(n, c, n, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return own.double() * scale, (rows @ rows.mT).double().mul_(scale * self.weights.everything)

    def columns(self, candidate: Int[Tensor, " 1"]) -> Float[Tensor, "2 c s"]:
        column = self.kernel.view(-1, self.c, self.side)[candidate][0] * self.weights.candidate
        return torch.stack((column, (column @ self.kernel).mul_(self.weights.everything))).double()

    def rows(self, candidates: slice | Int[Tensor, " p"]) -> Products:
        scale = self.weights.candidate  # A product with a vector is one of its entries.
        return lambda vectors: (vectors.unflatten(1, (-1, self.c))[:, candidates] * scale).permute(1, 2, 0)

    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "n c v"]:
        return self.rows(slice(self.num_candidates))(vectors)


Space = ParameterSpace | GramSpace


def cheaper_space(unlabelled: Factors, labelled: Factors, weights: Weights, batch_size: int) -> Space:
    """Return the space in which a selection takes less time, of those whose matrices are small enough.

    Raises:
        ValueError: if no matrix is, with the bytes that the smaller one needs.
    """
    n, m, b, (c, k, d) = len(unlabelled), len(labelled), batch_size, unlabelled.axes
    s, r = k * d, (n + m) * c
    if min(r, s) > LARGEST_SIDE:
        needed = MATRICES * min(r, s) ** 2 * unlabelled.features.element_size()
        raise ValueError(
            f"features_u and logits_u lead to matrices of side {min(r, s):,}, {needed:,} bytes for {MATRICES} of them; "
            f"a side of at most {LARGEST_SIDE:,} was expected: {WAY_OUT}"
        )
    # Operations; reading a number of a large matrix in each of the 2 b steps takes as long as about ten of them.
    in_parameters = 10 * s**3 + 6 * n * s**2 + 40 * b * s**2
    in_rows = 2 * r**2 * (k + d + 4 * m * c) + 20 * b * r**2
    in_gram = r < s or (r <= min(LARGEST_SIDE, LARGEST_RATIO * s) and in_rows < in_parameters)
    side = r if in_gram else s
    check_memory("the Fisher information with its inverse", (MATRICES, side, side), unlabelled.features, WAY_OUT)
    return (GramSpace if in_gram else ParameterSpace).of(unlabelled, labelled, weights)
