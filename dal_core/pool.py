"""What is labelled, what is not, and the snapshot of a cycle that a strategy sees."""

import dataclasses
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_finite, check_labels, check_shape
from dal_core.heads import PROTOCOLS, Training
from dal_core.randomness import choose


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Positions in a bank's train split: `labelled` in the order of buying, `unlabelled` ascending; on the CPU."""

    labelled: Int[Tensor, " m"]
    unlabelled: Int[Tensor, " n"]

    @classmethod
    def start(cls, size: int, initial_size: int, generator: torch.Generator) -> "Pool":
        """A pool of `size` instances of which `initial_size`, drawn uniformly, are labelled.

        Raises:
            ValueError: unless 0 < initial_size <= size.
        """
        if not 0 < initial_size <= size:
            raise ValueError(f"initial_size is {initial_size}; 1 to {size}, the size of the pool, was expected")
        return cls(torch.empty(0, dtype=torch.int64), torch.arange(size)).buy(choose(size, initial_size, generator))

    def buy(self, instances: Int[Tensor, " b"]) -> "Pool":
        """The pool after the labels of `instances` were bought.

        Raises:
            ValueError: if an instance is not unlabelled, or is named twice.
        """
        instances = instances.to(self.unlabelled.device)
        if len(instances.unique()) != len(instances):
            raise ValueError(
                f"instances holds {len(instances)} entries, but only {len(instances.unique())} distinct ones"
            )
        known = torch.isin(instances, self.unlabelled)
        if not known.all():
            raise ValueError(f"instances holds {instances[~known].tolist()}; only unlabelled instances can be bought")
        rest = self.unlabelled[~torch.isin(self.unlabelled, instances)]
        return Pool(torch.cat((self.labelled, instances)), rest)

    def subset(self, size: int | None, generator: torch.Generator) -> Int[Tensor, " s"]:
        """`size` unlabelled instances drawn uniformly, ascending; all of them if there are fewer or `size` is None."""
        if size is None or size >= len(self.unlabelled):
            return self.unlabelled
        return self.unlabelled[choose(len(self.unlabelled), size, generator)].sort().values


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a strategy may look at in one cycle, computed once, on the run's device.

    `features` and `logits` belong to the n unlabelled instances that the strategy chooses from; features are what the
    last layer of the head sees. `weight` and `bias` are that last layer, so that logits = features @ weight.T + bias.
    `training` is how the head was trained, for strategies that train heads of their own. True labels of the unlabelled
    instances are not in here.

    Raises:
        ValueError: if fields do not fit each other, labels are out of range, or a value is NaN or infinite.
    """

    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n k"]
    labelled_features: Float[Tensor, "m d"]
    labelled_logits: Float[Tensor, "m k"]
    labels: Int[Tensor, " m"]
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None
    training: Training = dataclasses.field(default=PROTOCOLS["sgd"], kw_only=True)

    def __post_init__(self) -> None:
        check_shape("weight", self.weight, (None, None))
        check_shape("labels", self.labels, (None,))
        k, d = self.weight.shape
        shapes: dict[str, tuple[int | None, ...]] = {"features": (None, d), "logits": (len(self.features), k)}
        shapes |= {"labelled_features": (len(self.labels), d), "labelled_logits": (len(self.labels), k)}
        floats = {name: getattr(self, name) for name in (*shapes, "weight")}
        if self.bias is not None:
            floats["bias"], shapes["bias"] = self.bias, (k,)
        check_alike(**floats)
        for name, shape in shapes.items():
            check_shape(name, floats[name], shape)
        check_finite(**floats)
        self._check_labels("labels", self.labels, len(self.labelled_features))

    def _check_labels(self, name: str, labels: Tensor, expected: int) -> None:
        check_shape(name, labels, (expected,))
        if labels.device != self.features.device:
            raise ValueError(
                f"{name} has device {labels.device}, but features has {self.features.device}; both have to agree"
            )
        check_labels(name, labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        return self.weight.shape[0]

    @cached_property
    def probabilities(self) -> Float[Tensor, "n k"]:
        """Softmax of `logits`, computed when first asked for."""
        return self.logits.softmax(dim=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class OracleSnapshot(Snapshot):
    """A snapshot with ground truth: for upper baselines, which ask for this type and are marked where they appear."""

    hidden_labels: Int[Tensor, " n"]
    test_features: Float[Tensor, "n_test d"]
    test_labels: Int[Tensor, " n_test"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alike(features=self.features, test_features=self.test_features)
        check_shape("test_features", self.test_features, (None, self.weight.shape[1]))
        check_finite(test_features=self.test_features)
        self._check_labels("hidden_labels", self.hidden_labels, len(self.features))
        self._check_labels("test_labels", self.test_labels, len(self.test_features))
