"""What CUDA computes beside what the CPU does, in float64: golden vectors, picks, heads, extraction, runs.

Skipped without CUDA. With DAL_CUDA_TESTS_ON=cpu they compare the CPU with itself, which shows that they run.
"""

import dataclasses
import itertools
import math
import os
from typing import get_args

import numpy as np
import pytest
import torch
from samples import points, seeded, snapshot_of, unit_points
from test_strategy_contract import ALL, on_device, pick, strategy_of, usual

from benchmarks.gpu import twins
from dal_core import laplace, metrics, strategies
from dal_core.models.heads import KINDS, Head
from dal_core.models.training import OPTIMISERS, Training, train_heads
from dal_core.oracles.typiclass import class_balanced_select
from dal_core.strategies.alfamix import alfamix_candidates
from dal_core.strategies.badge import badge_embedding_norm, badge_select
from dal_core.strategies.bait import bait_select
from dal_core.strategies.bait.select import Approximation, Fisher, Selection
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.herding import herding_select
from dal_core.strategies.probcover import probcover_select
from dal_core.strategies.shared.clustering import k_means
from dal_core.strategies.uncertainty import least_confident_scores, margin_scores
from dal_core.updates import Updates, select_sequentially
from dal_lab.runs.settings import experiment_of
from dal_lab.runs.study import run
from dal_lab.sources.encoders import Encoder, load_encoder
from dal_lab.studies.updating import UpdateStudy

