import pytest
import torch

from dal_core import textbook
from dal_core.strategies.falcun import falcun_select
from dal_core.strategies.uncertainty import margin_scores

N, K = 31, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def probabilities_of(seed=0, scale=2.0):
    return (scale * torch.randn(N, K, generator=seeded(seed), dtype=torch.float64)).softmax(dim=1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_picks_are_those_of_the_textbook_loop(seed, gamma):
    probabilities = probabilities_of(seed)
    picked = falcun_select(probabilities, 12, seeded(seed), gamma=gamma)
    assert picked.tolist() == textbook.falcun_select(probabilities, 12, seeded(seed), gamma=gamma).tolist()


def test_the_first_pick_is_drawn_in_proportion_to_its_relevance():
    probabilities = probabilities_of()
    first = [int(falcun_select(probabilities, 1, seeded(seed), gamma=2.0)) for seed in range(4000)]
    shares = torch.bincount(torch.tensor(first), minlength=N) / 4000
    expected = margin_scores(probabilities).square()
    torch.testing.assert_close(shares.double(), expected / expected.sum(), atol=0.02, rtol=0)


def test_a_huge_gamma_takes_the_most_relevant_one():
    probabilities = probabilities_of()
    assert int(falcun_select(probabilities, 1, seeded(), gamma=1e6)) == int(margin_scores(probabilities).argmax())


def test_what_repeats_a_pick_waits_for_the_others():
    probabilities = torch.tensor([[0.5, 0.5, 0.0]] * 3 + [[0.0, 0.5, 0.5]] * 3)
    for seed in range(5):
        picked = falcun_select(probabilities, 2, seeded(seed), gamma=50.0)
        assert sorted((picked // 3).tolist()) == [0, 1]


def test_faults_name_the_argument():
    with pytest.raises(ValueError, match=r"gamma is -0\.5; a finite number of at least 0 was expected"):
        falcun_select(probabilities_of(), 3, seeded(), gamma=-0.5)
    with pytest.raises(ValueError, match=f"batch_size is {N + 1}; 1 to {N}"):
        falcun_select(probabilities_of(), N + 1, seeded())
    with pytest.raises(ValueError, match=r"probabilities has shape \(31, 1\); 2 or more classes were expected"):
        falcun_select(probabilities_of()[:, :1], 3, seeded())
