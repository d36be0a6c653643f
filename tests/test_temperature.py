import dataclasses

import pytest
import torch
from samples import seeded, snapshot_of, with_hidden_layer, work_in_blocks

from dal_core.metrics import ece
from dal_core.models import learners
from dal_core.models.training import OPTIMISERS, Training
from dal_core.strategies.shared import temperature as module
from dal_core.strategies.shared.temperature import TEMPERATURES, calibrating_temperature, held_out_temperature


def drawn_predictions(n, k=4, sharpness=3.0, seed=0):
    """Logits that are `sharpness` times those that the labels are drawn from."""
    draw = seeded(seed)
    logits = 1.5 * torch.randn(n, k, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw).squeeze(1)
    return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [2.0, 5.0, 12.0])
def test_temperature_undoes_how_much_too_sharp_predictions_are(sharpness):
    logits, labels = drawn_predictions(40_000, sharpness=sharpness)
    assert calibrating_temperature(logits, labels) == pytest.approx(sharpness, rel=0.1)


@pytest.mark.parametrize("block_bytes", [1, 191 * 4 * 8 * 10, 2**26])
@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_that_with_the_smallest_calibration_error_of_all(seed, block_bytes, monkeypatch):
    work_in_blocks(monkeypatch, module, block_bytes)
    logits, labels = drawn_predictions(37, seed=seed)
    errors = [ece(logits / temperature, labels) for temperature in TEMPERATURES]
    assert calibrating_temperature(logits, labels) == pytest.approx(TEMPERATURES[errors.index(min(errors))].item())
    assert calibrating_temperature(logits.float(), labels) == calibrating_temperature(logits, labels)


def test_temperatures_are_the_grid_of_the_paper():
    assert TEMPERATURES.tolist() == pytest.approx([1 + 0.1 * i for i in range(191)])


def test_ties_go_to_the_lowest_temperature():
    assert calibrating_temperature(torch.zeros(6, 3), torch.arange(6) % 3) == 1.0


def test_temperature_faults_name_the_argument():
    with pytest.raises(ValueError, match=r"logits has shape \(0, 3\); 1 or more samples were expected"):
        calibrating_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels holds labels from 0 to 3; 0 to 2 was expected"):
        calibrating_temperature(torch.zeros(4, 3), torch.arange(4))
    with pytest.raises(ValueError, match=r"logits has shape \(4, 1\); 2 or more classes were expected"):
        calibrating_temperature(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))


def test_temperature_is_found_on_a_fifth_that_the_layer_was_not_trained_on(monkeypatch):
    seen = []
    original_training, original_temperature = learners.train_heads, module.calibrating_temperature

    def training(initial, features, labels, sets, protocol, generators):
        heads = original_training(initial, features, labels, sets, protocol, generators)
        seen.append((initial, heads.unstacked(0), features, protocol))
        return heads

    def temperature(logits, labels):
        seen.append((logits, labels))
        return original_temperature(logits, labels)

    monkeypatch.setattr(learners, "train_heads", training)
    monkeypatch.setattr(module, "calibrating_temperature", temperature)
    protocol = dataclasses.replace(Training("radam"), epochs=3)
    taken = snapshot_of(training=protocol)
    found = held_out_temperature(taken, seeded())
    (initial, head, features, used), (logits, labels) = seen
    assert used == protocol
    held_out = [i for i, row in enumerate(taken.labelled_features.tolist()) if row not in features.tolist()]
    assert (len(features), len(held_out)) == (11, 2)
    assert not torch.equal(initial.weight, taken.weight)
    assert sorted(labels.tolist()) == sorted(taken.labels[held_out].tolist())
    by_row = {tuple(row.tolist()) for row in head.logits(taken.labelled_features)[held_out]}
    assert {tuple(row.tolist()) for row in logits} == by_row
    assert found == original_temperature(logits, labels)
    assert held_out_temperature(taken, seeded()) == found


def test_the_temperature_follows_how_the_head_is_trained():
    found = {held_out_temperature(snapshot_of(m=60, training=Training(name)), seeded()) for name in OPTIMISERS}
    assert len(found) == 2


def test_a_hidden_layer_is_trained_anew_without_the_held_out_fifth_too(monkeypatch):
    fitted = []
    original = learners.train_heads

    def training(*arguments):
        fitted.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(learners, "train_heads", training)
    taken = with_hidden_layer(snapshot_of(m=40, training=dataclasses.replace(Training(), epochs=3)))
    held_out_temperature(taken, seeded())
    ((initial, inputs, _, sets, *_),) = fitted
    assert initial.hidden_weight.shape == taken.model.head.hidden_weight.shape
    seen = inputs[sets.flatten()].tolist()
    assert len(seen) == 32
    assert all(row in taken.data.inputs(taken.labelled).tolist() for row in seen)


@pytest.mark.parametrize("m", [0, 4])
def test_temperature_is_1_where_there_is_no_fifth(m):
    assert held_out_temperature(snapshot_of(m=m), seeded()) == 1.0
