"""Bad arguments of the functions of the contract: each is refused in one line that names it."""

import inspect

import pytest
import torch
from refusals import faults, refusal_of
from samples import points, seeded

from dal_core import metrics
from dal_core.laplace import (
    covariance_matrix,
    first_order_update,
    mean_field_logits,
    monte_carlo_probabilities,
    monte_carlo_weights,
    precision_matrix,
    predictive_variance,
    sample_weights,
    second_order_update,
    second_order_weights,
)
from dal_core.strategies.alfamix import alfamix_candidates
from dal_core.strategies.badge import badge_embedding_norm, badge_select
from dal_core.strategies.bait import bait_select
from dal_core.strategies.coreset import k_center_greedy
from dal_core.strategies.dropquery import dropout_disagreements
from dal_core.strategies.herding import herding_select

pytestmark = pytest.mark.usefixtures("unchecked")  # as users run the package
N, M, K, D, E, B = 23, 7, 3, 5, 4, 6
FEATURES, LABELLED = points(n=N, m=M, d=D)
WEIGHT = points(n=K, m=1, d=D, seed=1)[0]
LABELS = torch.arange(M) % K
VARIANCE = torch.ones(N, dtype=torch.float64)
COVARIANCE = torch.eye(D, dtype=torch.float64)
HYPOTHESES = WEIGHT.expand(E, K, D).clone()
UPDATE = {"weight": WEIGHT, "features": LABELLED, "targets": LABELS}
POOL = {"features_u": FEATURES, "features_l": LABELLED, "batch_size": B}
LOGITS, LOGITS_L = FEATURES @ WEIGHT.T, LABELLED @ WEIGHT.T

# The functions of the package's contract, each with arguments that fit.
FUNCTIONS = {
    precision_matrix: {"features": FEATURES, "logits": LOGITS, "likelihood": "categorical"},
    covariance_matrix: {"precision": COVARIANCE},
    predictive_variance: {"features": FEATURES, "covariance": COVARIANCE},
    mean_field_logits: {"logits": LOGITS, "variance": VARIANCE, "factor": 0.4},
    second_order_update: UPDATE | {"covariance": COVARIANCE, "bias": WEIGHT[:, 0]},
    second_order_weights: {
        "weight": WEIGHT, "covariance": COVARIANCE, "features": LABELLED.expand(2, M, D).clone(),
        "targets": LABELS.expand(2, M).clone(),
    },
    first_order_update: UPDATE | {"gamma": 0.1, "bias": WEIGHT[:, 0]},
    sample_weights: {"weight": WEIGHT, "covariance": COVARIANCE, "count": 3, "generator": seeded()},
    monte_carlo_weights: {"hypotheses": HYPOTHESES, "features": LABELLED, "targets": LABELS, "gamma": 1.0},
    monte_carlo_probabilities: {
        "hypotheses": HYPOTHESES, "hypothesis_weights": torch.full((E,), 1 / E).double(), "features": FEATURES,
    },
    bait_select: POOL | {"logits_u": LOGITS, "logits_l": LOGITS_L},
    k_center_greedy: POOL,
    herding_select: POOL | {"gamma": 1.0, "uncertainty": VARIANCE},
    alfamix_candidates: {
        "features_u": FEATURES, "logits_u": LOGITS, "weight": WEIGHT, "bias": WEIGHT[:, 0], "features_l": LABELLED,
        "labels_l": LABELS,
    },
    badge_embedding_norm: {"features": FEATURES, "logits": LOGITS},
    badge_select: {"features": FEATURES, "logits": LOGITS, "batch_size": B, "generator": seeded()},
    dropout_disagreements: {
        "features": FEATURES, "logits": LOGITS, "weight": WEIGHT, "bias": None, "generator": seeded(),
    },
    **{
        metric: {"logits": LOGITS_L, "labels": LABELS}
        for metric in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece, metrics.ace, metrics.evaluate)
    },
}  # fmt: skip


def arguments_of(function):
    """Those of `FUNCTIONS`, and the defaults of the others."""
    others = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    return {k: v for k, v in others.items() if v is not inspect.Parameter.empty} | FUNCTIONS[function]


# No faults: labelled instances may be fewer where nothing else has an entry for each, several sets of weights are
# averaged over at once, and what divides nothing may be 0.
ALLOWED = {
    ("predictive_variance", "features", "too few"), ("precision_matrix", "features", "too few columns"),
    ("k_center_greedy", "features_u", "too few"), ("k_center_greedy", "features_l", "too few"),
    ("herding_select", "features_l", "too few"), ("monte_carlo_weights", "hypotheses", "too few"),
    ("monte_carlo_probabilities", "features", "too few"), ("sample_weights", "weight", "too few"),
    ("monte_carlo_probabilities", "hypothesis_weights", "one axis more"),
    ("dropout_disagreements", "dropout", "zero or text"), ("ace", "threshold", "zero or text"),
    ("precision_matrix", "logits", "too few columns"), ("mean_field_logits", "logits", "too few columns"),
    ("badge_embedding_norm", "features", "too few columns"), ("badge_embedding_norm", "logits", "too few columns"),
    ("badge_select", "features", "too few columns"), ("badge_select", "logits", "too few columns"),
}  # fmt: skip


def function_cases():
    for function in FUNCTIONS:
        for name, value in arguments_of(function).items():
            alone = (
                sum(
                    isinstance(each, torch.Tensor) and each.is_floating_point() for each in FUNCTIONS[function].values()
                )
                == 1
            )
            for fault, bad in faults(name, value):
                if (function.__name__, name, fault) in ALLOWED or (alone and fault.startswith("another")):
                    continue
                yield pytest.param(function, name, fault, bad, id=f"{function.__name__}-{name}-{fault}")


CASES = list(function_cases())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.__name__)
def test_the_arguments_that_faults_are_put_into_are_good_ones(function):
    function(**FUNCTIONS[function])


@pytest.mark.parametrize(("function", "name", "fault", "bad"), CASES)
def test_functions_refuse_each_argument_by_its_name(function, name, fault, bad):
    arguments = FUNCTIONS[function] | {name: bad}
    message = refusal_of(lambda: function(**arguments))
    # Of two lengths that differ either may be the wrong one.
    assert any(each in message for each in (arguments if fault.startswith("too few") else [name]))
