"""TCM: TypiClust while labels are few, then margin (Doucet et al. 2024, "Bridging Diversity and Uncertainty")."""

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import BatchSize, Size, checked
from dal_core.snapshot import Predictions
from dal_core.strategies.registry import register
from dal_core.strategies.typiclust import typiclust
from dal_core.strategies.uncertainty import margin


@register("tcm")
@checked
def tcm(
    snapshot: Predictions, batch_size: BatchSize, generator: torch.Generator, *, typiclust_acquisitions: Size = 3
) -> Int[Tensor, " b"]:
    """Pick as TypiClust in the first `typiclust_acquisitions` acquisitions of a run, and by margin in all later ones.

    How many were made so far is `snapshot.cycle`.
    """
    strategy = typiclust if snapshot.cycle < typiclust_acquisitions else margin
    return strategy(snapshot, batch_size, generator)
