"""What buying a batch would be worth: many candidate batches judged at once, by the models that they would lead to.

Losses are annotated Num, not Float: a contract refuses NaN, and that is the loss of a model that diverged.

Axes: t candidates, r draws of labels, e = t r models, b batch, m labelled, n unlabelled, k classes, d features.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Count, Positive, Size, check_fields, checked
from dal_core.data import FeatureData, Labelled
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_weights
from dal_core.models.heads import Head
from dal_core.models.learners import HEADS_BYTES, HeadModel, Linear, by_stack, fit, in_order, model_of
from dal_core.parallel import in_parallel
from dal_core.protocols import Model
from dal_core.randomness import integer_seed
from dal_core.snapshot import Truth

Loss = Literal["zero_one", "cross_entropy", "brier"]
LookAhead = Literal["true", "pseudo", "monte_carlo"]
Retraining = Literal["train", "last_layer", "laplace_update"]
PerformanceOn = Literal["test", "validation", "unlabelled"]
# Bytes of logits that are judged at a time: larger blocks leave the cache, and cores without work.
BLOCK_BYTES = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How a candidate batch is judged: by the loss of the model that its labels would lead to.

    Args:
        loss: "zero_one", "cross_entropy" (nats) or "brier" (0 to 2), the mean over the instances of `performance_on`.
        look_ahead: whose labels the batch is given: the "true" ones; "pseudo", what the model predicts; "monte_carlo",
            the mean loss over `label_draws` draws from the model's probabilities.
        retraining: "train", a model from the run's initial weights for the first `retraining_epochs` of the run's
            training, whose schedule is kept, so that the learning rate has hardly fallen when judging stops;
            "last_layer", the same of a linear head on what the last layer sees; or "laplace_update", a second-order
            update of the last layer with `gamma` and `prior_precision`.
        performance_on: "test" or "validation"; or "unlabelled", the loss that the new model itself expects on the
            unlabelled instances. Together with pseudo or Monte-Carlo labels it needs no ground truth.
    """

    loss: Loss = "zero_one"
    look_ahead: LookAhead = "true"
    retraining: Retraining = "train"
    performance_on: PerformanceOn = "test"
    retraining_epochs: Size = 50
    label_draws: Count = 10
    gamma: Positive = 10.0
    prior_precision: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@checked
def judge(
    snapshot: Truth, candidates: Int[Tensor, "t b"], judgement: Judgement, generator: torch.Generator
) -> Num[Tensor, " t"]:
    """Return the loss after buying each candidate batch (one after another: `textbook.judge`).

    All models are trained at once, in blocks that fit into memory, and see their minibatches in the same order, so
    that a candidate does not win by a lucky order.
    """
    inputs, truth = judged_by(snapshot, judgement.performance_on, last_layer=judgement.retraining != "train")
    labels = _assumed_labels(snapshot, candidates, judgement, generator)  # [t, r, b]
    batches, assumed = (each.flatten(0, 1) for each in (candidates.unsqueeze(1).expand_as(labels), labels))  # [e, b]
    if judgement.retraining == "laplace_update":
        models = _updated(snapshot, batches, assumed, judgement)
    else:
        taken = snapshot if judgement.retraining == "train" else on_last_layer(snapshot)
        models = retrained(taken, batches, [integer_seed(generator)], judgement.retraining_epochs, assumed)
    return mean_losses(models, inputs, truth, judgement.loss).view(labels.shape[:2]).mean(dim=1)


@checked
def current_loss(snapshot: Truth, judgement: Judgement) -> float:
    """Return the loss of the model as it is."""
    inputs, truth = judged_by(snapshot, judgement.performance_on)
    return mean_losses([model_of(snapshot)], inputs, truth, judgement.loss).item()


@checked
def best_of(losses: Num[Tensor, " t"], generator: torch.Generator) -> int:
    """Return the position of the smallest loss, where several are smallest one of them at random; NaN is infinite.

    >>> best_of(torch.tensor([0.5, 0.25, torch.nan]), torch.Generator())
    1
    """
    losses = losses.nan_to_num(nan=torch.inf)
    smallest = (losses == losses.min()).nonzero().flatten().tolist()
    return smallest[int(torch.randint(len(smallest), (), generator=generator))]


@checked
def retrained(
    snapshot: Truth, batches: Int[Tensor, "e b"], seeds: Sequence[int], epochs: Size, labels: Tensor | None = None
) -> Iterator[Model]:
    """Yield models trained anew, each on the labelled instances and one batch, from the run's initial weights.

    `seeds` are of the order of the minibatches, one for all models or one a model; without `labels` [e, b] of the
    batches they are the true ones.
    """
    labels = snapshot.hidden_labels[batches] if labels is None else labels
    index_sets = torch.cat((snapshot.labelled.expand(len(batches), -1), snapshot.instances[batches]), dim=1)
    known = torch.cat((snapshot.labels.expand(len(batches), -1), labels), dim=1)
    draws = [in_order(snapshot, seed) for seed in seeds]
    draws = draws * len(batches) if len(draws) == 1 else draws
    return fit(snapshot, index_sets.unbind(), known.unbind(), draws, epochs)


