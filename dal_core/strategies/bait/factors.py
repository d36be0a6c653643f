"""Fisher information of the last layer in factored form (Huseljic et al. 2024, arXiv 2404.08981, section 4).

A sample with features phi [d] and probabilities p [k] has the Fisher information F_i = x_i^T x_i [k d, k d], where row
j of the factor x_i is w_j (e_j - p) (x) phi. The rows are never formed: a sample is kept as its features, its
probabilities and, for each of its c rows, the class j and the weight w_j.

Axes: n samples, c rows a sample, k classes, d features, s = k d, v vectors.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """The factors x_i of n samples.

    Without `classes` the rows are all classes in order, c = k. Without `probabilities` as well a sample has one row
    w phi, and k is 1: the binary approximation.
    """

    features: Float[Tensor, "n d"]
    weights: Float[Tensor, "n c"]
    block_bytes: int
    probabilities: Float[Tensor, "n k"] | None = None
    classes: Int[Tensor, "n c"] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, samples: slice | Tensor) -> "Factors":
        return self._mapped(lambda tensor: tensor[samples])

    def double(self) -> "Factors":
        return self._mapped(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Factors":
        tensors: dict[str, Any] = {
            name: function(each) for name, each in vars(self).items() if isinstance(each, Tensor)
        }
        return dataclasses.replace(self, **tensors)

    @property
    def axes(self) -> tuple[int, int, int]:
        """c, k and d."""
        k = 1 if self.probabilities is None else self.probabilities.shape[1]
        return self.weights.shape[1], k, self.features.shape[1]

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
        identity = torch.eye(self.axes[1], dtype=self.weights.dtype, device=self.weights.device)
        return self.class_products(identity.expand(len(self), -1, -1))

    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "n c v"]:
        """x_i applied to each vector, computed in the dtype of the features; reads them once."""
        (_, k, d), v = self.axes, len(vectors)
        vectors, results = vectors.to(self.features.dtype).view(v * k, d), []
        for block in self._blocks(3 * v * k):
            projected = _projections(vectors, block.features).view(v, k, len(block))
            results.append(block.class_products(projected.permute(2, 1, 0)))
        return (torch.cat(results) if len(results) > 1 else results[0]).double()

    def information(self) -> Float[Tensor, "s s"]:
        """sum_i F_i, O(n s^2).

        F_i = H_i (x) phi_i phi_i^T, so that the block of the classes k and l is sum_i H_i[k, l] phi_i phi_i^T.
        """
        _, k, d = self.axes
        total = self.features.new_zeros(k, d, k, d)
        for block in self._blocks(k * d + 3 * k * k):
            vectors = block.class_vectors()
            matrices = vectors.mT @ vectors  # H [n, k, k]
            for first in range(k):  # a loop over classes; classes below `first` follow from symmetry
                weighted = matrices[:, first, first:, None] * block.features[:, None]  # [n, k - first, d]
                total[first, :, first:] += (block.features.mT @ weighted.flatten(1)).view(d, -1, d)
        for first in range(k):
            total[first + 1 :, :, first] = total[first, :, first + 1 :].permute(1, 2, 0)
        return total.view(k * d, k * d)

    def quadratic(self, matrix: Float[Tensor, "s s"]) -> Float[Tensor, "n c c"]:
        """x_i B x_i^T for a symmetric B, O(n s^2): first the features of all samples, then the classes."""
        (_, k, d), results = self.axes, []
        for block in self._blocks(k * d + 4 * k * k):
            forms = block.features.new_zeros(len(block), k, k)  # phi^T B[k, l] phi
            for first in range(k):
                halves = block.features @ matrix.view(k, d, k * d)[first, :, first * d :]
                halves = halves.view(len(block), k - first, d)
                forms[:, first, first:] = (halves @ block.features.unsqueeze(2)).squeeze(2)
            forms += forms.triu(1).mT
            results.append(block.class_products(block.class_products(forms).mT))
        return torch.cat(results).double()

    def _blocks(self, numbers: int) -> Iterable["Factors"]:
        """Consecutive samples, as many as fit if each of them needs room for so many numbers."""
        needed = numbers * self.features.element_size()
        if needed * len(self) <= self.block_bytes:
            return [self]
        return (self[block] for block in blocks(len(self), needed, self.block_bytes))


def class_factors(
    features: Tensor, logits: Tensor, block_bytes: int, top_classes: int | None, renormalise: bool
) -> Factors:
    """Rows sqrt(p_j) (e_j - p) (x) phi for all classes: F_i = (diag(p) - p p^T) (x) phi phi^T.

    Or for the most probable classes alone; their weights, not the inner p, are renormalised.
    """
    probabilities = logits.softmax(dim=1)
    if top_classes is None:
        return Factors(features, probabilities.sqrt(), block_bytes, probabilities)
    ordered = probabilities.sort(dim=1, descending=True, stable=True)
    highest = ordered.values[:, :top_classes]
    if renormalise:
        highest = highest / highest.sum(dim=1, keepdim=True)
    return Factors(features, highest.sqrt(), block_bytes, probabilities, ordered.indices[:, :top_classes])


def binary_factors(features: Tensor, logits: Tensor, block_bytes: int) -> Factors:
    """One row sqrt(p (1 - p)) phi, p = p_max, whose Gram is that of the two rows of p against the rest.

    p_max is all that is kept of the probabilities, which for a million instances and a thousand classes take 5 GB.
    """
    highest = features.new_empty(len(logits), 1)
    for block in blocks(len(logits), logits[:1].nbytes, block_bytes):
        torch.amax(logits[block].softmax(dim=1), dim=1, keepdim=True, out=highest[block])
    return Factors(features, (highest * (1 - highest)).sqrt(), block_bytes)


def _projections(
    vectors: Float[Tensor, "v d"], features: Float[Tensor, "n d"], pieces: int = 32, few: int = 8
) -> Float[Tensor, "v n"]:
    """vectors features^T: for few vectors in pieces, because BLAS runs such a product on one thread."""
    end = len(features) - len(features) % pieces
    if len(vectors) > few or end == 0:
        return vectors @ features.mT
    projected = features.new_empty(len(vectors), len(features))
    by_piece = torch.bmm(vectors.expand(pieces, -1, -1), features[:end].view(pieces, -1, features.shape[1]).mT)
    projected[:, :end].view(len(vectors), pieces, -1).copy_(by_piece.movedim(0, 1))
    if end < len(features):
        torch.mm(vectors, features[end:].mT, out=projected[:, end:])
    return projected
