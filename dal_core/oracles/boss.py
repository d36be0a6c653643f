"""BoSS, the best-of-strategies selector (Huseljic et al., arXiv 2603.13109): an oracle that is always one batch ahead.

In each cycle many strategies propose batches, each on a random part of the pool. Every proposal is judged by the head
that it would lead to, and the best one is bought.

Axes: t candidates, b batch, n unlabelled.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Count, Positive, Size, checked
from dal_core.oracles.judging import Judgement, LookAhead, Loss, PerformanceOn, Retraining, best_of, current_loss, judge
from dal_core.parallel import in_parallel
from dal_core.randomness import choose, generators_from
from dal_core.snapshot import Truth
from dal_core.strategies import registry

STRATEGIES = (
    "random", "typiclust", "dropquery", "bait", "typiclass", "dropqueryclass", "margin", "badge", "coreset", "alfamix",
)  # fmt: skip
CLASS_AWARE = ("typiclass", "dropqueryclass")
SMALLEST_SUBSET, LARGEST_SUBSET = 4, 5000  # Sizes of the random parts: in batches, and in instances.


class Candidates(NamedTuple):
    """Proposed batches, which strategy each of them is from, and what the strategies that failed have raised."""

    batches: Int[Tensor, "t b"]
    strategies: list[str]
    failures: dict[str, str]


@registry.register("boss", version=2)
@checked
def boss(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    num_candidates: Count | None = 100,
    strategies: Sequence[str] = STRATEGIES,
    loss: Loss = "zero_one",
    look_ahead: LookAhead = "true",
    retraining: Retraining = "train",
    performance_on: PerformanceOn = "test",
    retraining_epochs: Size = 50,
    label_draws: Count = 10,
    gamma: Positive = 10.0,
    prior_precision: Positive = 1.0,
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick the candidate batch after which a head has the smallest loss; the generator decides between equal ones.

    With pseudo or Monte-Carlo labels, performance on the unlabelled instances and no class-aware strategy it does not
    look at true labels.

    Args:
        num_candidates: T, each from a strategy drawn uniformly from `strategies`; None: one from each of them.
        strategies: names of ordinary strategies, and the class-aware ones.
        loss, look_ahead, retraining, performance_on, retraining_epochs, label_draws, gamma, prior_precision: how
            candidates are judged (`Judgement`).
        strategy_options: of strategies, by name, such as {"bait": {"fisher": "batch_means"}}.
        context: its record gets the supplier of the batch, the loss before and after, and strategy and loss of each
            candidate, its trace the candidate batches.

    Raises:
        ValueError: if the snapshot has nothing to judge by.
        RuntimeError: if every candidate strategy fails. One that fails is named in a warning and in the record, and
            the candidates of the others are judged.
    """
    judgement = Judgement(
        loss, look_ahead, retraining, performance_on, retraining_epochs, label_draws, gamma, prior_precision
    )
    registry.check_strategies(strategies, [*registry.names(oracle=False), *CLASS_AWARE])
    # It refuses what the snapshot lacks before candidates are computed.
    loss_before = current_loss(snapshot, judgement)
    found, judging = draw_candidates(snapshot, batch_size, generator, num_candidates, strategies, strategy_options)
    losses = judge(snapshot, found.batches, judgement, judging)
    best = best_of(losses, judging)
    if context is not None:
        context.trace["candidates"] = found
        context.record |= {"supplier": found.strategies[best], "loss_before": loss_before}
        context.record |= {"loss_after": losses[best].item(), "strategies": found.strategies, "losses": losses.tolist()}
        context.record |= {"failures": found.failures} if found.failures else {}
    return found.batches[best]


@checked
def draw_candidates(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    num_candidates: Count | None = 100,
    strategies: Sequence[str] = STRATEGIES,
    strategy_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Candidates, torch.Generator]:
    """Return the candidate batches of a cycle, in the order of the record, and the generator to judge them with.

    Each strategy is asked on a random part of the pool, whose size is drawn from min(4 b, n) to min(n, 5000), all of
    them side by side.
    """
    ensemble = registry.bound(strategies, strategy_options)
    # Generators of their own: the candidates of a smaller T are then among those of a larger one.
    (judging,), each = generators_from(generator, 1), generators_from(generator, num_candidates or len(strategies))
    drawn = list(strategies)
    if num_candidates is not None:
        drawn = [strategies[int(torch.randint(len(strategies), (), generator=own))] for own in each]
    n = len(snapshot.features)
    highest = min(max(LARGEST_SUBSET, batch_size), n)
    lowest = min(SMALLEST_SUBSET * batch_size, highest)

    def propose(name: str, own: torch.Generator) -> Tensor | str:
        """The positions that a strategy picks in a random part of the pool, or why it failed."""
        size = int(torch.randint(lowest, highest + 1, (), generator=own))
        positions = choose(n, size, own).sort().values.to(snapshot.features.device)
        try:
            part = (snapshot if registry.needs_oracle(name) else snapshot.without_truth()).at(positions)
            return positions[registry.query(ensemble[name], part, batch_size, own)]
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    found = list(zip(drawn, in_parallel(propose, drawn, each), strict=True))
    batches, names, failures = [], [], dict[str, str]()
    for name, result in found:
        if isinstance(result, Tensor):
            batches.append(result)
            names.append(name)
        elif name not in failures:
            failures[name] = result
            warnings.warn(f"candidate strategy {name!r} failed and is left out: {result}", stacklevel=2)
    if not batches:
        raise RuntimeError(f"every candidate strategy failed: {failures}")
    return Candidates(torch.stack(batches), names, failures), judging
