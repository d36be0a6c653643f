"""The Laplace approximation and its updates: golden vectors, textbook loops, and properties that hold for any data."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dal_core import laplace, textbook
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

LIKELIHOODS = ("gaussian", "categorical")
both_likelihoods = pytest.mark.parametrize("likelihood", LIKELIHOODS)
bounded = settings(max_examples=25, deadline=None)


# --- golden vectors: relative error 1e-8, as in tools/check_golden.py


def assert_golden(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found - expected).norm() / expected.norm()
    assert error <= 1e-8, f"relative error {error:.2e}"


def new_samples(golden) -> tuple[torch.Tensor, torch.Tensor]:
    return golden["x_unlabeled"][:10], golden["y_unlabeled"][:10].long()


@both_likelihoods
def test_golden_precision(golden, likelihood):
    found = precision_matrix(golden["x_labeled"], golden["logits_labeled"], likelihood=likelihood)
    assert_golden(found, golden[f"{likelihood}/precision"])
    assert_golden(covariance_matrix(found), golden[f"{likelihood}/covariance"])


@pytest.mark.parametrize(("name", "factor"), [("0.4", 0.4), ("pi_over_8", math.pi / 8)])
@both_likelihoods
def test_golden_mean_field(golden, likelihood, name, factor):
    variance = predictive_variance(golden["x_test"], golden[f"{likelihood}/covariance"])
    found = mean_field_logits(golden["logits_test"], variance, factor)
    assert_golden(found, golden[f"{likelihood}/mean_field_logits_{name}"])


@pytest.mark.parametrize("gamma", [1.0, 10.0])
@both_likelihoods
def test_golden_second_order(golden, likelihood, gamma):
    covariance = golden[f"{likelihood}/covariance"]
    options = {"likelihood": likelihood, "gamma": gamma, "passes": 1}
    weight, covariance = second_order_update(golden["weight"], covariance, *new_samples(golden), **options)
    assert_golden(weight, golden[f"{likelihood}/second_order_weight_gamma{gamma:g}"])
    assert_golden(covariance, golden[f"{likelihood}/second_order_covariance_gamma{gamma:g}"])


@both_likelihoods
def test_golden_two_passes(golden, likelihood):
    covariance = golden[f"{likelihood}/covariance"]
    options = {"likelihood": likelihood, "gamma": 1.0, "passes": 2}
    weight, _ = second_order_update(golden["weight"], covariance, *new_samples(golden), **options)
    assert_golden(weight, golden[f"{likelihood}/second_order_weight_gamma1_lambda2"])


def test_golden_first_order(golden):
    found = first_order_update(golden["weight"], *new_samples(golden), gamma=0.01, passes=1)
    assert_golden(found, golden["first_order_weight_gamma0.01"])


@pytest.mark.parametrize("gamma", [0.01, 1.0])
def test_golden_monte_carlo(golden, gamma):
    found = monte_carlo_weights(golden["mc/hypotheses"], *new_samples(golden), gamma=gamma)
    assert_golden(found, golden[f"mc/posterior_weights_gamma{gamma:g}"])


# --- problems: a posterior and new samples


@dataclasses.dataclass(frozen=True)
class Problem:
    """A head, the precision and covariance of its last layer, and b new samples; float64."""

    weight: torch.Tensor  # [k, d]
    bias: torch.Tensor  # [k]
    precision: torch.Tensor  # [d, d]
    features: torch.Tensor  # [b, d]
    targets: torch.Tensor  # [b]

    @property
    def covariance(self) -> torch.Tensor:
        return torch.linalg.inv(self.precision)

    @property
    def logits(self) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.features @ self.weight.mT

    @property
    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.weight, self.covariance, self.features, self.targets


def problem(seed: int = 0, k: int = 3, d: int = 5, b: int = 4) -> Problem:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    old = normal(7, d)
    precision = old.mT @ old + torch.eye(d, dtype=torch.float64)
    return Problem(normal(k, d), normal(k), precision, normal(b, d), torch.randint(k, (b,), generator=draw))


problems = st.builds(problem, st.integers(0, 2**31), st.integers(2, 4), st.integers(1, 6), st.integers(1, 7))
gammas = st.sampled_from([0.1, 1.0, 10.0])


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# --- the posterior


@pytest.mark.parametrize("prior_precision", [1.0, 0.25])
@both_likelihoods
def test_precision_equals_its_sum(likelihood, prior_precision):
    p = problem(b=11)
    logits = p.features @ p.weight.mT
    expected = textbook.precision_matrix(p.features, logits, likelihood=likelihood, prior_precision=prior_precision)
    found = precision_matrix(p.features, logits, likelihood=likelihood, prior_precision=prior_precision)
    assert_close(found, expected, 1e-12)
    assert_close(covariance_matrix(found), torch.linalg.inv(expected), 1e-12)


@pytest.mark.parametrize("block_rows", [1, 4, 11, 65536])
def test_predictive_variance_equals_its_loop_whatever_the_block(monkeypatch, block_rows):
    monkeypatch.setattr(laplace, "BLOCK_ROWS", block_rows)
    p = problem(b=11)
    expected = textbook.predictive_variance(p.features, p.covariance)
    assert_close(predictive_variance(p.features, p.covariance), expected, 1e-12)


def test_mean_field_divides_each_samples_logits():
    logits, variance = torch.randn(11, 3).double(), torch.rand(11).double()
    expected = torch.stack([row / math.sqrt(1 + 0.4 * v) for row, v in zip(logits, variance, strict=True)])
    assert_close(mean_field_logits(logits, variance, 0.4), expected, 1e-12)
    assert torch.equal(mean_field_logits(logits, torch.zeros(11).double(), 0.4), logits)


# --- second-order updates


@pytest.mark.parametrize("with_bias", [False, True])
@both_likelihoods
@bounded
@given(p=problems, gamma=gammas, passes=st.integers(1, 2))
def test_second_order_equals_the_textbook(likelihood, with_bias, p, gamma, passes):
    bias = p.bias if with_bias else None
    options = {"likelihood": likelihood, "gamma": gamma, "passes": passes, "bias": bias}
    expected = textbook.second_order_update(*p.arguments, **options)
    for found, each in zip(second_order_update(*p.arguments, **options), expected, strict=True):
        assert_close(found, each)


@both_likelihoods
@bounded
@given(p=problems, gamma=gammas, passes=st.integers(1, 2))
def test_covariances_stay_symmetric_and_positive_definite_and_never_grow(likelihood, p, gamma, passes):
    _, covariance = second_order_update(*p.arguments, likelihood=likelihood, gamma=gamma, passes=passes)
    assert torch.equal(covariance, covariance.mT)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert torch.linalg.eigvalsh(p.covariance - covariance).min() > -1e-12


@bounded
@given(p=problems, passes=st.integers(1, 3))
def test_gaussian_covariance_is_the_inverse_of_the_precision_with_the_new_samples(p, passes):
    _, covariance = second_order_update(*p.arguments, passes=passes)
    assert_close(covariance, torch.linalg.inv(p.precision + passes * p.features.mT @ p.features))


@bounded
@given(p=problems)
def test_gaussian_covariance_does_not_depend_on_the_order_of_samples(p):
    weight, covariance, features, targets = p.arguments
    _, forwards = second_order_update(weight, covariance, features, targets)
    _, backwards = second_order_update(weight, covariance, features.flip(0), targets.flip(0))
    assert_close(forwards, backwards)


def test_weights_depend_on_the_order_of_samples():
    p = problem()
    weight, covariance, features, targets = p.arguments
    forwards, _ = second_order_update(weight, covariance, features, targets)
    backwards, _ = second_order_update(weight, covariance, features.flip(0), targets.flip(0))
    assert (forwards - backwards).abs().max() > 0.01


def test_categorical_covariance_depends_on_the_labels_and_the_gaussian_one_does_not():
    p = problem()
    weight, covariance, features, targets = p.arguments
    other = (targets + 1) % 3
    for likelihood, least, most in (("gaussian", 0.0, 0.0), ("categorical", 1e-4, 1.0)):
        _, first = second_order_update(weight, covariance, features, targets, likelihood=likelihood)
        _, second = second_order_update(weight, covariance, features, other, likelihood=likelihood)
        assert least <= (first - second).abs().max() <= most


@both_likelihoods
@bounded
@given(p=problems, gamma=gammas)
def test_second_order_follows_a_permutation_of_the_classes(likelihood, p, gamma):
    classes = torch.randperm(len(p.weight), generator=torch.Generator().manual_seed(0))
    options = {"likelihood": likelihood, "gamma": gamma, "passes": 2}
    weight, covariance = second_order_update(*p.arguments, **options, bias=p.bias)
    permuted_weight, permuted_covariance = second_order_update(
        p.weight[classes], p.covariance, p.features, classes.argsort()[p.targets], **options, bias=p.bias[classes]
    )
    assert_close(permuted_weight, weight[classes])
    assert_close(permuted_covariance, covariance)


@both_likelihoods
@bounded
@given(p=problems, gamma=st.sampled_from([0.1, 1.0]))
def test_float32_is_near_float64(likelihood, p, gamma):
    options = {"likelihood": likelihood, "gamma": gamma, "passes": 2}
    exact = second_order_update(*p.arguments, **options, bias=p.bias)
    single = [tensor.float() if tensor.is_floating_point() else tensor for tensor in p.arguments]
    found = second_order_update(*single, **options, bias=p.bias.float())
    for expected, rounded in zip(exact, found, strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), expected, atol=1e-4, rtol=1e-4)


@both_likelihoods
def test_samples_one_at_a_time_equal_the_batch(likelihood):
    p = problem(b=6)
    expected = second_order_update(*p.arguments, likelihood=likelihood, gamma=2.0, bias=p.bias)
    found = p.weight, p.covariance
    for i in range(6):
        sample = p.features[i : i + 1], p.targets[i : i + 1]
        found = second_order_update(*found, *sample, likelihood=likelihood, gamma=2.0, bias=p.bias)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@both_likelihoods
def test_a_repeated_sample_counts_twice(likelihood):
    p = problem(b=1)
    weight, covariance, features, targets = p.arguments
    twice = second_order_update(weight, covariance, features.repeat(2, 1), targets.repeat(2), likelihood=likelihood)
    passes = second_order_update(weight, covariance, features, targets, likelihood=likelihood, passes=2)
    assert_close(twice[0], passes[0])
    assert_close(twice[1], passes[1])


@pytest.mark.parametrize("with_bias", [False, True])
def test_second_order_weights_equal_the_update_of_each_candidate(with_bias):
    p, candidates = problem(), 6
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(candidates, 4, 5, generator=draw, dtype=torch.float64)
    targets = torch.randint(3, (candidates, 4), generator=draw)
    bias = p.bias if with_bias else None
    found = second_order_weights(p.weight, p.covariance, features, targets, gamma=3.0, bias=bias)
    assert found.shape == (candidates, 3, 5)
    for weight, phi, y in zip(found, features, targets, strict=True):
        expected, _ = second_order_update(p.weight, p.covariance, phi, y, gamma=3.0, bias=bias)
        assert_close(weight, expected, 1e-11)


# --- first-order updates


@pytest.mark.parametrize("with_bias", [False, True])
@bounded
@given(p=problems, gamma=st.sampled_from([0.01, 0.5]), passes=st.integers(1, 2))
def test_first_order_equals_the_textbook(with_bias, p, gamma, passes):
    new, options = (p.weight, p.features, p.targets), {"gamma": gamma, "passes": passes}
    options["bias"] = p.bias if with_bias else None
    assert_close(first_order_update(*new, **options), textbook.first_order_update(*new, **options))


@bounded
@given(p=problems, gamma=st.sampled_from([0.01, 0.5]))
def test_first_order_and_monte_carlo_follow_a_permutation_of_the_classes(p, gamma):
    classes = torch.randperm(len(p.weight), generator=torch.Generator().manual_seed(0))
    targets, bias = classes.argsort()[p.targets], p.bias[classes]
    weight = first_order_update(p.weight, p.features, p.targets, gamma=gamma, bias=p.bias)
    permuted = first_order_update(p.weight[classes], p.features, targets, gamma=gamma, bias=bias)
    assert_close(permuted, weight[classes])

    hypotheses = sample_weights(p.weight, p.covariance, 9, torch.Generator().manual_seed(0))
    posterior = monte_carlo_weights(hypotheses, p.features, p.targets, gamma=gamma, bias=p.bias)
    assert_close(monte_carlo_weights(hypotheses[:, classes], p.features, targets, gamma=gamma, bias=bias), posterior)
    probabilities = monte_carlo_probabilities(hypotheses, posterior, p.features, bias=p.bias)
    permuted = monte_carlo_probabilities(hypotheses[:, classes], posterior, p.features, bias=bias)
    assert_close(permuted, probabilities[:, classes])


# --- Monte-Carlo updates


def hypotheses(count: int = 9) -> torch.Tensor:
    p = problem()
    return sample_weights(p.weight, p.covariance, count, torch.Generator().manual_seed(1))


def test_sampled_weights_have_the_posteriors_mean_and_covariance(generator):
    p, count = problem(d=2), 40_000
    deviations = sample_weights(p.weight, p.covariance, count, generator) - p.weight  # [e, k, d]
    spread = p.covariance.diagonal().sqrt()
    assert (deviations.mean(dim=0) / spread).abs().max() < 5 / math.sqrt(count)
    scale = spread.outer(spread)
    for k in range(3):
        for j in range(3):  # the rows share a covariance, and are independent of each other
            found = deviations[:, k].mT @ deviations[:, j] / count
            expected = p.covariance if j == k else torch.zeros_like(p.covariance)
            assert ((found - expected) / scale).abs().max() < 5 * math.sqrt(2 / count)


def test_sampled_weights_follow_from_the_generator():
    assert torch.equal(hypotheses(), hypotheses())


@pytest.mark.parametrize("with_bias", [False, True])
def test_monte_carlo_weights_equal_their_loop(with_bias):
    p = problem()
    bias = p.bias if with_bias else None
    options = {"gamma": 0.3, "bias": bias}
    expected = textbook.monte_carlo_weights(hypotheses(), p.features, p.targets, **options)
    assert_close(monte_carlo_weights(hypotheses(), p.features, p.targets, **options), expected, 1e-12)


def test_monte_carlo_weights_survive_improbable_labels():
    # Probabilities below float64's smallest number: in log space the better hypothesis still wins.
    unlikely = torch.tensor([[[900.0], [0.0]], [[1000.0], [0.0]]], dtype=torch.float64)
    found = monte_carlo_weights(unlikely, torch.ones(1, 1).double(), torch.tensor([1]), gamma=1.0)
    assert_close(found, torch.tensor([1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("block_rows", [1, 3, 65536])  # eleven rows come in blocks of 3, which leaves 2
def test_monte_carlo_probabilities_equal_their_loop_whatever_the_block(monkeypatch, block_rows, with_bias):
    p, outcomes = problem(b=11), hypotheses()
    monkeypatch.setattr(laplace, "BLOCK_BYTES", 4 * block_rows * len(outcomes) * 3)
    weightings = torch.rand(2, len(outcomes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bias = p.bias if with_bias else None
    each = [textbook.monte_carlo_probabilities(outcomes, shares, p.features, bias=bias) for shares in weightings]
    assert_close(monte_carlo_probabilities(outcomes, weightings, p.features, bias=bias), torch.stack(each), 1e-12)
    assert_close(monte_carlo_probabilities(outcomes, weightings[1], p.features, bias=bias), each[1], 1e-12)


# --- inputs of users

CALLS = {
    "precision": lambda p: precision_matrix(p.features),
    "curved precision": lambda p: precision_matrix(p.features, p.logits, likelihood="categorical"),
    "variance": lambda p: predictive_variance(p.features, p.covariance),
    "gaussian": lambda p: second_order_update(*p.arguments, bias=p.bias)[0],
    "categorical": lambda p: second_order_update(*p.arguments, likelihood="categorical", bias=p.bias)[1],
    "candidates": lambda p: second_order_weights(p.weight, p.covariance, p.features[None], p.targets[None]),
    "first order": lambda p: first_order_update(p.weight, p.features, p.targets, gamma=0.1, bias=p.bias),
    "hypotheses": lambda p: sample_weights(p.weight, p.covariance, 3, torch.Generator().manual_seed(0)),
    "monte carlo": lambda p: monte_carlo_weights(p.weight[None], p.features, p.targets, gamma=0.1, bias=p.bias),
    "probabilities": lambda p: monte_carlo_probabilities(p.weight[None], torch.ones(1), p.features, bias=p.bias),
}
all_calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def single(**changes) -> Problem:
    """The problem in float32, with changes."""
    fields = {name: value.float() if value.is_floating_point() else value for name, value in vars(problem()).items()}
    return dataclasses.replace(Problem(**fields), **changes)


@all_calls
def test_a_layer_of_a_network_gives_what_its_detached_weight_gives(call):
    weight, bias = (torch.nn.Parameter(each) for each in (single().weight, single().bias))
    found = call(single(weight=weight, bias=bias, features=single().features.clone().requires_grad_()))
    assert not found.requires_grad
    assert torch.equal(found, call(single()))


@all_calls
def test_callers_autocast_changes_nothing(call):
    expected = call(single())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = call(single())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["precision", "variance", "gaussian", "categorical", "candidates", "first order"])
def test_finite_values_whose_squares_overflow_are_refused(name):
    refused = r"features holds values up to \S+, whose squares overflow; smaller numbers or float64 were expected"
    with pytest.raises(ValueError, match=refused):
        CALLS[name](single(features=single().features * 1e20))


@pytest.mark.parametrize("name", ["curved precision", "monte carlo", "probabilities"])
def test_large_logits_that_mean_certainty_are_none_to_refuse(name):
    assert CALLS[name](single(features=single().features * 1e20)).isfinite().all()


@pytest.mark.parametrize(
    "name", ["curved precision", "gaussian", "categorical", "candidates", "first order", "monte carlo"]
)
def test_a_model_with_one_output_is_refused(name):
    p = single()
    one = dataclasses.replace(p, weight=p.weight[:1], bias=p.bias[:1], targets=torch.zeros_like(p.targets))
    with pytest.raises(
        ValueError, match=r"(weight|logits|hypotheses) has shape \(.*\); at least 2 classes were expected"
    ):
        CALLS[name](one)


def test_no_hypotheses_are_refused():
    p = problem()
    with pytest.raises(ValueError, match=r"hypotheses has shape \(0, 3, 5\); at least 1 hypothesis was expected"):
        monte_carlo_weights(hypotheses()[:0], p.features, p.targets, gamma=0.1)


@pytest.mark.parametrize("bad", [-1.0, math.inf, math.nan])
def test_variances_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="variance holds"):
        mean_field_logits(torch.ones(2, 3), torch.tensor([1.0, bad]), 0.4)


# --- no surprises


@both_likelihoods
def test_inputs_are_left_alone(likelihood):
    p = problem()
    tensors = [*p.arguments, p.bias, hypotheses()]
    weight, covariance, features, targets, bias, outcomes = tensors
    before = [tensor.clone() for tensor in tensors]
    logits = features @ weight.mT
    kept = logits.clone()
    precision_matrix(features, logits, likelihood=likelihood)
    second_order_update(weight, covariance, features, targets, likelihood=likelihood, passes=2, bias=bias)
    second_order_weights(weight, covariance, features[None], targets[None], bias=bias)
    first_order_update(weight, features, targets, gamma=0.1, bias=bias)
    monte_carlo_weights(outcomes, features, targets, gamma=0.1, bias=bias)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))
    assert torch.equal(logits, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; it has to be one of 'gaussian', 'categorical'"),
        ({"gamma": 0.0}, r"gamma is 0\.0; a finite number above 0 was expected"),
        ({"gamma": math.inf}, "gamma is inf; a finite number above 0 was expected"),
        ({"passes": 0}, "passes is 0; a whole number of at least 1 was expected"),
        ({"features": torch.zeros(4, 5)}, r"features has dtype torch\.float32, but weight has torch\.float64"),
        ({"covariance": torch.eye(5)}, r"covariance has dtype torch\.float32, but weight has torch\.float64"),
        ({"bias": torch.zeros(3)}, r"bias has dtype torch\.float32, but weight has torch\.float64"),
        ({"features": torch.zeros(4, 5, device="meta").double()}, "features has device meta, but weight has cpu"),
        ({"targets": torch.tensor([0, 1, 2, 3])}, "targets holds labels from 0 to 3; 0 to 2 was expected"),
    ],
)
def test_second_order_refuses_what_does_not_fit(changes, message):
    weight, covariance, features, targets = problem().arguments
    arguments = {"weight": weight, "covariance": covariance, "features": features, "targets": targets}
    with pytest.raises(ValueError, match=message):
        second_order_update(**(arguments | changes))


def test_the_other_functions_refuse_what_does_not_fit():
    p = problem()
    with pytest.raises(ValueError, match="passes is 0"):
        first_order_update(p.weight, p.features, p.targets, gamma=0.1, passes=0)
    with pytest.raises(ValueError, match=r"gamma is -1\.0"):
        first_order_update(p.weight, p.features, p.targets, gamma=-1.0)
    with pytest.raises(ValueError, match="targets holds labels from 3 to 3; 0 to 2"):
        monte_carlo_weights(hypotheses(), p.features, torch.full((4,), 3), gamma=0.1)
    with pytest.raises(ValueError, match=r"gamma is 0\.0"):
        second_order_weights(p.weight, p.covariance, p.features[None], p.targets[None], gamma=0.0)
    with pytest.raises(ValueError, match=r"covariance has dtype torch\.float32"):
        sample_weights(p.weight, p.covariance.float(), 2, torch.Generator())
    with pytest.raises(ValueError, match=r"covariance has dtype torch\.float32"):
        predictive_variance(p.features, p.covariance.float())
    with pytest.raises(ValueError, match=r"variance has dtype torch\.float32"):
        mean_field_logits(p.features, torch.zeros(4), 0.4)


def test_precision_refuses_what_does_not_fit():
    features = problem().features
    with pytest.raises(ValueError, match="likelihood is 'probit'; it has to be one of 'gaussian', 'categorical'"):
        precision_matrix(features, likelihood="probit")
    with pytest.raises(ValueError, match="logits is None; the categorical likelihood needs the logits"):
        precision_matrix(features, likelihood="categorical")
    with pytest.raises(ValueError, match=r"prior_precision is 0\.0; a finite number above 0"):
        precision_matrix(features, prior_precision=0.0)
    with pytest.raises(ValueError, match=r"logits has dtype torch\.float32, but features has torch\.float64"):
        precision_matrix(features, torch.zeros(4, 3), likelihood="categorical")
