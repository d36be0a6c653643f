"""Last-layer Laplace approximation and its updates (Huseljic et al. 2025, arXiv 2210.06112).

Symbols of the paper: W weight [k, d] of the last layer, S covariance [d, d] over the features, shared by all
classes, phi the features of a sample [d], gamma the step of an update, lambda the prior precision.
Axes: n samples, b new samples, k classes, d features, e hypotheses, t candidate batches.

`dal_core.posterior` puts these functions into stages, `dal_core.textbook.laplace` computes them sample by sample.
"""

import functools
from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dal_core.blocks import blocks
from dal_core.checks import check_choice, check_finite, check_memory
from dal_core.contracts import Below, Count, Fewest, NonNegative, Positive, checked

BLOCK_ROWS = 65536  # Rows of a pool that are worked on at a time.
BLOCK_BYTES = 4 * 2**20  # Bytes of sampled outputs in float32 held at a time, which fit into a processor's cache.

Features = Float[Tensor, "n d"]
Logits = Annotated[Float[Tensor, "n k"], Fewest("k", 2, "classes")]
Weight = Annotated[Float[Tensor, "k d"], Fewest("k", 2, "classes")]
Bias = Float[Tensor, " k"] | None
Covariance = Float[Tensor, "d d"]
Hypotheses = Annotated[Float[Tensor, "e k d"], Fewest("e", 1, "hypotheses"), Fewest("k", 2, "classes")]
NewFeatures = Float[Tensor, "b d"]
Targets = Annotated[Int[Tensor, " b"], Below("k")]
SampleCurvature = Callable[[Tensor], Tensor]


def most_probable(probabilities: Tensor) -> Tensor:
    """The curvature of the categorical likelihood, p_max (1 - p_max), of the last axis."""
    highest = probabilities.amax(dim=-1)
    return torch.addcmul(highest, highest, highest, value=-1)


# What a sample's phi phi^T counts in the precision, as a function of its probabilities: [..., k] to [...], from 0 to 1.
# None is the constant 1, for which the updates need no probabilities. A further likelihood is a further entry.
LIKELIHOODS: dict[str, SampleCurvature | None] = {"gaussian": None, "categorical": most_probable}


@checked
def precision_matrix(
    features: Features, logits: Logits | None = None, *, likelihood: str = "gaussian", prior_precision: Positive = 1.0
) -> Float[Tensor, "d d"]:
    """Return the posterior precision of the last layer, O(n d^2).

        P = lambda I + sum_n c_n phi_n phi_n^T,   c_n = 1 (gaussian) or p_max (1 - p_max) (categorical)

    >>> precision_matrix(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).tolist()
    [[3.0, 2.0], [2.0, 5.0]]
    """
    weighted, curvature = features, _curvature_of(likelihood)
    if curvature is not None:
        if logits is None:
            raise ValueError(f"logits is None; the {likelihood} likelihood needs the logits [n, k] of the features")
        weighted = features * curvature(logits.softmax(dim=-1)).unsqueeze(-1)
    check_memory("the precision matrix", (features.shape[1],) * 2, features, "use features of fewer dimensions")
    precision = weighted.mT @ features
    precision.diagonal().add_(prior_precision)
    return precision


