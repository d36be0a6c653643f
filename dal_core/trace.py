"""What a run asked its strategy, kept for those who want to look at it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.models.heads import Head
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import Strategy


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One question to the strategy: what it saw, and what it picked.

    Positions are those in the train split. A run that updates its head within a batch asks several times a cycle:
    `head` then has the updated last layer, and `labelled` ends with what was picked of this batch so far.

    Args:
        cycle: acquisitions made before.
        head: on which the strategy chose.
        initial: what the head was trained from.
        snapshot: what the strategy saw.
        labelled: in the order of buying.
        visible: what the snapshot's unlabelled instances are.
        picked: in the order of picking.
        told: the strategy's record.
        random_state: of the strategy's generator, before it drew.
    """

    cycle: int
    head: Head
    initial: Head
    snapshot: Snapshot
    labelled: Int[Tensor, " m"]
    visible: Int[Tensor, " n"]
    picked: Int[Tensor, " b"]
    told: dict[str, Any]
    random_state: Tensor

    def generator(self) -> torch.Generator:
        """A generator that draws what the strategy drew."""
        copy = torch.Generator()
        copy.set_state(self.random_state)
        return copy

    def positions(self) -> Int[Tensor, " b"]:
        """The picks as positions among the snapshot's unlabelled instances, in the order of picking."""
        return torch.searchsorted(self.visible, self.picked)  # `visible` is ascending


def watched(strategy: Strategy, tell: Callable[[Step], None], first: Step) -> Strategy:
    """`strategy`, which tells of each question and its answer; `first` holds what is known before the first one.

    The picks stay the same: the generator is read, and nothing is drawn from it.
    """
    labelled = first.labelled

    def asked(snapshot: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:
        nonlocal labelled
        state = generator.get_state()
        positions = strategy(snapshot, batch_size, generator)
        left = first.visible[~torch.isin(first.visible, labelled)]
        step = dataclasses.replace(
            first,
            head=dataclasses.replace(first.head, weight=snapshot.weight),
            snapshot=snapshot,
            labelled=labelled,
            visible=left,
            picked=left[positions],
            told=dict(first.told),  # a copy: the run fills the same dictionary anew in the next cycle
            random_state=state,
        )
        labelled = torch.cat((labelled, step.picked))
        tell(step)
        return positions

    return asked
