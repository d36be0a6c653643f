"""Candidates judged at once equal candidates judged one after another by torch's own modules."""

import dataclasses
import itertools
from typing import get_args

import pytest
import torch

from dal_core import textbook
from dal_core.laplace import covariance_matrix, precision_matrix, second_order_update
from dal_core.models.heads import Head
from dal_core.models.learners import HeadModel
from dal_core.models.training import Training
from dal_core.oracles import judging
from dal_core.oracles.judging import Judgement, LookAhead, Loss, PerformanceOn, Retraining, best_of, judge
from dal_core.randomness import integer_seed
from dal_core.snapshot import Truth
from tests.samples import seeded, snapshot_from, with_hidden_layer

N, M, T, B, K, D, H = 23, 13, 7, 4, 3, 5, 6
N_TEST, N_VALIDATION, DRAWS = 17, 19, 4
# Minibatches and a decay that matter, and a remainder that is left out.
TRAINING = Training("sgd", learning_rate=0.1, weight_decay=0.05, batch_size=5, epochs=200, drop_last=True)
GAMMA, PRIOR = 2.0, 0.5
LOSSES, LOOK_AHEADS, RETRAININGS, PERFORMANCES = map(get_args, (Loss, LookAhead, Retraining, PerformanceOn))


def snapshot(**changes) -> Truth:
    """With a linear head that is none of those that judgement trains."""
    draw = seeded(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    features, labelled, weight, bias, truth = normal(N, D), normal(M, D), normal(K, D) / 4, normal(K) / 4, normal(D, K)

    def labelled_set(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = normal(n, D)
        return drawn, (drawn @ truth + normal(n, K)).argmax(dim=1)

    values = {
        "features": features,
        "logits": features @ weight.mT + bias,
        "labelled_features": labelled,
        "labelled_logits": labelled @ weight.mT + bias,
        "labels": (labelled @ truth).argmax(dim=1),
        "weight": weight,
        "bias": bias,
        "hidden_labels": (features @ truth + normal(N, K)).argmax(dim=1),
        "test": labelled_set(N_TEST),
        "validation": labelled_set(N_VALIDATION),
        "training": TRAINING,
    }
    return snapshot_from(**(values | changes))


def candidate_batches() -> torch.Tensor:
    """t batches, which share instances.  [t, b]"""
    draw = seeded(3)
    return torch.stack([torch.randperm(N, generator=draw)[:B] for _ in range(T)])


def judgement_of(**changes) -> Judgement:
    options = {"retraining_epochs": 6, "label_draws": DRAWS, "gamma": GAMMA, "prior_precision": PRIOR}
    return Judgement(**(options | changes))


# --- one after another


def one_at_a_time(taken: Truth, candidates: torch.Tensor, judgement: Judgement, generator: torch.Generator):
    """For each candidate and each assumption about its labels a head of its own.  [t]"""
    if judgement.look_ahead == "true":
        assumed = [[taken.hidden_labels[batch]] for batch in candidates]
    elif judgement.look_ahead == "pseudo":
        assumed = [[taken.logits[batch].argmax(dim=1)] for batch in candidates]
    else:
        probabilities = taken.logits.softmax(dim=1)[candidates.flatten()]
        drawn = torch.multinomial(probabilities, judgement.label_draws, replacement=True, generator=generator)
        assumed = [list(labels.T) for labels in drawn.split(B)]
    seed = None if judgement.retraining == "laplace_update" else integer_seed(generator)
    features, labels = taken.features, None
    if judgement.performance_on != "unlabelled":
        judged = getattr(taken, judgement.performance_on)
        features, labels = judged.inputs(), judged.labels

    losses = []
    for batch, hypotheses in zip(candidates, assumed, strict=True):
        found = []
        for told in hypotheses:
            update = seed is None
            weight, bias = updated(taken, batch, told) if update else textbook.retrain(taken, batch, 6, seed, told)
            found.append(textbook.mean_loss(features @ weight.T + bias, labels, judgement.loss))
        losses.append(sum(found) / len(found))
    return torch.tensor(losses, dtype=torch.float64)


def updated(taken: Truth, batch: torch.Tensor, told: torch.Tensor):
    covariance = covariance_matrix(precision_matrix(taken.labelled_features, prior_precision=PRIOR))
    weight, _ = second_order_update(taken.weight, covariance, taken.features[batch], told, gamma=GAMMA, bias=taken.bias)
    return weight, taken.bias


WAYS = list(itertools.product(LOSSES, LOOK_AHEADS, RETRAININGS, PERFORMANCES))


@pytest.mark.parametrize(("loss", "look_ahead", "retraining", "performance_on"), WAYS)
def test_judgement_equals_one_head_after_another(loss, look_ahead, retraining, performance_on):
    taken, candidates = snapshot(), candidate_batches()
    judgement = judgement_of(loss=loss, look_ahead=look_ahead, retraining=retraining, performance_on=performance_on)
    expected = one_at_a_time(taken, candidates, judgement, seeded())
    found = judge(taken, candidates, judgement, seeded())
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert len(expected.unique()) > 1  # candidates differ


def test_whose_labels_and_which_instances_make_a_difference():
    taken, candidates, losses = snapshot(), candidate_batches(), {}
    for way in WAYS:
        judgement = judgement_of(**dict(zip(("loss", "look_ahead", "retraining", "performance_on"), way, strict=True)))
        losses[way] = tuple(judge(taken, candidates, judgement, seeded()).tolist())
    assert len(set(losses.values())) == len(WAYS) * 2 // 3  # a linear head is its own last layer


def test_a_head_without_bias_is_updated_without_bias():
    taken, candidates = snapshot(), candidate_batches()
    logits = taken.features @ taken.weight.T
    unbiased = dataclasses.replace(taken, bias=None, logits=logits)
    zero = dataclasses.replace(taken, bias=torch.zeros(K, dtype=torch.float64), logits=logits)
    judgement = judgement_of(loss="brier", retraining="laplace_update")
    torch.testing.assert_close(
        judge(unbiased, candidates, judgement, seeded()), judge(zero, candidates, judgement, seeded()), atol=0, rtol=0
    )


# --- blocks


@pytest.mark.parametrize("retraining", RETRAININGS)
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("BLOCK_BYTES", 5 * K * 8),
        ("BLOCK_BYTES", 2 * N_TEST * K * 8),
        ("HEADS_BYTES", 1),
        ("HEADS_BYTES", 3 * 4 * K * D * 8),
    ],
)
def test_the_size_of_blocks_makes_no_difference(monkeypatch, name, size, retraining):
    taken, candidates = snapshot(), candidate_batches()
    for look_ahead, performance_on in itertools.product(LOOK_AHEADS, PERFORMANCES):
        judgement = judgement_of(
            loss="cross_entropy", look_ahead=look_ahead, retraining=retraining, performance_on=performance_on
        )
        expected = judge(taken, candidates, judgement, seeded())
        with monkeypatch.context() as patch:
            if name == "BLOCK_BYTES":
                patch.setattr(judging, name, size)
            else:
                patch.setitem(judging.HEADS_BYTES, "cpu", size)
            found = judge(taken, candidates, judgement, seeded())
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_no_more_logits_are_held_at_a_time_than_a_block_has(monkeypatch):
    sizes, original = [], Head.logits

    def spying(self, features):
        logits = original(self, features)
        sizes.append(logits.nbytes)
        return logits

    monkeypatch.setattr(Head, "logits", spying)
    for block_bytes in (5 * K * 8, 2 * N_TEST * K * 8):
        monkeypatch.setattr(judging, "BLOCK_BYTES", block_bytes)
        sizes.clear()
        judge(snapshot(), candidate_batches(), judgement_of(), seeded())
        assert sum(sizes) == T * N_TEST * K * 8
        assert max(sizes) <= block_bytes


