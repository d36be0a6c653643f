"""What a strategy is told about its run, and what it leaves there."""

import dataclasses
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from dal_core.snapshot import Snapshot


@dataclasses.dataclass
class Context:
    """The keyword `context` of a strategy that has one; None outside of a run.

    Args:
        cycle: acquisitions made before.
        remaining: sizes of the batches that are still to buy, this one first; empty outside of a run. A strategy that
            plans ahead returns the picks of several of them, in the order of buying.
        memory: what the strategy left here at the acquisition before.
        record: values for the run's row, which JSON can hold.
        trace: how the choice came about, for those who look at a run: `candidates`, `rounds`, `scores`.
        virtual: inputs and labels that the next training has beside the labelled instances.
    """

    cycle: int = 0
    remaining: tuple[int, ...] = ()
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    trace: dict[str, Any] = dataclasses.field(default_factory=dict)
    virtual: tuple[Tensor, Tensor] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A question to a strategy and its answer; a run that updates its model within a batch asks several a cycle.

    `picked` are positions among the snapshot's unlabelled instances, in the order of picking.
    """

    snapshot: "Snapshot"
    picked: Tensor
    context: Context

    @property
    def instances(self) -> Tensor:
        """What was picked, as positions in the data."""
        return self.snapshot.instances[self.picked]

    @property
    def head(self) -> Any:
        """The head on which the strategy chose."""
        return self.snapshot.model.head
