"""Where BAIT's recursion runs: the space of the last layer's parameters, or that of the rows of all factors.

Axes: n candidates, c rows a sample, k classes, d features, r rows of all samples, s side of a space, v vectors.
"""

import abc
import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_memory
from dal_core.strategies.bait.factors import Factors, joined

LARGEST_SIDE = 20_000  # of a dense matrix
MATRICES = 4  # of that side that are held at a time
LARGEST_RATIO = 3  # of the sides, up to which memory is given for time


@dataclasses.dataclass(frozen=True)
class Weighting:
    """What the sums of Fisher information and the candidates' factors are multiplied with."""

    prior: float  # lambda
    labelled: float
    everything: float
    candidate: float


class Space(abc.ABC):
    """Rows x of the candidates, as vectors of length s, and what M_0 and N_0 = M_0 F M_0 do to them.

    The pool is worked on in the dtype of its features. What comes out is float64, because the recursion subtracts
    hundreds of such terms from each other.
    """

    @property
    @abc.abstractmethod
    def side(self) -> int:
        """s."""

    @abc.abstractmethod
    def curvatures(self) -> tuple[Float[Tensor, "n c c"], Float[Tensor, "n c c"]]:
        """x M_0 x^T and x N_0 x^T of each candidate."""

    @abc.abstractmethod
    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "n c v"]:
        """Products of each candidate's rows with the vectors."""

    @abc.abstractmethod
    def rows_of(self, candidates: Int[Tensor, " p"]) -> "Rows":
        """The rows of some candidates, one candidate after another."""


class Rows(abc.ABC):
    """Some candidates' rows, fetched once for all that a step does with them."""

    @abc.abstractmethod
    def columns(self) -> Float[Tensor, "2 c s"]:
        """x M_0 and x N_0, of a single candidate."""

    @abc.abstractmethod
    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "pc v"]:
        """Products with the vectors."""


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterSpace(Space):
    """s = k d: the rows as they are, with the Kronecker structure of classes and features."""

    candidates: Factors
    matrices: Float[Tensor, "2 s s"]  # M_0, N_0
    block_bytes: int

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weighting: Weighting, block_bytes: int) -> "ParameterSpace":
        # In double precision: the directions that nothing labelled covers are as small as lambda beside the others.
        precision = labelled.double().information(block_bytes).mul_(weighting.labelled)
        precision.diagonal().add_(weighting.prior)
        precision = torch.linalg.cholesky(precision)  # under the same name, so that one matrix less is held
        precision = torch.cholesky_inverse(precision)
        matrices = unlabelled.features.new_empty(2, *precision.shape)
        inverse, sandwich = matrices
        inverse.copy_(precision)
        del precision
        everything = unlabelled.information(block_bytes).add_(labelled.information(block_bytes))
        torch.mm(inverse @ everything.mul_(weighting.everything), inverse, out=sandwich)
        return cls(unlabelled.scaled(weighting.candidate), matrices, block_bytes)

    @property
    def side(self) -> int:
        return self.matrices.shape[1]

    def curvatures(self) -> tuple[Tensor, Tensor]:
        inverse, sandwich = (self.candidates.quadratic(each, self.block_bytes).double() for each in self.matrices)
        return inverse, sandwich

    def products(self, vectors: Tensor) -> Tensor:
        return self.candidates.products(vectors.to(self.matrices.dtype), self.block_bytes).double()

    def rows_of(self, candidates: Tensor) -> "ParameterRows":
        samples = self.candidates[candidates]
        return ParameterRows(samples, samples.double(), self.matrices, self.block_bytes)


