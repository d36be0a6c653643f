"""Frozen features: as data to learn from, and as a bank with labels and provenance, checked once when it is made."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_finite, check_labels, check_tensor, one_line, shown

LARGE = 100  # How many times larger than 1, or than another, the scale of a feature may be without a warning,
RARE = 0.05  # where this share of the smallest ones does not count.


@runtime_checkable
class Data(Protocol):
    """Inputs without labels; they need not be one tensor, as long as `inputs` can read those at some positions."""

    def __len__(self) -> int: ...

    def inputs(self, positions: Tensor) -> Tensor:
        """Return what a model takes, a row a position."""


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureData:
    """A row of features an instance, as data to learn from.

    >>> FeatureData(torch.tensor([[1.0], [2.0], [3.0]])).inputs(torch.tensor([2, 0]))
    tensor([[3.],
            [1.]])
    """

    features: Tensor  # [n, ...]

    def __len__(self) -> int:
        return len(self.features)

    def inputs(self, positions: Int[Tensor, " p"]) -> Tensor:
        """Return the rows at the positions, on the device of the features."""
        return self.features[positions.to(self.features.device)]

    def to(self, device: torch.device | str) -> "FeatureData":
        """Return the same data on `device`."""
        return FeatureData(self.features.to(device))


class Part(NamedTuple):
    """The instances at some positions of other data."""

    whole: Data
    positions: Int[Tensor, " p"]

    def __len__(self) -> int:
        return len(self.positions)

    def inputs(self, positions: Int[Tensor, " q"]) -> Tensor:
        """Return the inputs at positions among these."""
        return self.whole.inputs(self.positions[positions.to(self.positions.device)])


class Labelled(NamedTuple):
    """Data with a label an instance, int64 classes or floats. A strategy gets `data` alone."""

    data: Data
    labels: Tensor

    def inputs(self) -> Tensor:
        """Return all inputs."""
        return self.data.inputs(torch.arange(len(self.data)))

    def labels_at(self, positions: Int[Tensor, " p"]) -> Tensor:
        """Return the labels at the positions, on the device of the labels."""
        return self.labels[positions.to(self.labels.device)]

    def part(self, positions: Int[Tensor, " p"]) -> "Labelled | None":
        """Return the instances at the positions with their labels; None without any."""
        return Labelled(Part(self.data, positions), self.labels_at(positions)) if len(positions) else None

    def to(self, device: torch.device | str) -> "Labelled":
        """Return the labels on `device`, and the data, too, if they can be moved as a whole."""
        return Labelled(self.data.to(device) if hasattr(self.data, "to") else self.data, self.labels.to(device))


def as_labelled(data: Any, *, classes: bool = True, num_classes: int | None = None) -> tuple[Labelled, Labelled]:
    """Return what to train on and what to test on, of a FeatureBank or of inputs, labels, test inputs, test labels.

    Labels are float64 unless they are `classes`. The classes of features are the integers that occur among the labels,
    in ascending order; with `num_classes` labels are numbered already.

    Raises:
        ValueError: naming the array, for what is neither, and for arrays that do not fit each other.
    """
    if isinstance(data, FeatureBank):
        return data.train, data.test
    if not isinstance(data, tuple | list) or len(data) != 4:
        raise ValueError(
            f"data is {shown(data)}; a FeatureBank, or inputs and labels to train on and to test on, was expected"
        )
    train, test = (_labelled(name, *data[i : i + 2]) for i, name in ((0, "train"), (2, "test")))
    if not classes:
        return train._replace(labels=train.labels.double()), test._replace(labels=test.labels.double())
    both: list[Any] = [train.data, test.data]
    if all(isinstance(each, FeatureData) for each in both) and not train.labels.is_floating_point():
        labels, names = [train.labels, test.labels], tuple(map(str, range(max(2, num_classes or 0))))
        if num_classes is None and all(each.dtype == torch.int64 for each in labels):
            names, labels = _values(labels)
        bank = FeatureBank(both[0].features, labels[0], both[1].features, labels[1], names)
        return bank.train, bank.test
    return train, test


def _values(labels: list[Tensor]) -> tuple[tuple[str, ...], list[Tensor]]:
    """The values that occur, two at least, and the positions of labels among them."""
    values = torch.cat([each.cpu() for each in labels]).unique()
    names = [*map(str, values.tolist())]
    names += [str(each) for each in range(3) if str(each) not in names][: max(0, 2 - len(names))]
    return tuple(names), [torch.searchsorted(values.to(each.device), each) for each in labels]


def _labelled(name: str, inputs: Any, labels: Any) -> Labelled:
    """A split of a run's data, checked as far as any kind of data can be."""
    known = tensor_of(f"{name}_labels", labels).detach()
    known = known if known.is_floating_point() or known.dtype == torch.bool else known.long()
    if not hasattr(inputs, "inputs"):
        inputs = FeatureData(tensor_of(f"{name}_features", inputs))
    if isinstance(inputs, FeatureData):
        inputs = FeatureData(tensor_of(f"{name}_features", inputs.features).detach())
        check_finite(**{f"{name}_features": inputs.features})
    if known.shape != (len(inputs),):
        expected = f"({len(inputs)},) was expected, one an instance"
        raise ValueError(f"{name}_labels has shape {tuple(known.shape)}; {expected}")
    return Labelled(inputs, known)


def standardised(train: Labelled, test: Labelled) -> tuple[Labelled, Labelled]:
    """Return features that have mean 0 and deviation 1 on the train split; one that is constant there is only centred.

    Raises:
        ValueError: for data that are no matrix of features.
    """
    whole, held = train.data, test.data
    if not (isinstance(whole, FeatureData) and isinstance(held, FeatureData)):
        raise ValueError(f"standardise is True, but the data are {shown(whole)}; a row of features each was expected")
    known = whole.features.double()
    mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)
    deviation[known.amax(dim=0) == known.amin(dim=0)] = 1
    scaled = [each.features.double().sub(mean).div_(deviation).to(each.features.dtype) for each in (whole, held)]
    return train._replace(data=FeatureData(scaled[0])), test._replace(data=FeatureData(scaled[1]))


