import pytest
import torch

from dal_core import strategies, textbook
from dal_core.oracles import dropqueryclass
from dal_core.oracles.typiclass import class_balanced_select
from dal_core.strategies.dropquery import dropquery_candidates
from tests.samples import seeded, snapshot_from

N, M, K, D = 47, 6, 4, 5


def snapshot_of(seed=0):
    draw = seeded(seed)
    features, labelled, weight, truth = (
        torch.randn(size, D, generator=draw, dtype=torch.float64) for size in (N, M, K, K)
    )
    hidden = (features @ truth.T).argmax(dim=1)
    return snapshot_from(
        features, features @ weight.T, labelled, labelled @ weight.T, torch.tensor([0, 0, 1, 3, 3, 3]), weight, None,
        hidden_labels=hidden,
    )  # fmt: skip


def textbook_picks(features, labels, counts, batch_size):
    return textbook.class_balanced_select(features, labels, torch.tensor(counts), batch_size).tolist()


@pytest.mark.parametrize("name", ["typiclass", "dropqueryclass"])
def test_class_aware_strategies_ask_for_ground_truth(name):
    assert strategies.needs_oracle(name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [1, 11, N])
def test_picks_are_those_of_the_textbook_loop(batch_size, seed):
    taken = snapshot_of(seed)
    expected = textbook_picks(taken.features, taken.hidden_labels, [2, 1, 0, 3], batch_size)
    assert strategies.get("typiclass")(taken, batch_size, seeded()).tolist() == expected


def test_class_balanced_golden(golden):
    counts = torch.bincount(golden["y_labeled"], minlength=10)
    picked = class_balanced_select(golden["x_unlabeled"], golden["y_unlabeled"], counts, 12)
    assert picked.tolist() == golden["class_balanced_selected"].tolist()


def test_classes_are_evened_out():
    labels, counts = torch.arange(40) % K, torch.tensor([5, 0, 2, 5])
    features = snapshot_of().features[:40]
    picked = class_balanced_select(features, labels, counts, 8)
    assert labels[picked].tolist() == [1, 1, 1, 2, 1, 2, 1, 2]
    assert counts.tolist() == [5, 0, 2, 5]


def test_a_class_that_is_used_up_is_passed_over():
    labels = torch.tensor([2, 0, 0, 2, 0, 0])
    picked = class_balanced_select(snapshot_of().features[:6], labels, torch.tensor([3, 0, 0]), 6)
    assert labels[picked].tolist() == [2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_instances_of_a_class_tie_and_the_first_is_taken(dtype):
    for seed in range(20):
        features = torch.randn(2, 300, generator=seeded(seed), dtype=dtype) + 10
        assert class_balanced_select(features, torch.zeros(2, dtype=torch.int64), torch.zeros(1).long(), 2)[0] == 0


def test_permuting_the_pool_permutes_the_picks():
    taken, counts = snapshot_of(), torch.zeros(K, dtype=torch.int64)
    order = torch.randperm(N, generator=seeded(3))
    picked = class_balanced_select(taken.features[order], taken.hidden_labels[order], counts, 9)
    assert order[picked].tolist() == class_balanced_select(taken.features, taken.hidden_labels, counts, 9).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_dropqueryclass_takes_candidates_first_and_goes_on_with_the_others(seed):
    taken = snapshot_of(seed)
    candidates = dropquery_candidates(taken, 25 * N, seeded(5)).tolist()
    assert 5 < len(candidates) < N
    hidden, unit = taken.hidden_labels, torch.nn.functional.normalize(taken.features, dim=1)
    expected = textbook_picks(unit[candidates], hidden[candidates], [2, 1, 0, 3], len(candidates))
    expected = [candidates[i] for i in expected]
    few = strategies.get("dropqueryclass")(taken, 5, seeded(5)).tolist()
    assert few == expected[:5]
    counts = torch.tensor([2, 1, 0, 3]) + torch.bincount(hidden[candidates], minlength=K)
    others = [i for i in range(N) if i not in candidates]
    expected += [others[i] for i in textbook_picks(unit[others], hidden[others], counts.tolist(), len(others))]
    assert strategies.get("dropqueryclass")(taken, N, seeded(5)).tolist() == expected


def test_dropqueryclass_passes_its_options_on(monkeypatch):
    asked = []

    def spying(snapshot, enough, generator, **options):
        asked.append((enough, options))
        return torch.arange(9)

    monkeypatch.setattr(dropqueryclass, "dropquery_candidates", spying)
    strategies.get("dropqueryclass", {"num_passes": 5, "dropout": 0.5})(snapshot_of(), 4, seeded())
    assert asked == [(100, {"num_passes": 5, "dropout": 0.5})]


def test_faults_name_the_argument():
    taken, counts = snapshot_of(), torch.zeros(K, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"batch_size is {N + 1}; 1 to {N}"):
        class_balanced_select(taken.features, taken.hidden_labels, counts, N + 1)
    with pytest.raises(ValueError, match="labels holds labels from 0 to 3; 0 to 2 was expected"):
        class_balanced_select(taken.features, taken.hidden_labels, counts[:3], 2)
    broken = taken.features.clone()
    broken[2, 1] = torch.inf
    with pytest.raises(ValueError, match=r"features holds 1 values that are NaN or infinite, the first at \(2, 1\)"):
        class_balanced_select(broken, taken.hidden_labels, counts, 2)
