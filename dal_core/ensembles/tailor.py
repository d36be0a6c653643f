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

from dal_core.checks import check_batch_size, check_number
from dal_core.ensembles.members import STRATEGIES, check_ensemble, proposals
from dal_core.randomness import generators_from, integer_seed
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry


@registry.register("tailor")
def tailor(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    decay: float = 0.9,
    memory: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
) -> Int[Tensor, " b"]:
    """One instance after another, each the next one of a strategy that Thompson sampling draws.

    Of each strategy it is counted which labels it brought, c_ak, 1 of each class to start with. For every pick

        theta_a ~ Dirichlet(c_a)        the strategy a = argmax sum_k theta_ak v_k gives its next instance,

    with the rewards v of `class_rewards`. Instances that another strategy gave before are passed over. Once the labels
    y of what a strategy brought are known, c_a becomes 1 + decay (c_a - 1) + sum onehot(y).

    Args:
        memory: kept from one acquisition to the next by the run: the counts, and who brought the last batch, whose
            labels are the last ones in the snapshot. Without it the counts are 1.
        record: filled with how many instances each strategy brought.

    Raises:
        ValueError: if an option is out of range.
        RuntimeError: if a strategy fails, naming it.
    """
    check_ensemble(strategies)
    check_batch_size(batch_size, len(snapshot.features))
    check_number("decay", decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}; a number from 0 to 1 was expected")
    memory = {} if memory is None else memory
    counts = _counts(snapshot, len(strategies), decay, memory)
    rewards = class_rewards(snapshot.labels, snapshot.num_classes)
    draws = np.random.default_rng(integer_seed(generator))  # torch draws no gammas from a generator of one's own
    each = generators_from(generator, len(strategies))
    queues = proposals(snapshot, batch_size, strategies, each, "on the pool").tolist()
    picked: dict[int, int] = {}  # instance to strategy, in the order of picking
    while len(picked) < batch_size:
        gammas = torch.from_numpy(draws.standard_gamma(counts.numpy()))  # [a, k]
        drawn = int((gammas / gammas.sum(dim=1, keepdim=True) @ rewards).argmax())
        # A queue never runs dry: it holds batch_size distinct instances, and fewer are picked.
        picked[next(place for place in queues[drawn] if place not in picked)] = drawn
    memory |= {"counts": counts, "suppliers": list(picked.values())}
    if record is not None:
        suppliers = [strategies[a] for a in picked.values()]
        record |= {name: suppliers.count(name) for name in strategies}
    return torch.tensor(list(picked), device=snapshot.features.device)


def class_rewards(labels: Int[Tensor, " m"], num_classes: int) -> Float[Tensor, " k"]:
    """1 / how often a class is labelled (1 if never), negated for a class that more than half of the labels are of."""
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
