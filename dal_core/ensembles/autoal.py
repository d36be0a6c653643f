"""AutoAL: learn on a simulated cycle which strategy to follow where (Wang et al. 2025, "AutoAL: Automated Active
Learning with Differentiable Query Strategy Search"), here on frozen features.

Axes: n unlabelled, m labelled, h of them hidden, u union of the batches, a strategies, b batch, k classes, d features.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Below, Positive, Size, checked
from dal_core.data import FeatureData
from dal_core.ensembles.members import STRATEGIES, proposals
from dal_core.models.heads import Head
from dal_core.models.learners import last_layer_learner
from dal_core.models.training import OPTIMISERS, train_head
from dal_core.parallel import fixed_threads
from dal_core.randomness import choose, generators_from
from dal_core.snapshot import LastLayer, with_model
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import highest

FEWEST_LABELLED = 4  # two to learn from, and two to choose from
RESOLUTION = 2.0**-30  # of scores: smaller differences are rounding, and must not decide between equal ones


@register("autoal", version=2)
@checked
def autoal(
    snapshot: LastLayer,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    steps: Size = 200,
    learning_rate: Positive = 1e-3,
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick of the union of all strategies' batches the instances with the highest scores of a search network.

    With z_ia = 1 where strategy a picks instance i, 0 elsewhere, the score of an instance is

        s_i = sum_a softmax(SearchNet(x_i))_a z_ia.

    SearchNet learns on a simulated cycle in which a random half of the labelled instances plays the pool
    (`simulated_cycle`, `train_search_net`). Its weights are equal where fewer than 4 instances are labelled. Ties go to
    the lower position.

    Kept of the published method: the two networks, their bilevel objective with steps in turn, the labelled set split
    into halves, weights of the strategies that depend on the instance, and scores of what the strategies chose.
    Simplified: an MLP and a linear layer on frozen features, started anew in each cycle, take the place of deep
    networks on images. The choices z are used as they are, where the published method relaxes them into differentiable
    ones: in SearchNet's weights the objective is differentiable anyway. And scores are normalised to sum to 1, so that
    SearchNet gains nothing by raising all of them.

    Args:
        steps: of each network.
        learning_rate: of both.
        context: its record gets the mean weight of each strategy on the picked instances.

    Raises:
        ValueError, RuntimeError: if a strategy refuses the snapshot or fails, naming it.
    """
    (searching,) = generators_from(generator, 1)
    batches = proposals(snapshot, batch_size, strategies, generator, "on the pool")
    union = batches.unique()  # ascending
    weights = torch.full((len(union), len(strategies)), 1 / len(strategies), dtype=torch.float64, device=union.device)
    if len(snapshot.labels) >= FEWEST_LABELLED:
        search_net = _searched(snapshot, strategies, steps, learning_rate, searching)
        weights = search_net.logits(_standardised(snapshot.features[union], snapshot)).softmax(dim=1)
    scores = (weights * _chosen_by(union, batches)).sum(dim=1)
    best = highest((scores / RESOLUTION).round(), batch_size)
    if context is not None:
        context.record |= dict(zip(strategies, weights[best].mean(dim=0).tolist(), strict=True))
    return union[best]


