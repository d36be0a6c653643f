"""SAS, simulated annealing search (Zhou et al. 2021, "Towards Understanding the Behaviors of Optimal Deep AL").

The oracle looks for the order of acquisitions with the best learning curve: it changes the order a little, trains the
heads of all cycles that feel the change, and keeps it if the curve got better, or by chance.

Axes: s steps, a acquisitions, b all instances of an order, n unlabelled, e heads.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_choice, check_positive, check_whole
from dal_core.oracles.judging import initial_head, judged_by, mean_losses, trained_heads
from dal_core.randomness import choose, integer_seed
from dal_core.snapshot import OracleSnapshot
from dal_core.strategies.registry import register

MOST_AT_ONCE = 64  # proposals


@register("sas")
def sas(
    snapshot: OracleSnapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    acquisition_size: int | None = None,
    steps: int = 25_000,
    greedy_steps: int = 5_000,
    annealing_factor: float = 0.1,
    retraining_epochs: int = 50,
    performance_on: str = "test",
    record: dict[str, Any] | None = None,
) -> Int[Tensor, " b"]:
    """`batch_size` instances in the order in which to buy them, `acquisition_size` at a time (None: all at once).

    A step exchanges two instances of different acquisitions, where what is not bought counts as one more. With q the
    mean accuracy over the curve, step t keeps a change with probability exp(annealing_factor t (q' - q)), and the last
    `greedy_steps` keep improvements only. The best order that was seen is returned.

    Proposals are judged several at a time, by heads that are trained together; those behind one that is kept are
    judged anew, so that the search goes the same way as one proposal after another.

    Args:
        record: filled with the mean accuracy of the first and of the best order, and the number of changes kept.

    Raises:
        ValueError: if an option is out of range, or the snapshot has nothing to judge by.
    """
    check_batch_size(batch_size, len(snapshot.features))
    acquisition_size = batch_size if acquisition_size is None else acquisition_size
    for name, value, lowest in (
        ("acquisition_size", acquisition_size, 1), ("steps", steps, 0),
        ("greedy_steps", greedy_steps, 0), ("retraining_epochs", retraining_epochs, 0),
    ):  # fmt: skip
        check_whole(name, value, lowest)
    check_positive(annealing_factor=annealing_factor)
    check_choice("performance_on", performance_on, ("test", "validation"))
    curve = _Curve(snapshot, batch_size, acquisition_size, retraining_epochs, performance_on, generator)
    order = choose(len(snapshot.features), len(snapshot.features), generator).to(snapshot.features.device)
    exchanges = _exchanges(len(order), batch_size, acquisition_size, steps + greedy_steps, generator)
    chances = torch.rand(steps + greedy_steps, generator=generator, dtype=torch.float64).log()

    hits = curve.of(order.unsqueeze(0), torch.ones(1, curve.acquisitions, dtype=torch.bool))[0]
    first = best = quality = curve.mean_accuracy(hits).item()
    best_order, kept, step, at_once = order, 0, 0, 1
    while step < len(exchanges):
        proposed = exchanges[step : step + at_once]
        orders = _exchanged(order, proposed)
        affected = curve.affected(proposed)
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
    """Learning curves of orders, in right predictions after each acquisition: whole numbers, that rounding spares."""

    def __init__(
        self,
        snapshot: OracleSnapshot,
        batch_size: int,
        acquisition_size: int,
        epochs: int,
        performance_on: str,
        generator: torch.Generator,
    ) -> None:
        self.snapshot, self.epochs = snapshot, epochs
        self.ends = [*range(acquisition_size, batch_size, acquisition_size), batch_size]
        self.acquisition_size, self.acquisitions = acquisition_size, len(self.ends)
        self.features, self.truth = judged_by(snapshot, performance_on, last_layer=False)
        self.initial, self.seed = initial_head(snapshot, generator), integer_seed(generator)

    def mean_accuracy(self, hits: Int[Tensor, "*p a"]) -> Float[Tensor, "*p"]:
        return hits.sum(dim=-1).double() / (len(self.features) * self.acquisitions)

    def of(self, orders: Int[Tensor, "p n"], wanted: Bool[Tensor, "p a"]) -> Int[Tensor, "p a"]:
        """Hits where `wanted`; all heads that have seen the same number of acquisitions are trained at once."""
        hits = torch.zeros(wanted.shape, dtype=torch.int64)
        for acquisition, end in enumerate(self.ends):
            rows = wanted[:, acquisition].nonzero().squeeze(1)
            if len(rows):
                bought = orders[rows.to(orders.device), :end].sort(dim=1).values  # a set: its order changes minibatches
                labels = self.snapshot.hidden_labels[bought]
                heads = trained_heads(self.snapshot, self.initial, bought, labels, self.epochs, self.seed)
                losses = mean_losses(heads, self.features, self.truth, "zero_one")
                hits[rows, acquisition] = ((1 - losses.cpu().double()) * len(self.features)).round().long()
        return hits

    def affected(self, exchanges: Int[Tensor, "p 2"]) -> Bool[Tensor, "p a"]:
        """Which hits an exchange can change: those after the earlier and before the later acquisition."""
        acquisitions = exchanges // self.acquisition_size
        acquisitions[exchanges >= self.ends[-1]] = self.acquisitions  # not bought
        each = torch.arange(self.acquisitions)
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
        return torch.empty(0, 2, dtype=torch.int64)  # one acquisition of everything: all orders are alike
    other = (torch.rand(steps, generator=generator, dtype=torch.float64) * (n - length)).long()
    return torch.stack((bought, torch.where(other >= start, other + length, other)), dim=1)


def _exchanged(order: Int[Tensor, " n"], exchanges: Int[Tensor, "p 2"]) -> Int[Tensor, "p n"]:
    """The order after each of the exchanges alone."""
    exchanges = exchanges.to(order.device)
    orders = order.repeat(len(exchanges), 1)
    return orders.scatter(1, exchanges, order[exchanges.flip(1)])
