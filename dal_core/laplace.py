"""Last-layer Laplace approximation and its updates (Huseljic et al. 2025, arXiv 2210.06112).

Symbols of the paper: W weight [k, d] of the last layer, S covariance [d, d] over the features, shared by all
classes, phi the features of a sample [d], gamma the step of an update, lambda the prior precision.
Axes: n samples, b new samples, k classes, d features, e hypotheses.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.checks import (
    check_alike,
    check_choice,
    check_finite,
    check_generator,
    check_labels,
    check_memory,
    check_number,
    check_positive,
    check_shape,
    check_whole,
)

LIKELIHOODS = ("gaussian", "categorical")
BLOCK_ROWS = 65536  # rows of a pool that are worked on at a time
BLOCK_OUTPUTS = 2**20  # outputs of sampled hypotheses that are worked on at a time


def precision_matrix(
    features: Float[Tensor, "n d"],
    logits: Float[Tensor, "n k"] | None = None,
    *,
    likelihood: str = "gaussian",
    prior_precision: float = 1.0,
) -> Float[Tensor, "d d"]:
    """Posterior precision of the last layer, O(n d^2).

        P = lambda I + sum_n c_n phi_n phi_n^T,   c_n = 1 (gaussian) or p_max (1 - p_max) (categorical)

    Raises:
        ValueError: unknown likelihood, categorical without logits, or arguments that do not fit each other.
    """
    check_choice("likelihood", likelihood, LIKELIHOODS)
    check_positive(prior_precision=prior_precision)
    check_alike(features=features)
    check_shape("features", features, (None, None))
    weighted = features
    if likelihood == "categorical":
        if logits is None:
            raise ValueError("logits is None; the categorical likelihood needs the logits [n, k] of the features")
        check_alike(features=features, logits=logits)
        check_shape("logits", logits, (len(features), None))
        weighted = features * _curvature(logits.softmax(dim=-1)).unsqueeze(-1)
    size = (features.shape[1], features.shape[1])
    check_memory("the precision matrix", size, features, "use features of fewer dimensions")
    precision = weighted.mT @ features
    precision.diagonal().add_(prior_precision)
    return _finite(precision, features=features, **({} if logits is None else {"logits": logits}))


def covariance_matrix(precision: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """S = P^-1 from the Cholesky factor of P, O(d^3).

    Raises:
        ValueError: if the matrix is not positive definite.
    """
    check_alike(precision=precision)
    check_shape("precision", precision, (None, len(precision) if precision.ndim else None))
    check_finite(precision=precision)
    return torch.cholesky_inverse(_cholesky("precision", precision))


def predictive_variance(features: Float[Tensor, "n d"], covariance: Float[Tensor, "d d"]) -> Float[Tensor, " n"]:
    """Variance of the logits, v = phi^T S phi, in blocks: no n-by-n matrix, O(n d^2)."""
    check_alike(features=features, covariance=covariance)
    check_shape("features", features, (None, None))
    check_shape("covariance", covariance, (features.shape[1], features.shape[1]))
    variance = features.new_empty(len(features))
    for start in range(0, len(features), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS]
        variance[start : start + BLOCK_ROWS] = torch.linalg.vecdot(block @ covariance, block)
    return _finite(variance, features=features, covariance=covariance)


def mean_field_logits(
    logits: Float[Tensor, "n k"], variance: Float[Tensor, " n"], factor: float
) -> Float[Tensor, "n k"]:
    """Logits whose softmax approximates the posterior predictive: logits / sqrt(1 + factor v).

    `factor` is pi / 8 for the probit approximation; the paper's own experiments tune it.
    """
    check_alike(logits=logits, variance=variance)
    check_shape("logits", logits, (None, None))
    check_shape("variance", variance, (len(logits),))
    check_finite(variance=variance)
    check_number("factor", factor)
    if not 0 <= factor < float("inf"):
        raise ValueError(f"factor is {factor}; a finite number of at least 0 was expected")
    if len(variance) and float(variance.min()) < 0:
        raise ValueError(f"variance holds values down to {float(variance.min())}; none below 0 was expected")
    return _finite(logits / torch.sqrt(1 + factor * variance).unsqueeze(-1), logits=logits, variance=variance)


def second_order_update(
    weight: Float[Tensor, "k d"],
    covariance: Float[Tensor, "d d"],
    features: Float[Tensor, "b d"],
    targets: Int[Tensor, " b"],
    *,
    likelihood: str = "gaussian",
    gamma: float = 10.0,
    passes: int = 1,
    bias: Float[Tensor, " k"] | None = None,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "d d"]]:
    """Newton steps on new samples, one sample after another, `passes` times over all of them (section 4).

    Sample by sample, with p = softmax(W phi + bias), t = S phi, v = phi^T t and a = p_max (1 - p_max):

        gaussian:     S <- S - t t^T / (1 + v),  then  W <- W + gamma (onehot(y) - p) (S phi)^T  with the new S
        categorical:  W <- W + gamma (onehot(y) - p) (S' phi)^T  with  S' = S - a / (1 + v) t t^T,
                      then, with a' at the new W,  S <- S - a' / (1 + a' v) t t^T

    All of it happens in the span of the new samples, so that the recursion runs on their Gram matrix: the
    covariance is read once before and written once after the whole batch, O(b d^2 + b^2 (d + k)) instead of
    O(b d (d + k)) with several passes over S a sample. The bias enters p and is not updated.

    Returns:
        The new weight [k, d] and covariance [d, d]; the arguments are not modified.

    Raises:
        ValueError: unknown likelihood, gamma not positive, passes below 1, or arguments that do not fit each other.
    """
    check_choice("likelihood", likelihood, LIKELIHOODS)
    _check_update(weight, features, targets, gamma, bias)
    check_alike(weight=weight, covariance=covariance)
    check_shape("covariance", covariance, (weight.shape[1], weight.shape[1]))
    check_whole("passes", passes, 1)
    arguments = _arguments(weight, features, bias) | {"covariance": covariance}
    features, targets = features.repeat(passes, 1), targets.repeat(passes)
    recursion = _gaussian_recursion if likelihood == "gaussian" else _categorical_recursion
    steps = features @ covariance  # S phi of the old S, [b, d]
    coefficients, directions, shrinkage = recursion(weight, features, targets, steps, gamma, bias)
    new_covariance = covariance - directions.mT @ (shrinkage.unsqueeze(-1) * directions)
    new_weight = _finite(weight + coefficients.mT @ directions, **arguments)
    return new_weight, (new_covariance + new_covariance.mT) / 2


def second_order_weights(
    weight: Float[Tensor, "k d"],
    covariance: Float[Tensor, "d d"],
    features: Float[Tensor, "t b d"],
    targets: Int[Tensor, "t b"],
    *,
    gamma: float = 10.0,
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, "t k d"]:
    """`second_order_update` (gaussian, one pass) for t candidate batches at once; only the weights are formed.

    Candidate i starts from the same weight and covariance and learns `features[i]`, `targets[i]`. What looks
    ahead needs t updated heads, but none of their covariances.
    """
    check_alike(weight=weight, covariance=covariance, features=features)
    check_shape("weight", weight, (None, None))
    check_shape("covariance", covariance, (weight.shape[1], weight.shape[1]))
    check_shape("features", features, (None, None, weight.shape[1]))
    check_shape("targets", targets, tuple(features.shape[:2]))
    flat = features.flatten(0, 1)  # [t b, d]
    _check_update(weight, flat, targets.flatten(), gamma, bias)
    check_memory("the updated weights", (len(features), *weight.shape), weight, "use fewer candidate batches")
    steps = (flat @ covariance).view_as(features)  # S phi, [t, b, d]
    coefficients, directions, _ = _gaussian_recursion(weight, features, targets, steps, gamma, bias)
    arguments = _arguments(weight, features, bias) | {"covariance": covariance}
    return _finite(weight + coefficients.mT @ directions, **arguments)


def _gaussian_recursion(
    weight: Tensor, features: Tensor, targets: Tensor, steps: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The updates as `W + coefficients^T directions` and `S - directions^T diag(shrinkage) directions`.

    With I + Phi S Phi^T = L L^T, row i of L^-1 Phi S is t_i / sqrt(1 + v_i) at the time of sample i, because the
    Cholesky factorisation eliminates sample after sample in just the same way. The covariance of a gaussian
    update does not depend on the labels, so only the logits remain to be carried from sample to sample.
    features, steps [*t, b, d], targets [*t, b]; returns [*t, b, k], [*t, b, d], [*t, b].
    """
    gram = steps @ features.mT  # Phi S Phi^T, [*t, b, b]
    gram.diagonal(dim1=-2, dim2=-1).add_(1)
    factor = _cholesky("the new samples' Gram matrix, of features and covariance,", gram)
    root = factor.diagonal(dim1=-2, dim2=-1)  # sqrt(1 + v_i)
    directions = torch.linalg.solve_triangular(factor, steps, upper=False)
    # Entry (j, i): what error_i adds to the logits of a later sample j, gamma phi_j . (S phi_i) with the new S.
    influence = gamma * factor / root.unsqueeze(-2)  # [*t, b, b]
    errors = _errors_in_order(weight, features, targets, influence, bias)
    return gamma * errors / root.unsqueeze(-1), directions, torch.ones_like(root)


def _errors_in_order(
    weight: Tensor, features: Tensor, targets: Tensor, influence: Tensor, bias: Tensor | None
) -> Tensor:
    """onehot(y_i) - p_i at the time of each sample i, when error_i moves the logits of sample j by `influence[j, i]`.

    features [*t, b, d], targets [*t, b], influence [*t, b, b]; returns [*t, b, k].
    """
    logits = _logits(features, weight, bias)
    errors = torch.nn.functional.one_hot(targets, weight.shape[0]).to(logits.dtype)
    # The sample axis goes first, and is taken apart once: the loop is bound by the number of small calls.
    logits, errors = logits.movedim(-2, 0).contiguous(), errors.movedim(-2, 0).contiguous()  # [b, *t, k]
    columns = influence.movedim((-1, -2), (0, 1)).unsqueeze(-1).contiguous()  # [i, j, *t, 1]
    rows = zip(logits.unbind(), errors.unbind(), columns.unbind(), strict=True)
    for i, (logit, error, column) in enumerate(rows, start=1):
        error.sub_(logit.softmax(-1))
        logits[i:].addcmul_(column[i:], error)
    return errors.movedim(0, -2)


def _categorical_recursion(
    weight: Tensor, features: Tensor, targets: Tensor, steps: Tensor, gamma: float, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_gaussian_recursion`, for shrinkages that depend on the labels through the probabilities.

    `gram` is Phi S Phi^T for the S of the moment: row i is t_i = S phi_i as the other samples see it. The rows
    t_i themselves follow at the end from t_i = (S phi)_i - sum_{j<i} shrinkage_j (t_j . phi_i) t_j.
    """
    gram = steps @ features.mT  # [b, b]
    logits = _logits(features, weight, bias)
    coefficients = torch.nn.functional.one_hot(targets, weight.shape[0]).to(logits.dtype)
    shrinkage, one = torch.empty_like(gram[0]), gram.new_ones(())
    rows = zip(gram.unbind(), gram.diagonal().unbind(), logits.unbind(), coefficients.unbind(), strict=True)
    for i, (row, variance, logit, coefficient) in enumerate(rows):
        probabilities = logit.softmax(-1)
        # (S' phi) = t (1 - a v / (1 + v)) with the provisional covariance S'.
        gain = torch.addcmul(one, _curvature(probabilities), variance / (1 + variance), value=-1)
        coefficient.sub_(probabilities).mul_(gamma * gain)
        logits[i:].addr_(row[i:], coefficient)
        curvature = _curvature(logit.softmax(-1))
        shrink = torch.div(curvature, torch.addcmul(one, curvature, variance), out=shrinkage[i])
        gram[i + 1 :].addr_(row[i + 1 :] * -shrink, row)
    # Row i of `gram` was left alone once sample i was done: above the diagonal stands t_i . phi_j for the later j.
    elimination = (gram * shrinkage.unsqueeze(-1)).mT
    directions = torch.linalg.solve_triangular(elimination, steps, upper=False, unitriangular=True)
    return coefficients, directions, shrinkage


def first_order_update(
    weight: Float[Tensor, "k d"],
    features: Float[Tensor, "b d"],
    targets: Int[Tensor, " b"],
    *,
    gamma: float,
    passes: int = 1,
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, "k d"]:
    """Gradient steps on new samples, one after another: W <- W + gamma (onehot(y) - p) phi^T (section 5).

    The second-order update with S = I held fixed, and computed like it: on the samples' Gram matrix.

    Raises:
        ValueError: gamma not positive, passes below 1, or arguments that do not fit each other.
    """
    _check_update(weight, features, targets, gamma, bias)
    check_whole("passes", passes, 1)
    arguments = _arguments(weight, features, bias)
    features, targets = features.repeat(passes, 1), targets.repeat(passes)
    errors = _errors_in_order(weight, features, targets, gamma * (features @ features.mT), bias)
    return _finite(weight + gamma * errors.mT @ features, **arguments)


def sample_weights(
    weight: Float[Tensor, "k d"], covariance: Float[Tensor, "d d"], count: int, generator: torch.Generator
) -> Float[Tensor, "e k d"]:
    """`count` hypotheses from N(W, S), the rows (classes) independent with the same covariance S."""
    check_alike(weight=weight, covariance=covariance)
    check_shape("weight", weight, (None, None))
    check_shape("covariance", covariance, (weight.shape[1], weight.shape[1]))
    check_whole("count", count, 1)
    check_generator("generator", generator)
    check_memory("the sample of weights", (count, *weight.shape), weight, "draw fewer hypotheses")
    noise = torch.randn(count, *weight.shape, dtype=weight.dtype, generator=generator, device=generator.device)
    weights = weight + noise.to(weight.device) @ _cholesky("covariance", covariance).mT
    return _finite(weights, weight=weight, covariance=covariance)


def monte_carlo_weights(
    hypotheses: Float[Tensor, "e k d"],
    features: Float[Tensor, "b d"],
    targets: Int[Tensor, " b"],
    *,
    gamma: float,
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, " e"]:
    """Posterior weights of sampled hypotheses: softmax_e( gamma sum_i log p(y_i | phi_i, hypothesis_e) ).

    Predict with the mean of the hypotheses' softmax outputs under these weights (`monte_carlo_probabilities`).
    """
    check_shape("hypotheses", hypotheses, (None, None, None))
    if len(hypotheses) == 0:
        raise ValueError("hypotheses is empty; at least one was expected")
    check_alike(hypotheses=hypotheses, features=features)
    _check_update(hypotheses[0], features, targets, gamma, bias)
    logits = _logits(features, hypotheses, bias)  # [e, b, k]
    index = targets.expand(len(hypotheses), -1).unsqueeze(-1)
    likelihood = logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)  # log p(y | ...), [e, b]
    weights = torch.softmax(gamma * likelihood.sum(dim=1), dim=0)
    return _finite(weights, hypotheses=hypotheses, **_arguments(hypotheses[0], features, bias))


def monte_carlo_probabilities(
    hypotheses: Float[Tensor, "e k d"],
    hypothesis_weights: Float[Tensor, "*s e"],
    features: Float[Tensor, "n d"],
    *,
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, "*s n k"]:
    """Mean of the hypotheses' softmax outputs under `hypothesis_weights`, or under each row of them.

    In blocks of the features: at most 4 MB of outputs [block, e, k] in float32, for the processor's cache.
    """
    check_alike(hypotheses=hypotheses, hypothesis_weights=hypothesis_weights, features=features)
    check_shape("features", features, (None, None))
    check_shape("hypotheses", hypotheses, (None, None, features.shape[1]))
    if hypothesis_weights.shape[-1:] != hypotheses.shape[:1] or len(hypotheses) == 0:
        raise ValueError(
            f"hypothesis_weights has shape {tuple(hypothesis_weights.shape)}; (..., {len(hypotheses)}) was expected, a "
            "number a hypothesis, of which there has to be one"
        )
    num_hypotheses, num_classes, _ = hypotheses.shape
    probabilities = features.new_empty(*hypothesis_weights.shape[:-1], len(features), num_classes)
    rows = max(1, BLOCK_OUTPUTS // (num_hypotheses * num_classes))
    for start in range(0, len(features), rows):
        outputs = _logits(features[start : start + rows], hypotheses, bias).softmax(dim=-1)  # [e, block, k]
        mean = hypothesis_weights @ outputs.flatten(1)  # [*s, block k]
        probabilities[..., start : start + rows, :] = mean.unflatten(-1, (-1, num_classes))
    return _finite(probabilities, hypotheses=hypotheses, hypothesis_weights=hypothesis_weights, features=features)


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W phi + bias.  [..., n, k]"""
    product = features @ weight.mT
    return product if bias is None else product + bias


def _curvature(probabilities: Tensor) -> Tensor:
    """p_max (1 - p_max) of the last axis."""
    highest = probabilities.amax(dim=-1)
    return torch.addcmul(highest, highest, highest, value=-1)


def _check_update(weight: Tensor, features: Tensor, targets: Tensor, gamma: float, bias: Tensor | None) -> None:
    check_positive(gamma=gamma)
    check_alike(weight=weight, features=features)
    check_shape("weight", weight, (None, None))
    check_shape("features", features, (None, weight.shape[1]))
    check_shape("targets", targets, (len(features),))
    check_labels("targets", targets, weight.shape[0])
    if bias is not None:
        check_alike(weight=weight, bias=bias)
        check_shape("bias", bias, (weight.shape[0],))


def _arguments(weight: Tensor, features: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Those of an update that may hold NaN, by name."""
    return {"weight": weight, "features": features} | ({} if bias is None else {"bias": bias})


def _finite(result: Tensor, **arguments: Tensor) -> Tensor:
    """`result`; where it is not finite, a ValueError says which argument is not, or that the numbers are too large.

    One look at a result instead of one at each argument: an update costs no more than a few such looks.
    """
    if not torch.isfinite(result.sum()) and not torch.isfinite(result).all():
        check_finite(**arguments)
        raise ValueError(f"{', '.join(arguments)} lead to values that are not finite; smaller numbers were expected")
    return result


def _cholesky(name: str, matrix: Tensor) -> Tensor:
    """The lower Cholesky factor."""
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError:
        check_finite(**{name: matrix})
        raise ValueError(f"{name} is not positive definite; a matrix that is was expected") from None
