"""Lazy greedy selection (Minoux 1978): the picks of a full evaluation, from a fraction of the work.

Where the gain of an instance can only shrink as more is picked, a gain computed earlier bounds today's from above.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Gains = Callable[[Int[Tensor, " r"]], Float[Tensor, " r"]]
Argmax = Callable[[Tensor, Tensor, Gains], Tensor]  # what `lazy_argmax` is
TIE = 64  # units of the last place, relative to the best gain, within which gains count as equal
CHECKED_AT_ONCE = 64  # candidates whose gain is brought up to date together


def lazy_picks(pick: Callable[[Argmax], Int[Tensor, " b"]], device: torch.device, at_once: int) -> Int[Tensor, " b"]:
    """What `pick`, a function that starts anew with each call, picks with `lazy_argmax`.

    That one lets the host decide how often to look, for which an accelerator has to be waited for. There each pick
    brings the gains of the `at_once` instances with the largest bounds up to date, needed or not, and whether that was
    enough every time is asked once, at the end. Where it was not, `pick` is called again with `lazy_argmax`.
    """
    if device.type == "cpu":
        return pick(lazy_argmax)
    sure: list[Tensor] = []

    def argmax(bounds: Tensor, fresh: Tensor, gains: Gains) -> Tensor:
        best, enough = _argmax_after_one_look(bounds, fresh, gains, at_once)
        sure.append(enough)
        return best

    picked = pick(argmax)
    return picked if torch.stack(sure).all() else pick(lazy_argmax)


def lazy_argmax(bounds: Float[Tensor, " n"], fresh: Bool[Tensor, " n"], gains: Gains) -> Int[Tensor, ""]:
    """Position of the largest gain; only instances whose bound reaches the best gain are evaluated.

    `bounds` and `fresh`, whether a bound is today's gain, are brought up to date in place. Ties, up to rounding, go
    to the lower position: otherwise the order of summation, and with it the size of blocks and the number of threads,
    would choose between instances that gain the same.
    """
    while True:
        stale = bounds.masked_fill(fresh, -torch.inf)
        threshold = _threshold(bounds, fresh)
        waiting = (stale >= threshold).logical_and_(~fresh)
        if not waiting.any():
            return _first_above(bounds, threshold)
        rows = stale.masked_fill(~waiting, -torch.inf).topk(min(CHECKED_AT_ONCE, int(waiting.sum()))).indices
        bounds[rows] = gains(rows)
        fresh[rows] = True


def _argmax_after_one_look(bounds: Tensor, fresh: Tensor, gains: Gains, at_once: int) -> tuple[Tensor, Tensor]:
    """As `lazy_argmax`, with gains brought up to date once; and whether no instance is left that could gain more."""
    stale = bounds.masked_fill(fresh, -torch.inf)
    highest = stale.topk(min(at_once, len(bounds)))
    rows = highest.indices
    bounds[rows] = torch.where(highest.values > -torch.inf, gains(rows), bounds[rows])  # not what is fresh or picked
    fresh.index_fill_(0, rows, True)
    threshold = _threshold(bounds, fresh)
    return _first_above(bounds, threshold), ((bounds < threshold) | fresh).all()


def _threshold(bounds: Tensor, fresh: Tensor) -> Tensor:
    """The best gain of those that are fresh, less what counts as a tie."""
    best = bounds.masked_fill(~fresh, -torch.inf).max()
    return best - TIE * torch.finfo(best.dtype).eps * best.abs()


def _first_above(bounds: Tensor, threshold: Tensor) -> Tensor:
    positions = torch.arange(len(bounds), device=bounds.device)
    return torch.where(bounds >= threshold, positions, len(bounds)).min()
