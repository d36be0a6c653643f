"""What cannot fit is refused before it is allocated, with the number of bytes and the way out (rule 7)."""

import gc
import re
import weakref
from types import SimpleNamespace

import psutil
import pytest
import torch

from dal_core.checks import check_memory
from dal_core.laplace import precision_matrix, sample_weights, second_order_weights
from dal_core.models.heads import Head
from dal_core.models.training import Training, train_heads
from dal_core.oracles.lookahead import candidate_batches
from dal_core.snapshot import Snapshot
from dal_core.strategies.registry import get, query
from dal_core.strategies.shared.clustering import k_means, nearest_to_means


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))


def test_the_size_is_that_of_the_dtype():
    like = torch.empty(0, dtype=torch.float64)
    message = "the thing of shape (1000000, 1000000, 1000000) needs 8,000,000,000,000,000,000 bytes"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_memory("the thing", (10**6,) * 3, like, "make it smaller")
    check_memory("the thing", (10, 10), like, "make it smaller")


def test_hypotheses(little_memory, generator):
    with pytest.raises(ValueError, match=r"shape \(20, 3, 5\) needs 1,200 bytes, 1,000 are free on cpu; draw fewer"):
        sample_weights(torch.zeros(3, 5), torch.eye(5), 20, generator)
    assert sample_weights(torch.zeros(3, 5), torch.eye(5), 10, generator).shape == (10, 3, 5)


def test_precision_matrix(little_memory):
    with pytest.raises(ValueError, match=r"shape \(17, 17\) needs 1,156 bytes"):
        precision_matrix(torch.zeros(3, 17))


def test_heads_trained_at_once(little_memory, generator):
    initial = Head.initial("linear", 5, 3, generator)
    sets, generators = torch.zeros(20, 1, dtype=torch.int64), [torch.Generator() for _ in range(20)]
    with pytest.raises(ValueError, match=r"shape \(20, 3, 5\) needs 1,200 bytes.*train fewer heads at once"):
        train_heads(initial, torch.ones(2, 5), torch.tensor([0, 1]), sets, Training("sgd"), generators)


def test_updated_weights_of_candidates(little_memory):
    features, targets = torch.ones(20, 2, 5), torch.zeros(20, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="use fewer candidate batches"):
        second_order_weights(torch.zeros(3, 5), torch.eye(5), features, targets)


def test_candidate_batches(little_memory, generator):
    snapshot = Snapshot.of(torch.ones(13, 5), torch.ones(13, 3), labelled=[0, 1], labels=[0, 1])
    with pytest.raises(ValueError, match=r"shape \(6, 30, 11\) needs 7,920 bytes"):
        candidate_batches(snapshot, 2, 30, generator)


def test_k_means_and_what_is_nearest_to_its_means(little_memory, generator):
    features = torch.randn(20, 5, generator=generator)
    with pytest.raises(ValueError, match=r"k-means on the instances of shape \(20, 20\) needs 1,600 bytes"):
        k_means(features, 3, generator)
    with pytest.raises(ValueError, match=r"of shape \(20, 25\) needs 2,000 bytes.*use a smaller subset of the pool"):
        k_means(features, 35, generator)
    with pytest.raises(ValueError, match=r"of shape \(3, 20, 5\) needs 2,400 bytes"):
        nearest_to_means(features, torch.zeros(20, dtype=torch.int64))
    assert len(k_means(features[:10], 3, generator)) == 10


@pytest.mark.parametrize(
    ("free", "what"), [(1000, "the Fisher information with its inverse"), (20_000, "what all picks change")]
)
def test_exact_bait(free, what, monkeypatch, generator):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    features, logits = torch.randn(40, 4, generator=generator), torch.randn(40, 3, generator=generator)
    snapshot = Snapshot.of(features, logits, labelled=[0, 1], labels=[0, 1])
    with pytest.raises(ValueError, match=f"{what} of shape .* use approximation='binary'"):
        query(get("bait", {"approximation": "exact"}), snapshot, 8, generator)
    assert len(query(get("bait"), snapshot, 8, generator)) == 8


@pytest.mark.parametrize("name", ["random", "margin", "badge", "bait", "typiclust", "max_herding"])
def test_what_a_query_was_asked_on_is_free_afterwards(name, generator):
    """Without waiting for the garbage collector: BoSS and REFINE ask hundreds of queries, each on a copy."""
    features, logits = torch.randn(40, 4, generator=generator), torch.randn(40, 3, generator=generator)
    snapshot = Snapshot.of(features, logits, labelled=[0, 1], labels=[0, 1])
    gc.disable()
    try:
        query(get(name), part := snapshot.at(torch.arange(20)), 3, generator)
        still_there = weakref.ref(part)
        del part
        assert still_there() is None
    finally:
        gc.enable()
