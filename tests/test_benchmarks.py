"""The benchmarks' textbook loops on tiny pools: an independent oracle for the fast ways."""

import torch

from benchmarks import textbook_coverage
from benchmarks.case import Goal
from benchmarks.timing import Timing
from dal_core.strategies.badge import badge_select
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.herding import herding_select


def pool(n, m, k, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(size, d, generator=generator, dtype=torch.float64) for size in (n + m, k))
    logits = features @ weight.mT
    return features[:n], logits[:n], features[n:], logits[n:]


def test_strategies_that_spread_are_the_obvious_ways(generator):
    features, logits, labelled, _ = pool(n=37, m=7, k=4, d=5)
    assert k_center_greedy(features, labelled, 6).tolist() == textbook_coverage.core_set(features, labelled, 6).tolist()
    picked = badge_select(features, logits, 6, torch.Generator().manual_seed(0))
    assert picked.tolist() == textbook_coverage.badge(features, logits, 6, generator).tolist()
    unit = [torch.nn.functional.normalize(each, dim=1) for each in (features, labelled)]
    uncertainty = 1 - logits.softmax(dim=1).amax(dim=1)
    for form in ("rowwise", "coverage"):
        expected = textbook_coverage.herding(*unit, 6, gamma=1.0, uncertainty=uncertainty, form=form)
        assert herding_select(*unit, 6, gamma=1.0, uncertainty=uncertainty, form=form).tolist() == expected.tolist()


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
