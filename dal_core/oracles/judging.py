"""What buying a batch would be worth: many candidate batches judged at once, by the heads that they would lead to.

Axes: t candidates, r draws of labels, e = t r heads, b batch, m labelled, n unlabelled, k classes, d features.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import check_choice, check_positive, check_whole
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_weights
from dal_core.models.heads import Head
from dal_core.models.training import train_heads
from dal_core.randomness import integer_seed
from dal_core.snapshot import LabelledSet, OracleSnapshot

LOSSES = ("zero_one", "cross_entropy", "brier")
LOOK_AHEADS = ("true", "pseudo", "monte_carlo")
RETRAININGS = ("train", "laplace_update")
PERFORMANCES = ("test", "validation", "unlabelled")
BLOCK_BYTES = 64 * 2**20  # of logits that are judged at a time
# Of heads that are held at a time. On CUDA 100 heads with 1,000 classes fit at once: a few left over would cost as many
# launches as all of them.
HEADS_BYTES = {"cpu": 512 * 2**20, "cuda": 4 * 2**30}

Learner = Callable[[Int[Tensor, "e b"], Int[Tensor, "e b"]], Head]


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

    loss: str = "zero_one"
    look_ahead: str = "true"
    retraining: str = "train"
    performance_on: str = "test"
    retraining_epochs: int = 50
    label_draws: int = 10
    gamma: float = 10.0
    prior_precision: float = 1.0

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("look_ahead", self.look_ahead, LOOK_AHEADS)
        check_choice("retraining", self.retraining, RETRAININGS)
        check_choice("performance_on", self.performance_on, PERFORMANCES)
        check_whole("retraining_epochs", self.retraining_epochs, 0)
        check_whole("label_draws", self.label_draws, 1)
        check_positive(gamma=self.gamma, prior_precision=self.prior_precision)


def judge(
    snapshot: OracleSnapshot, candidates: Int[Tensor, "t b"], judgement: Judgement, generator: torch.Generator
) -> Float[Tensor, " t"]:
    """The loss after buying each candidate batch.

    All heads are trained at once, in blocks that fit into memory, and see their minibatches in the same order, so
    that a candidate does not win by a lucky order.

    Raises:
        ValueError: if the snapshot lacks the set of instances to judge by.
    """
    train = judgement.retraining == "train"
    features, truth = judged_by(snapshot, judgement.performance_on, last_layer=not train)
    labels = _assumed_labels(snapshot, candidates, judgement, generator)  # [t, r, b]
    learner = _training(snapshot, judgement, generator) if train else _update(snapshot, judgement)
    batches = candidates.unsqueeze(1).expand_as(labels).flatten(0, 1)  # [e, b]
    layer = snapshot.weight if snapshot.initial is None else snapshot.initial.largest_layer
    heads_a_block = max(1, HEADS_BYTES.get(layer.device.type, HEADS_BYTES["cpu"]) // (4 * layer.nbytes))
    blocks = zip(batches.split(heads_a_block), labels.flatten(0, 1).split(heads_a_block), strict=True)
    losses = torch.cat([mean_losses(learner(*block), features, truth, judgement.loss) for block in blocks])
    return losses.view(labels.shape[:2]).mean(dim=1)


def current_loss(snapshot: OracleSnapshot, judgement: Judgement) -> float:
    """The loss of the head as it is."""
    features, truth = judged_by(snapshot, judgement.performance_on, last_layer=True)
    return mean_losses(_stack(snapshot.weight.unsqueeze(0), snapshot.bias), features, truth, judgement.loss).item()


def best_of(losses: Float[Tensor, " t"], generator: torch.Generator) -> int:
    """Position of the smallest loss; one of them at random where several are smallest.

    The loss of a head that diverged, NaN, counts as infinite.
    """
    losses = losses.nan_to_num(nan=torch.inf)
    smallest = (losses == losses.min()).nonzero().flatten().tolist()
    return smallest[int(torch.randint(len(smallest), (), generator=generator))]


def initial_head(snapshot: OracleSnapshot, generator: torch.Generator) -> Head:
    """What training starts from: the run's initial weights, or new ones where the snapshot has none."""
    if snapshot.initial is not None:
        return snapshot.initial
    k, d = snapshot.weight.shape
    like = snapshot.features
    return Head.initial("linear", d, k, generator, dtype=like.dtype, device=like.device)


