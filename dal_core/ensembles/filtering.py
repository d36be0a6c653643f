"""Progressive filtering of the pool, the first stage of REFINE (Huseljic et al., arXiv 2511.22344).

An ensemble of strategies queries many batches, each on a random part of the pool; what was queried is the next pool.

Axes: n unlabelled, b batch, p positions in a pool.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.contracts import BatchSize, Count, Share, Size, checked
from dal_core.ensembles.members import STRATEGIES, ask
from dal_core.parallel import in_parallel, using_workers
from dal_core.randomness import choose, generators_from
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from dal_core.strategies.herding import nearest_pair_gamma
from dal_core.strategies.shared.temperature import held_out_temperature


@dataclasses.dataclass(frozen=True, eq=False)
class Filtered:
    """What is left of a pool, and the pool after each round.

    Where a round left fewer than a batch, the pool was topped up to one with random instances, `topped_up` in all.
    """

    positions: Int[Tensor, " p"]  # ascending
    rounds: tuple[Int[Tensor, " _"], ...]
    topped_up: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the pool after each round."""
        return tuple(map(len, self.rounds))


@checked
def progressive_filter(
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    depth: Size = 5,
    num_batches: Count = 100,
    alpha: Share = 0.4,
    initial_size: Count = 5000,
    largest_pool: Count = 10_000,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    workers: Count | None = None,
) -> Filtered:
    """Return the positions of the instances that the ensemble queried round after round (algorithm 1).

    In each of `depth` rounds every strategy queries floor(`num_batches` / number of strategies) batches, at least one,
    each on a random part of the pool: of `initial_size` instances in the first round, of max(b, floor(alpha |pool|))
    in the later ones. The union is the next pool, cut at random to `largest_pool`.

    The queries of a round are independent, each with a generator of its own. They run on `workers` threads, one
    thread of torch each; the result does not depend on their number (one query after another, on copies of the pool:
    `textbook.progressive_filter`).

    Args:
        options: of strategies, by name (`shared_options` for what need not be found anew in every query).
        workers: None: as many as the run has (`parallel.workers`).

    Raises:
        ValueError, RuntimeError: if a strategy refuses the snapshot or fails, naming it.
    """
    registry.check_strategies(strategies, registry.members())
    ensemble = [(name, registry.get(name, (options or {}).get(name))) for name in strategies]
    calls = [each for each in ensemble for _ in range(max(1, num_batches // len(ensemble)))]
    pool, rounds, device = torch.arange(len(snapshot.features)), [], snapshot.features.device

    def query(asked: tuple[str, registry.Strategy], own: torch.Generator) -> Tensor:
        part = pool[choose(len(pool), size, own)].sort().values
        return part[ask(*asked, snapshot.at(part.to(device)), batch_size, own, "while filtering").cpu()]

    with using_workers(workers):
        for round_ in range(depth):
            size = min(len(pool), max(batch_size, int(alpha * len(pool)) if round_ else initial_size))
            pool = torch.cat(in_parallel(query, calls, generators_from(generator, len(calls)))).unique()
            if len(pool) > largest_pool:
                pool = pool[choose(len(pool), largest_pool, generator)].sort().values
            rounds.append(pool)
            if len(pool) < batch_size:
                rest = torch.ones(len(snapshot.features), dtype=torch.bool).index_fill(0, pool, False).nonzero()
                filling = rest.squeeze(1)[choose(len(rest), batch_size - len(pool), generator)]
                pool = torch.cat((pool, filling)).sort().values
    return Filtered(pool, tuple(rounds), sum(max(0, batch_size - len(each)) for each in rounds))


@checked
def shared_options(snapshot: Snapshot, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Return what a strategy would find anew in every query, though it depends on the cycle alone: herding's scales."""
    temperature = held_out_temperature(snapshot, generator)
    return {"unc_herding": {"temperature": temperature, "gamma": nearest_pair_gamma(snapshot.labelled_features)}}
