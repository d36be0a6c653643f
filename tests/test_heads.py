"""Heads trained together, one by one, and by torch.optim are the same."""

import dataclasses

import pytest
import torch

from dal_core.models import training
from dal_core.models.heads import Head
from dal_core.models.training import PROTOCOLS, Training, train_head, train_heads

N, D, K, HEADS, M = 37, 5, 3, 4, 23
KINDS, OPTIMISERS = ("linear", "mlp"), ("sgd", "radam")


@pytest.fixture
def data(generator):
    """Features [n, d] and labels [n] that a head can learn in part."""
    features = torch.randn(N, D, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, K, generator=generator, dtype=torch.float64)
    labels = (features @ torch.randn(D, K, generator=generator, dtype=torch.float64) + noise).argmax(dim=1)
    return features, labels


def brief(protocol: str, **changes) -> Training:
    return dataclasses.replace(Training(protocol), **{"batch_size": 8, "epochs": 9} | changes)


def initial(kind: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> Head:
    return Head.initial(kind, D, K, torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(count)]


def index_sets() -> torch.Tensor:
    """Different sets of positions, one a head.  [e, m]"""
    draw = torch.Generator().manual_seed(2)
    return torch.stack([torch.randperm(N, generator=draw)[:M] for _ in range(HEADS)])


def tensors(head: Head) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in vars(head).items() if tensor is not None}


def assert_heads_close(actual: Head, expected: Head, tolerance: float) -> None:
    assert tensors(actual).keys() == tensors(expected).keys()
    for name, tensor in tensors(expected).items():
        torch.testing.assert_close(tensors(actual)[name], tensor, atol=tolerance, rtol=tolerance, msg=f"{name} differs")


def stack(heads: list[Head]) -> Head:
    parts = [tensors(head) for head in heads]
    return Head(**{name: torch.stack([part[name] for part in parts]) for name in parts[0]})