WHERE = os.environ.get("DAL_CUDA_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(WHERE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
GOLDEN_ERROR = 1e-8  # relative, as for the golden vectors on the CPU
POOL = {"n": 97, "m": 23}
# Features in half the bits: of the tests' small models, whose outputs are of size 1.
HALF_PRECISION = 0.1


@pytest.fixture
def there(golden):
    """The golden vectors on the device."""
    return {name: value.to(WHERE) for name, value in golden.items()}


def assert_golden(found, expected):
    assert found.device.type == WHERE
    error = float((found - expected).norm() / expected.norm())
    assert error <= GOLDEN_ERROR, f"relative error {error:.2e}"


def new_samples(golden):
    return golden["x_unlabeled"][:10], golden["y_unlabeled"][:10].long()


# --- golden vectors


@pytest.mark.parametrize("likelihood", laplace.LIKELIHOODS)
def test_golden_posterior(there, likelihood):
    precision = laplace.precision_matrix(there["x_labeled"], there["logits_labeled"], likelihood=likelihood)
    assert_golden(precision, there[f"{likelihood}/precision"])
    assert_golden(laplace.covariance_matrix(precision), there[f"{likelihood}/covariance"])
    variance = laplace.predictive_variance(there["x_test"], there[f"{likelihood}/covariance"])
    for name, factor in {"0.4": 0.4, "pi_over_8": math.pi / 8}.items():
        found = laplace.mean_field_logits(there["logits_test"], variance, factor)
        assert_golden(found, there[f"{likelihood}/mean_field_logits_{name}"])


@pytest.mark.parametrize(
    ("gamma", "passes", "name"), [(1.0, 1, "gamma1"), (10.0, 1, "gamma10"), (1.0, 2, "gamma1_lambda2")]
)
@pytest.mark.parametrize("likelihood", laplace.LIKELIHOODS)
def test_golden_second_order(there, likelihood, gamma, passes, name):
    start = (there["weight"], there[f"{likelihood}/covariance"], *new_samples(there))
    weight, _ = laplace.second_order_update(*start, likelihood=likelihood, gamma=gamma, passes=passes)
    assert_golden(weight, there[f"{likelihood}/second_order_weight_{name}"])


def test_golden_first_order_and_monte_carlo(there):
    found = laplace.first_order_update(there["weight"], *new_samples(there), gamma=0.01, passes=1)
    assert_golden(found, there["first_order_weight_gamma0.01"])
    for gamma in (0.01, 1.0):
        found = laplace.monte_carlo_weights(there["mc/hypotheses"], *new_samples(there), gamma=gamma)
        assert_golden(found, there[f"mc/posterior_weights_gamma{gamma:g}"])


@pytest.mark.parametrize("name", ["exact", "binary", "top1_norm", "top1_raw", "top2_norm", "top5_raw"])
@pytest.mark.parametrize("fisher", get_args(Fisher))
def test_golden_bait(there, name, fisher):
    options = {"approximation": name}
    if name.startswith("top"):
        options = {"approximation": "top", "top_classes": int(name[3]), "renormalise": name.endswith("norm")}
    inputs = (there[key] for key in ("x_unlabeled", "logits_unlabeled", "x_labeled", "logits_labeled"))
    picked = bait_select(*inputs, 10, fisher=fisher, **options)
    assert picked.tolist() == there[f"bait/{name}/{fisher}/selected"].tolist()


def test_golden_core_set_and_class_balanced(there):
    picked = k_center_greedy(there["x_unlabeled"], there["x_labeled"], 10)
    assert picked.tolist() == there["coreset_selected"].tolist()
    counts = torch.bincount(there["y_labeled"], minlength=10)
    picked = class_balanced_select(there["x_unlabeled"], there["y_unlabeled"], counts, 12)
    assert picked.tolist() == there["class_balanced_selected"].tolist()


@pytest.mark.parametrize("form", ["rowwise", "coverage"])
def test_golden_herding(there, form):
    unit = [torch.nn.functional.normalize(there[f"x_{name}"], dim=1) for name in ("unlabeled", "labeled")]
    assert herding_select(*unit, 10, gamma=1.0, form=form).tolist() == there[f"max_herding/selected_{form}"].tolist()
    uncertainty = margin_scores((there["logits_unlabeled"] / there["uncertainty_herding/temperature"]).softmax(dim=1))
    gamma = 1 / there["uncertainty_herding/min_dist"].item() ** 2
    picked = herding_select(*unit, 10, gamma=gamma, uncertainty=uncertainty, form=form)
    assert picked.tolist() == there[f"uncertainty_herding/selected_{form}"].tolist()


def test_golden_badge_and_alfamix(there):
    features, logits = there["x_unlabeled"], there["logits_unlabeled"]
    assert_golden(badge_embedding_norm(features, logits), there["badge_embedding_norm"])
    assert badge_select(features, logits, 1, seeded()).item() == there["badge_first_center"].item()
    names = ("x_unlabeled", "logits_unlabeled", "weight", "bias", "x_labeled", "y_labeled")
    found = alfamix_candidates(*(there[name] for name in names))
    assert found.tolist() == there["alfamix_candidates"].tolist()


def test_golden_scores_and_metrics(there):
    probabilities = there["logits_unlabeled"].softmax(dim=1)
    assert_golden(margin_scores(probabilities), there["margin_scores"])
    assert_golden(least_confident_scores(probabilities), there["least_confident_scores"])
    for name in ("accuracy", "nll", "brier"):
        found = getattr(metrics, name)(there["logits_test"], there["y_test"].long())
        assert found == pytest.approx(there[f"metric/{name}"].item(), rel=GOLDEN_ERROR)


# --- picks


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sizes", [{}, POOL], ids=["small", "larger"])
def test_strategies_pick_as_on_the_cpu(name, sizes):
    """Oracles and ensembles are among them."""
    snapshot = usual(name, **sizes)
    expected = strategy_of(name)(snapshot, 7, seeded())
    found = strategy_of(name)(on_device(snapshot, WHERE), 7, seeded())
    assert found.device.type == WHERE
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ALL)
def test_strategies_pick_the_same_again(name):
    snapshot = on_device(usual(name, **POOL, dtype=torch.float32), WHERE)
    assert pick(name, snapshot) == pick(name, snapshot)


@pytest.mark.parametrize(
    ("approximation", "selection", "fisher"),
    list(itertools.product(*map(get_args, (Approximation, Selection, Fisher)))),
)
@pytest.mark.parametrize("d", [5, 40])  # in the space of the parameters, and in that of the rows
def test_bait_picks_as_on_the_cpu(approximation, selection, fisher, d):
    snapshot = snapshot_of(d=d)
    options = {"approximation": approximation, "selection": selection, "fisher": fisher}
    options |= {"top_classes": 2} if approximation == "top" else {}
    pool = (snapshot.features, snapshot.logits, snapshot.labelled_features, snapshot.labelled_logits)
    found = bait_select(*(each.to(WHERE) for each in pool), 7, **options)
    assert found.tolist() == bait_select(*pool, 7, **options).tolist()


@pytest.mark.parametrize("name", ["margin", "bait", "badge"])
def test_sequential_batches_are_those_of_the_cpu(name):
    snapshot, truth = snapshot_of(), torch.arange(31) % 3

    def batch(snapshot, truth):
        return select_sequentially(strategies.get(name), snapshot, 7, seeded(), truth, Updates(every=2))

    assert batch(on_device(snapshot, WHERE), truth.to(WHERE)).tolist() == batch(snapshot, truth).tolist()