@checked
def covariance_matrix(precision: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return S = P^-1 from the Cholesky factor of a positive definite P, O(d^3).

    >>> covariance_matrix(torch.tensor([[4.0]])).tolist()
    [[0.25]]
    """
    check_finite(precision=precision)  # The factorisation looks at the lower triangle alone.
    return torch.cholesky_inverse(_cholesky("precision", precision))


@checked
def predictive_variance(features: Features, covariance: Covariance) -> Float[Tensor, " n"]:
    """Return the variance of the logits, v = phi^T S phi, in blocks: no n-by-n matrix, O(n d^2).

    >>> predictive_variance(torch.tensor([[1.0, 2.0]]), torch.eye(2)).tolist()
    [5.0]
    """
    return torch.cat([torch.linalg.vecdot(block @ covariance, block) for block in features.split(BLOCK_ROWS)])


@checked
def mean_field_logits(
    logits: Float[Tensor, "n k"], variance: Float[Tensor, " n"], factor: NonNegative
) -> Float[Tensor, "n k"]:
    """Return logits whose softmax approximates the posterior predictive: logits / sqrt(1 + factor v).

    `factor` is pi / 8 for the probit approximation; the paper's own experiments tune it.

    >>> mean_field_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([6.0]), factor=0.5).tolist()
    [[1.0, 0.0]]
    """
    if len(variance) and not 0 <= variance.min() <= variance.max() < torch.inf:  # An infinite one gives finite logits.
        raise ValueError(f"variance holds {variance.min():g} to {variance.max():g}; 0 to below infinity was expected")
    return logits / torch.sqrt(1 + factor * variance).unsqueeze(-1)


@checked
def second_order_update(
    weight: Weight, covariance: Covariance, features: NewFeatures, targets: Targets, *,
    likelihood: str = "gaussian", gamma: Positive = 10.0, passes: Count = 1, bias: Bias = None,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "d d"]]:  # fmt: skip
    """Return weight and covariance after Newton steps on new samples, one by one, `passes` times over all (section 4).

    Sample by sample, with p = softmax(W phi + bias), t = S phi, v = phi^T t and a = p_max (1 - p_max):

        gaussian:     S <- S - t t^T / (1 + v),  then  W <- W + gamma (onehot(y) - p) (S phi)^T  with the new S
        categorical:  W <- W + gamma (onehot(y) - p) (S' phi)^T  with  S' = S - a / (1 + v) t t^T,
                      then, with a' at the new W,  S <- S - a' / (1 + a' v) t t^T

    All of it happens in the span of the new samples, so that the recursion runs on their Gram matrix and reads and
    writes S once a batch: O(b d^2 + b^2 (d + k)) instead of O(b d (d + k)). The bias enters p and is not updated.

    >>> weight, covariance = second_order_update(torch.zeros(2, 1), torch.eye(1), torch.ones(1, 1), torch.tensor([0]))
    >>> weight.tolist(), covariance.tolist()
    ([[2.5], [-2.5]], [[0.5]])
    """
    curvature = _curvature_of(likelihood)
    recursion = _constant_recursion if curvature is None else functools.partial(_curved_recursion, curvature)
    features, targets = features.repeat(passes, 1), targets.repeat(passes)
    steps = features @ covariance  # S phi of the old S, [b, d]
    start = steps @ features.mT, *_logits_and_labels(weight, features, targets, bias)
    coefficients, directions, shrinkage = recursion(*start, steps, gamma)
    new_covariance = covariance - directions.mT @ (shrinkage.unsqueeze(-1) * directions)
    return weight + coefficients.mT @ directions, (new_covariance + new_covariance.mT) / 2


@checked
def second_order_weights(
    weight: Weight, covariance: Covariance, features: Float[Tensor, "t b d"],
    targets: Annotated[Int[Tensor, "t b"], Below("k")], *, gamma: Positive = 10.0, bias: Bias = None,
) -> Float[Tensor, "t k d"]:  # fmt: skip
    """Return the weights of `second_order_update` (gaussian, one pass) for t candidate batches at once.

    Candidate i starts from the same weight and covariance and learns `features[i]`, `targets[i]`. What looks
    ahead needs t updated heads, but none of their covariances.

    >>> second_order_weights(torch.zeros(2, 1), torch.eye(1), torch.ones(5, 3, 1), torch.zeros(5, 3).long()).shape
    torch.Size([5, 2, 1])
    """
    check_memory("the updated weights", (len(features), *weight.shape), weight, "use fewer candidate batches")
    steps = (features.flatten(0, 1) @ covariance).view_as(features)  # S phi, [t, b, d]
    start = steps @ features.mT, *_logits_and_labels(weight, features, targets, bias)
    coefficients, directions, _ = _constant_recursion(*start, steps, gamma)
    return weight + coefficients.mT @ directions


def _logits_and_labels(weight: Tensor, features: Tensor, targets: Tensor, bias: Bias) -> tuple[Tensor, Tensor]:
    """The logits before an update, and the labels as rows onehot(y).  [*t, b, k] each"""
    logits = last_layer(features, weight, bias)
    return logits, torch.nn.functional.one_hot(targets, weight.shape[0]).to(logits.dtype)


def _constant_recursion(
    gram: Tensor, logits: Tensor, labels: Tensor, steps: Tensor, gamma: float
) -> tuple[Tensor, ...]:
    """The updates as `W + coefficients^T directions` and `S - directions^T diag(shrinkage) directions`.

    With I + Phi S Phi^T = L L^T, row i of L^-1 Phi S is t_i / sqrt(1 + v_i) at the time of sample i, because the
    Cholesky factorisation eliminates sample after sample in just the same way. The covariance of a gaussian
    update does not depend on the labels, so only the logits remain to be carried from sample to sample.
    gram = Phi S Phi^T [*t, b, b] and steps = Phi S [*t, b, d]; returns [*t, b, k], [*t, b, d], [*t, b].
    """
    gram.diagonal(dim1=-2, dim2=-1).add_(1)
    factor = _cholesky("the new samples' Gram matrix, of features and covariance,", gram)
    root = factor.diagonal(dim1=-2, dim2=-1)  # sqrt(1 + v_i)
    directions = torch.linalg.solve_triangular(factor, steps, upper=False)
    # Entry (j, i): what error_i adds to the logits of a later sample j, gamma phi_j . (S phi_i) with the new S.
    influence = gamma * factor / root.unsqueeze(-2)  # [*t, b, b]
    errors = _errors_in_order(logits, labels, influence)
    return gamma * errors / root.unsqueeze(-1), directions, torch.ones_like(root)


def _errors_in_order(logits: Tensor, labels: Tensor, influence: Tensor) -> Tensor:
    """onehot(y_i) - p_i [*t, b, k] at each sample i, when error_i moves the logits of sample j by `influence[j, i]`."""
    # The sample axis goes first, and is taken apart once: the loop is bound by the number of small calls.
    logits, errors = logits.movedim(-2, 0).contiguous(), labels.movedim(-2, 0).contiguous()  # [b, *t, k]
    columns = influence.movedim((-1, -2), (0, 1)).unsqueeze(-1).contiguous()  # [i, j, *t, 1]
    rows = zip(logits.unbind(), errors.unbind(), columns.unbind(), strict=True)
    for i, (logit, error, column) in enumerate(rows, start=1):
        error.sub_(logit.softmax(-1))
        logits[i:].addcmul_(column[i:], error)
    return errors.movedim(0, -2)


def _curved_recursion(
    curvature_of: SampleCurvature, gram: Tensor, logits: Tensor, coefficients: Tensor, steps: Tensor, gamma: float
) -> tuple[Tensor, ...]:
    """As `_constant_recursion`, where the shrinkages depend on the labels through the probabilities.

    S_i is the covariance before sample i, t_i = S_i phi_i, and S_i+1 = S_i - s_i t_i t_i^T with the shrinkage s_i.
    Entry (i, j) of `gram` is phi_i^T S phi_j for the S of the moment, so that row i is t_i^T phi_j at sample i.
    """
    shrinkage, one = torch.empty_like(gram[0]), gram.new_ones(())
    rows = zip(gram.unbind(), gram.diagonal().unbind(), logits.unbind(), coefficients.unbind(), strict=True)
    for i, (row, variance, logit, coefficient) in enumerate(rows):
        probabilities = logit.softmax(-1)
        # S' phi = t - a / (1 + v) t (t^T phi) = t (1 - a v / (1 + v)): the step goes along t, shortened by `gain`.
        gain = torch.addcmul(one, curvature_of(probabilities), variance / (1 + variance), value=-1)
        coefficient.sub_(probabilities).mul_(gamma * gain)  # It was onehot(y).
        # W phi_j changes by coefficient (t_i^T phi_j); sample i itself is among them, for a' is taken at the new W.
        logits[i:].addr_(row[i:], coefficient)
        curvature = curvature_of(logit.softmax(-1))
        shrink = torch.div(curvature, torch.addcmul(one, curvature, variance), out=shrinkage[i])
        # phi_j^T S phi_l loses s_i (t_i^T phi_j) (t_i^T phi_l), in the rows j > i alone: the rows up to i are kept.
        gram[i + 1 :].addr_(row[i + 1 :] * -shrink, row)
    # S_i = S_0 - sum_j<i s_j t_j t_j^T, applied to phi_i, is t_i = S_0 phi_i - sum_j<i s_j (t_j^T phi_i) t_j, hence
    # t_i + sum_j<i s_j gram[j, i] t_j = steps_i: a triangular system for the t_i, since gram[j, i] is still t_j^T phi_i
    # as it was at sample j. The solver looks below the diagonal of `elimination` alone, and takes ones on it.
    elimination = (gram * shrinkage.unsqueeze(-1)).mT
    directions = torch.linalg.solve_triangular(elimination, steps, upper=False, unitriangular=True)
    return coefficients, directions, shrinkage


@checked
def first_order_update(
    weight: Weight, features: NewFeatures, targets: Targets, *, gamma: Positive, passes: Count = 1, bias: Bias = None
) -> Float[Tensor, "k d"]:
    """Return the weight after gradient steps W <- W + gamma (onehot(y) - p) phi^T, sample by sample (section 5).

    The second-order update with S = I held fixed, and computed like it: on the samples' Gram matrix.

    >>> first_order_update(torch.zeros(2, 1), torch.ones(1, 1), torch.tensor([0]), gamma=1.0).tolist()
    [[0.5], [-0.5]]
    """
    features, targets = features.repeat(passes, 1), targets.repeat(passes)
    errors = _errors_in_order(*_logits_and_labels(weight, features, targets, bias), gamma * (features @ features.mT))
    return weight + gamma * errors.mT @ features


@checked
def sample_weights(
    weight: Float[Tensor, "k d"], covariance: Covariance, count: Count, generator: torch.Generator
) -> Float[Tensor, "e k d"]:
    """Draw `count` hypotheses from N(W, S), the rows (classes) independent with the same covariance S.

    >>> sample_weights(torch.zeros(3, 2), torch.eye(2), 5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 2])
    """
    check_memory("the sample of weights", (count, *weight.shape), weight, "draw fewer hypotheses")
    noise = torch.randn(count, *weight.shape, dtype=weight.dtype, generator=generator, device=generator.device)
    return weight + noise.to(weight.device) @ _cholesky("covariance", covariance).mT


@checked
def log_likelihoods(
    hypotheses: Hypotheses, features: NewFeatures, targets: Targets, *, bias: Bias = None
) -> Float[Tensor, "e b"]:
    """Return log p(y_i | phi_i, hypothesis_e) of each hypothesis and sample.

    >>> log_likelihoods(torch.zeros(1, 2, 1), torch.ones(1, 1), torch.tensor([0])).exp().tolist()
    [[0.5]]
    """
    logits = last_layer(features, hypotheses, bias)  # [e, b, k]
    index = targets.expand(len(hypotheses), -1).unsqueeze(-1)
    return logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1)


@checked
def monte_carlo_weights(
    hypotheses: Hypotheses, features: NewFeatures, targets: Targets, *, gamma: Positive, bias: Bias = None
) -> Float[Tensor, " e"]:
    """Return posterior weights of sampled hypotheses: softmax_e( gamma sum_i log p(y_i | phi_i, hypothesis_e) ).

    >>> monte_carlo_weights(torch.zeros(4, 2, 1), torch.ones(1, 1), torch.tensor([0]), gamma=1.0).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return torch.softmax(gamma * log_likelihoods(hypotheses, features, targets, bias=bias).sum(dim=1), dim=0)


@checked
def monte_carlo_probabilities(
    hypotheses: Hypotheses, hypothesis_weights: Float[Tensor, "*s e"], features: Features, *, bias: Bias = None
) -> Float[Tensor, "*s n k"]:
    """Return the mean of the hypotheses' softmax outputs under `hypothesis_weights`, or under each row of them.

    >>> monte_carlo_probabilities(torch.zeros(2, 4, 1), torch.tensor([0.5, 0.5]), torch.ones(1, 1)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    num_hypotheses, num_classes, _ = hypotheses.shape
    probabilities = features.new_empty(*hypothesis_weights.shape[:-1], len(features), num_classes)
    for block in blocks(len(features), 4 * num_hypotheses * num_classes, BLOCK_BYTES):
        outputs = last_layer(features[block], hypotheses, bias).softmax(dim=-1)  # [e, block, k]
        mean = hypothesis_weights @ outputs.flatten(1)  # [*s, block k]
        probabilities[..., block, :] = mean.unflatten(-1, (-1, num_classes))
    return probabilities


def last_layer(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The logits W phi + bias.  [..., n, k]"""
    return features @ weight.mT if bias is None else features @ weight.mT + bias


def _curvature_of(likelihood: str) -> SampleCurvature | None:
    check_choice("likelihood", likelihood, LIKELIHOODS)
    return LIKELIHOODS[likelihood]


def _cholesky(name: str, matrix: Tensor) -> Tensor:
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError:
        raise ValueError(f"{name} is not positive definite; a matrix that is was expected") from None
