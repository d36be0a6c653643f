"""Fisher information of the last layer in factored form (Huseljic et al. 2024, arXiv 2404.08981, section 4).

A sample with features phi [d] and probabilities p [k] has the Fisher information F_i = x^T x [k d, k d], where row j of
its factor x is w_j (e_j - p) (x) phi. The rows are never formed.
"""

import dataclasses
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks


@dataclasses.dataclass(frozen=True, eq=False)
class Factors:
    """The factors x of n samples; without probabilities a sample has one row w phi, and k is 1."""

    block_bytes: int  # of intermediate results held at a time
    features: Float[Tensor, "n d"]
    weights: Float[Tensor, "n c"]  # w_j
    probabilities: Float[Tensor, "n k"] | None = None
    classes: Int[Tensor, "n c"] | None = None  # j; None for all classes in order

    def __getitem__(self, samples: slice | Tensor) -> "Factors":
        if isinstance(samples, slice):
            return self._each(lambda tensor: tensor[samples])
        return self._each(lambda tensor: tensor.index_select(0, samples))  # faster than indexing for a few

    def weighted(self, each: Float[Tensor, " n"] | None) -> "Factors":
        """The factors of `each` times the samples' Fisher information."""
        return self if each is None else dataclasses.replace(self, weights=self.weights * each.sqrt().unsqueeze(1))

    def double(self) -> "Factors":
        return self._each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Factors":
        p, classes = self.probabilities, self.classes
        optional = None if p is None else change(p), None if classes is None else change(classes)
        return Factors(self.block_bytes, change(self.features), change(self.weights), *optional)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """n, c, k and d."""
        k = 1 if self.probabilities is None else self.probabilities.shape[1]
        return *self.weights.shape, k, self.features.shape[1]

    def class_products(self, values: Float[Tensor, "n k v"]) -> Float[Tensor, "n c v"]:
        """Return w_j (e_j - p)^T values: the part of x that acts on the classes."""
        weights = self.weights.unsqueeze(2)
        if self.probabilities is None:
            return weights * values
        mean = self.probabilities.unsqueeze(1) @ values  # [n, 1, v]
        if self.classes is not None:
            values = values.gather(1, self.classes.unsqueeze(2).expand(len(values), -1, values.shape[2]))
        return weights * (values - mean)

    def class_vectors(self) -> Float[Tensor, "n c k"]:
        """Return w_j (e_j - p)."""
        n, _, k, _ = self.sizes
        return self.class_products(self.weights.new_ones(k).diag().expand(n, -1, -1))

    def products(self, vectors: Float[Tensor, "v s"]) -> Float[Tensor, "n c v"]:
        """Return x applied to each vector, computed in the dtype of the features; reads them once."""
        (_, _, k, d), v, results = self.sizes, len(vectors), []
        across = vectors.to(self.features.dtype).view(v * k, d).mT  # The faster layout where there are few of them.
        if self.probabilities is None:
            return (self.features @ across).mul_(self.weights).double().unsqueeze(1)
        for block in self._blocks(3 * v * k):
            projected = (block.features @ across).view(len(block.features), v, k)
            results.append(block.class_products(projected.mT))
        return (torch.cat(results) if len(results) > 1 else results[0]).double()

    def information(self) -> Float[Tensor, "s s"]:
        """Return sum_i F_i, O(n s^2): with F_i = H (x) phi phi^T the block of two classes is sum H[j, l] phi phi^T."""
        _, _, k, d = self.sizes
        total = self.features.new_zeros(k, d, k, d)
        for block in self._blocks(k * d + 3 * k * k):
            vectors = block.class_vectors()
            H = vectors.mT @ vectors  # [n, k, k]
            for j in range(k):  # A loop over classes; those below j follow from symmetry.
                weighted = H[:, j, j:, None] * block.features[:, None]  # [n, k - j, d]
                total[j, :, j:] += (block.features.mT @ weighted.flatten(1)).view(d, -1, d)
                total[j + 1 :, :, j] = total[j, :, j + 1 :].permute(1, 2, 0)
        return total.view(k * d, k * d)

    def quadratic(self, matrix: Float[Tensor, "s s"]) -> Float[Tensor, "n c c"]:
        """Return x B x^T for a symmetric B, O(n s^2): first the features of all samples, then the classes."""
        (_, _, k, d), results = self.sizes, []
        for block in self._blocks(k * d + 4 * k * k):
            forms = block.features.new_zeros(len(block.features), k, k)  # phi^T B[j, l] phi
            for j in range(k):
                halves = (block.features @ matrix.view(k, d, k * d)[j, :, j * d :]).view(-1, k - j, d)
                forms[:, j, j:] = (halves @ block.features.unsqueeze(2)).squeeze(2)
            forms += forms.triu(1).mT
            results.append(block.class_products(block.class_products(forms).mT))
        return torch.cat(results).double()

    def _blocks(self, numbers: int) -> Iterable["Factors"]:
        """Consecutive samples, as many as fit if each of them needs room for so many numbers."""
        n, needed = len(self.features), numbers * self.features.element_size()
        return [self] if n * needed <= self.block_bytes else map(self.__getitem__, blocks(n, needed, self.block_bytes))


def factors(
    features: Tensor, logits: Tensor, approximation: str, top_classes: int | None, renormalise: bool, block_bytes: int
) -> Factors:
    """Return the rows sqrt(p_j) (e_j - p) (x) phi of all classes, with which F_i = (diag(p) - p p^T) (x) phi phi^T.

    "top": of the most probable classes; their weights, not the inner p, are renormalised. "binary": sqrt(p (1 - p)) phi
    of p_max, which has the Gram matrix of the two rows of p_max against the rest.
    """
    if approximation == "binary":  # p_max is all that is kept: the probabilities of a million instances take 5 GB.
        p = features.new_empty(len(logits), 1)
        for block in blocks(len(logits), logits[:1].nbytes, block_bytes):
            torch.amax(logits[block].softmax(dim=1), dim=1, keepdim=True, out=p[block])
        return Factors(block_bytes, features, (p * (1 - p)).sqrt())
    p = logits.softmax(dim=1)
    if approximation == "exact":
        return Factors(block_bytes, features, p.sqrt(), p)
    ordered = p.sort(dim=1, descending=True, stable=True)
    highest = ordered.values[:, :top_classes]
    if renormalise:
        highest = highest / highest.sum(dim=1, keepdim=True)
    return Factors(block_bytes, features, highest.sqrt(), p, ordered.indices[:, :top_classes])
