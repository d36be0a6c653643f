"""Indexing with positions that were computed, so that an accelerator is not waited for.

On a CPU a position is best used as a number. Elsewhere that would make the host wait for all that was asked of the
device so far, and so does an index without dimensions; a tensor of one position does not.
"""

import torch
from jaxtyping import Int
from torch import Tensor


def index_of(position: Int[Tensor, ""] | Int[Tensor, " 1"]) -> int | Int[Tensor, " 1"]:
    """What to index with: a number on a CPU, elsewhere a tensor of one position, which leaves an axis of length 1."""
    return int(position) if position.device.type == "cpu" else position.view(1)


def taken_out(members: Int[Tensor, " n"], place: Int[Tensor, ""]) -> tuple[Int[Tensor, ""], Int[Tensor, " n-1"]]:
    """The member at a place, and the others in their order."""
    at = index_of(place)
    if isinstance(at, int):
        return members[at], torch.cat((members[:at], members[at + 1 :]))
    others = torch.arange(len(members) - 1, device=members.device)
    return members[at].squeeze(0), members[others + (others >= at)]