@dataclasses.dataclass(frozen=True, eq=False)
class ParameterRows(Rows):
    """Rows as factors, in the dtype of the features and in double precision."""

    samples: Factors
    exact: Factors
    matrices: Float[Tensor, "2 s s"]
    block_bytes: int

    def columns(self) -> Tensor:
        # Features first, then classes: s^2 instead of c s^2 operations.
        partial = self.matrices.view(-1, self.samples.features.shape[1]) @ self.samples.features[0]
        return self.samples.class_products(partial.view(2, self.matrices.shape[1], -1).mT).double()

    def products(self, vectors: Tensor) -> Tensor:
        return self.exact.products(vectors, self.block_bytes).flatten(0, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class GramSpace(Space):
    """s = r: a vector stands for its products with all rows, those of the candidates first."""

    kernel: Float[Tensor, "r r"]  # X M_0 X^T over all rows X, candidates' unscaled
    num_candidates: int
    rows: int  # of a sample
    weighting: Weighting

    @classmethod
    def of(cls, unlabelled: Factors, labelled: Factors, weighting: Weighting) -> "GramSpace":
        kernel = joined(unlabelled, labelled).gram()
        if len(labelled):
            start = len(unlabelled) * unlabelled.rows
            inner = kernel[start:, start:].to(torch.float64, copy=True)
            inner.diagonal().add_(weighting.prior / weighting.labelled)
            half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), kernel[start:].double(), upper=False)
            kernel = kernel.double().addmm_(half.mT, half, alpha=-1).to(kernel.dtype)  # Woodbury
        kernel /= weighting.prior
        return cls(kernel, len(unlabelled), unlabelled.rows, weighting)

    @property
    def side(self) -> int:
        return len(self.kernel)

    def curvatures(self) -> tuple[Tensor, Tensor]:
        n, c, scale = self.num_candidates, self.rows, self.weighting.candidate**2
        rows = self.kernel[: n * c].view(n, c, -1)
        own = self.kernel[: n * c, : n * c].view(n, c, n, c).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return own.double() * scale, (rows @ rows.mT).double().mul_(scale * self.weighting.everything)

    def products(self, vectors: Tensor) -> Tensor:
        n, c = self.num_candidates, self.rows
        return (vectors[:, : n * c] * self.weighting.candidate).view(-1, n, c).permute(1, 2, 0)

    def rows_of(self, candidates: Tensor) -> "GramRows":
        return GramRows(candidates, self)


@dataclasses.dataclass(frozen=True, eq=False)
class GramRows(Rows):
    """Rows as positions: a product with a vector is one of its entries."""

    candidates: Int[Tensor, " p"]
    space: GramSpace

    def columns(self) -> Tensor:
        kernel, weighting = self.space.kernel, self.space.weighting
        column = kernel.view(-1, self.space.rows, len(kernel))[self.candidates][0] * weighting.candidate
        return torch.stack((column, (column @ kernel).mul_(weighting.everything))).double()

    def products(self, vectors: Tensor) -> Tensor:
        own = vectors.view(len(vectors), self.space.side // self.space.rows, self.space.rows)  # [v, r / c, c]
        return own.index_select(1, self.candidates).flatten(1).mT * self.space.weighting.candidate


def cheaper_space(
    unlabelled: Factors, labelled: Factors, weighting: Weighting, batch_size: int, block_bytes: int
) -> Space:
    """The space in which a selection takes less time, of those whose matrices are small enough.

    Raises:
        ValueError: if no matrix is, with the bytes that the smaller one needs.
    """
    n, m, b, c = len(unlabelled), len(labelled), batch_size, unlabelled.rows
    k, d, s, r = unlabelled.num_classes, unlabelled.features.shape[1], unlabelled.side, (n + m) * c
    way_out = "use approximation='binary', 'top' with fewer classes, or a smaller subset of the pool"
    if min(r, s) > LARGEST_SIDE:
        needed = MATRICES * min(r, s) ** 2 * unlabelled.features.element_size()
        raise ValueError(
            f"features_u and logits_u lead to matrices of side {min(r, s):,}, {needed:,} bytes for {MATRICES} of them; "
            f"a side of at most {LARGEST_SIDE:,} was expected: {way_out}"
        )
    # Operations; reading a number of a large matrix in each of the 2 b steps takes as long as about ten of them.
    in_parameters = 10 * s**3 + 6 * n * s**2 + 40 * b * s**2
    in_rows = 2 * r**2 * (k + d + 4 * m * c) + 20 * b * r**2
    rows_fit = r <= LARGEST_SIDE and r <= LARGEST_RATIO * s
    side, in_gram = (r, True) if r < s or (rows_fit and in_rows < in_parameters) else (s, False)
    check_memory("the Fisher information with its inverse", (MATRICES, side, side), unlabelled.features, way_out)
    if in_gram:
        return GramSpace.of(unlabelled, labelled, weighting)
    return ParameterSpace.of(unlabelled, labelled, weighting, block_bytes)
