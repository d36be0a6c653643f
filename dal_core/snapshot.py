"""What is labelled, what is not, and the snapshot of a cycle that a strategy sees."""

import copy
import dataclasses
import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_alike, check_finite, check_labels, check_shape, check_whole, shown
from dal_core.contracts import Below, Between, Size, check_fields, checked
from dal_core.models.heads import Head
from dal_core.models.training import PROTOCOLS, Training
from dal_core.randomness import choose

S = TypeVar("S", bound="Snapshot")
TRUTH = ("hidden_labels", "test", "validation")


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
    order = choose(len(labels), len(labels), generator)
    order = order[labels[order].argsort(stable=True)]  # class after class, in each in random order
    first = (sizes.cumsum(dim=0) - sizes)[labels[order]]  # where the class begins
    return order[torch.arange(len(labels)) - first < kept[labels[order]]].sort().values


if TYPE_CHECKING:  # Reading one that is absent raises an AbsentError: nobody meets the None.
    from torch import Tensor as LabelledLogits
    from torch import Tensor as PoolLogits
    from torch import Tensor as Weight
else:
    PoolLogits, LabelledLogits = Float[Tensor, "n k"] | None, Float[Tensor, "m k"] | None
    Weight = Float[Tensor, "k d"] | None


class AbsentError(ValueError):
    """A strategy asked a snapshot for what it was not given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a strategy may look at in one cycle, computed once, on the run's device; without gradients.

    `features` and `logits` belong to the n unlabelled instances that the strategy chooses from; features are what the
    last layer of the head sees. `weight` and `bias` are that last layer, so that logits = features @ weight.T + bias.
    True labels of the unlabelled instances are not in here. Logits and weight may be None: a strategy that asks for
    them then ends in an AbsentError that names them.

    For strategies that train heads of their own, `training` is how the head was trained, and `initial` what it was
    trained from; without it a linear layer is drawn. `inputs` and `labelled_inputs` are what a head with a hidden
    layer takes; the inputs of a linear head are the features. `cycle` is the number of acquisitions made so far.
    `instances` are the unlabelled instances' positions in the arrays that `of` was given.

    Raises:
        ValueError: if fields do not fit each other, labels are out of range, or a value is NaN or infinite.
    """

    features: Float[Tensor, "n d"]
    logits: PoolLogits
    labelled_features: Float[Tensor, "m d"]
    labelled_logits: LabelledLogits
    labels: Annotated[Int[Tensor, " m"], Below("k")]
    weight: Weight
    bias: Float[Tensor, " k"] | None
    _: dataclasses.KW_ONLY
    training: Training = PROTOCOLS["sgd"]
    initial: Head | None = None
    inputs: Float[Tensor, "n d_in"] | None = None
    labelled_inputs: Float[Tensor, "m d_in"] | None = None
    cycle: Size = 0
    instances: Int[Tensor, " n"] | None = None

    @classmethod
    def of(
        cls, features: Any, logits: Any = None, *, labelled: Any, labels: Any, weight: Any = None, bias: Any = None
    ) -> "Snapshot":
        """The snapshot of arrays or tensors of all instances, of which some are labelled.

        Args:
            features: [N, d], floats; gradients are left behind.
            logits: [N, k]; None where the strategy looks at features alone.
            labelled: positions in them, or a mask of N truth values.
            labels: of the labelled ones, in that order, 0 to k - 1.
            weight, bias: [k, d] and [k] of the last layer, where a strategy asks for them (ALFA-Mix, DropQuery).

        >>> taken = Snapshot.of([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], labelled=[1], labels=[0])
        >>> taken.features.shape, taken.instances.tolist()
        (torch.Size([2, 2]), [0, 2])
        """
        everything, chosen = _tensor("features", features), _tensor("labelled", labelled)
        rows = len(everything) if everything.ndim else 0
        if chosen.dtype == torch.bool and chosen.shape == (rows,):
            chosen = chosen.nonzero().squeeze(1)
        if chosen.ndim != 1 or (len(chosen) and (chosen.is_floating_point() or len(chosen.unique()) < len(chosen))):
            raise ValueError(f"labelled is {shown(labelled)}; different positions, or a mask of {rows}, were expected")
        chosen = chosen.long().to(everything.device)
        if len(chosen) and not (int(chosen.min()) >= 0 and int(chosen.max()) < rows):
            found = f"{int(chosen.min())} to {int(chosen.max())}"
            raise ValueError(f"labelled holds positions from {found}; 0 to {rows - 1} was expected")
        rest = (
            torch.ones(rows, dtype=torch.bool, device=chosen.device).index_fill_(0, chosen, False).nonzero().squeeze(1)
        )
        predictions, known = None if logits is None else _tensor("logits", logits), _tensor("labels", labels)
        if predictions is not None and (predictions.ndim == 0 or len(predictions) != rows):
            raise ValueError(
                f"logits has shape {tuple(predictions.shape)}; a row for each of {rows} instances was expected"
            )
        if known.numel() == 0 or not (known.is_floating_point() or known.dtype == torch.bool):
            known = known.long().to(everything.device)
        parts: dict[str, Any] = {"features": everything[rest], "labelled_features": everything[chosen], "labels": known}
        for name, positions in {"logits": rest, "labelled_logits": chosen}.items():
            parts[name] = None if predictions is None else predictions[positions]
        for name, value in {"weight": weight, "bias": bias}.items():
            parts[name] = None if value is None else _tensor(name, value)
        return cls(**parts, instances=rest)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("logits", "labelled_logits", "weight"):
            if (value := getattr(self, name)) is None:
                object.__delattr__(self, name)  # Whoever reads it meets __getattr__.
            elif (classes := value.shape[0 if name == "weight" else 1]) < 2:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; at least 2 classes were expected, of a model with one "
                    "output z for a sigmoid the columns (-z / 2, z / 2)"
                    if classes
                    else f"{name} has no classes"
                )
        self._check_labels("labels", self.labels, len(self.labelled_features))
        if self.initial is not None and self.initial.hidden_weight is not None:
            if self.inputs is None or self.labelled_inputs is None:
                raise ValueError("inputs or labelled_inputs is None; initial has a hidden layer, which takes them")
            check_shape("inputs", self.inputs, (len(self.features), self.initial.hidden_weight.shape[1]))

    def __getattr__(self, name: str) -> Any:
        if name in ("logits", "labelled_logits", "weight"):
            argument = name.removeprefix("labelled_")
            raise AbsentError(f"snapshot has no {name}, which this strategy needs: Snapshot.of(..., {argument}=...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_labels(self, name: str, labels: Tensor, expected: int) -> None:
        check_shape(name, labels, (expected,))
        if labels.device != self.features.device:
            raise ValueError(
                f"{name} has device {labels.device}, but features has {self.features.device}; both have to agree"
            )
        check_labels(name, labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Those of the logits or the last layer; without both, as many as the labels show, and at least two."""
        known = vars(self)
        if "logits" in known:
            return self.logits.shape[1]
        if "weight" in known:
            return self.weight.shape[0]
        return max(2, int(self.labels.max()) + 1) if len(self.labels) else 2

    @cached_property
    def probabilities(self) -> Float[Tensor, "n k"]:
        """Softmax of `logits`, computed when first asked for."""
        return self.logits.softmax(dim=-1)

    def at(self: S, positions: Int[Tensor, " p"]) -> S:
        """The same cycle for a strategy that chooses from the instances at `positions` only."""
        part = copy.copy(self)  # Rows of what was checked need no check.
        for name in ("features", "logits", "inputs", "hidden_labels", "instances", "probabilities"):
            if (rows := vars(self).get(name)) is not None:
                vars(part)[name] = rows[positions]
        return part


def _tensor(name: str, value: Any) -> Tensor:
    """The tensor of an array, a list or a data frame."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(value)))
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shown(value)}; a tensor or an array of numbers was expected") from None


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
        for name, held in {"test": self.test, "validation": self.validation}.items():
            if held is not None:
                self._check_rows(f"{name}.features", held.features, (None, self.features.shape[1]))
                if self.initial is not None and self.initial.hidden_weight is not None:
                    if held.inputs is None:
                        raise ValueError(f"{name}.inputs is None; initial has a hidden layer, which takes them")
                    d_in = self.initial.hidden_weight.shape[1]
                    self._check_rows(f"{name}.inputs", held.inputs, (len(held.features), d_in))
                self._check_labels(f"{name}.labels", held.labels, len(held.features))

    def _check_rows(self, name: str, rows: Tensor, shape: tuple[int | None, int]) -> None:
        check_shape(name, rows, shape)
        check_alike(features=self.features, **{name: rows})
        check_finite(**{name: rows})

    def without_truth(self) -> Snapshot:
        """What an ordinary strategy may see of it."""
        plain = object.__new__(Snapshot)
        vars(plain).update({name: value for name, value in vars(self).items() if name not in TRUTH})
        return plain
