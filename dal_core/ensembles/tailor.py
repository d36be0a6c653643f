"""TAILOR: a bandit that draws the strategy of each pick (Zhang et al. 2023, "Algorithm Selection for Deep Active
Learning with Imbalanced Datasets").

Axes: a strategies, b batch, m labelled, k classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Count, Fraction, checked
from dal_core.ensembles.members import STRATEGIES, proposals
from dal_core.randomness import integer_seed
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register


@register("tailor")
@checked
def tailor(
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    decay: Fraction = 0.9,
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick one instance after another, each the next one of a strategy that Thompson sampling draws.

    Of each strategy it is counted which labels it brought, c_ak, 1 of each class to start with. For every pick

        theta_a ~ Dirichlet(c_a)        the strategy a = argmax sum_k theta_ak v_k gives its next instance,

    with the rewards v of `class_rewards`. Instances that another strategy gave before are passed over. Once the labels
    y of what a strategy brought are known, c_a becomes 1 + decay (c_a - 1) + sum onehot(y).

    Args:
        context: its memory keeps the counts, and who brought the last batch, whose labels are the last ones in the
            snapshot; without it the counts are 1. Its record gets how many instances each strategy brought.

    Raises:
        ValueError, RuntimeError: if a strategy refuses the snapshot or fails, naming it.
    """
    context = context or Context()
    counts = _counts(snapshot, len(strategies), decay, context.memory)
    rewards = class_rewards(snapshot.labels, snapshot.num_classes)
    draws = np.random.default_rng(integer_seed(generator))  # torch draws no gammas from a generator of one's own
    queues = proposals(snapshot, batch_size, strategies, generator, "on the pool").tolist()
    picked: dict[int, int] = {}  # instance to strategy, in the order of picking
    while len(picked) < batch_size:
        gammas = torch.from_numpy(draws.standard_gamma(counts.numpy()))  # [a, k]
        drawn = int((gammas / gammas.sum(dim=1, keepdim=True) @ rewards).argmax())
        # A queue never runs dry: it holds batch_size distinct instances, and fewer are picked.
        picked[next(place for place in queues[drawn] if place not in picked)] = drawn
    context.memory |= {"counts": counts, "suppliers": list(picked.values())}
    suppliers = [strategies[a] for a in picked.values()]
    context.record |= {name: suppliers.count(name) for name in strategies}
    return torch.tensor(list(picked), device=snapshot.features.device)


@checked
def class_rewards(labels: Int[Tensor, " m"], num_classes: Count) -> Float[Tensor, " k"]:
    """Return 1 / how often a class is labelled, 1 if never; negated for a class of more than half of the labels.

    >>> class_rewards(torch.tensor([0, 2, 2, 2]), num_classes=3)
    tensor([ 1.0000,  1.0000, -0.3333], dtype=torch.float64)
    """
    counts = torch.bincount(labels.cpu(), minlength=num_classes).double()
    rewards = 1 / counts.clamp_min(1)
    return torch.where(counts > counts.sum() / 2, -rewards, rewards)


def _counts(snapshot: Snapshot, num_strategies: int, decay: float, memory: dict[str, Any]) -> Float[Tensor, "a k"]:
    """The Dirichlet counts, now that the labels of the last batch are known."""
    if "suppliers" not in memory:
        return torch.ones(num_strategies, snapshot.num_classes, dtype=torch.float64)
    suppliers = torch.tensor(memory["suppliers"])
    labels = snapshot.labels[-len(suppliers) :].cpu()
    counts = 1 + decay * (memory["counts"] - 1)
    return counts.index_put((suppliers, labels), torch.ones_like(labels, dtype=torch.float64), accumulate=True)
