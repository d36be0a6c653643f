"""TCM: TypiClust while labels are few, then margin (Doucet et al. 2024, "Bridging Diversity and Uncertainty")."""

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_whole
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import register
from dal_core.strategies.typiclust import typiclust
from dal_core.strategies.uncertainty import margin


@register("tcm")
def tcm(
    snapshot: Snapshot, batch_size: int, generator: torch.Generator, *, typiclust_acquisitions: int = 3
) -> Int[Tensor, " b"]:
    """TypiClust in the first `typiclust_acquisitions` acquisitions of a run, margin in all later ones.

    How many were made so far is `snapshot.cycle`.

    Raises:
        ValueError: if `typiclust_acquisitions` is below 0.
    """
    check_whole("typiclust_acquisitions", typiclust_acquisitions, 0)
    strategy = typiclust if snapshot.cycle < typiclust_acquisitions else margin
    return strategy(snapshot, batch_size, generator)
