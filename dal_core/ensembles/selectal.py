"""SelectAL: find out which budget a run is at (Hacohen & Weinshall 2023, "How to Select Which AL Strategy").

What is worth labelling next is what hurts most when it is taken away from what is labelled already.

Axes: m labelled, q labelled and not held out, r of them left for training, k classes, d features.
"""

import dataclasses
import itertools
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Between, Count, Size, checked
from dal_core.models.heads import Head
from dal_core.models.training import train_heads
from dal_core.randomness import choose, generators_from, integer_seed
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from dal_core.strategies.shared.clustering import typicality

REGIMES = {"random": "random", "low": "typiclust", "high": "badge"}  # budgets, and the strategy for each
NUM_NEIGHBOURS = 20


@registry.register("selectal")
@checked
def selectal(
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    share: Annotated[float, Between(0, 1 / 3, "high")] = 0.05,
    num_splits: Count = 5,
    retraining_epochs: Size = 50,
    record: dict[str, Any] | None = None,
) -> Int[Tensor, " b"]:
    """Pick the batch of TypiClust at a low budget, of BADGE at a high one, and a random one in between.

    In each of `num_splits` splits a `share` of the labelled instances is held out. From the rest an equally large,
    class-balanced set is removed: the most typical instances of their classes, the least typical ones, or random ones.
    The budget is low if heads suffer most without the typical ones, high if without the least typical ones, measured
    on what is held out. All heads are trained at once. The generator decides between equal accuracies.

    Args:
        share: of the labelled instances, at least one instance.
        record: filled with the regime and the accuracy without each of the sets.

    Raises:
        ValueError: if fewer than 3 instances are labelled.
    """
    if len(snapshot.labels) < 3:
        raise ValueError(f"snapshot.labels has {len(snapshot.labels)} entries; selectal needs at least 3")
    accuracies = _accuracies_without(snapshot, share, num_splits, retraining_epochs, generator)
    worst = (accuracies == accuracies.min()).nonzero().flatten()
    regime = list(REGIMES)[int(worst[torch.randint(len(worst), (), generator=generator)])]
    if record is not None:
        record |= {"regime": regime, "accuracies": dict(zip(REGIMES, accuracies.tolist(), strict=True))}
    return registry.get(REGIMES[regime])(snapshot, batch_size, generator)


def _accuracies_without(
    snapshot: Snapshot, share: float, num_splits: int, epochs: int, generator: torch.Generator
) -> Float[Tensor, " 3"]:
    """Accuracy on all that is held out, of heads that lack the random, the typical and the atypical instances."""
    labels = snapshot.labels
    count = max(1, round(share * len(labels)))
    held_out, kept, seeds = [], [], []
    for own in generators_from(generator, num_splits):
        order = choose(len(labels), len(labels), own).to(labels.device)
        held_out += [order[:count]] * len(REGIMES)
        kept += [_without(snapshot, order[count:], count, regime) for regime in REGIMES]
        # The heads of a split see minibatches in the same order, so that none of them is better by a lucky one.
        seeds += [integer_seed(own)] * len(REGIMES)
    features = snapshot.labelled_features
    initial = snapshot.initial or Head.new_layer(features, snapshot.num_classes, generator, torch.float64)
    inputs = features if initial.hidden_weight is None else snapshot.labelled_inputs
    assert inputs is not None, "a snapshot of a head with a hidden layer has its inputs"
    training = dataclasses.replace(snapshot.training, epochs=epochs)
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    heads = train_heads(initial, inputs, labels, torch.stack(kept), training, orders)
    # Counts, because rounding would tell equal means apart.
    hits = [
        (heads.unstacked(i).logits(inputs[rows]).argmax(dim=1) == labels[rows]).sum() for i, rows in enumerate(held_out)
    ]
    return torch.stack(hits).view(num_splits, len(REGIMES)).sum(dim=0).cpu().double() / (num_splits * count)


def _without(snapshot: Snapshot, positions: Int[Tensor, " q"], count: int, regime: str) -> Int[Tensor, " r"]:
    """`positions`, in random order, without `count` of them, taken from the classes in turn, the largest class first.

    Of equally large classes it is the turn of the one that comes first in `positions`, so that whatever the regime,
    each class loses equally many.
    """
    labels = snapshot.labels[positions].tolist()
    ranked: list[int] = list(range(len(labels)))
    if regime != "random":
        classes_of = snapshot.labels[positions]
        scores = typicality(snapshot.labelled_features[positions], classes_of, NUM_NEIGHBOURS, by_differences=True)
        ranked = scores.argsort(descending=regime == "low", stable=True).tolist()
    classes = sorted(dict.fromkeys(labels), key=labels.count, reverse=True)
    queues = [[i for i in ranked if labels[i] == label] for label in classes]
    in_turn = [i for turn in itertools.zip_longest(*queues) for i in turn if i is not None]
    return positions[torch.tensor(sorted(in_turn[count:]), device=positions.device)]
