"""BoSS, the best-of-strategies selector (Huseljic et al., arXiv 2603.13109): an oracle that is always one batch ahead.

In each cycle many strategies propose batches, each on a random part of the pool. Every proposal is judged by the head
that it would lead to, and the best one is bought.

Axes: t candidates, b batch, n unlabelled.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.checks import check_batch_size, check_choice, check_whole, shown
from dal_core.oracles.judging import Judgement, best_of, current_loss, judge, judged_by
from dal_core.randomness import choose, generators_from
from dal_core.snapshot import OracleSnapshot
from dal_core.strategies import registry

STRATEGIES = (
    "random", "typiclust", "dropquery", "bait", "typiclass", "dropqueryclass", "margin", "badge", "coreset", "alfamix",
)  # fmt: skip
CLASS_AWARE = ("typiclass", "dropqueryclass")
SMALLEST_SUBSET, LARGEST_SUBSET = 4, 5000  # in batches, in instances


class Candidates(NamedTuple):
    """Proposed batches, and which strategy each of them is from."""

    batches: Int[Tensor, "t b"]
    strategies: list[str]


@registry.register("boss")
def boss(
    snapshot: OracleSnapshot,
    batch_size: int,
    generator: torch.Generator,
    *,
    num_candidates: int | None = 100,
    strategies: Sequence[str] = STRATEGIES,
    loss: str = "zero_one",
    look_ahead: str = "true",
    retraining: str = "train",
    performance_on: str = "test",
    retraining_epochs: int = 50,
    label_draws: int = 10,
    gamma: float = 10.0,
    prior_precision: float = 1.0,
    record: dict[str, Any] | None = None,
) -> Int[Tensor, " b"]:
    """The candidate batch after which a head has the smallest loss; the generator decides between equal ones.

    With pseudo or Monte-Carlo labels, performance on the unlabelled instances and no class-aware strategy it does not
    look at true labels.

    Args:
        num_candidates: T, each from a strategy drawn uniformly from `strategies`; None: one from each of them.
        strategies: names of ordinary strategies, and the class-aware ones.
        loss, look_ahead, retraining, performance_on, retraining_epochs, label_draws, gamma, prior_precision: how
            candidates are judged (`Judgement`).
        record: filled with the supplier of the batch, the loss before and after, and strategy and loss of each
            candidate.

    Raises:
        ValueError: if an option is out of range, or the snapshot has nothing to judge by.
        RuntimeError: if every candidate strategy fails. One that fails is named in a warning and in the record, and
            the candidates of the others are judged.
    """
    judgement = Judgement(
        loss, look_ahead, retraining, performance_on, retraining_epochs, label_draws, gamma, prior_precision
    )
    _check(snapshot, batch_size, num_candidates, strategies, performance_on)
    failures: dict[str, str] = {}
    candidates, judging = draw_candidates(snapshot, batch_size, generator, num_candidates, strategies, failures)
    losses = judge(snapshot, candidates.batches, judgement, judging)
    best = best_of(losses, judging)
    if record is not None:
        record |= {"supplier": candidates.strategies[best], "loss_before": current_loss(snapshot, judgement)}
        record |= {"loss_after": losses[best].item(), "strategies": candidates.strategies, "losses": losses.tolist()}
        record |= {"failures": failures} if failures else {}
    return candidates.batches[best]


def draw_candidates(
    snapshot: OracleSnapshot,
    batch_size: int,
    generator: torch.Generator,
    num_candidates: int | None = 100,
    strategies: Sequence[str] = STRATEGIES,
    failures: dict[str, str] | None = None,
) -> tuple[Candidates, torch.Generator]:
    """The candidate batches of a cycle, in the order of the record, and the generator that they are judged with.

    Arguments as in `boss`; what a strategy raises is entered into `failures`.
    """
    # Generators of their own: the candidates of a smaller T are then among those of a larger one.
    (judging,), each = generators_from(generator, 1), generators_from(generator, num_candidates or len(strategies))
    drawn = list(strategies)
    if num_candidates is not None:
        drawn = [strategies[int(torch.randint(len(strategies), (), generator=own))] for own in each]
    return propose(snapshot, batch_size, drawn, each, {} if failures is None else failures), judging


def propose(
    snapshot: OracleSnapshot,
    batch_size: int,
    strategies: Sequence[str],
    generators: Sequence[torch.Generator],
    failures: dict[str, str],
) -> Candidates:
    """A batch from each of `strategies`, which may name one more than once, each on its own random part of the pool.

    Each has a generator of its own. The size of a part is drawn uniformly from min(4 b, n) to min(n, 5000). What a
    strategy raises is entered into `failures`.
    """
    n = len(snapshot.features)
    highest = min(max(LARGEST_SUBSET, batch_size), n)
    lowest = min(SMALLEST_SUBSET * batch_size, highest)
    batches, names = [], []
    for name, own in zip(strategies, generators, strict=True):
        size = int(torch.randint(lowest, highest + 1, (), generator=own))
        positions = choose(n, size, own).sort().values.to(snapshot.features.device)
        visible = snapshot.at(positions)
        seen = visible if registry.needs_oracle(name) else visible.without_truth()
        try:
            batch = registry.query(registry.get(name), seen, batch_size, own)
        except Exception as error:
            if name not in failures:
                failures[name] = f"{type(error).__name__}: {error}"
                warnings.warn(f"candidate strategy {name!r} failed and is left out: {failures[name]}", stacklevel=3)
            continue
        batches.append(positions[batch])
        names.append(name)
    if not batches:
        raise RuntimeError(f"every candidate strategy failed: {failures}")
    return Candidates(torch.stack(batches), names)


def _check(
    snapshot: OracleSnapshot,
    batch_size: int,
    num_candidates: int | None,
    strategies: Sequence[str],
    performance_on: str,
) -> None:
    if num_candidates is not None:
        check_whole("num_candidates", num_candidates, 1)
    if not isinstance(strategies, Sequence) or isinstance(strategies, str) or not strategies:
        raise ValueError(f"strategies is {shown(strategies)}; a list of at least one name was expected")
    for name in strategies:
        check_choice("strategies", name, [*registry.names(oracle=False), *CLASS_AWARE])
    check_batch_size(batch_size, len(snapshot.features))
    judged_by(snapshot, performance_on, last_layer=True)  # before the candidates are computed
