"""Fisher information of the last layer in factored form (Huseljic et al. 2024, arXiv 2404.08981, section 4).

A sample with features phi [d] and probabilities p [k] has the Fisher information F_i = x_i^T x_i [k d, k d], where row
j of the factor x_i is w_j (e_j - p) (x) phi. The rows are never formed: a sample is kept as its features, its
probabilities and, for each of its c rows, the class j and the weight w_j.

Axes: n samples, c rows a sample, r = n c rows in all, k classes, d features, s = k d, v vectors.
"""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

PIECES = 32  # of the features, in a product with at most so many vectors:
FEW = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """The factors x_i of n samples.

    Without `classes` the rows are all classes in order, c = k. Without `probabilities` as well a sample has one row
    w phi, and k is 1: the binary approximation.
    """

    features: Float[Tensor, "n d"]
    weights: Float[Tensor, "n c"]
    probabilities: Float[Tensor, "n k"] | None = None
    classes: Int[Tensor, "n c"] | None = None

    @classmethod
    def exact(cls, features: Tensor, logits: Tensor) -> "Factors":
        """Rows sqrt(p_j) (e_j - p) (x) phi for all classes: F_i = (diag(p) - p p^T) (x) phi phi^T."""
        probabilities = logits.softmax(dim=1)
        return cls(features, probabilities.sqrt(), probabilities)

    @classmethod
    def top(cls, features: Tensor, logits: Tensor, top_classes: int, *, renormalise: bool) -> "Factors":
        """Rows for the c most probable classes; their weights, not the inner p, are renormalised."""
        probabilities = logits.softmax(dim=1)
        ordered = probabilities.sort(dim=1, descending=True, stable=True)
        highest = ordered.values[:, :top_classes]
        if renormalise:
            highest = highest / highest.sum(dim=1, keepdim=True)
        return cls(features, highest.sqrt(), probabilities, ordered.indices[:, :top_classes])

    @classmethod
    def binary(cls, features: Tensor, logits: Tensor, block_bytes: int) -> "Factors":
        """One row sqrt(p (1 - p)) phi, p = p_max, whose Gram is that of the two rows of p against the rest.

        p_max is all that is kept of the probabilities, which for a million instances and a thousand classes take 5 GB.
        """
        highest = features.new_empty(len(logits), 1)
        rows = max(1, block_bytes // max(1, logits[:1].nbytes))
        for start in range(0, len(logits), rows):
            probabilities = logits[start : start + rows].softmax(dim=1)
            torch.amax(probabilities, dim=1, keepdim=True, out=highest[start : start + rows])
        return cls(features, (highest * (1 - highest)).sqrt())

    def __len__(self) -> int:
        return len(self.features)

    @property
    def rows(self) -> int:
        """c."""
        return self.weights.shape[1]

    @property
    def num_classes(self) -> int:
        """k, or 1 in the binary approximation."""
        return 1 if self.probabilities is None else self.probabilities.shape[1]

    @property
    def side(self) -> int:
        """s = k d."""
        return self.num_classes * self.features.shape[1]

    def __getitem__(self, samples: slice | Tensor) -> "Factors":
        features, weights = self.features[samples], self.weights[samples]
        probabilities = None if self.probabilities is None else self.probabilities[samples]
        return Factors(features, weights, probabilities, None if self.classes is None else self.classes[samples])

    def double(self) -> "Factors":
        """The same in float64."""
        probabilities = None if self.probabilities is None else self.probabilities.double()
        return Factors(self.features.double(), self.weights.double(), probabilities, self.classes)

    def scaled(self, scale: float) -> "Factors":
        """scale * x_i."""
        return dataclasses.replace(self, weights=self.weights * scale)

    def class_products(self, values: Float[Tensor, "n k v"]) -> Float[Tensor, "n c v"]:
        """w_j (e_j - p)^T values: the part of x_i that acts on the classes."""
        weights = self.weights.unsqueeze(2)
        if self.probabilities is None:
            return weights * values
        mean = self.probabilities.unsqueeze(1) @ values  # [n, 1, v]
        if self.classes is not None:
            values = values.gather(1, self.classes.unsqueeze(2).expand(len(values), -1, values.shape[2]))
        return weights * (values - mean)

    def class_vectors(self) -> Float[Tensor, "n c k"]:
        """w_j (e_j - p)."""
        k = self.num_classes
        identity = torch.eye(k, dtype=self.weights.dtype, device=self.weights.device)
        return self.class_products(identity.expand(len(self), k, k))

    def products(self, vectors: Float[Tensor, "v s"], block_bytes: int) -> Float[Tensor, "n c v"]:
        """x_i applied to each vector; reads the features once."""
        v, k, d = len(vectors), self.num_classes, self.features.shape[1]
        results = []
        for block in self._blocks(3 * v * k, block_bytes):
            projected = _projections(vectors.view(v * k, d), block.features)
            results.append(block.class_products(projected.view(v, k, len(block)).permute(2, 1, 0)))
        return torch.cat(results) if len(results) > 1 else results[0]

    def information(self, block_bytes: int) -> Float[Tensor, "s s"]:
        """sum_i F_i, O(n s^2).

        F_i = H_i (x) phi_i phi_i^T, so that the block of the classes k and l is sum_i H_i[k, l] phi_i phi_i^T.
        """
        k, d = self.num_classes, self.features.shape[1]
        total = self.features.new_zeros(k, d, k, d)
        for block in self._blocks(k * d + 3 * k * k, block_bytes):
            vectors = block.class_vectors()
            matrices = vectors.mT @ vectors  # H [n, k, k]
            for first in range(k):  # a loop over classes; classes below `first` follow from symmetry
                weighted = matrices[:, first, first:, None] * block.features[:, None]  # [n, k - first, d]
                total[first, :, first:] += (block.features.mT @ weighted.flatten(1)).view(d, -1, d)
        for first in range(k):
            total[first + 1 :, :, first] = total[first, :, first + 1 :].permute(1, 2, 0)
        return total.view(k * d, k * d)

    def quadratic(self, matrix: Float[Tensor, "s s"], block_bytes: int) -> Float[Tensor, "n c c"]:
        """x_i B x_i^T for a symmetric B, O(n s^2): first the features of all samples, then the classes."""
        k, d = self.num_classes, self.features.shape[1]
        results = []
        for block in self._blocks(k * d + 4 * k * k, block_bytes):
            forms = block.features.new_zeros(len(block), k, k)  # phi^T B[k, l] phi
            for first in range(k):
                rows = matrix.view(k, d, k * d)[first, :, first * d :]
                halves = (block.features @ rows).view(len(block), k - first, d)
                forms[:, first, first:] = (halves @ block.features.unsqueeze(2)).squeeze(2)
            forms += forms.triu(1).mT
            results.append(block.class_products(block.class_products(forms).mT))
        return torch.cat(results)

    def gram(self) -> Float[Tensor, "r r"]:
        """The products of all rows of all samples with each other, <e, e'> <phi, phi'>."""
        vectors = self.class_vectors().flatten(0, 1)  # [r, k]
        features = self.features.repeat_interleave(self.rows, dim=0)  # [r, d]
        return (vectors @ vectors.mT).mul_(features @ features.mT)

    def _blocks(self, numbers: int, block_bytes: int) -> Iterator["Factors"]:
        """Consecutive samples, as many as fit if each of them needs room for so many numbers."""
        size = max(1, block_bytes // max(1, numbers * self.features.element_size()))
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self[start : start + size]


def _projections(vectors: Float[Tensor, "v d"], features: Float[Tensor, "n d"]) -> Float[Tensor, "v n"]:
    """vectors features^T: for few vectors in pieces, because BLAS runs such a product on one thread."""
    end = len(features) - len(features) % PIECES
    if len(vectors) > FEW or end == 0:
        return vectors @ features.mT
    pieces = features[:end].view(PIECES, -1, features.shape[1])
    projected = features.new_empty(len(vectors), len(features))
    by_piece = torch.bmm(vectors.expand(PIECES, -1, -1), pieces.mT)
    projected[:, :end].view(len(vectors), PIECES, -1).copy_(by_piece.movedim(0, 1))
    if end < len(features):
        torch.mm(vectors, features[end:].mT, out=projected[:, end:])
    return projected


def joined(one: Factors, other: Factors) -> Factors:
    """The samples of both."""

    def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
        return None if first is None or second is None else torch.cat((first, second))

    features, weights = torch.cat((one.features, other.features)), torch.cat((one.weights, other.weights))
    return Factors(features, weights, both(one.probabilities, other.probabilities), both(one.classes, other.classes))
