"""Where BAIT's recursion runs: the space of the last layer's parameters, or that of the rows of all factors.

A candidate's c rows x are vectors of length `side`. With N_0 = M_0 F M_0, a space has `curvatures`, x M_0 x^T and
x N_0 x^T of all candidates; `columns`, x M_0 and x N_0 of one; and `rows`, which multiplies those of some, or of all,
with vectors. It works in the dtype of the features, for float64 sums: the recursion subtracts hundreds of such terms.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_memory
from dal_core.strategies.bait.factors import Factors

LARGEST_SIDE = 20_000  # of the dense matrices, of which four are held at a time
WAY_OUT = "use approximation='binary', 'top' with fewer classes, or a smaller subset of the pool"
Which = slice | Int[Tensor, " p"]


class Weights(NamedTuple):
    """What the identity, the sums of Fisher information and the candidates' factors are multiplied with."""

    prior: float
    labelled: float
    everything: float
    candidate: float
    of_labelled: Float[Tensor, " m"] | None = None  # of each instance's own information, where they differ
    of_everything: Float[Tensor, " n+m"] | None = None  # the unlabelled ones first

    def of_parts(self, n: int) -> tuple[Tensor | None, Tensor | None]:
        """`of_everything` of the n unlabelled instances, and of the labelled ones."""
        each = self.of_everything
        return (None, None) if each is None else (each[:n], each[n:])


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterSpace:
    """s = k d: the rows as they are, with the Kronecker structure of classes and features."""

    side: int
    candidates: Factors
    matrices: Float[Tensor, "2 s s"]  # M_0, N_0

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weights: Weights) -> "ParameterSpace":
        # In double precision: the directions that nothing labelled covers are as small as lambda beside the others.
        precision = labelled.double().weighted(weights.of_labelled).information().mul_(weights.labelled)
        precision.diagonal().add_(weights.prior)
        precision = torch.linalg.cholesky(precision)  # under the same name, so that one matrix less is held
        precision = torch.cholesky_inverse(precision)
        inverse, sandwich = matrices = unlabelled.features.new_empty(2, *precision.shape)
        inverse.copy_(precision)
        del precision
        of_unlabelled, of_labelled = weights.of_parts(len(unlabelled.features))
        everything = unlabelled.weighted(of_unlabelled).information().add_(labelled.weighted(of_labelled).information())
        everything.mul_(weights.everything)
        torch.mm(inverse @ everything, inverse, out=sandwich)
        candidates = dataclasses.replace(unlabelled, weights=unlabelled.weights * weights.candidate)
        return cls(len(inverse), candidates, matrices)

    @property
    def rows_a_sample(self) -> int:
        return self.candidates.weights.shape[1]

    def curvatures(self) -> tuple[Float[Tensor, "n c c"], Float[Tensor, "n c c"]]:
        return self.candidates.quadratic(self.matrices[0]), self.candidates.quadratic(self.matrices[1])

    def columns(self, candidate: Int[Tensor, " 1"]) -> Float[Tensor, "2 c s"]:
        x = self.candidates[candidate]
        partial = self.matrices.view(-1, x.features.shape[1]) @ x.features[0]  # Features first: s^2 operations.
        return x.class_products(partial.view(2, self.side, -1).mT).double()

    def rows(self, candidates: Int[Tensor, " p"] | None = None) -> Callable[[Tensor], Tensor]:
        return (self.candidates if candidates is None else self.candidates[candidates].double()).products


@dataclasses.dataclass(frozen=True, eq=False)
class GramSpace:
    """s = r: a vector stands for its products with all rows, those of the candidates first."""

    side: int
    kernel: Float[Tensor, "r r"]  # X M_0 X^T over all rows X, candidates' unscaled
    n: int
    c: int
    weights: Weights

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weights: Weights) -> "GramSpace":
        n, c = unlabelled.weights.shape
        vectors = torch.cat((unlabelled.class_vectors(), labelled.class_vectors())).flatten(0, 1)  # [r, k]
        features = torch.cat((unlabelled.features, labelled.features)).repeat_interleave(c, dim=0)  # [r, d]
        kernel = (vectors @ vectors.mT).mul_(features @ features.mT)
        if len(vectors) > n * c:
            inner = kernel[n * c :, n * c :].to(torch.float64, copy=True)
            each = 1.0 if weights.of_labelled is None else weights.of_labelled.double().repeat_interleave(c)
            inner.diagonal().add_(weights.prior / (weights.labelled * each))
            half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), kernel[n * c :].double(), upper=False)
            kernel = kernel.double().addmm_(half.mT, half, alpha=-1).to(kernel.dtype)  # Woodbury
        return cls(len(kernel), kernel.div_(weights.prior), n, c, weights)

    @property
    def rows_a_sample(self) -> int:
        return self.c

    def curvatures(self) -> tuple[Float[Tensor, "n c c"], Float[Tensor, "n c c"]]:
        n, c, scale = self.n, self.c, self.weights.candidate**2
        rows = self.kernel[: n * c].view(n, c, -1)
        own = rows[:, :, : n * c].view(n, c, n, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return own.double() * scale, (self._weighted(rows) @ rows.mT).double().mul_(scale * self.weights.everything)

    def columns(self, candidate: Int[Tensor, " 1"]) -> Float[Tensor, "2 c s"]:
        column = self.kernel.view(-1, self.c, self.side)[candidate][0] * self.weights.candidate
        gained = (self._weighted(column) @ self.kernel).mul_(self.weights.everything)
        return torch.stack((column, gained)).double()

    def _weighted(self, rows: Tensor) -> Tensor:
        """Their entries times what the information of each instance counts."""
        each = self.weights.of_everything
        return rows if each is None else rows * each.repeat_interleave(self.c)

    def rows(self, candidates: Int[Tensor, " p"] | None = None) -> Callable[[Tensor], Tensor]:
        some = slice(self.n) if candidates is None else candidates  # A product with a vector is one of its entries.
        return lambda vectors: (vectors.unflatten(1, (-1, self.c))[:, some] * self.weights.candidate).permute(1, 2, 0)


Space = ParameterSpace | GramSpace


def cheaper_space(unlabelled: Factors, labelled: Factors, weights: Weights, batch_size: int) -> Space:
    """Return the space in which a selection takes less time, of those whose matrices are small enough."""
    (n, c, k, d), m, b = unlabelled.sizes, len(labelled.features), batch_size
    s, r = k * d, (n + m) * c
    if (smaller := min(r, s)) > LARGEST_SIDE:
        needed = f"{4 * smaller**2 * unlabelled.features.element_size():,} bytes for 4 of them"
        expected = f"a side of at most {LARGEST_SIDE:,} was expected: {WAY_OUT}"
        raise ValueError(f"features_u and logits_u lead to matrices of side {smaller:,}, {needed}; {expected}")
    # Operations; reading a number of a large matrix in each of the 2 b steps takes as long as about ten of them.
    in_parameters = 10 * s**3 + 6 * n * s**2 + 40 * b * s**2
    in_rows = 2 * r**2 * (k + d + 4 * m * c) + 20 * b * r**2
    # Up to three times the side, memory is given for time.
    in_gram = r < s or (r <= min(LARGEST_SIDE, 3 * s) and in_rows < in_parameters)
    side = r if in_gram else s
    check_memory("the Fisher information with its inverse", (4, side, side), unlabelled.features, WAY_OUT)
    return (GramSpace if in_gram else ParameterSpace).of(unlabelled, labelled, weights)