def warn_of_scales(train: Labelled, provenance: Mapping[str, Any]) -> None:
    """Warn, by name, of features whose scale is far from 1, on which the learning rates of the papers rest.

    The scale of a feature is its largest absolute value. Those that are nearly always zero count only if there are
    many, as some units of every network are.
    """
    if not isinstance(train.data, FeatureData) or train.data.features.ndim != 2 or not train.data.features.numel():
        return
    lowest, highest = train.data.features.aminmax(dim=0)  # without a copy of what may be all of ImageNet
    scales = torch.maximum(lowest.abs(), highest.abs()).double().cpu()
    used = scales[scales > 0].sort().values
    if not len(used):
        return
    smallest, largest = used[int(RARE * (len(used) - 1))].item(), used[-1].item()
    if max(largest, 1) <= LARGE * min(smallest, 1):
        return
    distance = scales.log10().abs().where(scales >= smallest, 0)
    order = [i for i in distance.argsort(descending=True, stable=True).tolist() if distance[i] >= 1]
    names = provenance.get("columns") or [f"column {i}" for i in range(len(scales))]
    found = ", ".join(f"{names[i]} {scales[i]:.2g}" for i in order[:3]) + (", ..." if len(order) > 3 else "")
    warnings.warn(
        f"{one_line(provenance.get('source', 'data'))}: the scale of features is far from 1 ({found}), so that models "
        "learn little: standardise=True, on the command line --standardise, gives them mean 0 and deviation 1",
        stacklevel=3,
    )


def tensor_of(name: str, value: Any) -> Tensor:
    """Return the tensor of an array, a list or a data frame.

    Raises:
        ValueError: naming it, for what holds no numbers.
    """
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)  # torch takes no read-only arrays, other byte orders or negative strides.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shown(value)}; a tensor or an array of numbers was expected") from None


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureBank:
    """Features of a train split (the pool) and a test split, with integer labels.

    Args:
        train_features: float32 or float64, one row an instance of the pool.
        train_labels: int64 class labels of the pool, 0..k-1.
        test_features: same dtype and width as `train_features`.
        test_labels: int64 class labels of the test split.
        class_names: k names, in label order.
        provenance: where the data come from and what was done to them; JSON values only.

    Raises:
        ValueError: naming the array, what was found and what was expected, when shapes disagree, a split is
            empty, labels are not integers in range, or a value is NaN or infinite.
    """

    train_features: Float[Tensor, "n d"]
    train_labels: Int[Tensor, " n"]
    test_features: Float[Tensor, "n_test d"]
    test_labels: Int[Tensor, " n_test"]
    class_names: tuple[str, ...]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.class_names, tuple) or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"class_names is {shown(self.class_names)}; a tuple of texts was expected")
        if not isinstance(self.provenance, dict):
            raise ValueError(f"provenance is {shown(self.provenance)}; a dictionary was expected")
        if len(self.class_names) < 2:
            raise ValueError(f"class_names has {len(self.class_names)} entries; at least 2 classes were expected")
        for split in ("train", "test"):
            features, labels = getattr(self, f"{split}_features"), getattr(self, f"{split}_labels")
            self._check_split(split, features, labels)
        train, test = self.train_features, self.test_features
        if test.shape[1] != train.shape[1]:
            raise ValueError(
                f"test_features has {test.shape[1]} columns; {train.shape[1]} were expected, as in train_features"
            )
        if test.dtype != train.dtype:
            raise ValueError(f"test_features has dtype {test.dtype}; {train.dtype} was expected, as in train_features")

    def _check_split(self, split: str, features: Tensor, labels: Tensor) -> None:
        name = f"{split}_features"
        check_tensor(name, features)
        check_tensor(f"{split}_labels", labels)
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}; a non-empty matrix with one row an instance was expected"
            )
        if features.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} has dtype {features.dtype}; float32 or float64 was expected")
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"{split}_labels has shape {tuple(labels.shape)}; ({len(features)},) was expected, one a row of {name}"
            )
        check_labels(f"{split}_labels", labels, self.num_classes)
        check_finite(**{name: features})

    def __repr__(self) -> str:
        source = f"{one_line(self.provenance['source'])}: " if "source" in self.provenance else ""
        sizes = f"{len(self.train_labels)} + {len(self.test_labels)} x {self.num_features}"
        return f"FeatureBank({source}{sizes}, {self.num_classes} classes)"

    @property
    def train(self) -> Labelled:
        """The pool."""
        return Labelled(FeatureData(self.train_features), self.train_labels)

    @property
    def test(self) -> Labelled:
        """The test split."""
        return Labelled(FeatureData(self.test_features), self.test_labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_features(self) -> int:
        return self.train_features.shape[1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all arrays (dtype, shape, bytes) and class names: what identifies the data in a result's key."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "FeatureBank":
        """The same bank with its arrays on `device`."""
        moved: Any = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def standardised(self) -> "FeatureBank":
        """The same bank with features of mean 0 and deviation 1 on the train split."""
        train, test = standardised(self.train, self.test)
        made: Any = {"train_features": train.inputs(), "test_features": test.inputs()}
        return dataclasses.replace(self, **made, provenance=self.provenance | {"scaling": "standardised"})

    def tensors(self) -> dict[str, Tensor]:
        """The four arrays by name."""
        names = ("train_features", "train_labels", "test_features", "test_labels")
        return {name: getattr(self, name) for name in names}
