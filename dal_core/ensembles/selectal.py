"""SelectAL: find out which budget a run is at (Hacohen & Weinshall 2023, "How to Select Which AL Strategy").

What is worth labelling next is what hurts most when it is taken away from what is labelled already.

Axes: m labelled, q labelled and not held out, r of them left for training, k classes, d features.
"""

import itertools
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Between, Count, Size, checked
from dal_core.models.learners import fit, in_order
from dal_core.randomness import choose, generators_from, integer_seed
from dal_core.snapshot import WithModel
from dal_core.strategies import registry
from dal_core.strategies.shared.clustering import typicality

REGIMES = {"random": "random", "low": "typiclust", "high": "badge"}  # budgets, and the strategy for each
NUM_NEIGHBOURS = 20


@registry.register("selectal", version=2)
@checked
def selectal(
    snapshot: WithModel,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    share: Annotated[float, Between(0, 1 / 3, "high")] = 0.05,
    num_splits: Count = 5,
    retraining_epochs: Size = 50,
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick the batch of TypiClust at a low budget, of BADGE at a high one, and a random one in between.

    A class-balanced set is removed from what is labelled, at least one instance of every class: the most typical of
    their classes, the least typical, or random ones. What is left is split `num_splits` times, each time with a `share`
    of it held out, and a head is trained on the rest. The budget is low if heads suffer most without the typical
    instances, high if without the least typical ones, measured on what is held out. All heads are trained at once.

    Chance decides much: a few held out instances a split, the random set, which is drawn anew for each split, the
    order of the minibatches, and the generator between equal accuracies. Where the removed sets matter little, as on
    features on which all regimes learn alike, the regime is hardly better than drawn.

    Args:
        share: of the labelled instances that is removed, and of what is left that is held out; at least one instance.
        context: its record gets the regime and the accuracy without each of the sets.

    Raises:
        ValueError: if fewer than 3 instances are labelled.
    """
    if len(snapshot.labels) < 3:
        raise ValueError(f"snapshot.labels has {len(snapshot.labels)} entries; selectal needs at least 3")
    accuracies = _accuracies_without(snapshot, share, num_splits, retraining_epochs, generator)
    worst = (accuracies == accuracies.min()).nonzero().flatten()
    regime = list(REGIMES)[int(worst[torch.randint(len(worst), (), generator=generator)])]
    if context is not None:
        context.record |= {"regime": regime, "accuracies": dict(zip(REGIMES, accuracies.tolist(), strict=True))}
    return registry.get(REGIMES[regime])(snapshot, batch_size, generator)


def _accuracies_without(
    snapshot: WithModel, share: float, num_splits: int, epochs: int, generator: torch.Generator
) -> Float[Tensor, " 3"]:
    """Accuracy on all that is held out, of heads that lack the random, the typical and the atypical instances."""
    labels = snapshot.labels
    removed = min(max(len(labels.unique()), round(share * len(labels))), len(labels) - 2)
    count = max(1, round(share * (len(labels) - removed)))
    held_out, kept, seeds = [], [], []
    for own in generators_from(generator, num_splits):
        order = choose(len(labels), len(labels), own).to(labels.device)
        for regime in REGIMES:
            left = _without(snapshot, order, removed, regime)
            held_out.append(left[:count])
            kept.append(left[count:])
        # The heads of a split see minibatches in the same order, so that none of them is better by a lucky one.
        seeds += [integer_seed(own)] * len(REGIMES)
    draws = [in_order(snapshot, seed) for seed in seeds]
    models = fit(snapshot, [snapshot.labelled[each] for each in kept], [labels[each] for each in kept], draws, epochs)
    hits = []  # Counts, because rounding would tell equal means apart.
    for model, rows in zip(models, held_out, strict=True):
        logits = model.outputs(snapshot.data.inputs(snapshot.labelled[rows])).logits
        assert logits is not None, "SelectAL asks for a classifier"
        hits.append((logits.argmax(dim=1) == labels[rows]).sum())
    return torch.stack(hits).view(num_splits, len(REGIMES)).sum(dim=0).cpu().double() / (num_splits * count)


def _without(snapshot: WithModel, positions: Int[Tensor, " q"], count: int, regime: str) -> Int[Tensor, " r"]:
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
