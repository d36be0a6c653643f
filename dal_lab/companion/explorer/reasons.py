"""What a strategy looked at before it picked, and in one or two sentences why it picked what it did.

The numbers are those of the strategy's own functions on the snapshot that it saw.

Axes: n unlabelled, m labelled, b batch, d features.
"""

import dataclasses
from collections.abc import Callable, Mapping
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
    explain = REASONS.get(strategy)
    with fixed_threads():  # as in the run
        found = Reason(None, "", "") if explain is None else explain(step, dict(options or {}))
    return dataclasses.replace(found, text=" ".join(filter(None, (found.text, _missing_classes(step)))))


def _random(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    return Reason(None, "", "Random looks at nothing: each instance is as likely as any other.")


def _margin(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    rule = "Margin takes the instances for which the two most probable classes are closest."
    return _scored(step, margin_scores(step.snapshot.probabilities), "margin uncertainty", rule)


def _entropy(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    rule = "Entropy takes the instances whose predicted probabilities are most even."
    return _scored(step, entropy_scores(step.snapshot.probabilities), "entropy (nats)", rule)


def _least_confident(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    rule = "Least confident takes the instances whose predicted class is least probable."
    return _scored(step, least_confident_scores(step.snapshot.probabilities), "1 - largest probability", rule)


def _badge(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    rule = "BADGE starts with the longest gradient, then draws at random: the farther from its picks, the likelier."
    lengths = badge_embedding_norm(step.snapshot.features, step.snapshot.logits)
    return _scored(step, lengths, "length of the gradient", rule)


def _coreset(step: Step, options: dict[str, Any]) -> Reason:  # noqa: ARG001
    snapshot = step.snapshot
    distances = torch.cdist(snapshot.features, snapshot.labelled_features).amin(dim=1)
    rule = "Core-set takes, one after another, what is farthest from all that is labelled or picked."
    return _scored(step, distances, "distance to the nearest label", rule)


def _bait(step: Step, options: dict[str, Any]) -> Reason:
    seen = step.snapshot
    scores = bait_first_scores(
        seen.features, seen.logits, seen.labelled_features, seen.labelled_logits, len(step.picked), **options
    )
    rule = (
        "BAIT takes what makes the last layer most certain where the pool lies, and each pick lowers the scores of "
        "those like it."
    )
    return _scored(step, scores, "gain of a single pick", rule)


def _typiclust(step: Step, options: dict[str, Any]) -> Reason:
    seen, values = step.snapshot, TYPICLUST | options
    together = torch.cat((seen.features, seen.labelled_features))
    count = min(len(seen.labels) + len(step.picked), values["max_clusters"])
    clusters = k_means(together, count, step.generator())  # those of the strategy, from the same draws
    own, of_labels = clusters[: len(seen.features)], clusters[len(seen.features) :]
    scores = typicality(seen.features, own, values["num_neighbours"])
    new = int((~torch.isin(own[step.positions()], of_labels)).sum())
    text = (
        f"TypiClust does not ask the head: it takes the most typical instance of clusters with the fewest labels. "
        f"{new} of {len(step.picked)} picks are from clusters without a label; there are {count} clusters."
    )
    return Reason(scores, "typicality within its cluster", text)


def _scored(step: Step, scores: Tensor, quantity: str, rule: str) -> Reason:
    """The rule, how many picks have the highest scores, and how the picks stand beside the pool."""
    picked, batch = scores[step.positions()], len(step.picked)
    highest = int((picked >= scores.sort(descending=True).values[batch - 1]).sum())
    text = (
        f"{rule} {highest} of {batch} picks {'has' if highest == 1 else 'have'} one of the {batch} highest scores; "
        f"median {_short(picked)} of the picks, {_short(scores)} of the pool."
        if batch > 1
        else f"{rule} The pick has {_short(picked)}; the median of the pool is {_short(scores)}."
    )
    return Reason(scores, quantity, text)


def _short(scores: Tensor) -> str:
    """The median in two digits."""
    return f"{float(scores.double().quantile(0.5)):.2g}"


def _missing_classes(step: Step) -> str:
    without = sorted(set(range(step.snapshot.num_classes)) - set(step.snapshot.labels.tolist()))
    return f"Without a label so far: class {', '.join(map(str, without))}." if without else ""


REASONS: dict[str, Callable[[Step, dict[str, Any]], Reason]] = {
    "random": _random,
    "margin": _margin,
    "entropy": _entropy,
    "least_confident": _least_confident,
    "badge": _badge,
    "coreset": _coreset,
    "typiclust": _typiclust,
    "bait": _bait,
}
