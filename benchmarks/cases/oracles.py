"""BoSS: a query at the size of Banking77, and its judgement of candidates against one head after another.

Axes: t candidates, b batch, m labelled, n unlabelled, k classes, d features.
"""

import dataclasses

import torch
from torch import Tensor

from benchmarks import textbook
from benchmarks.case import Case, Goal
from benchmarks.data import NUM_CLASSES, NUM_FEATURES, clustered, size_of
from benchmarks.timing import check_agreement
from dal_core.heads import PROTOCOLS, Head, train_head
from dal_core.oracles.boss import STRATEGIES, boss, propose
from dal_core.oracles.judging import Judgement, judge
from dal_core.pool import LabelledSet, OracleSnapshot
from dal_core.randomness import generator_for, generators_from, integer_seed

NUM_POOL, NUM_LABELLED, NUM_TEST = 9600, 377, 3080
NUM_CANDIDATES, BATCH_SIZE, MEASURED = 100, 50, 5


def oracle_snapshot() -> OracleSnapshot:
    """Half way through a run on Banking77, in numbers."""
    features, labels = clustered(NUM_LABELLED + NUM_POOL + NUM_TEST, generator_for(0, "features"))
    features = features.float()
    (known, pool, test), (known_labels, hidden, test_labels) = (
        each.split([NUM_LABELLED, NUM_POOL, NUM_TEST]) for each in (features, labels)
    )
    initial = Head.initial("linear", NUM_FEATURES, NUM_CLASSES, generator_for(0, "head"))
    everything = torch.arange(NUM_LABELLED)
    head = train_head(initial, known, known_labels, everything, PROTOCOLS["sgd"], generator_for(0, "minibatches"))
    return OracleSnapshot(
        pool, head.logits(pool), known, head.logits(known), known_labels, head.weight, head.bias, hidden,
        LabelledSet(test, test_labels), initial=initial,
    )  # fmt: skip


def query() -> Case:
    """Candidates included."""
    at = oracle_snapshot()
    size = f"t={NUM_CANDIDATES}, {size_of(at, BATCH_SIZE)}, 50 epochs"
    return Case(size, lambda: boss(at, BATCH_SIZE, generator_for(0, "boss")), goal=Goal(seconds=20))


def judgement() -> Case:
    """The same candidates, batched, and with nn.Linear, torch.optim and a DataLoader one after another."""
    at = oracle_snapshot()
    names = [STRATEGIES[i % len(STRATEGIES)] for i in range(NUM_CANDIDATES)]
    generators = generators_from(generator_for(0, "candidates"), NUM_CANDIDATES)
    candidates = propose(at, BATCH_SIZE, names, generators, {}).batches

    def ours(loss: str = "zero_one") -> Tensor:
        return judge(at, candidates, Judgement(loss=loss), generator_for(0, "judgement"))

    def plain(count: int = MEASURED, loss: str = "zero_one") -> Tensor:
        assert at.initial is not None
        assert at.test is not None
        return textbook.judge(
            at.initial,
            (at.labelled_features, at.labels),
            ((at.features[batch], at.hidden_labels[batch]) for batch in candidates[:count]),
            (at.test.features, at.test.labels),
            dataclasses.replace(at.training, epochs=50),
            integer_seed(generator_for(0, "judgement")),
            loss,
        )

    every = plain(NUM_CANDIDATES, "cross_entropy")
    check_agreement("losses", [ours("cross_entropy")], [every], 1e-4)
    if int(ours("cross_entropy").argmin()) != int(every.argmin()):
        raise RuntimeError("batched judgement buys another batch than one head after another")
    size = f"t={NUM_CANDIDATES}, {size_of(at, BATCH_SIZE)}, 50 epochs"
    note = f"one after another, {MEASURED} of {NUM_CANDIDATES}, scaled; same batch, same losses"
    return Case(size, ours, plain, Goal(ratio=5), NUM_CANDIDATES / MEASURED, note)


CASES = {"boss-query": query, "boss-judgement": judgement}
