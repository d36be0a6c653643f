"""REFINE: clean the pool with an ensemble, then let one strategy choose (Huseljic et al., arXiv 2511.22344)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_choice
from dal_core.context import Context
from dal_core.contracts import BatchSize, Count, Share, Size, checked
from dal_core.ensembles.filtering import Filtered, progressive_filter, shared_options
from dal_core.ensembles.members import STRATEGIES
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry


@registry.register("refine", version=2)
@checked
def refine(
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
    final_strategy: str = "unc_herding",
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick the batch of `final_strategy`, an ordinary strategy, from what `progressive_filter` leaves of the pool.

    Args:
        strategies, depth, num_batches, alpha, initial_size, largest_pool: of the filter.
        strategy_options: of strategies, by name, such as {"bait": {"fisher": "batch_means"}}.
        context: its record gets the sizes of the pool after each round, and how many instances had to be topped up, its
            trace the rounds.

    Raises:
        ValueError, RuntimeError: as `progressive_filter`.
    """
    filtered, final = first_stage(
        snapshot, batch_size, generator, strategies=strategies, depth=depth, num_batches=num_batches, alpha=alpha,
        initial_size=initial_size, largest_pool=largest_pool, final_strategy=final_strategy,
        strategy_options=strategy_options,
    )  # fmt: skip
    if context is not None:
        context.trace["rounds"] = filtered
        context.record |= {"pool_sizes": list(filtered.sizes), "topped_up": filtered.topped_up}
    positions = filtered.positions.to(snapshot.features.device)
    return positions[registry.query(final, snapshot.at(positions), batch_size, generator)]


@checked
def first_stage(
    snapshot: Snapshot,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    strategies: Sequence[str] = STRATEGIES,
    final_strategy: str = "unc_herding",
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
    **of_filter: Any,
) -> tuple[Filtered, registry.Strategy]:
    """Return what the filter leaves of the pool, and what chooses from it; arguments and errors as in `refine`."""
    registry.check_strategies(strategies, registry.members())
    check_choice("final_strategy", final_strategy, registry.members())
    asked = (*strategies, final_strategy)
    registry.bound(asked, strategy_options)  # It refuses what does not exist.
    options = shared_options(snapshot, generator) if "unc_herding" in asked else {}
    for name, own in (strategy_options or {}).items():
        options[name] = options.get(name, {}) | dict(own)
    final = registry.get(final_strategy, options.get(final_strategy))
    filtered = progressive_filter(snapshot, batch_size, generator, strategies=strategies, options=options, **of_filter)
    return filtered, final