@checked
def simulated_cycle(snapshot: LastLayer, generator: torch.Generator) -> tuple[LastLayer, Int[Tensor, " h"]]:
    """Return a cycle in which a random half of the labelled instances is the pool, and the true labels of that half.

    Its head is trained on the other half as the run's head was. It is linear even where that one has a hidden layer:
    features are what the last layer sees, and a last layer is all that strategies look at.
    """
    features, labels = snapshot.labelled_features, snapshot.labels
    order = choose(len(labels), len(labels), generator).to(labels.device)
    hidden, known = order[: len(labels) // 2], order[len(labels) // 2 :]
    learner = last_layer_learner(snapshot)
    draw = snapshot.draw if learner is snapshot.learner else lambda _: generator
    initial = learner.initial(features, snapshot.num_classes, draw)
    head = train_head(initial, features, labels, known, learner.training, generator)
    cycle = with_model(LastLayer)(
        features=features[hidden],
        logits=head.logits(features[hidden]),
        labelled_features=features[known],
        labelled_logits=head.logits(features[known]),
        labels=labels[known],
        weight=head.weight,
        bias=head.bias,
        cycle=snapshot.cycle,
        instances=hidden,
        labelled=known,
        data=FeatureData(features),
        learner=learner,
        draw=snapshot.draw,
    )
    return cycle, labels[hidden]


@checked
def train_search_net(
    features: Float[Tensor, "h d"],
    logits: Float[Tensor, "h k"],
    labels: Annotated[Int[Tensor, " h"], Below("k")],
    chosen_by: Bool[Tensor, "h a"],
    steps: Size,
    learning_rate: Positive,
    generator: torch.Generator,
) -> Head:
    """Return the search network, an MLP from features to strategies, after `steps` steps in turn with FitNet.

        lower level:  FitNet lowers     sum_i w_i loss_i,    w_i = s_i / sum_j s_j
        upper level:  SearchNet raises  the same

    each in its own parameters, with the scores s of `autoal` and FitNet's cross-entropy of the hidden instances:
    informative is what FitNet finds hard. FitNet is a linear layer on top of what the head says already, `logits`, and
    starts at 0. Full batches, and steps of rectified Adam.
    """
    d, k, a = features.shape[1], logits.shape[1], chosen_by.shape[1]
    search_net = Head.initial("mlp", d, a, generator, dtype=features.dtype, device=features.device)
    fit_net = Head(features.new_zeros(k, d), features.new_zeros(k))

    def losses() -> Float[Tensor, " h"]:
        return torch.nn.functional.cross_entropy(logits + fit_net.logits(features), labels, reduction="none")

    with fixed_threads(), torch.enable_grad():
        fit, search = _descent(fit_net, learning_rate), _descent(search_net, learning_rate)
        for _ in range(steps):
            scores = (search_net.logits(features).softmax(dim=1) * chosen_by).sum(dim=1)
            shares = scores / scores.sum()
            fit(shares.detach() @ losses())
            search(-shares @ losses().detach())
    for part in _parameters(search_net):
        part.requires_grad_(False)
    return search_net


def _searched(
    snapshot: LastLayer, strategies: Sequence[str], steps: int, learning_rate: float, generator: torch.Generator
) -> Head:
    """The search network after a simulated cycle in which every strategy queries half of the hidden instances."""
    simulated, labels = simulated_cycle(snapshot, generator)
    batches = proposals(simulated, len(labels) // 2, strategies, generator, "in the simulated cycle")
    chosen_by = _chosen_by(torch.arange(len(labels), device=labels.device), batches)
    features, logits = _standardised(simulated.features, snapshot), simulated.logits.double()
    return train_search_net(features, logits, labels, chosen_by, steps, learning_rate, generator)


def _chosen_by(positions: Int[Tensor, " p"], batches: Int[Tensor, "a b"]) -> Bool[Tensor, "p a"]:
    return torch.stack([torch.isin(positions, batch) for batch in batches], dim=1)


def _standardised(features: Float[Tensor, "p d"], snapshot: LastLayer) -> Float[Tensor, "p d"]:
    """In float64, shifted and scaled so that the labelled ones have mean 0 and variance 1, one for all coordinates.

    One learning rate then suits all encoders.
    """
    labelled = snapshot.labelled_features.double()
    mean = labelled.mean(dim=0)
    deviation = (labelled - mean).square().mean().sqrt()
    return (features.double() - mean) / torch.where(deviation > 0, deviation, 1)


def _descent(network: Head, rate: float) -> Callable[[Tensor], None]:
    """A function that takes one step down an objective, in the parameters of the network."""
    # Not torch.optim, which loads torch's compiler for two seconds.
    parameters = [part.requires_grad_() for part in _parameters(network)]
    gradients = [torch.empty_like(part) for part in parameters]
    step = OPTIMISERS["radam"](parameters, gradients)

    def descend(objective: Tensor) -> None:
        for gradient, computed in zip(gradients, torch.autograd.grad(objective, parameters), strict=True):
            gradient.copy_(computed)
        with torch.no_grad():
            step(rate)

    return descend


def _parameters(network: Head) -> list[Tensor]:
    return [part for part in vars(network).values() if part is not None]
