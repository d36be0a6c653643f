"""`python -m benchmarks.contracts`: what the checks of a call cost, beside a plain call of torch."""

# ruff: noqa: ARG001  (what is measured is the checks of arguments that nothing uses)
import sys
import timeit
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Positive, checked, unchecked

LIMIT = 50.0  # microseconds of checks a call, for four tensors and three options
CALLS = 5000


def pick(
    features: Float[Tensor, "n d"], logits: Float[Tensor, "n k"], embedded: Float[Tensor, "n e"],
    labels: Int[Tensor, " m"], batch_size: BatchSize, *, gamma: Positive = 1.0, backward: bool = False,
) -> Int[Tensor, " b"]:  # fmt: skip
    """Do nothing with three floats, each of which is looked at because the result is of integers."""
    return labels


def microseconds(call: Callable[[], object]) -> float:
    """Return the shortest of several measurements, since only other work of the machine makes one longer."""
    return min(timeit.repeat(call, number=CALLS, repeat=7)) / CALLS * 1e6


if __name__ == "__main__":
    small, labels, guarded = torch.ones(16, 8), torch.arange(3), checked(pick)
    options = {"gamma": 2.0, "backward": True}
    add = microseconds(lambda: torch.add(small, small))
    plain = microseconds(lambda: unchecked(guarded)(small, small, small, labels, 4, **options))
    checks = microseconds(lambda: guarded(small, small, small, labels, 4, **options)) - plain
    print(f"checks {checks:.1f} us a call, torch.add {add:.1f} us, ratio {checks / add:.1f}")
    sys.exit(checks > LIMIT)
