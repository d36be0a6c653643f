"""What ensembles are made of, and how they are asked.

Axes: a strategies, b batch, k classes, d features.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_choice, shown
from dal_core.models.heads import Head
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry

STRATEGIES = (
    "random", "margin", "badge", "bait", "typiclust", "alfamix", "dropquery", "max_herding", "unc_herding",
)  # fmt: skip


def check_ensemble(strategies: Sequence[str]) -> None:
    """Raise ValueError unless `strategies` is a list of ordinary strategies that are no ensembles themselves."""
    if not isinstance(strategies, Sequence) or isinstance(strategies, str) or not strategies:
        raise ValueError(f"strategies is {shown(strategies)}; a list of at least one name was expected")
    known = registry.members()
    for name in strategies:
        check_choice("strategies", name, known)


def ask(
    name: str, strategy: registry.Strategy, snapshot: Snapshot, batch_size: int, own: torch.Generator, where: str
) -> Int[Tensor, " b"]:
    """A batch of a strategy.

    Raises:
        RuntimeError: if it fails, naming it and `where`.
    """
    try:
        return registry.query(strategy, snapshot, batch_size, own)
    except Exception as error:
        raise RuntimeError(f"strategy {name!r} failed {where}: {type(error).__name__}: {error}") from error


def proposals(
    snapshot: Snapshot, batch_size: int, strategies: Sequence[str], generators: Sequence[torch.Generator], where: str
) -> Int[Tensor, "a b"]:
    """The batch of each strategy, each with a generator of its own; raises as `ask`."""
    asked = zip(strategies, generators, strict=True)
    return torch.stack([ask(name, registry.get(name), snapshot, batch_size, own, where) for name, own in asked])


def drawn_layer(snapshot: Snapshot, generator: torch.Generator) -> Head:
    """A linear layer with new weights, which are the same in float32 and float64 up to rounding."""
    k, d = snapshot.weight.shape
    drawn = Head.initial("linear", d, k, generator, dtype=torch.float64)
    assert drawn.bias is not None, "a linear head has a bias"
    return Head(drawn.weight.to(snapshot.features), drawn.bias.to(snapshot.features))
