"""What is labelled, what is not, and the snapshot of a cycle that a strategy sees."""

import dataclasses
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_finite,
    check_labels,
    check_number,
    check_shape,
    check_whole,
)
from dal_core.models.heads import Head
from dal_core.models.training import PROTOCOLS, Training
from dal_core.randomness import choose

S = TypeVar("S", bound="Snapshot")


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
        check_whole("size", size, 1)
        return cls.among(torch.arange(size), initial_size, generator)

    @classmethod
    def among(cls, instances: Int[Tensor, " n"], initial_size: int, generator: torch.Generator) -> "Pool":
        """As `start`, of `instances` alone, which are ascending."""
        size = len(instances)
        if isinstance(initial_size, bool) or not isinstance(initial_size, int) or not 0 < initial_size <= size:
            raise ValueError(f"initial_size is {initial_size}; 1 to {size}, the size of the pool, was expected")
        return cls(instances[:0], instances).buy(instances[choose(size, initial_size, generator)])

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


def check_imbalance(imbalance: float) -> None:
    """Raise ValueError unless it is a finite number of at least 1."""
    check_number("imbalance", imbalance)
    if not 1 <= imbalance < float("inf"):
        raise ValueError(f"imbalance is {imbalance}; a finite number of at least 1 was expected")


def long_tailed(labels: Int[Tensor, " n"], imbalance: float, generator: torch.Generator) -> Int[Tensor, " p"]:
    """Positions, ascending, of what a long-tailed pool keeps: of each class a share between 1 and 1 / `imbalance`.

    The class of rank r of k keeps imbalance^(-r / (k - 1)) of its instances, at least one; ranks and instances are
    drawn. A balanced pool of which the rarest class is `imbalance` times rarer than the most frequent one (Cui et al.
    2019, section 5).

    Raises:
        ValueError: if `imbalance` is below 1.
    """
    check_imbalance(imbalance)
    labels = labels.cpu()
    sizes = torch.bincount(labels)
    ranks = choose(len(sizes), len(sizes), generator).double()
    kept = (sizes * imbalance ** (-ranks / max(1, len(sizes) - 1))).round().clamp_min(1)
    order = choose(len(labels), len(labels), generator)
    order = order[labels[order].argsort(stable=True)]  # class after class, in each in random order
    first = (sizes.cumsum(dim=0) - sizes)[labels[order]]  # where the class begins
    return order[torch.arange(len(labels)) - first < kept[labels[order]]].sort().values


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a strategy may look at in one cycle, computed once, on the run's device.

    `features` and `logits` belong to the n unlabelled instances that the strategy chooses from; features are what the
    last layer of the head sees. `weight` and `bias` are that last layer, so that logits = features @ weight.T + bias.
    True labels of the unlabelled instances are not in here.

    For strategies that train heads of their own, `training` is how the head was trained, and `initial` what it was
    trained from; without it a linear layer is drawn. `inputs` and `labelled_inputs` are what a head with a hidden
    layer takes; the inputs of a linear head are the features. `cycle` is the number of acquisitions made so far.

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
    _: dataclasses.KW_ONLY
    training: Training = PROTOCOLS["sgd"]
    initial: Head | None = None
    inputs: Float[Tensor, "n d_in"] | None = None
    labelled_inputs: Float[Tensor, "m d_in"] | None = None
    cycle: int = 0

    def __post_init__(self) -> None:
        check_shape("weight", self.weight, (None, None))
        check_shape("labels", self.labels, (None,))
        check_whole("cycle", self.cycle, 0)
        k, d = self.weight.shape
        check_shape("features", self.features, (None, d))
        shapes: dict[str, tuple[int | None, ...]] = {"features": (None, d), "logits": (len(self.features), k)}
        shapes |= {"labelled_features": (len(self.labels), d), "labelled_logits": (len(self.labels), k)}
        if self.initial is not None and self.initial.hidden_weight is not None:
            d_in = self.initial.hidden_weight.shape[1]
            if self.inputs is None or self.labelled_inputs is None:
                raise ValueError("inputs or labelled_inputs is None; initial has a hidden layer, which takes them")
            shapes |= {"inputs": (len(self.features), d_in), "labelled_inputs": (len(self.labels), d_in)}
        if self.bias is not None:
            shapes["bias"] = (k,)
        floats = {name: getattr(self, name) for name in (*shapes, "weight")}
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

    def at(self: S, positions: Int[Tensor, " p"]) -> S:
        """The same cycle for a strategy that chooses from the instances at `positions` only."""
        of_pool = ("features", "logits", "inputs", "hidden_labels")
        parts = {name: getattr(self, name, None) for name in of_pool}
        of_part = dataclasses.replace(
            self, **{name: part[positions] for name, part in parts.items() if part is not None}
        )
        if "probabilities" in vars(self):  # what was computed for the whole pool is not computed anew for its parts
            vars(of_part)["probabilities"] = self.probabilities[positions]
        return of_part


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSet:
    """Instances and their true labels, to measure heads on; `features` and `inputs` are as in a Snapshot."""

    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    inputs: Float[Tensor, "n d_in"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class OracleSnapshot(Snapshot):
    """A snapshot with ground truth: for upper baselines, which ask for this type and are marked where they appear.

    `hidden_labels` belong to the unlabelled instances; the test set and the validation set are what they judge by.
    """

    hidden_labels: Int[Tensor, " n"]
    test: LabelledSet | None = None
    validation: LabelledSet | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_labels("hidden_labels", self.hidden_labels, len(self.features))
        for name, labelled in {"test": self.test, "validation": self.validation}.items():
            if labelled is not None:
                check_shape(f"{name}.features", labelled.features, (None, self.weight.shape[1]))
                check_alike(features=self.features, **{f"{name}.features": labelled.features})
                check_finite(**{f"{name}.features": labelled.features})
                if self.initial is not None and self.initial.hidden_weight is not None:
                    if labelled.inputs is None:
                        raise ValueError(f"{name}.inputs is None; initial has a hidden layer, which takes them")
                    d_in = self.initial.hidden_weight.shape[1]
                    check_shape(f"{name}.inputs", labelled.inputs, (len(labelled.features), d_in))
                    check_alike(features=self.features, **{f"{name}.inputs": labelled.inputs})
                    check_finite(**{f"{name}.inputs": labelled.inputs})
                self._check_labels(f"{name}.labels", labelled.labels, len(labelled.features))

    def without_truth(self) -> Snapshot:
        """What an ordinary strategy may see of it."""
        return Snapshot(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Snapshot)})