# --- the head itself


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_torch_modules(kind, data):
    head, features = initial(kind), data[0]
    expected = modules_of(head)(features)
    torch.testing.assert_close(head.logits(features), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(head.last_layer(head.embed(features)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_heads_give_each_heads_logits(kind, data):
    heads = [initial(kind, seed=seed) for seed in range(HEADS)]
    stacked = stack(heads)
    logits = stacked.logits(data[0])
    assert logits.shape == (HEADS, N, K)
    for i, head in enumerate(heads):
        torch.testing.assert_close(logits[i], head.logits(data[0]), atol=1e-12, rtol=0)
        assert_heads_close(stacked.unstacked(i), head, 0)


def test_initial_weights_fill_the_bounds_of_torchs_default(generator):
    head = Head.initial("mlp", 400, 50, generator)
    assert head.bias is None
    for tensor, fan_in in ((head.weight, 128), (head.hidden_weight, 400), (head.hidden_bias, 400)):
        bound = fan_in**-0.5
        assert 0.9 * bound < tensor.abs().max() <= bound
        assert abs(tensor.mean()) < 0.2 * bound
    linear = Head.initial("linear", 400, 50, generator)
    assert 0.9 * 0.05 < linear.weight.abs().max() <= 0.05
    assert 0.5 * 0.05 < linear.bias.abs().max() <= 0.05
    assert linear.weight.shape == (50, 400)
    assert linear.hidden_weight is None


def test_initial_weights_follow_from_the_generator():
    assert_heads_close(initial("mlp", seed=1), initial("mlp", seed=1), 0)
    assert not torch.equal(initial("mlp", seed=1).weight, initial("mlp", seed=2).weight)


def test_unknown_head_lists_what_exists(generator):
    with pytest.raises(ValueError, match="kind is 'conv'; it has to be one of 'linear', 'mlp'"):
        Head.initial("conv", D, K, generator)


# --- together and one by one


@pytest.mark.parametrize("block_bytes", [None, 1, 5000], ids=["one block", "a head a block", "some heads a block"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_heads_trained_together_equal_heads_trained_alone(kind, optimiser, block_bytes, data):
    features, labels = data[0].float(), data[1]
    start, training, sets = initial(kind, torch.float32), brief(optimiser), index_sets()
    together = train_heads(start, features, labels, sets, training, seeded(HEADS), block_bytes=block_bytes)
    for i, generator in enumerate(seeded(HEADS)):
        alone = train_head(start, features, labels, sets[i], training, generator)
        assert_heads_close(together.unstacked(i), alone, 1e-5)
        assert not torch.allclose(alone.weight, start.weight, atol=1e-2)  # something was learned


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_of_initial_heads_starts_each_from_its_own(kind, data):
    starts, training, sets = [initial(kind, seed=seed) for seed in range(HEADS)], brief("sgd"), index_sets()
    together = train_heads(stack(starts), *data, sets, training, seeded(HEADS))
    for i, generator in enumerate(seeded(HEADS)):
        alone = train_head(starts[i], *data, sets[i], training, generator)
        assert_heads_close(together.unstacked(i), alone, 1e-10)


@pytest.mark.parametrize("block_bytes", [None, 1], ids=["one block", "a head a block"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_heads_told_different_labels_equal_heads_trained_on_relabelled_copies(kind, optimiser, block_bytes, data):
    features, sets, training = data[0], index_sets(), brief(optimiser)
    told = torch.randint(K, (HEADS, M), generator=torch.Generator().manual_seed(3))
    together = train_heads(initial(kind), features, told, sets, training, seeded(HEADS), block_bytes=block_bytes)
    for i, generator in enumerate(seeded(HEADS)):
        copy, labels = features[sets[i]], told[i]
        alone = train_head(initial(kind), copy, labels, torch.arange(M), training, generator)
        assert_heads_close(together.unstacked(i), alone, 1e-10)


def test_one_instance_can_have_several_labels_in_a_set(data):
    features = data[0]
    sets = torch.tensor([[0, 0, 1, 5], [7, 7, 7, 7]])
    told = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 0]])
    together = train_heads(initial("linear"), features, told, sets, brief("sgd"), seeded(2))
    for i, generator in enumerate(seeded(2)):
        alone = train_head(initial("linear"), features[sets[i]], told[i], torch.arange(4), brief("sgd"), generator)
        assert_heads_close(together.unstacked(i), alone, 1e-10)


def test_labels_of_the_entries_equal_labels_of_the_instances_where_they_agree(data):
    features, labels = data
    sets = index_sets()
    of_instances = train_heads(initial("linear"), features, labels, sets, brief("sgd"), seeded(HEADS))
    of_entries = train_heads(initial("linear"), features, labels[sets], sets, brief("sgd"), seeded(HEADS))
    assert_heads_close(of_entries, of_instances, 0)


def test_same_generator_same_head_and_another_generator_another_head(data):
    def trained(seed: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        return train_head(initial("linear"), *data, index_sets()[0], brief("sgd"), draw).weight

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


# --- against torch.optim


def modules_of(head: Head) -> torch.nn.Sequential:
    def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        layer.weight.data.copy_(weight)
        if bias is not None:
            layer.bias.data.copy_(bias)
        return layer

    last = linear(head.weight, head.bias)
    if head.hidden_weight is None:
        return torch.nn.Sequential(last)
    return torch.nn.Sequential(linear(head.hidden_weight, head.hidden_bias), torch.nn.ReLU(), last)


def trained_by_torch(head: Head, features: torch.Tensor, labels: torch.Tensor, training: Training, seed: int) -> Head:
    """The textbook loop over epochs and minibatches with torch's modules, optimisers and schedule."""
    model, generator = modules_of(head), torch.Generator().manual_seed(seed)
    rate = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimiser == "sgd":
        optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **rate)
    else:
        optimiser = torch.optim.RAdam(model.parameters(), **rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=training.schedule_epochs or training.epochs)
    for _ in range(training.epochs):
        batches = torch.randperm(len(features), generator=generator).split(training.batch_size)
        if training.drop_last and len(batches) > 1 and len(batches[-1]) < training.batch_size:
            batches = batches[:-1]
        for batch in batches:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimiser.step()
        schedule.step()
    last, hidden = model[-1], model[0]
    if len(model) == 1:
        return Head(last.weight.data, last.bias.data)
    return Head(last.weight.data, None, hidden.weight.data, hidden.bias.data)


@pytest.mark.parametrize("num_samples", [5, 16, 23], ids=["below a batch", "whole batches", "a part left over"])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_torch(kind, optimiser, drop_last, num_samples, data):
    features, labels = data
    # A strong decay, so that it would be seen if it were applied to the wrong thing.
    training = brief(optimiser, drop_last=drop_last, weight_decay=0.05, learning_rate=0.02)
    indices, generator = torch.arange(num_samples), torch.Generator().manual_seed(7)
    found = train_head(initial(kind), features, labels, indices, training, generator)
    expected = trained_by_torch(initial(kind), features[indices], labels[indices], training, seed=7)
    assert_heads_close(found, expected, 1e-6)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_stops_early_keeps_its_schedule_as_torch_does(kind, optimiser, data):
    features, labels = data
    whole = brief(optimiser, epochs=40, learning_rate=0.02)
    stopped = whole.stopped_after(6)
    assert (stopped.epochs, stopped.schedule_epochs) == (6, 40)
    found, shortened = (
        train_head(initial(kind), features, labels, torch.arange(M), each, torch.Generator().manual_seed(7))
        for each in (stopped, brief(optimiser, epochs=6, learning_rate=0.02))
    )
    expected = trained_by_torch(initial(kind), features[:M], labels[:M], stopped, seed=7)
    assert_heads_close(found, expected, 1e-6)
    assert not torch.allclose(found.weight, shortened.weight, rtol=0.01)
    assert whole.stopped_after(50).epochs_to_zero == 50  # longer than the training itself
    assert stopped.stopped_after(3).epochs_to_zero == 40


def test_the_papers_protocols():
    assert PROTOCOLS["laplace_updates"] == dataclasses.replace(PROTOCOLS["fast_fishing"], drop_last=True)
    assert PROTOCOLS["fast_fishing"] == Training("radam")
    assert PROTOCOLS["boss"] == PROTOCOLS["refine"] == Training("sgd")
    assert Training("radam") == Training("radam", 1e-2, 1e-4, batch_size=64, epochs=200, drop_last=False)
    assert Training("sgd") == Training("sgd", 1e-2, 5e-4, batch_size=64, epochs=200, drop_last=True)


@pytest.mark.parametrize(
    ("num_samples", "drop_last", "expected"),
    [
        (5, True, [5]),  # the only one is kept
        (8, True, [8]),
        (9, True, [8]),
        (23, True, [8, 8]),
        (23, False, [8, 8, 7]),
        (5, False, [5]),
        (16, False, [8, 8]),
    ],
)
def test_minibatches(num_samples, drop_last, expected):
    slices = brief("sgd", drop_last=drop_last).minibatches(num_samples)
    positions = list(range(num_samples))
    assert [len(positions[each]) for each in slices] == expected
    assert [i for each in slices for i in positions[each]] == positions[: sum(expected)]


def test_no_epochs_give_the_initial_head(data):
    start = initial("mlp")
    head = train_head(start, *data, torch.arange(M), brief("sgd", epochs=0), torch.Generator())
    assert_heads_close(head, start, 0)


def test_order_within_an_index_set_changes_the_minibatches_only(data):
    # One minibatch holds everything: then the order cannot matter.
    training, shuffled = brief("sgd", batch_size=M), torch.randperm(M, generator=torch.Generator().manual_seed(4))
    plain, other = (
        train_head(initial("linear"), *data, indices, training, torch.Generator().manual_seed(0))
        for indices in (torch.arange(M), shuffled)
    )
    assert_heads_close(plain, other, 1e-10)


# --- no surprises


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_global_random_state_are_left_alone(kind, data):
    features, labels = data
    start, sets = stack([initial(kind, seed=seed) for seed in range(HEADS)]), index_sets()
    before = [tensor.clone() for tensor in (*tensors(start).values(), features, labels, sets)]
    state = torch.get_rng_state()
    trained = train_heads(start, features, labels, sets, brief("radam"), seeded(HEADS))
    assert torch.equal(torch.get_rng_state(), state)
    after = (*tensors(start).values(), features, labels, sets)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert {tensor.dtype for tensor in tensors(trained).values()} == {torch.float64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "adam"}, "optimiser is 'adam'; it has to be one of 'sgd', 'radam'"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; a number above 0 and at most 1e\+30"),
        ({"batch_size": 0}, "^batch_size is 0; a whole number of at least 1"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; a number from 0 to 1e\+30 was expected"),
        ({"epochs": -1}, r"epochs is -1; a whole number of at least 0"),
        ({"epochs": 9, "schedule_epochs": 8}, "schedule_epochs is 8; at least 9, the number of epochs, was expected"),
    ],
)
def test_training_refuses_what_is_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        brief("sgd", **changes)


def out_of_range(value: int) -> torch.Tensor:
    sets = index_sets()
    sets[1, 2] = value
    return sets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generators": seeded(HEADS - 1)}, "generators has 3 entries; 4 were expected, one a row of index_sets"),
        ({"index_sets": out_of_range(N)}, "index_sets holds positions from 0 to 37; 0 to 36 was expected"),
        ({"index_sets": out_of_range(-1)}, "index_sets holds positions from -1 to 36; 0 to 36 was expected"),
        ({"index_sets": index_sets()[:, :0]}, r"index_sets has shape \(4, 0\); at least one non-empty set"),
        ({"index_sets": index_sets()[:0], "generators": []}, r"index_sets has shape \(0, 23\); at least one"),
        ({"initial": initial("linear", torch.float32)}, r"weight has dtype torch\.float32, but features has torch"),
        ({"initial": stack([initial("linear")] * 2)}, "initial stacks 2 heads; 1 or 4 were expected"),
        ({"labels": torch.full((N,), K)}, "labels holds labels from 3 to 3; 0 to 2 was expected"),
        ({"labels": torch.full((HEADS, M), K)}, "labels holds labels from 3 to 3; 0 to 2 was expected"),
    ],
)
def test_train_heads_refuses_what_does_not_fit(changes, message, data):
    arguments = {
        "initial": initial("linear"),
        "features": data[0],
        "labels": data[1],
        "index_sets": index_sets(),
        "training": brief("sgd"),
        "generators": seeded(HEADS),
    }
    with pytest.raises(ValueError, match=message):
        train_heads(**(arguments | changes))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((HEADS, M - 1), r"^index_sets has shape \(4, 23\); \(e, m\) with m = 22 as in labels was expected"),
        ((1, M), r"^index_sets has shape \(4, 23\); \(e, m\) with e = 1 as in labels was expected"),
    ],
)
def test_labels_of_another_shape_are_refused(unchecked, shape, message, data):
    labels = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        train_heads(initial("linear"), data[0], labels, index_sets(), brief("sgd"), seeded(HEADS))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_do_not_depend_on_the_dtype(kind):
    single, double = tensors(initial(kind, torch.float32)), tensors(initial(kind))
    assert single.keys() == double.keys()
    for name, tensor in single.items():
        assert torch.equal(tensor.double(), double[name])
    assert {each.dtype for each in single.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_stack_is_made_of_its_heads(kind):
    heads = [Head.initial(kind, 5, 3, generator) for generator in seeded(4)]
    stack = Head.stack(heads)
    for i, head in enumerate(heads):
        for name, part in vars(stack.unstacked(i)).items():
            expected = getattr(head, name)
            assert part is expected is None or torch.equal(part, expected), name


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_how_many_epochs_are_gathered_at_once_does_not_matter(optimiser, data, monkeypatch):
    found = []
    for size in (0, 4 * M * HEADS * 8 * 8, 2**20):  # one epoch, then four, then all
        monkeypatch.setattr(training, "GATHERED_BYTES", size)
        found.append(train_heads(initial("linear"), *data, index_sets(), brief(optimiser), seeded(HEADS)))
    assert all(torch.equal(found[0].weight, each.weight) for each in found)


def test_heads_with_one_order_equal_each_alone_and_leave_their_generators_alike(data):
    alone, together = ([torch.Generator().manual_seed(3) for _ in range(HEADS)] for _ in range(2))
    heads = train_heads(initial("linear"), *data, index_sets(), brief("sgd"), together)
    for i, own in enumerate(alone):
        expected = train_head(initial("linear"), *data, index_sets()[i], brief("sgd"), own)
        assert_heads_close(heads.unstacked(i), expected, 1e-12)
        assert torch.equal(own.get_state(), together[i].get_state())
