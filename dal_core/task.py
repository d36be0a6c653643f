"""What a run is judged by."""

import dataclasses
from collections.abc import Iterable

import torch

from dal_core.checks import shown
from dal_core.contracts import Positive
from dal_core.data import Labelled
from dal_core.laplace import covariance_matrix, mean_field_logits, precision_matrix, predictive_variance
from dal_core.metrics import evaluate
from dal_core.pool import Pool
from dal_core.protocols import Learner, Model
from dal_core.snapshot import LastLayer, Predictions

PLAIN = ("accuracy", "nll", "brier", "ece", "ace")


@dataclasses.dataclass(frozen=True)
class Classification:
    """Classes from 0 to `num_outputs` - 1, judged by the metrics of `metrics.evaluate` on the test split.

    With `mean_field`, a factor such as 0.4, there are further columns: the same metrics, but for the accuracy, which
    stays as it is, of the mean-field logits of a Laplace approximation of the last layer (`laplace.mean_field_logits`).

    >>> Classification(10, mean_field=0.4).columns[5:]
    ('nll_mean_field', 'brier_mean_field', 'ece_mean_field', 'ace_mean_field')
    """

    num_outputs: int
    mean_field: Positive | None = None

    @property
    def needs(self) -> type:
        return Predictions if self.mean_field is None else LastLayer

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `evaluate` returns."""
        return PLAIN if self.mean_field is None else (*PLAIN, *(f"{name}_mean_field" for name in PLAIN[1:]))

    def evaluate(self, model: Model, test: Labelled, train: Labelled, pool: Pool) -> dict[str, float]:
        """Return accuracy, nll (nats), brier, ece and ace; then those of the mean field, where there is one."""
        features, logits, *_ = model.outputs(test.inputs())
        assert logits is not None, "a learner that gives Predictions fills the logits"
        found = evaluate(logits.double(), test.labels)
        if self.mean_field is not None:
            known = model.outputs(train.data.inputs(pool.labelled.to(train.labels.device))).features.double()
            variance = predictive_variance(features.double(), covariance_matrix(precision_matrix(known)))
            others = evaluate(mean_field_logits(logits.double(), variance, self.mean_field), test.labels)
            found |= {f"{name}_mean_field": others[name] for name in PLAIN[1:]}
        return found


def task_of(train: Labelled, test: Labelled, mean_field: float | None = None) -> Classification:
    """Return the task that labels stand for where none is given.

    Raises:
        ValueError: for labels that are no classes.
    """
    labels = [each.labels for each in (train, test) if len(each.labels)]
    if any(each.dtype != torch.int64 for each in labels):
        raise ValueError(
            f"task is None, and labels have dtype {labels[0].dtype}; a task was expected, or int64 classes"
        )
    return Classification(max(2, *(int(each.max()) + 1 for each in labels)), mean_field)


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
