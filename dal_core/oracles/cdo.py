"""CDO, the greedy oracle of CDALBench (Werner et al. 2024, "A Cross-Domain Benchmark for Active Learning").

Axes: t candidates, b batch, p picked so far, n unlabelled, k classes.
"""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from dal_core.context import Context
from dal_core.contracts import BatchSize, Count, Size, checked, unchecked
from dal_core.oracles.judging import best_of, judged_by, mean_losses, retrained
from dal_core.protocols import Model
from dal_core.randomness import choose, generators_from, integer_seed
from dal_core.snapshot import Truth
from dal_core.strategies.registry import register
from dal_core.strategies.uncertainty import margin_scores


@register("cdo", version=2)
@checked
def cdo(
    snapshot: Truth,
    batch_size: BatchSize,
    generator: torch.Generator,
    *,
    num_candidates: Count = 20,
    retraining_epochs: Size = 50,
    performance_on: Literal["test", "validation"] = "test",
    context: Context | None = None,
) -> Int[Tensor, " b"]:
    """Pick one instance after another: of some random ones the best, if it improves the head, else margin's.

    A candidate is judged by the cross-entropy of a head that is trained from its initial weights for
    `retraining_epochs` on what is labelled, what was picked before, and the candidate, with minibatches of its own.
    The loss to improve on is that of a head trained alike without the candidate; released code compares with the run's
    fully trained head, on which a head of fewer epochs seldom improves. All candidates of a pick are trained at once,
    the margin strategy's among them, so that the head for the next pick is known whatever is taken; one head after
    another: `textbook.cdo`.

    Args:
        num_candidates: random instances a pick; all that remain where there are fewer.
        context: its record gets the loss before and after, and how many picks were random instances that improved the
            head.

    Raises:
        ValueError: if nothing is labelled, or the snapshot has nothing to judge by.
    """
    if not len(snapshot.labels):
        raise ValueError("snapshot.labels is empty; cdo needs at least one labelled instance")
    inputs, truth = judged_by(snapshot, performance_on)
    pool, _ = judged_by(snapshot, "unlabelled")
    (orders,) = generators_from(generator, 1)

    def trained(batches: Tensor) -> tuple[list[Model], Tensor]:
        models = [*retrained(snapshot, batches, [integer_seed(orders) for _ in batches], retraining_epochs)]
        return models, mean_losses(models, inputs, truth, "cross_entropy")

    picked = torch.empty(0, dtype=torch.int64, device=pool.device)
    models, losses = trained(picked.unsqueeze(0))
    best, first_loss, improvements = 0, losses[0].item(), 0
    for _ in range(batch_size):
        loss = losses[best]
        candidates = _candidates(models[best], pool, picked, num_candidates, generator)
        models, losses = trained(torch.cat((picked.expand(len(candidates), -1), candidates.unsqueeze(1)), dim=1))
        best = best_of(losses[:-1], generator)
        if losses[best] < loss:
            improvements += 1
        else:
            best = len(candidates) - 1
        picked = torch.cat((picked, candidates[best : best + 1]))
    if context is not None:
        context.record |= {"loss_before": first_loss, "loss_after": losses[best].item(), "improvements": improvements}
    return picked


def _candidates(
    model: Model, pool: Tensor, picked: Int[Tensor, " p"], count: int, generator: torch.Generator
) -> Int[Tensor, " t"]:
    """`count` random instances that are not picked yet, and last the one that the margin strategy picks."""
    logits = model.outputs(pool).logits
    assert logits is not None, "what is judged gives predictions"
    # Unchecked, because a model that diverged has no finite probabilities, and is one that others improve on.
    scores = unchecked(margin_scores)(logits.softmax(dim=1)).index_fill(0, picked, -torch.inf)
    free = torch.ones_like(scores, dtype=torch.bool).index_fill(0, picked, False).nonzero().squeeze(1)
    drawn = choose(len(free), min(count, len(free)), generator).to(free.device)
    return torch.cat((free[drawn], scores.argmax().unsqueeze(0)))
