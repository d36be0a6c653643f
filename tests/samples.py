"""Small random inputs that tests of several strategies share."""

import functools

import torch

from dal_core.blocks import blocks
from dal_core.data import Labelled
from dal_core.models.heads import Head
from dal_core.models.learners import HeadModel, Linear, Mlp
from dal_core.models.training import Training
from dal_core.randomness import generator_for
from dal_core.snapshot import Snapshot, Truth, take_snapshot
from dal_core.task import Classification

# Settings of an experiment of a second.
SMALL = {"cycles": 2, "batch_size": 3, "subset_size": 50, "device": "cpu", "options": {"epochs": 2}}
# A script that registers a strategy, with the places {name} and {descending}.
STRATEGY = """
    import torch
    from dal_core.strategies import register

    def sizes(features):
        return features.norm(dim=1)

    @register("{name}")
    def by_size(snapshot, batch_size, generator):
        return torch.argsort(sizes(snapshot.features), descending={descending}, stable=True)[:batch_size]
"""


def points(n=23, m=4, d=5, seed=0, dtype=torch.float64):
    """Return unlabelled and labelled features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(m, d, generator=generator, dtype=dtype)


def unit_points(**sizes):
    """Return the same, L2-normalised."""
    return tuple(torch.nn.functional.normalize(each, dim=1) for each in points(**sizes))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def snapshot_from(
    features, logits, labelled_features, labelled_logits, labels, weight=None, bias=None, *, training=None, **others
):
    """Return the richest view of these parts; in the data the labelled instances come first."""
    learner = others.pop("learner", None) or Linear(training or Training())
    others = {name: value for name, value in others.items() if value is not None}
    both = None if logits is None else torch.cat((labelled_logits, logits))
    return Snapshot.of(
        torch.cat((labelled_features, features)), both, labelled=range(len(labels)), labels=labels, weight=weight,
        bias=bias, learner=learner, **others,
    )  # fmt: skip


def snapshot_of(n=31, m=13, k=3, d=5, **changes):
    """Return a snapshot whose labels follow from a linear rule that its head does not know."""
    draw = seeded(7)
    features, labelled, weight, truth = (
        torch.randn(size, d, generator=draw, dtype=torch.float64) for size in (n, m, k, k)
    )
    labels = (labelled @ truth.T).argmax(dim=1)
    values = {"features": features, "logits": features @ weight.T, "labelled_features": labelled}
    values |= {"labelled_logits": labelled @ weight.T, "labels": labels, "weight": weight, "bias": None}
    return snapshot_from(**(values | changes))


def with_hidden_layer(plain, hidden=6):
    """Return the same cycle of a head with a hidden layer, whose units are the features; it starts from another."""
    learner, k = Mlp(plain.learner.training, hidden=hidden), plain.num_classes
    model = HeadModel(Head.stack([learner.initial(plain.features, k, lambda _: seeded(11))]))
    others = vars(plain).get("hidden_labels", torch.zeros(len(plain.features), dtype=torch.int64))
    truth = {"test": plain.test, "validation": plain.validation} if isinstance(plain, Truth) else None
    return take_snapshot(
        Labelled(plain.data, torch.cat((plain.labels, others))), plain.labelled, plain.instances, learner, model, truth,
        task=Classification(k), cycle=plain.cycle, draw=plain.draw,
    )  # fmt: skip


def oracle_snapshot_of(n, m, k, d, n_test, n_validation, **changes):
    """Return a snapshot whose ground truth follows from a linear rule; training starts from another head."""
    draw = seeded(7)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    features, labelled, weight, bias, truth = normal(n, d), normal(m, d), normal(k, d), normal(k), normal(d, k)

    def labelled_set(size):
        drawn = normal(size, d)
        return drawn, (drawn @ truth).argmax(dim=1)

    values = {
        "features": features,
        "logits": features @ weight.mT + bias,
        "labelled_features": labelled,
        "labelled_logits": labelled @ weight.mT + bias,
        "labels": (labelled @ truth).argmax(dim=1),
        "weight": weight,
        "bias": bias,
        "hidden_labels": (features @ truth).argmax(dim=1),
        "test": labelled_set(n_test),
        "validation": labelled_set(n_validation),
    }
    return snapshot_from(**(values | changes))


def failing_for_seed(seed, error):
    """Return a strategy that ends with `error` in the second acquisition of the run with `seed`."""

    def failing(snapshot, batch_size, generator):
        if generator.initial_seed() == generator_for(seed, "strategy", 1).initial_seed():
            raise error
        return torch.arange(batch_size)

    return failing


def work_in_blocks(monkeypatch, module, block_bytes):
    """Let the loops of a module over blocks hold so many bytes at a time."""
    monkeypatch.setattr(module, "blocks", functools.partial(blocks, block_bytes=block_bytes))
