"""What buying a batch would be worth: many candidate batches judged at once, by the heads that they would lead to.

Losses are annotated Num, not Float: a contract refuses NaN, and that is the loss of a head that diverged.

Axes: t candidates, r draws of labels, e = t r heads, b batch, m labelled, n unlabelled, k classes, d features.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.contracts import Count, Positive, Size, check_fields, checked, unchecked
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_weights
from dal_core.models.heads import Head
from dal_core.models.training import train_heads
from dal_core.randomness import integer_seed
from dal_core.snapshot import LabelledSet, OracleSnapshot

Loss = Literal["zero_one", "cross_entropy", "brier"]
LookAhead = Literal["true", "pseudo", "monte_carlo"]
Retraining = Literal["train", "laplace_update"]
PerformanceOn = Literal["test", "validation", "unlabelled"]
BLOCK_BYTES = 64 * 2**20  # Bytes of logits that are judged at a time; larger blocks are no faster.
# Bytes of heads that are held at a time, by device. On CUDA 100 heads with 1,000 classes fit at once: a few left over
# would cost as many launches as all of them.
HEADS_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}

Learner = Callable[[Tensor, Tensor], Head]  # from batches [e, b] and their labels [e, b]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """How a candidate batch is judged: by the loss of the head that its labels would lead to.

    Args:
        loss: "zero_one", "cross_entropy" (nats) or "brier" (0 to 2), the mean over the instances of `performance_on`.
        look_ahead: whose labels the batch is given: the "true" ones; "pseudo", what the head predicts; "monte_carlo",
            the mean loss over `label_draws` draws from the head's probabilities.
        retraining: "train", a head from its initial weights for `retraining_epochs`, otherwise as in the run; or
            "laplace_update", a second-order update of the last layer with `gamma` and `prior_precision`.
        performance_on: "test" or "validation"; or "unlabelled", the loss that the new head itself expects on the
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
    snapshot: OracleSnapshot, candidates: Int[Tensor, "t b"], judgement: Judgement, generator: torch.Generator
) -> Num[Tensor, " t"]:
    """Return the loss after buying each candidate batch (one after another: `textbook.judge`).

    All heads are trained at once, in blocks that fit into memory, and see their minibatches in the same order, so
    that a candidate does not win by a lucky order.
    """
    train = judgement.retraining == "train"
    features, truth = judged_by(snapshot, judgement.performance_on, last_layer=not train)
    labels = _assumed_labels(snapshot, candidates, judgement, generator)  # [t, r, b]
    learner = _training(snapshot, judgement, generator) if train else _update(snapshot, judgement)
    batches, assumed = (each.flatten(0, 1) for each in (candidates.unsqueeze(1).expand_as(labels), labels))  # [e, b]
    layer = snapshot.weight if snapshot.initial is None else snapshot.initial.largest_layer
    at_once = HEADS_BYTES.get(layer.device.type, HEADS_BYTES["cpu"])
    losses = [
        mean_losses(learner(batches[block], assumed[block]), features, truth, judgement.loss)
        for block in blocks(len(batches), 4 * layer.nbytes, at_once)
    ]
    return torch.cat(losses).view(labels.shape[:2]).mean(dim=1)


@checked
def current_loss(snapshot: OracleSnapshot, judgement: Judgement) -> float:
    """Return the loss of the head as it is."""
    features, truth = judged_by(snapshot, judgement.performance_on, last_layer=True)
    head = Head.stack([Head(snapshot.weight, snapshot.bias)])
    return mean_losses(head, features, truth, judgement.loss).item()


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
def retraining(snapshot: OracleSnapshot, epochs: Size, generator: torch.Generator) -> Callable[..., Head]:
    """Return a function that trains a stack of heads anew, each on the labelled instances and one batch.

        trained(batches [e, b], seeds, labels [e, b]) -> Head

    All start from the run's initial weights, or from new ones where the snapshot has none. `seeds` are of the order of
    the minibatches, one for all heads or one a head; without labels of the batches they are the true ones.
    """
    features = snapshot.features
    initial = snapshot.initial or Head.new_layer(features, snapshot.num_classes, generator, features.dtype)
    known = snapshot.labelled_features if snapshot.labelled_inputs is None else snapshot.labelled_inputs
    pool = features if snapshot.inputs is None else snapshot.inputs
    training, m = dataclasses.replace(snapshot.training, epochs=epochs), len(known)

    def trained(batches: Tensor, seeds: int | Sequence[int], labels: Tensor | None = None) -> Head:
        labels = snapshot.hidden_labels[batches] if labels is None else labels
        positions, local = batches.unique(return_inverse=True)  # The pool itself is not copied.
        e = len(batches)
        index_sets = torch.cat((torch.arange(m, device=batches.device).expand(e, -1), m + local), dim=1)
        orders = [torch.Generator().manual_seed(each) for each in ([seeds] * e if isinstance(seeds, int) else seeds)]
        both = torch.cat((known, pool[positions])), torch.cat((snapshot.labels.expand(e, -1), labels), dim=1)
        # Unchecked, because a head that diverges is no reason to refuse the others.
        return unchecked(train_heads)(initial, *both, index_sets, training, orders)

    return trained


