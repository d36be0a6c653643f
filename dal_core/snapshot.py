"""The snapshot of a cycle that a strategy sees, and its views."""

import copy
import dataclasses
import functools
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from dal_core.checks import check_labels, check_shape, shown
from dal_core.contracts import Size, check_fields
from dal_core.data import Data, FeatureData, Labelled, tensor_of
from dal_core.protocols import Draw, Learner, Model, Outputs, Task
from dal_core.randomness import generator_for

S = TypeVar("S", bound="Snapshot")


class AbsentError(ValueError):
    """A strategy asked a snapshot for what it was not given."""


OF_INSTANCES = {
    "features",
    "instances",
    "logits",
    "probabilities",
    "mean",
    "variance",
    "members",
    "hidden_labels",
}  # a row each


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """All that a strategy may look at in one cycle, computed once, on the run's device; without gradients.

    This is the least, features alone, as before the first label; its views have more: `Predictions`, `LastLayer`,
    `Regression`, and for who trains models `WithModel`. True labels of what is not labelled are in `Truth` only. A
    strategy annotates the least view that it needs, and is passed the richest one that the run's learner fills.

    `features` belong to the n unlabelled instances to choose from, and `instances` are their positions in the data.
    `labels` are those of the m labelled ones, in the order of buying: classes, or floats of a regression. `cycle` is
    the number of acquisitions made so far.

    Raises:
        ValueError: if fields do not fit each other, labels are out of range, or a value is NaN or infinite.
    """

    features: Float[Tensor, "n d"]
    labelled_features: Float[Tensor, "m d"]
    labels: Num[Tensor, " m"]
    instances: Int[Tensor, " n"]
    cycle: Size = 0

    @staticmethod
    def of(
        features: Any, logits: Any = None, *, labelled: Any, labels: Any, weight: Any = None, bias: Any = None,
        **others: Any,
    ) -> "Snapshot":  # fmt: skip
        """Return the view of arrays or tensors of all instances, of which some are labelled.

        Args:
            features: [N, d], floats; gradients are left behind.
            logits: [N, k]; None where the strategy looks at features alone, or weight and bias are given.
            labelled: positions in them, or a mask of N truth values.
            labels: of the labelled ones, in that order, 0 to k - 1.
            weight, bias: [k, d] and [k] of the last layer, where a strategy asks for them (ALFA-Mix, DropQuery).
            others: further fields of the views: `learner`, `cycle`, `draw`; and of `Truth`, for oracles,
                `hidden_labels`, of the other instances in ascending order, `test` and `validation`, pairs of inputs
                and labels.

        >>> taken = Snapshot.of([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], labelled=[1], labels=[0])
        >>> taken.features.shape, taken.instances.tolist()
        (torch.Size([2, 2]), [0, 2])
        """
        inputs = tensor_of("features", features)
        kind: Any = Snapshot
        bought, rest = _labelled_and_rest(labelled, inputs)
        known = _labels("labels", labels).to(inputs.device)
        classless = logits is None and weight is None and not others.keys() & {"mean", "hidden_labels", "task"}
        if classless and not known.is_floating_point() and known.numel() and int(known.max()) >= len(inputs):
            known = known.unique(return_inverse=True)[1]  # Numbers of customers or products, say: which, not how many.
        if known.is_floating_point() and "mean" not in others:
            check_labels("labels", known, 0)
        parts: dict[str, Any] = {"features": inputs[rest], "labelled_features": inputs[bought], "labels": known}
        if weight is not None:
            kind, parts["weight"] = LastLayer, tensor_of("weight", weight)
            parts["bias"] = None if bias is None else tensor_of("bias", bias)
            if logits is None and parts["weight"].shape[1:] == inputs.shape[1:]:
                logits = inputs @ parts["weight"].mT + (0 if bias is None else parts["bias"])
        if logits is not None:
            predictions, kind = tensor_of("logits", logits), kind if weight is not None else Predictions
            if predictions.ndim == 0 or len(predictions) != len(inputs):
                found = f"logits has shape {tuple(predictions.shape)}"
                raise ValueError(f"{found}; a row for each of {len(inputs)} instances was expected")
            parts |= {"logits": predictions[rest], "labelled_logits": predictions[bought]}
        if "mean" in others:
            kind = Regression
            others |= {name: tensor_of(name, others[name])[rest] for name in ("mean", "variance")}
        for name in others.keys() & {"hidden_labels"}:
            others[name] = _labels(name, others[name]).to(inputs.device)
        for name in others.keys() & {"test", "validation"}:
            held, classes = others[name]
            held = FeatureData(tensor_of(f"{name}.inputs", held))
            others[name] = Labelled(held, _labels(f"{name}.labels", classes))
        parts |= {"instances": rest, "labelled": bought, "data": FeatureData(inputs.detach())}
        return with_model(kind, truth="hidden_labels" in others)(**parts | others)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.labels.is_floating_point() or isinstance(self, Predictions):
            self._check_labels("labels", self.labels, len(self.labelled_features))

    def __getattr__(self, name: str) -> Any:
        if name in OF_VIEWS:
            raise AbsentError(f"snapshot has no {name}, which this strategy needs{_way_out(name)}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_labels(self, name: str, labels: Tensor, expected: int) -> None:
        check_shape(name, labels, (expected,))
        if labels.device != self.features.device:
            found = f"{name} has device {labels.device}, but features has {self.features.device}"
            raise ValueError(f"{found}; both have to agree")
        check_labels(name, labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Those of the logits, the last layer or the task; without them as many as labels show, and at least two."""
        known = vars(self)
        if "logits" in known:
            return self.logits.shape[1]
        if known.get("task") is not None:
            return self.task.num_outputs
        return max(2, int(self.labels.max()) + 1) if len(self.labels) else 2

    def at(self: S, positions: Int[Tensor, " p"]) -> S:
        """The same cycle for a strategy that chooses from the instances at `positions` only."""
        part = copy.copy(self)  # Rows of what was checked need no check.
        for name in OF_INSTANCES & vars(self).keys():
            if (rows := vars(self)[name]) is not None:
                vars(part)[name] = rows[positions]
        return part


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Snapshot):
    """With the logits of a classifier."""

    logits: Float[Tensor, "n k"]
    labelled_logits: Float[Tensor, "m k"]

    def __post_init__(self) -> None:
        shape = tuple(self.logits.shape) if isinstance(self.logits, Tensor) else ()
        if len(shape) == 1 or (len(shape) == 2 and shape[1] < 2):
            way_out = "; two classes by one output z are the columns (-z / 2, z / 2) side by side"
            wanted = f"at least 2 classes, a column each, were expected{way_out if shape[1:] != (0,) else ''}"
            raise ValueError(f"logits has shape {shape}; {wanted}")
        super().__post_init__()

    @functools.cached_property
    def probabilities(self) -> Float[Tensor, "n k"]:
        """Softmax of `logits`, computed when first asked for."""
        return self.logits.softmax(dim=-1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LastLayer(Predictions):
    """With the last layer of a network: logits = features @ weight.T + bias."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Regression(Snapshot):
    """With predictive means and variances, and where an ensemble makes them its members' predictions."""

    mean: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]
    members: Float[Tensor, "n e"] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class WithModel(Snapshot):
    """For who fits models of its own, on positions in `data`; `fit` of `models.learners` does.

    Without a run, `learner`, `task` and `model` may be None: a linear head on the features, and the classes shown.
    `draw` is that of the cycle's training: its "initial weights" are what the model was trained from.
    """

    data: Data
    labelled: Int[Tensor, " m"]  # positions in the data, in the order of `labels`
    draw: Draw = functools.partial(generator_for, 0)  # noqa: RUF009  # It makes a generator at each call.
    learner: Learner | None = None
    task: Task | None = None
    model: Model | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Truth(WithModel):
    """With ground truth: for upper baselines, which ask for it and are marked where they appear.

    `hidden_labels` belong to the unlabelled instances; the test set and the validation set are what they judge by.
    """

    hidden_labels: Num[Tensor, " n"]
    test: Labelled | None = None
    validation: Labelled | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden_labels.is_floating_point():
            self._check_labels("hidden_labels", self.hidden_labels, len(self.features))
            for name, held in {"test": self.test, "validation": self.validation}.items():
                if held is not None:
                    self._check_labels(f"{name}.labels", held.labels, len(held.data))

    def without_truth(self) -> WithModel:
        """What an ordinary strategy may see of it."""
        kind = with_model(
            next(each for each in (LastLayer, Predictions, Regression, Snapshot) if isinstance(self, each))
        )
        plain = object.__new__(kind)
        vars(plain).update({name: value for name, value in vars(self).items() if name not in TRUTH})
        return plain


TRUTH = ("hidden_labels", "test", "validation")
OF_MODEL = {"features", "logits", "mean", "variance", "weight"}  # What a model that gives a view may not lack.
OF_VIEWS = {"probabilities"} | {
    field.name for kind in (LastLayer, Regression, Truth) for field in dataclasses.fields(kind)
}


def _way_out(name: str) -> str:
    argument = "logits" if name == "probabilities" else name.removeprefix("labelled_")
    return f": Snapshot.of(..., {argument}=...)" if argument in ("logits", "weight") else ""


@functools.cache
def with_model(kind: Any, *, truth: bool = False) -> Any:
    """The view that a run's strategies get: `kind`, `WithModel`, and `Truth` for those that ask for it."""
    both = type(kind.__name__, (Truth if truth else WithModel, kind), {})
    return dataclasses.dataclass(frozen=True, eq=False, kw_only=True)(both)


def take_snapshot(
    train: Labelled, labelled: Tensor, visible: Tensor, learner: Learner, model: Model | None,
    truth: dict[str, Any] | None = None, **run: Any,
) -> Any:  # fmt: skip
    """What a strategy sees when `labelled` is labelled and it may choose from `visible`: the richest view there is.

    Without a model, before the first label, that is `Snapshot`, where features are the inputs. `truth` is what an
    oracle judges by; None for everybody else.
    """
    device = train.labels.device
    labelled, visible = labelled.to(device, copy=True), visible.to(device, copy=True)  # The pool's stay as they are.
    kind: Any = Snapshot if model is None else learner.gives
    parts: dict[str, Any] = {"instances": visible, "labelled": labelled, "labels": train.labels[labelled]}
    parts |= {"data": train.data, "learner": learner, "model": model} | run
    for prefix, positions in {"": visible, "labelled_": labelled}.items():
        inputs = train.data.inputs(positions)
        outputs = Outputs(inputs) if model is None else model.outputs(inputs)
        parts |= {f"{prefix}{name}": part for name, part in outputs._asdict().items()}
    if (layer := getattr(model, "last_layer", None)) is not None:
        parts["weight"], parts["bias"] = (None if each is None else each.to(device) for each in layer)
    if truth is not None:
        parts |= {"hidden_labels": train.labels[visible]} | truth
    view = with_model(kind, truth=truth is not None)
    fields = {field.name: parts.get(field.name, field.default) for field in dataclasses.fields(view)}
    for name, part in fields.items():
        if part is dataclasses.MISSING or (part is None and name in OF_MODEL):
            raise ValueError(f"the model has no {name}, but its learner gives {kind.__name__}, which has it")
    return view(**fields)


def _labelled_and_rest(labelled: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the labelled instances and, ascending, of the others."""
    chosen, rows = tensor_of("labelled", labelled), len(features) if features.ndim else 0
    if chosen.dtype == torch.bool and chosen.shape == (rows,):
        chosen = chosen.nonzero().squeeze(1)
    if chosen.ndim != 1 or (len(chosen) and (chosen.is_floating_point() or len(chosen.unique()) < len(chosen))):
        raise ValueError(f"labelled is {shown(labelled)}; different positions, or a mask of {rows}, were expected")
    chosen = chosen.long().to(features.device)
    if len(chosen) and not (int(chosen.min()) >= 0 and int(chosen.max()) < rows):
        found = f"{int(chosen.min())} to {int(chosen.max())}"
        raise ValueError(f"labelled holds positions from {found}; 0 to {rows - 1} was expected")
    return chosen, torch.ones(rows, dtype=torch.bool, device=chosen.device).index_fill(0, chosen, False).nonzero()[:, 0]


def _labels(name: str, labels: Any) -> Tensor:
    """Class labels as int64; what is no whole number stays as it is, for `check_labels` to refuse."""
    known = tensor_of(name, labels)
    return known if known.numel() and (known.is_floating_point() or known.dtype == torch.bool) else known.long()
