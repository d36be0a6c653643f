"""Snapshots and their views."""

import dataclasses

import pytest
import torch

from dal_core.snapshot import AbsentError, LastLayer, Predictions, Regression, Snapshot, Truth, WithModel
from dal_core.strategies import get, query
from tests.samples import oracle_snapshot_of, seeded, snapshot_from, with_hidden_layer


def snapshot(**changes) -> LastLayer:
    draw = torch.Generator().manual_seed(0)
    features, labelled = torch.randn(11, 5, generator=draw), torch.randn(4, 5, generator=draw)
    weight, bias = torch.randn(3, 5, generator=draw), torch.randn(3, generator=draw)
    values = {
        "features": features,
        "logits": features @ weight.mT + bias,
        "labelled_features": labelled,
        "labelled_logits": labelled @ weight.mT + bias,
        "labels": torch.tensor([0, 1, 2, 0]),
        "weight": weight,
        "bias": bias,
    }
    return snapshot_from(**(values | changes))


def test_snapshot_probabilities_are_the_softmax_over_classes_computed_once():
    taken = snapshot()
    exponentials = taken.logits.exp()
    torch.testing.assert_close(taken.probabilities, exponentials / exponentials.sum(dim=1, keepdim=True))
    assert taken.probabilities is taken.probabilities
    assert taken.num_classes == 3


def test_snapshot_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot().logits = torch.zeros(11, 3)


@pytest.mark.parametrize("known", [{}, {"logits": torch.zeros(5, 3)}, {"weight": torch.zeros(3, 2)},
                                   {"mean": torch.zeros(5), "variance": torch.ones(5)}])  # fmt: skip
def test_what_is_given_decides_the_view_and_what_is_not_is_refused_in_one_line(known):
    taken = Snapshot.of(torch.zeros(5, 2), labelled=[1, 3], labels=[0, 1], **known)
    views = {"logits": Predictions, "weight": LastLayer, "mean": Regression, "hidden_labels": Truth}
    given = {*known} | ({"logits"} if "weight" in known else set())
    assert isinstance(taken, WithModel)
    for name, view in views.items():
        assert isinstance(taken, view) == (name in given)
        if name not in given:
            with pytest.raises(AbsentError, match=f"^snapshot has no {name}, which this strategy needs.*$"):
                getattr(taken, name)
    if "logits" not in given:
        with pytest.raises(
            AbsentError, match=r"snapshot has no (logits|probabilities), .*needs: Snapshot.of\(..., logits=...\)"
        ):
            query(get("margin"), taken, 2, seeded())


def oracle_snapshot(**changes) -> Truth:
    return oracle_snapshot_of(11, 4, 3, 5, 6, 7, **changes)


def test_a_part_of_a_snapshot_has_the_rows_of_its_positions_and_nothing_else_changed():
    taken, positions = with_hidden_layer(oracle_snapshot()), torch.tensor([7, 0, 9])
    part = taken.at(positions)
    assert type(part) is type(taken)
    for name, whole in vars(taken).items():
        if name in {"features", "logits", "hidden_labels", "instances"}:
            assert torch.equal(getattr(part, name), whole[positions]), name
        else:
            assert getattr(part, name) is whole, name


def test_probabilities_of_a_part_are_its_own():
    taken, positions = snapshot(), torch.tensor([7, 0, 9])
    whole = taken.probabilities  # kept by the snapshot from now on
    torch.testing.assert_close(taken.at(positions).probabilities, whole[positions], atol=0, rtol=0)


def test_without_truth_an_oracle_snapshot_is_a_plain_one():
    taken = with_hidden_layer(oracle_snapshot())
    plain = taken.without_truth()
    assert isinstance(plain, LastLayer)
    assert not isinstance(plain, Truth)
    assert {*vars(taken)} - {*vars(plain)} == {"hidden_labels", "test", "validation"}
    assert all(value is getattr(taken, name) for name, value in vars(plain).items())


@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((6,), 3), "labels holds labels from 3 to 3; 0 to 2 was expected"),
        (torch.zeros(5).long(), r"labels has shape \(5,\); \(6\) was expected"),
    ],
)
def test_a_labelled_set_that_does_not_fit_is_refused(name, labels, message):
    with pytest.raises(ValueError, match=rf"^{name}\.{message}"):
        oracle_snapshot(**{name: (torch.zeros(6, 5, dtype=torch.float64), labels)})


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], [0, 1]), ([0, 4], [0, 4]), ([10**9, 7], [1, 0])])
def test_numbers_that_count_no_classes_say_which_is_which(labels, expected):
    assert Snapshot.of(torch.zeros(5, 2), labelled=[1, 3], labels=labels).labels.tolist() == expected
