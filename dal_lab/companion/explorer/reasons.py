"""What a strategy looked at before it picked, and in one or two sentences why it picked what it did.

The numbers are those of the strategy's own functions on the snapshot that it saw.

Axes: n unlabelled, m labelled, b batch, d features.
"""

import csv
import dataclasses
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dal_core.randomness import fixed_threads
from dal_core.strategies.badge import badge_embedding_norm
from dal_core.strategies.bait import bait_first_scores
from dal_core.strategies.shared.clustering import k_means, typicality
from dal_core.strategies.uncertainty import entropy_scores, least_confident_scores, margin_scores
from dal_core.trace import Step

TYPICLUST = {"max_clusters": 500, "num_neighbours": 20}  # its defaults
# Of each strategy what its scores are, and how it picks.
with resources.files("dal_lab.companion.explorer").joinpath("reasons.csv").open(encoding="utf-8") as _file:
    REASONS = {row["strategy"]: (row["quantity"], row["rule"]) for row in csv.DictReader(_file)}


@dataclasses.dataclass(frozen=True, eq=False)
class Reason:
    """Scores of the unlabelled instances, None where the strategy does not look at them; what they are; and why."""

    scores: Float[Tensor, " n"] | None
    quantity: str
    text: str


def reason(strategy: str, step: Step, options: Mapping[str, Any] | None = None) -> Reason:
    """What `strategy` with `options` looked at in a step, and why it picked what it did.

    A strategy that is not known here says nothing but which classes are without a label.
    """
    quantity, text = REASONS.get(strategy, ("", ""))
    scores, values = None, dict(options or {})
    with fixed_threads():  # as in the run
        if strategy in SCORES:
            scores = SCORES[strategy](step.snapshot, len(step.picked), values)
            text += f" {_standing(step, scores)}"
        elif strategy == "typiclust":
            scores, found = _typicality(step, TYPICLUST | values)
            text += f" {found}"
    if without := sorted(set(range(step.snapshot.num_classes)) - set(step.snapshot.labels.tolist())):
        text += f" Without a label so far: class {', '.join(map(str, without))}."
    return Reason(scores, quantity, text.strip())


def _typicality(step: Step, options: dict[str, Any]) -> tuple[Tensor, str]:
    """How typical of its cluster each instance is, and from which clusters the picks are."""
    seen = step.snapshot
    together = torch.cat((seen.features, seen.labelled_features))
    count = min(len(seen.labels) + len(step.picked), options["max_clusters"])
    clusters = k_means(together, count, step.generator())  # those of the strategy, from the same draws
    own, of_labels = clusters[: len(seen.features)], clusters[len(seen.features) :]
    scores = typicality(seen.features, own, options["num_neighbours"])
    new = int((~torch.isin(own[step.positions()], of_labels)).sum())
    text = f"{new} of {len(step.picked)} picks are from clusters without a label; there are {count} clusters."
    return scores, text


def _standing(step: Step, scores: Tensor) -> str:
    """How many picks have the highest scores, and how the picks stand beside the pool."""
    picked, batch = scores[step.positions()], len(step.picked)
    medians = [f"{float(each.double().quantile(0.5)):.2g}" for each in (picked, scores)]
    if batch == 1:
        return f"The pick has {medians[0]}; the median of the pool is {medians[1]}."
    highest = int((picked >= scores.sort(descending=True).values[batch - 1]).sum())
    return (
        f"{highest} of {batch} picks {'has' if highest == 1 else 'have'} one of the {batch} highest scores; "
        f"median {medians[0]} of the picks, {medians[1]} of the pool."
    )


SCORES: dict[str, Callable[..., Tensor]] = {  # of the snapshot, the batch size and the options
    "margin": lambda seen, *_: margin_scores(seen.probabilities),
    "entropy": lambda seen, *_: entropy_scores(seen.probabilities),
    "least_confident": lambda seen, *_: least_confident_scores(seen.probabilities),
    "badge": lambda seen, *_: badge_embedding_norm(seen.features, seen.logits),
    "coreset": lambda seen, *_: torch.cdist(seen.features, seen.labelled_features).amin(dim=1),
    "bait": lambda seen, size, options: bait_first_scores(
        seen.features, seen.logits, seen.labelled_features, seen.labelled_logits, size, **options
    ),
}