def trained_heads(
    snapshot: OracleSnapshot,
    initial: Head,
    batches: Int[Tensor, "e b"],
    labels: Int[Tensor, "e b"],
    epochs: int,
    seeds: int | Sequence[int],
) -> Head:
    """A stack of heads, each trained on the labelled instances and one batch.

    `seeds` are of the order of the minibatches, one for all heads or one a head.
    """
    positions, local = batches.unique(return_inverse=True)  # the pool itself is not copied
    known = snapshot.labelled_features if snapshot.labelled_inputs is None else snapshot.labelled_inputs
    unknown = snapshot.features if snapshot.inputs is None else snapshot.inputs
    e, m = len(batches), len(known)
    index_sets = torch.cat((torch.arange(m, device=batches.device).expand(e, -1), m + local), dim=1)
    return train_heads(
        initial,
        torch.cat((known, unknown[positions])),
        torch.cat((snapshot.labels.expand(e, -1), labels), dim=1),
        index_sets,
        dataclasses.replace(snapshot.training, epochs=epochs),
        [torch.Generator().manual_seed(each) for each in ([seeds] * e if isinstance(seeds, int) else seeds)],
    )


def judged_by(snapshot: OracleSnapshot, performance_on: str, *, last_layer: bool) -> tuple[Tensor, Tensor | None]:
    """What heads, or last layers only, are measured on, and its labels; None: on the unlabelled, without ground truth.

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
    initial, seed = initial_head(snapshot, generator), integer_seed(generator)
    return lambda batches, labels: trained_heads(snapshot, initial, batches, labels, judgement.retraining_epochs, seed)


def _update(snapshot: OracleSnapshot, judgement: Judgement) -> Learner:
    precision = precision_matrix(snapshot.labelled_features, prior_precision=judgement.prior_precision)
    covariance = covariance_matrix(precision)  # one for all candidates

    def learner(batches: Tensor, labels: Tensor) -> Head:
        features = snapshot.features[batches]
        weights = second_order_weights(
            snapshot.weight, covariance, features, labels, gamma=judgement.gamma, bias=snapshot.bias
        )
        return _stack(weights, snapshot.bias)

    return learner


def _stack(weights: Float[Tensor, "e k d"], bias: Float[Tensor, " k"] | None) -> Head:
    return Head(weights, None if bias is None else bias.expand(len(weights), -1))


def mean_losses(
    heads: Head, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, loss: str
) -> Float[Tensor, " e"]:
    """Mean loss of a stack of heads, a block of logits at a time; without labels the loss that each head expects."""
    e, n = len(heads.weight), len(features)
    row_bytes = max(heads.weight.shape[1:]) * features.element_size()  # logits, or hidden units
    heads_a_block = max(1, BLOCK_BYTES // (n * row_bytes))
    rows_a_block = max(1, BLOCK_BYTES // (heads_a_block * row_bytes))
    losses = features.new_zeros(e)
    for first in range(0, e, heads_a_block):
        block = slice(first, first + heads_a_block)
        for start in range(0, n, rows_a_block):
            rows = slice(start, start + rows_a_block)
            logits = heads.unstacked(block).logits(features[rows])  # [heads, rows, k]
            losses[block] += LOSS_OF[loss](logits, None if labels is None else labels[rows]).sum(dim=1)
    return losses / n


def _zero_one(logits: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return 1 - logits.softmax(dim=-1).amax(dim=-1)
    return (logits.argmax(dim=-1) != labels).to(logits.dtype)


def _cross_entropy(logits: Tensor, labels: Tensor | None) -> Tensor:
    logarithms = logits.log_softmax(dim=-1)
    if labels is None:
        return -(logarithms.exp() * logarithms).sum(dim=-1)
    return -logarithms.gather(-1, labels.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)


def _brier(logits: Tensor, labels: Tensor | None) -> Tensor:
    probabilities = logits.softmax(dim=-1)
    squares = probabilities.square().sum(dim=-1)
    if labels is None:
        return 1 - squares
    true = probabilities.gather(-1, labels.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
    return squares - 2 * true + 1


# logits [e, n, k] and labels [n] to the losses [e, n]; None: the expectation under the logits' own probabilities.
LOSS_OF: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "zero_one": _zero_one,
    "cross_entropy": _cross_entropy,
    "brier": _brier,
}