@checked
def judged_by(
    snapshot: Truth, performance_on: PerformanceOn, *, last_layer: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return what models, or last layers alone, are measured on, and its labels; None for the unlabelled instances.

    Raises:
        ValueError: if the snapshot lacks it.
    """
    if performance_on == "unlabelled":
        return (snapshot.features if last_layer else snapshot.data.inputs(snapshot.instances)), None
    held: Labelled | None = getattr(snapshot, performance_on)
    if held is None or len(held.labels) == 0:
        found = "None" if held is None else "empty"
        raise ValueError(f"snapshot.{performance_on} is {found}; instances to judge models by were expected")
    inputs = held.inputs()
    return (model_of(snapshot).outputs(inputs).features if last_layer else inputs), held.labels


@checked
def on_last_layer(snapshot: Truth) -> Truth:
    """Return the snapshot for models that are linear heads on what its last layer sees."""
    m = len(snapshot.labels)
    training = getattr(snapshot.learner, "training", None)
    parts: dict[str, Any] = {
        "data": FeatureData(torch.cat((snapshot.labelled_features, snapshot.features))),
        "labelled": torch.arange(m, device=snapshot.labelled.device),
        "instances": m + torch.arange(len(snapshot.features), device=snapshot.labelled.device),
        "learner": Linear() if training is None else Linear(training),
    }
    return dataclasses.replace(snapshot, **parts)


@checked
def mean_losses(
    models: Iterable[Model], inputs: Tensor, labels: Int[Tensor, " n"] | None, loss: Loss
) -> Num[Tensor, " e"]:
    """Return the mean loss of each model; without labels the loss that each model expects.

    >>> models = [HeadModel.of(torch.tensor([[weight], [-weight]]), None) for weight in (1.0, -1.0)]
    >>> mean_losses(models, torch.ones(3, 1), torch.tensor([0, 0, 1]), "zero_one")
    tensor([0.3333, 0.6667])
    """
    found = []
    for heads, together in by_stack(models):
        if heads is not None:
            found.append(_losses_of_heads(heads.to(inputs.device), inputs, labels, loss))
            continue
        logits = together[0].outputs(inputs).logits
        assert logits is not None, "what is judged gives predictions"
        found.append(_losses(logits.unsqueeze(0), labels, loss).mean(dim=1))
    return torch.cat(found)


def _losses_of_heads(heads: Head, inputs: Float[Tensor, "n d"], labels: Tensor | None, loss: Loss) -> Tensor:
    """The mean loss of each of a stack of heads, in blocks.  [e]"""
    e, n = len(heads.weight), len(inputs)
    row_bytes = max(heads.weight.shape[1:]) * inputs.element_size()  # logits, or hidden units

    def losses_of(block: slice) -> Tensor:
        losses = inputs.new_zeros(block.stop - block.start)
        for rows in blocks(n, len(losses) * row_bytes, BLOCK_BYTES):
            logits = heads.unstacked(block).logits(inputs[rows])  # [heads, rows, k]
            losses += _losses(logits, None if labels is None else labels[rows], loss).sum(dim=1)
        return losses / n

    return torch.cat(in_parallel(losses_of, blocks(e, n * row_bytes, BLOCK_BYTES)))


def _assumed_labels(
    snapshot: Truth, candidates: Tensor, judgement: Judgement, generator: torch.Generator
) -> Int[Tensor, "t r b"]:
    if judgement.look_ahead == "true":
        return snapshot.hidden_labels[candidates].unsqueeze(1)
    if judgement.look_ahead == "pseudo":
        return snapshot.logits.argmax(dim=1)[candidates].unsqueeze(1)
    probabilities = snapshot.probabilities[candidates].flatten(0, 1).cpu()  # [t b, k]
    drawn = torch.multinomial(probabilities, judgement.label_draws, replacement=True, generator=generator)
    return drawn.view(*candidates.shape, -1).movedim(2, 1).to(candidates.device)


def _updated(snapshot: Any, batches: Tensor, labels: Tensor, judgement: Judgement) -> Iterator[Model]:
    """The last layer after a second-order update with each batch; one covariance serves all of them."""
    covariance = covariance_matrix(
        precision_matrix(snapshot.labelled_features, prior_precision=judgement.prior_precision)
    )
    weight, bias = snapshot.weight, snapshot.bias
    for block in blocks(len(batches), 4 * weight.nbytes, HEADS_BYTES.get(weight.device.type, HEADS_BYTES["cpu"])):
        features = snapshot.features[batches[block]]
        weights = second_order_weights(weight, covariance, features, labels[block], gamma=judgement.gamma, bias=bias)
        stack = Head(weights, None if bias is None else bias.expand(len(weights), -1))
        yield from (HeadModel(stack, i) for i in range(len(weights)))


def _losses(logits: Float[Tensor, "e n k"], labels: Tensor | None, loss: Loss) -> Float[Tensor, "e n"]:
    """The loss of each instance; without labels the expectation under the logits' own probabilities."""
    values = logits.log_softmax(dim=-1) if loss == "cross_entropy" else logits.softmax(dim=-1)
    if labels is None:
        if loss == "cross_entropy":
            return -(values.exp() * values).sum(dim=-1)
        return 1 - (values.amax(dim=-1) if loss == "zero_one" else values.square().sum(dim=-1))
    if loss == "zero_one":
        return (logits.argmax(dim=-1) != labels).to(logits.dtype)
    true = values.gather(-1, labels.expand(len(values), -1).unsqueeze(-1)).squeeze(-1)
    return -true if loss == "cross_entropy" else values.square().sum(dim=-1) - 2 * true + 1
