"""What a strategy looked at before it picked, and in one or two sentences why it picked what it did.

The numbers are those of the strategy's own functions on the snapshot that it saw, and of its trace.

Axes: n unlabelled, m labelled, b batch, d features.
"""

import csv
import dataclasses
from collections.abc import Callable
from importlib import resources

import torch
from jaxtyping import Float
from torch import Tensor

from dal_core.context import Question
from dal_core.experiment import Strategy
from dal_core.parallel import fixed_threads
from dal_core.strategies.badge import badge_embedding_norm
from dal_core.strategies.bait import bait_first_scores
from dal_core.strategies.shared.clustering import typicality
from dal_core.strategies.uncertainty import entropy_scores, least_confident_scores, margin_scores

NUM_NEIGHBOURS = 20  # TypiClust's default
# Of each strategy what its scores are, and how it picks.
with resources.files("dal_lab.companion.explorer").joinpath("reasons.csv").open(encoding="utf-8") as _file:
    REASONS = {row["strategy"]: (row["quantity"], row["rule"]) for row in csv.DictReader(_file)}


@dataclasses.dataclass(frozen=True, eq=False)
class Reason:
    """Scores of the unlabelled instances, None where the strategy does not look at them; what they are; and why."""

    scores: Float[Tensor, " n"] | None
    quantity: str
    text: str


def reason(strategy: Strategy, step: Question) -> Reason:
    """What the strategy looked at in a step, and why it picked what it did.

    A strategy that is not known here says nothing but which classes are without a label.
    """
    quantity, text = REASONS.get(strategy.name, ("", ""))
    scores = None
    with fixed_threads():  # as in the run
        if strategy.name in SCORES:
            scores = SCORES[strategy.name](step.snapshot, len(step.picked), strategy.options)
            text += f" {_standing(step, scores)}"
        elif strategy.name == "typiclust":
            scores, found = _typicality(step, strategy.options.get("num_neighbours", NUM_NEIGHBOURS))
            text += f" {found}"
    if without := sorted(set(range(step.snapshot.num_classes)) - set(step.snapshot.labels.tolist())):
        text += f" Without a label so far: class {', '.join(map(str, without))}."
    return Reason(scores, quantity, text.strip())


def _typicality(step: Question, num_neighbours: int) -> tuple[Tensor, str]:
    """How typical of its cluster each instance is, and from which clusters the picks are."""
    own, of_labels = step.context.trace["clusters"]
    count = int(torch.cat((own, of_labels)).max()) + 1
    scores = typicality(step.snapshot.features, own, num_neighbours)
    new = int((~torch.isin(own[step.picked], of_labels)).sum())
    text = f"{new} of {len(step.picked)} picks are from clusters without a label; there are {count} clusters."
    return scores, text


def _standing(step: Question, scores: Tensor) -> str:
    """How many picks have the highest scores, and how the picks stand beside the pool."""
    picked, batch = scores[step.picked], len(step.picked)
    medians = [f"{float(each.double().quantile(0.5)):.2g}" for each in (picked, scores)]
    if batch == 1:
        return f"The pick has {medians[0]}; the median of the pool is {medians[1]}."
    highest = int((picked >= scores.sort(descending=True).values[batch - 1]).sum())
    return (
        f"{highest} of {batch} picks {'has' if highest == 1 else 'have'} one of the {batch} highest scores; "
        f"median {medians[0]} of the picks, {medians[1]} of the pool."
    )


SCORES: dict[str, Callable[..., Tensor]] = {  # of the snapshot, the batch size and the options
    "margin": lambda at, *_: margin_scores(at.probabilities),
    "entropy": lambda at, *_: entropy_scores(at.probabilities),
    "least_confident": lambda at, *_: least_confident_scores(at.probabilities),
    "badge": lambda at, *_: badge_embedding_norm(at.features, at.logits),
    "coreset": lambda at, *_: torch.cdist(at.features, at.labelled_features).amin(dim=1),
    "bait": lambda at, size, options: bait_first_scores(
        at.features, at.logits, at.labelled_features, at.labelled_logits, size, **options
    ),
}