@checked
def judged_by(
    snapshot: OracleSnapshot, performance_on: PerformanceOn, *, last_layer: bool
) -> tuple[Tensor, Tensor | None]:
    """Return what heads, or last layers alone, are measured on, and its labels; None for the unlabelled instances.

    Raises:
        ValueError: if the snapshot lacks it.
    """
    if performance_on == "unlabelled":
        features, inputs, labels = snapshot.features, snapshot.inputs, None
    else:
        chosen: LabelledSet | None = getattr(snapshot, performance_on)
        if chosen is None or len(chosen.labels) == 0:
            found = "None" if chosen is None else "empty"
            raise ValueError(f"snapshot.{performance_on} is {found}; instances to judge heads by were expected")
        features, inputs, labels = chosen.features, chosen.inputs, chosen.labels
    return (features if last_layer or inputs is None else inputs), labels


@checked
def mean_losses(
    heads: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, loss: Loss
) -> Num[Tensor, " e"]:
    """Return the mean loss of each of a stack of heads; without labels the loss that each head expects.

    >>> heads = Head.stack([Head(torch.tensor([[1.0], [-1.0]])), Head(torch.tensor([[-1.0], [1.0]]))])
    >>> mean_losses(heads, torch.ones(3, 1), torch.tensor([0, 0, 1]), "zero_one")
    tensor([0.3333, 0.6667])
    """
    e, n = len(heads.weight), len(features)
    row_bytes = max(heads.weight.shape[1:]) * features.element_size()  # logits, or hidden units
    losses = features.new_zeros(e)
    for block in blocks(e, n * row_bytes, BLOCK_BYTES):
        for rows in blocks(n, (block.stop - block.start) * row_bytes, BLOCK_BYTES):
            logits = heads.unstacked(block).logits(features[rows])  # [heads, rows, k]
            losses[block] += _losses(logits, None if labels is None else labels[rows], loss).sum(dim=1)
    return losses / n


def _assumed_labels(
    snapshot: OracleSnapshot, candidates: Tensor, judgement: Judgement, generator: torch.Generator
) -> Int[Tensor, "t r b"]:
    if judgement.look_ahead == "true":
        return snapshot.hidden_labels[candidates].unsqueeze(1)
    if judgement.look_ahead == "pseudo":
        return snapshot.logits.argmax(dim=1)[candidates].unsqueeze(1)
    probabilities = snapshot.probabilities[candidates].flatten(0, 1).cpu()  # [t b, k]
    drawn = torch.multinomial(probabilities, judgement.label_draws, replacement=True, generator=generator)
    return drawn.view(*candidates.shape, -1).movedim(2, 1).to(candidates.device)


def _training(snapshot: OracleSnapshot, judgement: Judgement, generator: torch.Generator) -> Learner:
    trained, seed = retraining(snapshot, judgement.retraining_epochs, generator), integer_seed(generator)
    return lambda batches, labels: trained(batches, seed, labels)


def _update(snapshot: OracleSnapshot, judgement: Judgement) -> Learner:
    precision = precision_matrix(snapshot.labelled_features, prior_precision=judgement.prior_precision)
    covariance, weight, bias = covariance_matrix(precision), snapshot.weight, snapshot.bias  # one for all candidates

    def updated(batches: Tensor, labels: Tensor) -> Head:
        features = snapshot.features[batches]
        weights = second_order_weights(weight, covariance, features, labels, gamma=judgement.gamma, bias=bias)
        return Head(weights, None if bias is None else bias.expand(len(weights), -1))

    return updated


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