# --- a head with a hidden layer


def trained_mlp(initial: Head, features: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.nn.Module:
    """The whole head, with torch's modules."""
    hidden, last = torch.nn.Linear(D, H).double(), torch.nn.Linear(H, K, bias=False).double()
    hidden.load_state_dict({"weight": initial.hidden_weight, "bias": initial.hidden_bias})
    last.load_state_dict({"weight": initial.weight})
    model, generator = torch.nn.Sequential(hidden, torch.nn.ReLU(), last), seeded(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=TRAINING.epochs)
    for _ in range(6):
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: len(labels) - len(labels) % 5].split(5):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(features[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
    return model


@pytest.mark.parametrize("performance_on", ["test", "unlabelled"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_head_with_a_hidden_layer_is_retrained_as_a_whole(loss, performance_on):
    taken, candidates = with_hidden_layer(snapshot(), H), candidate_batches()
    found = judge(taken, candidates, judgement_of(loss=loss, performance_on=performance_on), seeded())
    seed, expected = integer_seed(seeded()), []
    for batch in candidates:
        features = taken.data.inputs(torch.cat((taken.labelled, taken.instances[batch])))
        labels = torch.cat((taken.labels, taken.hidden_labels[batch]))
        model = trained_mlp(taken.learner.initial(features, K, taken.draw), features, labels, seed)
        on_test = performance_on == "test"
        with torch.no_grad():
            logits = model(taken.test.inputs() if on_test else taken.data.inputs(taken.instances))
        expected.append(textbook.mean_loss(logits, taken.test.labels if on_test else None, loss))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("performance_on", ["test", "unlabelled"])
@pytest.mark.parametrize("retraining", ["last_layer", "laplace_update"])
def test_a_last_layer_is_judged_as_a_linear_head_on_what_it_sees(retraining, performance_on):
    taken, candidates = with_hidden_layer(snapshot(), H), candidate_batches()
    seen = snapshot_from(
        taken.features, taken.logits, taken.labelled_features, taken.labelled_logits, taken.labels, taken.weight,
        training=TRAINING, hidden_labels=taken.hidden_labels,
        test=(taken.model.outputs(taken.test.inputs()).features, taken.test.labels),
    )  # fmt: skip
    judgement = judgement_of(loss="brier", retraining=retraining, performance_on=performance_on)
    found = judge(taken, candidates, judgement, seeded())
    assert torch.equal(found, judge(seen, candidates, judgement, seeded()))


# --- losses


def test_expected_losses_follow_their_formulas():
    """1 - p_max, the entropy, and 1 - sum p^2."""
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], dtype=torch.float64)
    identity = [HeadModel.of(torch.eye(K, dtype=torch.float64), None)]
    entropy = [1.5 * torch.tensor(2.0).log().item(), 0.8018185525433373]  # -sum p ln p
    for loss, (first, second) in {"zero_one": (0.5, 0.3), "cross_entropy": entropy, "brier": (0.625, 0.46)}.items():
        found = judging.mean_losses(identity, probabilities[0].log(), None, loss)
        torch.testing.assert_close(found, torch.tensor([(first + second) / 2]).double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("performance_on", PERFORMANCES)
def test_the_current_loss_is_that_of_the_head_as_it_is(loss, performance_on):
    taken = snapshot()
    judged = getattr(taken, performance_on, None)
    logits = taken.logits if judged is None else judged.inputs() @ taken.weight.T + taken.bias
    expected = float(textbook.mean_loss(logits, None if judged is None else judged.labels, loss))
    found = judging.current_loss(taken, judgement_of(loss=loss, performance_on=performance_on))
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_current_loss_of_a_head_with_a_hidden_layer():
    taken = with_hidden_layer(snapshot(), H)
    logits = taken.model.outputs(taken.test.inputs()).features @ taken.weight.T
    expected = float(textbook.mean_loss(logits, taken.test.labels, "brier"))
    assert judging.current_loss(taken, judgement_of(loss="brier")) == pytest.approx(expected, abs=1e-12)


def test_losses_of_logits_beyond_the_exponential_are_finite():
    head = [HeadModel.of(1e6 * torch.eye(K, dtype=torch.float64), None)]
    for loss in LOSSES:
        assert judging.mean_losses(head, torch.eye(K).double(), None, loss).tolist() == [0]
        assert judging.mean_losses(head, torch.eye(K).double(), torch.arange(K).roll(1), loss).isfinite().all()


# --- ties


def test_ties_go_to_each_of_the_smallest_and_to_no_other(generator):
    losses = torch.tensor([0.5, 0.25, 0.75, 0.25, 0.25, 0.5])
    counts = torch.bincount(torch.tensor([best_of(losses, generator) for _ in range(3000)]), minlength=6)
    assert set(counts.nonzero().flatten().tolist()) == {1, 3, 4}
    torch.testing.assert_close(counts[counts > 0] / 3000, torch.full((3,), 1 / 3), atol=0.035, rtol=0)  # 4 deviations


def test_the_smallest_wins_by_the_last_digit(generator):
    losses = torch.tensor([0.5, 0.5 - 1e-7, 0.5], dtype=torch.float32)
    assert {best_of(losses, generator) for _ in range(50)} == {1}


def test_heads_that_diverge_are_worth_nothing_and_stop_nobody(generator):
    wild = dataclasses.replace(TRAINING, learning_rate=1e30)
    losses = judge(snapshot(training=wild), candidate_batches(), judgement_of(loss="cross_entropy"), generator)
    assert losses.isnan().all()
    losses[3] = 1e9
    assert best_of(losses, generator) == 3


# --- what is looked at


@pytest.mark.parametrize("retraining", RETRAININGS)
@pytest.mark.parametrize("look_ahead", ["pseudo", "monte_carlo"])
def test_without_ground_truth_true_labels_and_test_set_change_nothing(look_ahead, retraining):
    judgement = judgement_of(
        loss="cross_entropy", look_ahead=look_ahead, retraining=retraining, performance_on="unlabelled"
    )
    taken, candidates = snapshot(), candidate_batches()
    poisoned = dataclasses.replace(taken, hidden_labels=(taken.hidden_labels + 1) % K, test=None, validation=None)
    expected = judge(taken, candidates, judgement, seeded())
    assert torch.equal(judge(poisoned, candidates, judgement, seeded()), expected)
    assert judging.current_loss(poisoned, judgement) == judging.current_loss(taken, judgement)


def test_true_labels_do_change_what_looks_ahead_with_them():
    taken, candidates = snapshot(), candidate_batches()
    poisoned = dataclasses.replace(taken, hidden_labels=(taken.hidden_labels + 1) % K)
    judgement = judgement_of(loss="cross_entropy", performance_on="unlabelled")
    assert (
        not judge(taken, candidates, judgement, seeded())
        .isclose(judge(poisoned, candidates, judgement, seeded()))
        .any()
    )


@pytest.mark.parametrize("retraining", RETRAININGS)
@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
def test_inputs_and_the_global_random_state_are_left_alone(look_ahead, retraining):
    taken, candidates, state = snapshot(), candidate_batches(), torch.get_rng_state()
    tensors = [taken.features, taken.logits, taken.labels, taken.weight, taken.bias, taken.hidden_labels, candidates]
    tensors += [taken.data.features, taken.test.data.features, taken.test.labels]
    copies = [tensor.clone() for tensor in tensors]
    judge(taken, candidates, judgement_of(look_ahead=look_ahead, retraining=retraining), seeded())
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


# --- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'; it has to be one of 'zero_one', 'cross_entropy', 'brier'"),
        ({"look_ahead": "guess"}, "look_ahead is 'guess'; it has to be one of 'true', 'pseudo', 'monte_carlo'"),
        ({"retraining": "none"}, "retraining is 'none'; it has to be one of 'train', 'last_layer', 'laplace_update'"),
        ({"performance_on": "train"}, "performance_on is 'train'; it has to be one of 'test', 'validation', 'unlabell"),
        ({"retraining_epochs": -1}, "retraining_epochs is -1; a whole number of at least 0 was expected"),
        ({"label_draws": 0}, "label_draws is 0; a whole number of at least 1 was expected"),
        ({"gamma": 0.0}, r"gamma is 0\.0; a finite number above 0 was expected"),
        ({"prior_precision": -1.0}, r"prior_precision is -1\.0; a finite number above 0 was expected"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Judgement(**changes)


@pytest.mark.parametrize("found", ["None", "empty"])
@pytest.mark.parametrize("name", ["test", "validation"])
@pytest.mark.parametrize("retraining", RETRAININGS)
def test_a_set_that_is_not_there_is_named(retraining, name, found):
    nothing = None if found == "None" else (torch.empty(0, D).double(), torch.empty(0).long())
    lacking, judgement = snapshot(**{name: nothing}), judgement_of(retraining=retraining, performance_on=name)
    message = f"^snapshot.{name} is {found}; instances to judge models by were expected"
    with pytest.raises(ValueError, match=message):
        judge(lacking, candidate_batches(), judgement, seeded())
    with pytest.raises(ValueError, match=message):
        judging.current_loss(lacking, judgement)
