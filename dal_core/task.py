"""What a run is judged by."""

import dataclasses
from collections.abc import Iterable

import torch

from dal_core.checks import shown
from dal_core.data import Labelled
from dal_core.metrics import evaluate
from dal_core.pool import Pool
from dal_core.protocols import Learner, Model
from dal_core.snapshot import Predictions


@dataclasses.dataclass(frozen=True)
class Classification:
    """Classes from 0 to `num_outputs` - 1, judged by the metrics of `metrics.evaluate` on the test split."""

    num_outputs: int
    needs = Predictions
    columns = ("accuracy", "nll", "brier", "ece", "ace")

    def evaluate(self, model: Model, test: Labelled, train: Labelled, pool: Pool) -> dict[str, float]:  # noqa: ARG002
        """Return accuracy, nll (nats), brier, ece and ace."""
        logits = model.outputs(test.inputs()).logits
        assert logits is not None, "a learner that gives Predictions fills the logits"
        return evaluate(logits.double(), test.labels)


def task_of(train: Labelled, test: Labelled) -> Classification:
    """Return the task that labels stand for where none is given.

    Raises:
        ValueError: for labels that are no classes.
    """
    labels = [each.labels for each in (train, test) if len(each.labels)]
    if any(each.dtype != torch.int64 for each in labels):
        raise ValueError(
            f"task is None, and labels have dtype {labels[0].dtype}; a task was expected, or int64 classes"
        )
    return Classification(max(2, *(int(each.max()) + 1 for each in labels)))


def as_many(count: int, models: Iterable[Model], learner: Learner) -> list[Model]:
    """Return the models that a learner has fitted; raise ValueError unless there are `count`."""
    if len(found := list(models)) != count:
        raise ValueError(f"learner is {shown(learner)}, whose fit made {len(found)} models; {count} were expected")
    return found


def check_converged(model: Model, learner: Learner) -> None:
    """Raise ValueError if the last layer of the model, where it has one, is not finite."""
    if (layer := getattr(model, "last_layer", None)) is not None and not torch.isfinite(layer[0].sum()):
        found = f"learner is {shown(learner)}, with which training diverged"
        raise ValueError(f"{found}; a smaller learning_rate was expected")
