"""Filtering as it would first be written: one query after another, everything anew in each of them."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks import textbook_bait
from dal_core import textbook
from dal_core.randomness import choose, generators_from
from dal_core.snapshot import Snapshot
from dal_core.strategies import registry
from dal_core.strategies.herding import nearest_pair_gamma
from dal_core.strategies.shared.temperature import held_out_temperature
from dal_core.strategies.uncertainty import margin_scores

Query = Callable[[Snapshot, int, torch.Generator], Tensor]


def progressive_filter(
    at: Snapshot,
    batch_size: int,
    generator: torch.Generator,
    queries: Mapping[str, Query],
    *,
    depth: int,
    num_batches: int,
    alpha: float,
    initial_size: int,
) -> Tensor:
    """What is left after `depth` rounds, in each of which every query runs num_batches // len(queries) times."""
    left = torch.arange(len(at.features))
    for round_ in range(depth):
        size = min(len(left), max(batch_size, initial_size if round_ == 0 else int(alpha * len(left))))
        calls = [query for query in queries.values() for _ in range(num_batches // len(queries))]
        queried: set[int] = set()
        for query, own in zip(calls, generators_from(generator, len(calls)), strict=True):
            part = left[choose(len(left), size, own)].sort().values
            queried |= set(part[query(_anew(at, part), batch_size, own)].tolist())
        left = torch.tensor(sorted(queried))
    return left


def queries(names: tuple[str, ...], temperature_seed: int) -> dict[str, Query]:
    """The textbook's way of a strategy where there is one, the package's where it has to draw the same."""

    def bait(at: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        unlabelled = textbook_bait.one_row(at.features, at.logits)
        labelled = textbook_bait.one_row(at.labelled_features, at.labelled_logits)
        return textbook_bait.rank_one_select(textbook_bait.start(unlabelled, labelled, batch_size), batch_size)

    def badge(at: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:
        return textbook.badge_select(at.features, at.logits, batch_size, generator)

    def max_herding(at: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        return _herding(at, batch_size, 1.0, torch.ones_like(at.features[:, 0]))

    def unc_herding(at: Snapshot, batch_size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        temperature = held_out_temperature(at, torch.Generator().manual_seed(temperature_seed))
        uncertainty = margin_scores((at.logits / temperature).softmax(dim=1))
        return _herding(at, batch_size, nearest_pair_gamma(at.labelled_features), uncertainty)

    ours: dict[str, Query] = {"bait": bait, "badge": badge, "max_herding": max_herding, "unc_herding": unc_herding}
    return {name: ours.get(name) or registry.get(name) for name in names}


def _herding(at: Snapshot, batch_size: int, gamma: float, uncertainty: Tensor) -> Tensor:
    unit = [torch.nn.functional.normalize(each, dim=1) for each in (at.features, at.labelled_features)]
    return textbook.herding_select(*unit, batch_size, gamma=gamma, uncertainty=uncertainty, form="rowwise")


def _anew(at: Snapshot, part: Tensor) -> Snapshot:
    """A copy of a part of the pool, with the head's outputs computed again."""
    bias = 0 if at.bias is None else at.bias
    features, labelled = at.features[part].clone(), at.labelled_features.clone()
    logits, labelled_logits = (each @ at.weight.mT + bias for each in (features, labelled))
    return dataclasses.replace(
        at, features=features, logits=logits, labelled_features=labelled, labelled_logits=labelled_logits
    )
