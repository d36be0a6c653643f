"""The benchmarks' textbook loops on tiny pools: an independent oracle for the fast ways."""

import pytest
import torch

from benchmarks import textbook_bait
from benchmarks.case import Goal
from benchmarks.timing import Timing
from dal_core.strategies.bait.select import bait_select

APPROXIMATIONS = [
    {"approximation": "exact"},
    {"approximation": "top", "top_classes": 1},
    {"approximation": "top", "top_classes": 2, "renormalise": False},
    {"approximation": "top", "top_classes": 3},
    {"approximation": "binary"},
]
POOLS = {"Gram matrix": {"n": 13, "m": 3, "k": 4, "d": 17}, "parameters": {"n": 37, "m": 7, "k": 4, "d": 5}}


def pool(n, m, k, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n + m, k))
    logits = features @ weight.mT
    return features[:n], logits[:n], features[n:], logits[n:]


@pytest.mark.parametrize("sizes", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("options", APPROXIMATIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("selection", ["forward_backward", "topk"])
@pytest.mark.parametrize("fisher", ["sum", "mean"])
def test_bait_is_the_general_loop(sizes, options, selection, fisher):
    for prior_precision in (1.0, 0.1):
        options = options | {"selection": selection, "fisher": fisher, "prior_precision": prior_precision}
        for batch_size in (1, 5):
            expected = textbook_bait.select(*pool(**sizes), batch_size, **options)
            assert bait_select(*pool(**sizes), batch_size, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("fisher", ["sum", "mean"])
def test_binary_bait_is_the_rank_one_loop(fisher):
    features_u, logits_u, features_l, logits_l = pool(n=37, m=7, k=4, d=5)
    rows = textbook_bait.one_row(features_u, logits_u), textbook_bait.one_row(features_l, logits_l)
    expected = textbook_bait.rank_one_select(textbook_bait.start(*rows, 6, fisher=fisher), 6)
    assert bait_select(features_u, logits_u, features_l, logits_l, 6, fisher=fisher).tolist() == expected.tolist()


def test_exact_factors_have_the_fisher_information_as_gram():
    features, logits, _, _ = pool(n=11, m=2, k=3, d=5)
    p = logits.softmax(dim=1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.stack([torch.kron(h, torch.outer(x, x)) for h, x in zip(inner, features, strict=True)])
    x = textbook_bait.factors(features, logits, "exact")
    torch.testing.assert_close(x.mT @ x, expected, rtol=1e-12, atol=1e-14)


def test_two_rows_and_one_have_the_same_gram():
    features, logits, _, _ = pool(n=11, m=2, k=3, d=5)
    two, one = textbook_bait.factors(features, logits, "binary"), textbook_bait.one_row(features, logits)
    torch.testing.assert_close(two.mT @ two, one.mT @ one, rtol=1e-12, atol=1e-14)


def test_goals():
    faster, slower = Timing(1.0, 7.0), Timing(1.0, 0.4)
    assert Goal(ratio=5).met(faster, None)
    assert not Goal(ratio=5).met(slower, None)
    assert Goal(ratio=1 / 3).met(slower, None)
    assert not Goal(ratio=1).met(Timing(1.0, None), None)
    assert Goal(seconds=2, memory=2e9).met(slower, 10**9)
    assert not Goal(seconds=2, memory=2e9).met(slower, 3 * 10**9)
    assert not Goal(seconds=0.5, memory=2e9).met(slower, 10**9)
    assert str(Goal(seconds=20, ratio=1 / 3, memory=2e9)) == "< 20 s, >= 1/3x, < 2 GB"
    assert str(Goal()) == "none"