def test_k_means_finds_the_clusters_of_the_cpu():
    features, _ = points(n=300, d=9)
    assert k_means(features.to(WHERE), 12, seeded()).tolist() == k_means(features, 12, seeded()).tolist()


def test_the_twins_pick_as_the_package_does():
    features, labelled = (each.to(WHERE) for each in points(n=97, m=11))
    unit = [each.to(WHERE) for each in unit_points(n=97, m=11)]
    logits = features[:, :3].contiguous()
    ways = {
        "core-set": (k_center_greedy(features, labelled, 13), twins.core_set_without_waiting(features, labelled, 13)),
        "BADGE": (
            badge_select(features, logits, 13, seeded()), twins.badge_without_waiting(features, logits, 13, seeded()),
        ),
        "herding": (herding_select(*unit, 13, gamma=1.0), twins.herding_with_one_look(*unit, 13, gamma=1.0)),
        "probcover": (
            probcover_select(*unit, 60, seeded(), radius=0.5),
            twins.probcover_without_waiting(*unit, 60, seeded(), radius=0.5),
        ),
    }  # fmt: skip
    for name, (expected, found) in ways.items():
        assert found.tolist() == expected.tolist(), name


# --- heads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_heads_are_those_of_the_cpu(kind, optimiser):
    features, _ = points(n=31)
    sets = torch.stack([torch.arange(11), torch.arange(20, 31)])
    training = dataclasses.replace(Training(optimiser), epochs=20, batch_size=4)

    def trained(device):
        initial = Head.initial(kind, 5, 3, seeded(), dtype=torch.float64, device=device)
        moved = [each.to(device) for each in (features, torch.arange(31) % 3, sets)]
        return train_heads(initial, *moved, training, [seeded(i) for i in range(2)])

    expected, found = trained("cpu"), trained(WHERE)
    assert found.weight.device.type == WHERE
    for name, value in vars(expected).items():
        if value is not None:
            torch.testing.assert_close(getattr(found, name).cpu(), value, rtol=1e-9, atol=1e-11)


# --- extraction


@pytest.mark.parametrize("family", ["dinov2", "clip", "bert"])
def test_encoders_give_the_features_of_the_cpu(model_folders, family):
    """In half the bits on CUDA: each feature within what they tell apart, and vectors that point the same way."""
    kind = "text" if family == "bert" else "image"
    if kind == "image":
        from PIL import Image

        draw = np.random.default_rng(0)
        instances = [Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    else:
        instances = ["how do i", "card lost fees", "fees"]
    encoder = Encoder(str(model_folders / family), kind)
    loaded = [load_encoder(encoder, kind, "none", torch.device(device)) for device in ("cpu", WHERE)]
    expected, found = (each.encode(each.prepare(instances)).cpu() for each in loaded)
    assert found.dtype == torch.float32
    scale = expected.abs().max()
    assert float((found - expected).abs().max() / scale) < HALF_PRECISION
    assert float(torch.nn.functional.cosine_similarity(found, expected).min()) > 0.99


# --- runs


@pytest.mark.parametrize("head", KINDS)
@pytest.mark.parametrize("strategy", ["random", "margin", "bait", "typiclust"])
def test_runs_learn_as_on_the_cpu(strategy, head):
    """Within rounding: what is picked at random is the same, and other picks differ where two are all but equal."""
    curves = [
        run(experiment_of(strategy=strategy, head=head, cycles=5, device=device))["accuracy"]
        for device in ("cpu", WHERE)
    ]
    assert (curves[0] - curves[1]).abs().max() <= (0.01 if strategy == "random" else 0.04)
    assert abs(curves[0].mean() - curves[1].mean()) <= 0.015


def test_updating_studies_learn_as_on_the_cpu():
    studies = [
        UpdateStudy(new_sizes=(1, 3), draws=2, num_hypotheses=50, gradient_steps=(2,), device=device)
        for device in ("cpu", WHERE)
    ]
    first, second = (run(study) for study in studies)
    assert first["method"].tolist() == second["method"].tolist()
    deterministic = first["method"] != "monte_carlo"
    assert (first["accuracy"] - second["accuracy"])[deterministic].abs().max() <= 0.04
