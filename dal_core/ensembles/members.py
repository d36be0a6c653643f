"""What ensembles are made of, and how they are asked.

Axes: a strategies, b batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import BatchSize, checked
from dal_core.randomness import generators_from
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry

STRATEGIES = (
    "random", "margin", "badge", "bait", "typiclust", "alfamix", "dropquery", "max_herding", "unc_herding",
)  # fmt: skip


@checked
def proposals(
    snapshot: Snapshot, batch_size: BatchSize, strategies: Sequence[str], generator: torch.Generator, where: str
) -> Int[Tensor, "a b"]:
    """Return the batch of each strategy, each with a generator of its own; raises as `ask`."""
    registry.check_strategies(strategies, registry.members())
    each = zip(strategies, generators_from(generator, len(strategies)), strict=True)
    return torch.stack([ask(name, registry.get(name), snapshot, batch_size, own, where) for name, own in each])


@checked
def ask(
    name: str,
    strategy: registry.Strategy,
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    where: str,
) -> Int[Tensor, " b"]:
    """Return the batch of one strategy.

    Raises:
        ValueError: if it refuses the snapshot or an option, naming it and `where`, a few words on when it was asked.
        RuntimeError: if it fails otherwise, in the same words.
    """
    try:
        return registry.query(strategy, snapshot, batch_size, generator)
    except ValueError as error:
        raise ValueError(f"strategy {name!r} failed {where}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"strategy {name!r} failed {where}: {type(error).__name__}: {error}") from error
