import math

import pytest
import torch

from dal_core import textbook
from dal_core.strategies import badge
from dal_core.strategies.badge import badge_embedding_norm, badge_select


def pool(n=31, k=3, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(n, k, generator=generator, dtype=dtype))


def test_norms_are_those_of_the_embeddings():
    features, logits = pool()
    expected = textbook.badge_embedding_norm(features, logits)
    torch.testing.assert_close(badge_embedding_norm(features, logits), expected, rtol=1e-12, atol=0)


def test_golden_norms_and_first_pick(golden, generator):
    features, logits = golden["x_unlabeled"], golden["logits_unlabeled"]
    norms = badge_embedding_norm(features, logits)
    assert (norms - golden["badge_embedding_norm"]).norm() <= 1e-8 * norms.norm()
    assert badge_select(features, logits, 1, generator).item() == golden["badge_first_center"].item()


@pytest.mark.parametrize("cached", [badge.CACHED, 0], ids=["all features", "those that matter"])
@pytest.mark.parametrize("seed", range(5))
def test_picks_are_those_of_k_means_plus_plus_on_the_embeddings(seed, cached, monkeypatch):
    monkeypatch.setattr(badge, "CACHED", cached)
    features, logits = pool()
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    picked = badge_select(features, logits, 9, generators[0])
    assert picked.tolist() == textbook.badge_select(features, logits, 9, generators[1]).tolist()


def test_far_instances_are_drawn_in_proportion_to_their_squared_distance():
    """Three directions of error with lengths 3, 2 and 1: after the longest, the others by squared distance."""
    features = torch.tensor([[3.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]], dtype=torch.float64)
    logits = torch.zeros(3, 2, dtype=torch.float64)  # |e|^2 = 1/2 for all, and the phi are orthogonal
    counts = torch.zeros(3)
    draws = 2000
    for seed in range(draws):
        picked = badge_select(features, logits, 2, torch.Generator().manual_seed(seed))
        assert picked[0] == 0
        counts[picked[1]] += 1
    share = (9 + 4) / ((9 + 4) + (9 + 1))
    assert counts[1] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


def test_certain_predictions_still_give_distinct_picks(generator):
    features = torch.randn(11, 5, generator=generator)
    logits = torch.zeros(11, 3)
    logits[:, 1] = 1000.0  # one-hot: all embeddings are zero
    assert sorted(badge_select(features, logits, 11, generator).tolist()) == list(range(11))


def test_faults_name_the_argument(generator):
    features, logits = pool()
    with pytest.raises(ValueError, match="batch_size is 32; 1 to 31"):
        badge_select(features, logits, 32, generator)
    with pytest.raises(ValueError, match="batch_size is 0; 1 to 31"):
        badge_select(features, logits, 0, generator)
    with pytest.raises(ValueError, match=r"logits has dtype torch\.float32, but features has torch\.float64"):
        badge_select(features, logits.float(), 3, generator)
    features[4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"features holds 1 values that are NaN or infinite, the first at \(4, 2\)"):
        badge_embedding_norm(features, logits)


def test_one_column_of_logits_is_refused(generator):
    features, logits = pool(k=1)
    for function in (badge_embedding_norm, lambda *pair: badge_select(*pair, 3, generator)):
        with pytest.raises(ValueError, match=r"logits has shape \(31, 1\); 2 or more classes were expected"):
            function(features, logits)
