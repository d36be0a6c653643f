"""SAS, simulated annealing search (Zhou et al. 2021, "Towards Understanding the Behaviors of Optimal Deep AL").

The oracle looks for the order of acquisitions with the best learning curve: it changes the order a little, trains the
heads of all cycles that feel the change, and keeps it if the curve got better, or by chance.

Axes: s steps, a acquisitions, b all instances of an order, n unlabelled, p proposals.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dal_core.contracts import BatchSize, Count, Positive, Size, checked
from dal_core.models.heads import Head
from dal_core.oracles.judging import judged_by, mean_losses, retraining
from dal_core.randomness import choose, integer_seed
from dal_core.snapshot import OracleSnapshot
from dal_core.strategies.registry import register

MOST_AT_ONCE = 64  # Proposals that are judged together: those behind one that is kept are judged in vain.


@register("sas")
@checked
def sas(
    snapshot: OracleSnapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    acquisition_size: Count | None = None,
    steps: Size = 25_000,
    greedy_steps: Size = 5_000,
    annealing_factor: Positive = 0.1,
    retraining_epochs: Size = 50,
    performance_on: Literal["test", "validation"] = "test",
    record: dict[str, Any] | None = None,
) -> Int[Tensor, " b"]:
    """Pick `batch_size` instances in the order in which to buy them, `acquisition_size` at a time (None: all at once).

    A step exchanges two instances of different acquisitions, where what is not bought counts as one more. With q the
    mean accuracy over the curve, step t keeps a change with probability exp(annealing_factor t (q' - q)), and the last
    `greedy_steps` keep improvements only. The best order of all is returned.

    Proposals are judged several at a time, by heads that are trained together; those behind one that is kept are
    judged anew, so that the search goes the same way as one proposal after another (`textbook.sas`).

    Args:
        record: filled with the mean accuracy of the first and of the best order, and the number of changes kept.
    """
    features, truth = judged_by(snapshot, performance_on, last_layer=False)
    trained, seed = retraining(snapshot, retraining_epochs, generator), integer_seed(generator)
    curve = _Curve(batch_size, acquisition_size or batch_size, features, truth, lambda sets: trained(sets, seed))
    order = choose(len(snapshot.features), len(snapshot.features), generator).to(snapshot.features.device)
    exchanges = _exchanges(len(order), batch_size, curve.acquisition_size, steps + greedy_steps, generator)
    chances = torch.rand(steps + greedy_steps, generator=generator, dtype=torch.float64).log()

    hits = curve.of(order.unsqueeze(0), torch.ones(1, len(curve.ends), dtype=torch.bool))[0]
    first = best = quality = curve.mean_accuracy(hits).item()
    best_order, kept, step, at_once = order, 0, 0, 1
    while step < len(exchanges):
        proposed = exchanges[step : step + at_once]
        orders, affected = _exchanged(order, proposed), curve.affected(proposed)
        new_hits = torch.where(affected, curve.of(orders, affected), hits)
        for i, new in enumerate(curve.mean_accuracy(new_hits).tolist()):
            step, gain = step + 1, new - quality
            if gain > 0 or (step <= steps and chances[step - 1] < annealing_factor * step * gain):
                order, hits, quality, kept = orders[i], new_hits[i], new, kept + 1
                if quality > best:
                    best, best_order = quality, order
                at_once = i + 1
                break
        else:
            at_once = min(2 * at_once, MOST_AT_ONCE)
    if record is not None:
        record |= {"first_accuracy": first, "best_accuracy": best, "kept": kept}
    return best_order[:batch_size]


class _Curve:
    """Learning curves of orders, in right predictions after each acquisition: whole numbers, that rounding spares.

    `trained` makes a stack of heads of sets of instances; they are measured on `features`, whose labels are `truth`.
    """

    def __init__(
        self,
        batch_size: int,
        acquisition_size: int,
        features: Tensor,
        truth: Tensor | None,
        trained: Callable[[Tensor], Head],
    ) -> None:
        self.acquisition_size, self.features, self.truth, self.trained = acquisition_size, features, truth, trained
        self.ends = [*range(acquisition_size, batch_size, acquisition_size), batch_size]

    def mean_accuracy(self, hits: Int[Tensor, "*p a"]) -> Float[Tensor, "*p"]:
        return hits.sum(dim=-1).double() / (len(self.features) * len(self.ends))

    def of(self, orders: Int[Tensor, "p n"], wanted: Bool[Tensor, "p a"]) -> Int[Tensor, "p a"]:
        """Hits where `wanted`; all heads that learn from the same number of acquisitions are trained at once."""
        hits = torch.zeros(wanted.shape, dtype=torch.int64)
        for acquisition, end in enumerate(self.ends):
            rows = wanted[:, acquisition].nonzero().squeeze(1)
            if len(rows):
                # Sorted, because the order within a set would change the minibatches.
                heads = self.trained(orders[rows.to(orders.device), :end].sort(dim=1).values)
                losses = mean_losses(heads, self.features, self.truth, "zero_one")
                hits[rows, acquisition] = ((1 - losses.cpu().double()) * len(self.features)).round().long()
        return hits

    def affected(self, exchanges: Int[Tensor, "p 2"]) -> Bool[Tensor, "p a"]:
        """Which hits an exchange can change: those after the earlier and before the later acquisition."""
        acquisitions = exchanges // self.acquisition_size
        acquisitions[exchanges >= self.ends[-1]] = len(self.ends)  # not bought
        each = torch.arange(len(self.ends))
        earlier, later = acquisitions.min(dim=1).values, acquisitions.max(dim=1).values
        return (earlier.unsqueeze(1) <= each) & (each < later.unsqueeze(1))


def _exchanges(
    n: int, batch_size: int, acquisition_size: int, steps: int, generator: torch.Generator
) -> Int[Tensor, "s 2"]:
    """Places in the order to exchange, drawn uniformly: one that is bought, and one of another acquisition."""
    bought = torch.randint(batch_size, (steps,), generator=generator)
    start = bought // acquisition_size * acquisition_size
    length = (start + acquisition_size).clamp(max=batch_size) - start
    if n == batch_size <= acquisition_size:
        return torch.empty(0, 2, dtype=torch.int64)  # One acquisition of everything: all orders are alike.
    other = (torch.rand(steps, generator=generator, dtype=torch.float64) * (n - length)).long()
    return torch.stack((bought, torch.where(other >= start, other + length, other)), dim=1)


def _exchanged(order: Int[Tensor, " n"], exchanges: Int[Tensor, "p 2"]) -> Int[Tensor, "p n"]:
    """The order after each of the exchanges alone."""
    exchanges = exchanges.to(order.device)
    orders = order.repeat(len(exchanges), 1)
    return orders.scatter(1, exchanges, order[exchanges.flip(1)])
