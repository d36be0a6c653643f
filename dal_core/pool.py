"""What is labelled and what is not, and which instances there are to buy."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_shape, check_whole
from dal_core.contracts import Between, checked
from dal_core.randomness import choose

if TYPE_CHECKING:
    from dal_core.experiment import Protocol


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Positions in the data: `labelled` in the order of buying, `unlabelled` ascending; on the CPU."""

    labelled: Int[Tensor, " m"]
    unlabelled: Int[Tensor, " n"]

    @classmethod
    def start(cls, size: int, initial_size: int, generator: torch.Generator) -> "Pool":
        """A pool of `size` instances of which `initial_size`, drawn uniformly, are labelled.

        Raises:
            ValueError: unless 0 < initial_size <= size.
        """
        check_whole("size", size, 1)
        if isinstance(initial_size, bool) or not isinstance(initial_size, int) or not 0 < initial_size <= size:
            raise ValueError(f"initial_size is {initial_size}; 1 to {size}, the size of the pool, was expected")
        instances = torch.arange(size)
        return cls(instances[:0], instances).buy(choose(size, initial_size, generator))

    def buy(self, instances: Int[Tensor, " b"]) -> "Pool":
        """The pool after the labels of `instances` were bought.

        Raises:
            ValueError: if an instance is not unlabelled, or is named twice.
        """
        check_shape("instances", instances, (None,))
        if instances.dtype != torch.int64:
            raise ValueError(f"instances has dtype {instances.dtype}; int64 was expected")
        instances = instances.to(self.unlabelled.device)
        if len(instances.unique()) != len(instances):
            raise ValueError(
                f"instances holds {len(instances)} entries, but only {len(instances.unique())} distinct ones"
            )
        known = torch.isin(instances, self.unlabelled)
        if not known.all():
            raise ValueError(f"instances holds {instances[~known].tolist()}; only unlabelled instances can be bought")
        return Pool(torch.cat((self.labelled, instances)), self.without(instances).unlabelled)

    def without(self, instances: Int[Tensor, " s"]) -> "Pool":
        """The pool in which `instances` cannot be bought."""
        return Pool(self.labelled, self.unlabelled[~torch.isin(self.unlabelled, instances)])

    def subset(self, size: int | None, generator: torch.Generator) -> Int[Tensor, " s"]:
        """`size` unlabelled instances drawn uniformly, ascending; all of them if there are fewer or `size` is None."""
        if size is not None:
            check_whole("size", size, 0)
        if size is None or size >= len(self.unlabelled):
            return self.unlabelled
        return self.unlabelled[choose(len(self.unlabelled), size, generator)].sort().values


Imbalance = Annotated[float, Between(1, math.inf, "low")]


@checked
def long_tailed(labels: Int[Tensor, " n"], imbalance: Imbalance, generator: torch.Generator) -> Int[Tensor, " p"]:
    """Positions, ascending, of what a long-tailed pool keeps: of each class a share between 1 and 1 / `imbalance`.

    The class of rank r of k keeps imbalance^(-r / (k - 1)) of its instances, at least one; ranks and instances are
    drawn. A balanced pool of which the rarest class is `imbalance` times rarer than the most frequent one (Cui et al.
    2019, section 5).

    Raises:
        ValueError: if `imbalance` is below 1.
    """
    labels = labels.cpu()
    sizes = torch.bincount(labels)
    ranks = choose(len(sizes), len(sizes), generator).double()
    kept = (sizes * imbalance ** (-ranks / max(1, len(sizes) - 1))).round().clamp_min(1)
    return _first_of_classes(labels, kept, generator).sort().values


def first_of_each_class(labels: Int[Tensor, " n"], size: int, generator: torch.Generator) -> Int[Tensor, " s"]:
    """Positions of equally many random instances of each class, `size` in all, class after class.

    Raises:
        ValueError: unless `size` is a multiple of the classes, and each has so many instances.
    """
    sizes = torch.bincount(labels)
    each, rest = divmod(size, len(sizes))
    if rest or int(sizes.min()) < each:
        raise ValueError(
            f"initial_size is {size}; for a balanced set a multiple of {len(sizes)} classes was expected, at most "
            f"{int(sizes.min())} of each"
        )
    return _first_of_classes(labels, torch.full_like(sizes, each), generator)


def _first_of_classes(labels: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """Positions of `kept[c]` random instances of each class c, class after class."""
    sizes, order = torch.bincount(labels), choose(len(labels), len(labels), generator)
    order = order[labels[order].argsort(stable=True)]  # class after class, in each in random order
    first = (sizes.cumsum(dim=0) - sizes)[labels[order]]  # where the class begins
    return order[torch.arange(len(labels)) - first < kept[labels[order]]]


def instances_for(protocol: "Protocol", labels: Tensor, draw: Callable[..., torch.Generator]) -> Pool:
    """Return the pool of a protocol, nothing of it labelled yet; `draw` makes a generator for a purpose.

    Raises:
        ValueError: if the protocol buys more instances than there are.
    """
    instances = torch.arange(len(labels))
    if protocol.share < 1:
        kept = choose(len(instances), round(protocol.share * len(instances)), draw("share of the pool"))
        instances = kept.sort().values
    if protocol.imbalance > 1:
        instances = instances[long_tailed(labels[instances], protocol.imbalance, draw("long tail"))]
    if protocol.total > (size := len(instances) - protocol.validation_size):
        raise ValueError(f"the experiment buys {protocol.total} instances, but the pool has {size}")
    return Pool(instances[:0], instances)
