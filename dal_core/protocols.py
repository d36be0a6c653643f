"""What the active learning loop is made of: data, a task, learners and the models that they fit.

The heads on frozen features are the first of these (`data.FeatureData`, `task.Classification`, `models.learners`). A
class of one's own needs no base class; the methods and attributes here are all that the loop asks for.

Axes: n instances, d features, k classes, e members of an ensemble.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dal_core.data import Data, Labelled
from dal_core.pool import Pool

Draw = Callable[[str], torch.Generator]  # A new generator for a purpose: what one purpose draws shifts no other.


class Outputs(NamedTuple):
    """What a model says about n instances; instances are the first axis of all."""

    features: Tensor  # [n, d], what the last layer sees, or the inputs
    logits: Tensor | None = None  # [n, k]
    mean: Tensor | None = None  # [n], of a regression
    variance: Tensor | None = None  # [n]
    members: Tensor | None = None  # [n, e], the predictions that mean and variance are made of


@runtime_checkable
class Model(Protocol):
    """A model that was fitted; all that it has learnt is in here, and nothing of it in the learner."""

    @property
    def last_layer(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [k, d] and bias [k] with logits = features @ weight.T + bias; None of a model without such a layer."""

    def outputs(self, inputs: Tensor) -> Outputs:
        """Return the outputs on the device of `inputs`."""


@runtime_checkable
class Task(Protocol):
    """What is asked of a model. `needs` is the least view (`snapshot`) by which it can judge, `num_outputs` the number
    of classes, of which labels may lack some, and 1 for a regression.
    """

    @property
    def needs(self) -> type: ...

    @property
    def num_outputs(self) -> int: ...

    def evaluate(self, model: Model, test: Labelled, train: Labelled, pool: Pool) -> dict[str, float]:
        """Return columns of a run's row; `pool` says what is labelled so far."""


@runtime_checkable
class Learner(Protocol):
    """A frozen dataclass of JSON values; `gives` is the richest view (`snapshot`) that its models can fill."""

    @property
    def gives(self) -> type: ...

    def fit(
        self,
        task: Task,
        data: Data,
        index_sets: Sequence[Tensor],
        labels: Sequence[Tensor],
        draws: Sequence[Draw],
        *,
        previous: Sequence[Model] | None = None,
        validation: Sequence[tuple[Tensor, Tensor]] | None = None,
        virtual: Sequence[tuple[Tensor, Tensor] | None] | None = None,
        epochs: int | None = None,
    ) -> Iterator[Model]:
        """Yield the models of many labelled sets, in order; who judges thousands of them keeps none.

        Args:
            index_sets: positions in `data`, an entry a model, as all arguments below.
            labels: of the entries of `index_sets`.
            draws: `draw("initial weights")` depends on the run's seed alone, all else on seed and cycle; models with
                the same Draw object share their start.
            previous: the models of the cycle before, for learners that go on from them.
            validation: positions and labels that are set aside.
            virtual: inputs and labels that a strategy has left for this training.
            epochs: stop after so many, with the learning rates of the learner's own training, where a model is only
                judged.

        A model that diverges is yielded as it is: the loop looks.
        """
