"""REFINE's first stage (Huseljic et al., arXiv 2511.22344, algorithm 1)."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dal_core.randomness import choose, generators_from
from dal_core.snapshot import Snapshot


def progressive_filter(
    snapshot: Snapshot, batch_size: int, generator: torch.Generator,
    queries: Mapping[str, Callable[[Snapshot, int, torch.Generator], Tensor]],
    *, depth: int, num_batches: int, alpha: float, initial_size: int, largest_pool: int = 10_000,
) -> list[Tensor]:  # fmt: skip
    """Return the pool after each of `depth` rounds: the union of what num_batches // len(queries) runs of each picked.

    One query after another, each on a copy of its random part of the pool.
    """
    pool, rounds = torch.arange(len(snapshot.features)), []
    for round_ in range(depth):
        size = min(len(pool), max(batch_size, initial_size if round_ == 0 else int(alpha * len(pool))))
        calls = [query for query in queries.values() for _ in range(num_batches // len(queries))]
        queried: set[int] = set()
        for query, own in zip(calls, generators_from(generator, len(calls)), strict=True):
            part = pool[choose(len(pool), size, own)].sort().values
            queried |= set(part[query(copy.deepcopy(snapshot.at(part)), batch_size, own)].tolist())
        pool = torch.tensor(sorted(queried))
        if len(pool) > largest_pool:
            pool = pool[choose(len(pool), largest_pool, generator)].sort().values
        rounds.append(pool)
    return rounds
