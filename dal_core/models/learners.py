"""Linear and MLP heads as learners: many are trained in one computation.

Axes: e models fitted together, m labelled, v virtual instances, d features.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Count, check_fields, unchecked
from dal_core.data import Data
from dal_core.models.heads import HIDDEN_UNITS, Head, Kind
from dal_core.models.training import Training, train_heads
from dal_core.protocols import Draw, Learner, Model, Outputs, Task
from dal_core.snapshot import LastLayer, Snapshot, WithModel
from dal_core.task import Classification

# Bytes of heads that are trained at a time, by device. On CUDA 100 heads with 1,000 classes fit at once: a few left
# over would cost as many launches as all of them.
HEADS_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}
VirtualSets = Sequence[tuple[Tensor, Tensor] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class HeadModel:
    """Head `index` of a stack of heads that were trained together."""

    stack: Head
    index: int = 0

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> "HeadModel":
        """Return the model of a last layer alone."""
        return cls(Head.stack([Head(weight, bias)]))

    @functools.cached_property
    def head(self) -> Head:
        return self.stack.unstacked(self.index)

    @property
    def last_layer(self) -> tuple[Tensor, Tensor | None]:
        return self.head.weight, self.head.bias

    def outputs(self, inputs: Tensor) -> Outputs:
        """Return features and logits."""
        head = self.head.to(inputs.device)
        features = head.embed(inputs)
        return Outputs(features, head.last_layer(features))


@dataclasses.dataclass(frozen=True)
class Linear:
    """Learner of linear heads; each training begins at the run's initial weights."""

    training: Training = Training()  # noqa: RUF009  # It is frozen.
    gives: ClassVar[type] = LastLayer
    kind: ClassVar[Kind] = "linear"

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(
        self, task: Task, data: Data, index_sets: Sequence[Tensor], labels: Sequence[Tensor], draws: Sequence[Draw],
        *, virtual: VirtualSets | None = None, epochs: int | None = None, **_: Any,
    ) -> Iterator[HeadModel]:  # fmt: skip
        """Yield the heads (`protocols.Learner.fit`); sets of one size are trained together, others in turn."""
        virtual = virtual or [None] * len(draws)
        sizes = {(len(own), made and len(made[1])) for own, made in zip(index_sets, virtual, strict=True)}
        if len(sizes) > 1:
            for own, known, draw, made in zip(index_sets, labels, draws, virtual, strict=True):
                yield from self.fit(task, data, [own], [known], [draw], virtual=[made], epochs=epochs)
            return
        used, local = torch.stack(tuple(index_sets)).unique(return_inverse=True)  # [u], [e, m]
        inputs = data.inputs(used)
        local, targets = local.to(inputs.device), torch.stack(tuple(labels)).to(inputs.device)
        if given := [each for each in virtual if each is not None]:
            features, classes = (torch.stack(each).to(inputs.device) for each in zip(*given, strict=True))
            rows = len(used) + torch.arange(classes.numel(), device=inputs.device).view(classes.shape)  # [e, v]
            inputs = torch.cat((inputs, features.flatten(0, 1).to(inputs)))
            local, targets = torch.cat((local, rows), dim=1), torch.cat((targets, classes), dim=1)
        starts = [self.initial(inputs, task.num_outputs, draw) for draw in _distinct(draws)]
        training = self.training if epochs is None else self.training.stopped_after(epochs)
        at_once = HEADS_BYTES.get(inputs.device.type, HEADS_BYTES["cpu"])
        for block in blocks(len(draws), 4 * starts[0].largest_layer.nbytes, at_once):
            start = starts[0] if len(starts) == 1 else Head.stack(starts[block])
            orders = [draw("minibatches") for draw in draws[block]]
            # Unchecked, because a head that diverges is no reason to refuse the others.
            heads = unchecked(train_heads)(start, inputs, targets[block], local[block], training, orders)
            yield from (HeadModel(heads, i) for i in range(len(orders)))

    def initial(self, inputs: Tensor, num_classes: int, draw: Draw) -> Head:
        """Return what the training of a run starts from."""
        weights = draw("initial weights")
        return Head.initial(
            self.kind, inputs.shape[1], num_classes, weights, dtype=inputs.dtype, device=inputs.device,
            hidden=getattr(self, "hidden", HIDDEN_UNITS),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mlp(Linear):
    """Learner of heads with one hidden layer (ReLU), whose activations are the features that strategies see."""

    hidden: Count = HIDDEN_UNITS
    kind: ClassVar[Kind] = "mlp"


def _distinct(draws: Sequence[Draw]) -> Sequence[Draw]:
    """The first alone where all begin at the same weights: a draw for each of many heads would be a copy for each."""
    starts = [each.args[0] if isinstance(each, _InOrder) else each for each in draws]
    return draws[:1] if all(start is starts[0] for start in starts) else draws


class _InOrder(functools.partial[torch.Generator]):
    """A Draw with the start of its first argument."""


def in_order(snapshot: WithModel, seed: int) -> Draw:
    """Return the draws of a training that starts where the run's does, with minibatches in an order of its own."""

    def draw(start: Draw, purpose: str) -> torch.Generator:
        return start(purpose) if purpose == "initial weights" else torch.Generator().manual_seed(seed)

    return _InOrder(draw, snapshot.draw)


def fit(
    snapshot: WithModel,
    index_sets: Sequence[Tensor],
    labels: Sequence[Tensor],
    draws: Sequence[Draw],
    epochs: int | None = None,
) -> Iterator[Model]:
    """Yield models that the run's learner fits on positions in the snapshot's data."""
    learner: Learner = snapshot.learner or Linear()
    task = snapshot.task or Classification(snapshot.num_classes)
    return learner.fit(task, snapshot.data, index_sets, labels, draws, epochs=epochs)


def last_layer_learner(snapshot: Snapshot) -> Linear:
    """Return what trains a linear head on the features of the last layer as the run's learner trains its models."""
    learner = getattr(snapshot, "learner", None)
    return learner if type(learner) is Linear else Linear(getattr(learner, "training", None) or Training())


def model_of(snapshot: WithModel) -> Model:
    """Return the model of the cycle; of a snapshot made of arrays its last layer."""
    return snapshot.model or HeadModel.of(snapshot.weight, snapshot.bias)


def by_stack(models: Iterable[Model]) -> Iterator[tuple[Head | None, list[Model]]]:
    """Yield models that follow each other, those of heads that were trained together with their stack."""
    for _, group in itertools.groupby(models, key=lambda model: id(getattr(model, "stack", model))):
        together = list(group)
        heads = [model.head for model in together if isinstance(model, HeadModel)]
        if not heads:
            yield from ((None, [model]) for model in together)
        else:
            first: Any = together[0]
            yield (first.stack if len(heads) == len(first.stack.weight) else Head.stack(heads)), together
