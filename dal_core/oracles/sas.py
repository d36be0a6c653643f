"""SAS, simulated annealing search (Zhou et al. 2021, "Towards Understanding the Behaviors of Optimal Deep AL").

The oracle looks for the order of acquisitions with the best learning curve: it changes the order a little, trains the
heads of all cycles that feel the change, and keeps it if the curve got better, or by chance.

Axes: s steps, a acquisitions, b all instances of an order, n unlabelled, p proposals.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Positive, Size, checked
from dal_core.oracles.judging import judged_by, mean_losses, retrained
from dal_core.protocols import Model
from dal_core.randomness import choose, integer_seed
from dal_core.snapshot import Truth
from dal_core.strategies.registry import register

MOST_AT_ONCE = 64  # Proposals that are judged together: those behind one that is kept are judged in vain.


@register("sas", version=2)
@checked
def sas(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    steps: Size = 25_000,
    greedy_steps: Size = 5_000,
    annealing_factor: Positive = 0.1,
    retraining_epochs: Size = 50,
    performance_on: Literal["test", "validation"] = "test",
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick the batches of all acquisitions that remain, in the order in which to buy them; outside of a run one batch.

    A step exchanges two instances of different acquisitions, where what is not bought counts as one more; the first is
    any that is bought, the second any of another acquisition, so that most exchanges bring in an instance that is not
    bought. Half of those of released code are between two acquisitions; its greedy steps start from the best order so
    far, ours from the current one. Final orders differ little. With q the
    mean accuracy over the curve, step t keeps a change with probability exp(annealing_factor t (q' - q)), and the last
    `greedy_steps` keep improvements only. The best order of all is returned.

    Proposals are judged several at a time, by heads that are trained together; those behind one that is kept are
    judged anew, so that the search goes the same way as one proposal after another (`textbook.sas`).

    Args:
        context: its record gets the mean accuracy of the first and of the best order, and the number of changes kept.

    Raises:
        ValueError: if the snapshot has fewer instances than remain to be bought, or nothing to judge by.
    """
    n, sizes = len(snapshot.features), (context and context.remaining) or (batch_size,)
    if (planned := sum(sizes)) > n:
        raise ValueError(
            f"snapshot.features has {n} rows; at least {planned}, all that sas plans to buy, were expected"
        )
    seed = integer_seed(generator)
    curve = _Curve(
        sizes, *judged_by(snapshot, performance_on), lambda sets: retrained(snapshot, sets, [seed], retraining_epochs)
    )
    order = choose(n, n, generator).to(snapshot.features.device)
    exchanges = _exchanges(n, curve.ends, steps + greedy_steps, generator)
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
    if context is not None:
        context.record |= {"first_accuracy": first, "best_accuracy": best, "kept": kept}
    return best_order[:planned]


class _Curve:
    """Learning curves of orders, in right predictions after each acquisition: whole numbers, that rounding spares.

    `trained` makes models of sets of instances; they are measured on `inputs`, whose labels are `truth`.
    """

    def __init__(
        self, sizes: Sequence[int], inputs: Tensor, truth: Tensor | None, trained: Callable[[Tensor], Iterator[Model]]
    ) -> None:
        self.inputs, self.truth, self.trained = inputs, truth, trained
        self.ends = torch.tensor(sizes).cumsum(dim=0)

    def mean_accuracy(self, hits: Int[Tensor, "*p a"]) -> Float[Tensor, "*p"]:
        return hits.sum(dim=-1).double() / (len(self.inputs) * len(self.ends))

    def of(self, orders: Int[Tensor, "p n"], wanted: Bool[Tensor, "p a"]) -> Int[Tensor, "p a"]:
        """Hits where `wanted`; all models that learn from the same number of acquisitions are trained at once."""
        hits = torch.zeros(wanted.shape, dtype=torch.int64)
        for acquisition, end in enumerate(self.ends.tolist()):
            rows = wanted[:, acquisition].nonzero().squeeze(1)
            if len(rows):
                # Sorted, because the order within a set would change the minibatches.
                models = self.trained(orders[rows.to(orders.device), :end].sort(dim=1).values)
                losses = mean_losses(models, self.inputs, self.truth, "zero_one")
                hits[rows, acquisition] = ((1 - losses.cpu().double()) * len(self.inputs)).round().long()
        return hits

    def affected(self, exchanges: Int[Tensor, "p 2"]) -> Bool[Tensor, "p a"]:
        """Which hits an exchange can change: those after the earlier and before the later acquisition."""
        acquisitions = torch.bucketize(exchanges, self.ends, right=True)  # that many where it is not bought
        each = torch.arange(len(self.ends))
        earlier, later = acquisitions.min(dim=1).values, acquisitions.max(dim=1).values
        return (earlier.unsqueeze(1) <= each) & (each < later.unsqueeze(1))


def _exchanges(n: int, ends: Int[Tensor, " a"], steps: int, generator: torch.Generator) -> Int[Tensor, "s 2"]:
    """Places in the order to exchange, drawn uniformly: one that is bought, and one of another acquisition."""
    bought = torch.randint(int(ends[-1]), (steps,), generator=generator)
    acquisition = torch.bucketize(bought, ends, right=True)
    start = torch.cat((ends[:1] * 0, ends))[acquisition]
    length = ends[acquisition] - start
    if n == ends[0]:
        return torch.empty(0, 2, dtype=torch.int64)  # One acquisition of everything: all orders are alike.
    other = (torch.rand(steps, generator=generator, dtype=torch.float64) * (n - length)).long()
    return torch.stack((bought, torch.where(other >= start, other + length, other)), dim=1)


def _exchanged(order: Int[Tensor, " n"], exchanges: Int[Tensor, "p 2"]) -> Int[Tensor, "p n"]:
    """The order after each of the exchanges alone."""
    exchanges = exchanges.to(order.device)
    orders = order.repeat(len(exchanges), 1)
    return orders.scatter(1, exchanges, order[exchanges.flip(1)])
