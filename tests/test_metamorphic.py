"""What must not change the picks of any strategy: the numbers of the classes, a coordinate that never varies, rounding.

Features are dense, rounded to half precision, or have dead coordinates, as pixels and hidden ReLU units have.
"""

import dataclasses
import functools

import pytest
import torch
from samples import seeded, snapshot_from
from test_strategy_contract import OPTIONS

from dal_core import strategies
from dal_core.models.heads import Head
from dal_core.models.learners import HeadModel, Linear
from dal_core.models.training import Training
from dal_core.strategies.alfamix import alfamix_candidates
from dal_core.strategies.dropquery import dropquery_candidates
from dal_core.task import Classification

N, M, HELD, K, D, B = 90, 16, 40, 4, 12, 8
DEAD = slice(D - 3, D)
KINDS = ("dense", "half precision", "dead coordinates")
NEW_NUMBERS = (2, 0, 3, 1)  # what was class 2 is class 0
BRIEF = OPTIONS | {
    "boss": {"strategies": ["random", "margin", "bait", "alfamix"], "num_candidates": 6, "retraining_epochs": 5},
    "selectal": {"num_splits": 2, "retraining_epochs": 5},
}
BY_NUMBER = {  # what depends on the numbers of the classes, and why
    "autoal": "its last layer starts from weights that are drawn class by class",
    "bald": "layers are drawn class by class",
    "tailor": "counts of labels are drawn class by class",
    "typiclass": "of classes with equally few labels the first one comes first",
    "dropqueryclass": "of classes with equally few labels the first one comes first",
}


@dataclasses.dataclass(frozen=True)
class Renumbered(Linear):
    """Starts each class from the weights that it would have under its old number."""

    old_numbers: tuple[int, ...] = tuple(range(K))

    def initial(self, inputs, num_classes, draw):
        head, rows = super().initial(inputs, num_classes, draw), torch.tensor(self.old_numbers)
        return Head(head.weight[rows], head.bias[rows])


@functools.cache
def features_of(kind):
    features = torch.randn(M + N + HELD, D, generator=seeded(3))
    if kind == "half precision":
        features = features.half().float()
    if kind == "dead coordinates":
        features[:, DEAD] = 0
    return features


def snapshot_of(features, name, old_numbers=tuple(range(K))):
    weight, rule, bias = (torch.randn(*shape, generator=seeded(5)) for shape in ((K, D), (K, D), (K,)))
    rule = rule + torch.randn(K, D, generator=seeded(6))
    old = torch.tensor(old_numbers)
    labels = old.argsort()[(features_of("dense") @ rule.T).argmax(dim=1)]
    weight, bias = weight[old], bias[old]
    logits, pool, held = features @ weight.T + bias, slice(M, M + N), slice(M + N, None)
    truth = {"test": (features[held], labels[held]), "validation": (features[held], labels[held])}
    taken = snapshot_from(
        features[pool], logits[pool], features[:M], logits[:M], labels[:M], weight, bias,
        learner=Renumbered(Training(epochs=10), old_numbers),
        **({"hidden_labels": labels[pool], **truth} if strategies.needs_oracle(name) else {}),
    )  # fmt: skip
    return dataclasses.replace(taken, model=HeadModel.of(weight.clone(), bias.clone()), task=Classification(K))


def picks_of(name, features, *old_numbers):
    taken = snapshot_of(features, name, *old_numbers)
    return strategies.query(strategies.get(name, BRIEF.get(name)), taken, B, seeded(1)).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in strategies.names() if name not in BY_NUMBER])
def test_the_numbers_of_the_classes_do_not_matter(name, kind):
    features = features_of(kind)
    assert picks_of(name, features, NEW_NUMBERS) == picks_of(name, features)


@pytest.mark.parametrize("name", strategies.names())
def test_a_coordinate_that_never_varies_is_like_one_that_hardly_does(name):
    dead = features_of("dead coordinates")
    noise = 1e-7 * torch.randn(dead[:, DEAD].shape, generator=seeded(9))
    alive = dead.clone()
    alive[:, DEAD] = noise
    assert picks_of(name, alive) == picks_of(name, dead)


@pytest.mark.parametrize("name", strategies.names())
def test_rounding_to_half_precision_changes_few_picks(name):
    dense = features_of("dense")
    assert len(set(picks_of(name, dense.half().float())) & set(picks_of(name, dense))) >= B - 1


def alfamix_set(taken):
    parts = (taken.features, taken.logits, taken.weight, taken.bias, taken.labelled_features, taken.labels)
    return set(alfamix_candidates(*parts).tolist())


def dropquery_set(taken):
    return set(dropquery_candidates(taken, 1000, seeded()).tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [alfamix_set, dropquery_set])
def test_candidates_are_a_part_of_the_pool_that_the_numbers_of_the_classes_and_rounding_leave_alone(candidates, kind):
    features = features_of(kind)
    found = candidates(snapshot_of(features, "margin"))
    assert 0 < len(found) < N
    assert candidates(snapshot_of(features, "margin", NEW_NUMBERS)) == found
    assert len(candidates(snapshot_of(features.half().float(), "margin")) ^ found) <= 2


def test_a_coordinate_of_zeros_changes_hardly_any_candidate_of_alfamix():
    """It only makes the step shorter, by 1 / (2 d)."""
    taken = snapshot_of(features_of("dense"), "margin")
    features, labelled, weight = (
        torch.nn.functional.pad(each, (0, 1)) for each in (taken.features, taken.labelled_features, taken.weight)
    )
    longer = dataclasses.replace(taken, features=features, labelled_features=labelled, weight=weight)
    assert len(alfamix_set(longer) ^ alfamix_set(taken)) <= 3
