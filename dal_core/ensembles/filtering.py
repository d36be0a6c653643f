"""Progressive filtering of the pool, the first stage of REFINE (Huseljic et al., arXiv 2511.22344).

An ensemble of strategies queries many batches, each on a random part of the pool; what was queried is the next pool.

Axes: n unlabelled, b batch, p positions in a pool.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_number, check_whole
from dal_core.ensembles.members import STRATEGIES, ask, check_ensemble
from dal_core.randomness import choose, fixed_threads, generators_from
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from dal_core.strategies.herding import nearest_pair_gamma
from dal_core.strategies.shared.temperature import held_out_temperature


@dataclasses.dataclass(frozen=True, eq=False)
class Filtered:
    """What is left of a pool.

    `sizes` are those of the pool after each round. Where a round left fewer than a batch, the pool was topped up to one
    with random instances, `topped_up` in all.
    """

    positions: Int[Tensor, " p"]  # ascending
    sizes: tuple[int, ...]
    topped_up: int
    rounds: tuple[Int[Tensor, " _"], ...] = ()  # the pool after each round


def progressive_filter(
    snapshot: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    depth: int = 5,
    num_batches: int = 100,
    alpha: float = 0.4,
    initial_size: int = 5000,
    largest_pool: int = 10_000,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int | None = None,
) -> Filtered:
    """Positions of the instances that the ensemble queried round after round (algorithm 1).

    In each of `depth` rounds every strategy queries floor(`num_batches` / number of strategies) batches, at least one,
    each on a random part of the pool: of `initial_size` instances in the first round, of max(b, floor(alpha |pool|))
    in the later ones. The union is the next pool, cut at random to `largest_pool`.

    The queries of a round are independent, each with a generator of its own. They run on `workers` threads, one
    thread of torch each; the result does not depend on their number.

    Args:
        options: of strategies, by name (`shared_options` for what need not be found anew in every query).
        workers: None: as many as torch has threads.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: if a strategy fails, naming it.
    """
    n = len(snapshot.features)
    check_ensemble(strategies)
    check_batch_size(batch_size, n)
    check_number("alpha", alpha)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}; a number above 0 and at most 1 was expected")
    whole = {"num_batches": num_batches, "initial_size": initial_size, "largest_pool": largest_pool}
    for name, value in whole.items():
        check_whole(name, value, 1)
    check_whole("depth", depth, 0)
    if workers is not None:
        check_whole("workers", workers, 1)
    asked = {name: registry.get(name, dict((options or {}).get(name, {}))) for name in strategies}
    workers = workers or torch.get_num_threads()
    pool, rounds, topped_up = torch.arange(n), [], 0
    with fixed_threads(), joblib.Parallel(n_jobs=workers, backend="threading") as parallel:
        for round_ in range(depth):
            size = max(batch_size, initial_size if round_ == 0 else int(alpha * len(pool)))
            names = [name for name in strategies for _ in range(max(1, num_batches // len(strategies)))]
            query = functools.partial(_query, snapshot, pool, min(size, len(pool)), batch_size)
            calls = [
                joblib.delayed(query)(name, asked[name], own)
                for name, own in zip(names, generators_from(generator, len(names)), strict=True)
            ]
            pool = torch.cat(parallel(calls)).unique()
            if len(pool) > largest_pool:
                pool = pool[choose(len(pool), largest_pool, generator)].sort().values
            rounds.append(pool)
            missing = max(0, batch_size - len(pool))
            pool, topped_up = _topped_up(pool, n, missing, generator), topped_up + missing
    return Filtered(pool, tuple(map(len, rounds)), topped_up, tuple(rounds))


def shared_options(snapshot: Snapshot, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """What a strategy would find anew in every query, though it depends on the cycle alone: unc_herding's scales."""
    temperature = held_out_temperature(snapshot, generator)
    return {"unc_herding": {"temperature": temperature, "gamma": nearest_pair_gamma(snapshot.labelled_features)}}


def _query(
    snapshot: Snapshot,
    pool: Int[Tensor, " p"],
    size: int,
    batch_size: int,
    name: str,
    strategy: registry.Strategy,
    generator: torch.Generator,
) -> Int[Tensor, " b"]:
    """What one strategy picks from `size` random instances of the pool."""
    part = pool[choose(len(pool), size, generator)].sort().values
    seen = snapshot.at(part.to(snapshot.features.device))
    return part[ask(name, strategy, seen, batch_size, generator, "while filtering").cpu()]


def _topped_up(pool: Int[Tensor, " p"], n: int, missing: int, generator: torch.Generator) -> Int[Tensor, " q"]:
    if not missing:
        return pool
    rest = torch.ones(n, dtype=torch.bool).index_fill(0, pool, False).nonzero().squeeze(1)
    return torch.cat((pool, rest[choose(len(rest), missing, generator)])).sort().values
