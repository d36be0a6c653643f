"""The benchmarks' textbook loops on tiny pools: an independent oracle for the fast ways."""

import torch

from benchmarks.case import Goal
from benchmarks.timing import Timing


def pool(n, m, k, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n + m, k))
    logits = features @ weight.mT
    return features[:n], logits[:n], features[n:], logits[n:]


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
