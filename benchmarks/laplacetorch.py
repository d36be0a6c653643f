"""laplace-torch's last-layer posterior where it is ours: only the benchmarks and a test use it.

The two are the same for a last layer without bias and the gaussian likelihood: with k outputs of unit noise the
generalised Gauss-Newton matrix of a squared error is I_k (x) sum_n phi_n phi_n^T, so that laplace-torch's precision
[k d, k d] is I_k (x) P with our P [d, d]. "full" holds all of it, for one output just P; "kron" holds the factors,
without loss here. The variance of each output is then phi^T S phi, and its probit approximation of a classifier's
prediction our mean-field logits with the factor pi / 8.

Not the same, and not compared: with a softmax laplace-torch takes diag(p) - p p^T of each sample, where our categorical
likelihood shares the scalar p_max (1 - p_max) among the classes; a bias, which it counts among the parameters and ours
leaves alone; what it does beyond, as the marginal likelihood; and our updates, which it does not have.
"""

import math
import warnings

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():  # Its dependencies warn about each other.
    warnings.simplefilter("ignore")
    from laplace import Laplace
    from laplace.baselaplace import ParametricLaplace
    from laplace.curvature import BackPackGGN

FACTOR = math.pi / 8  # The factor of the probit approximation.


def fitted(
    features: Tensor, weight: Tensor, structure: str, likelihood: str = "regression", targets: Tensor | None = None
) -> ParametricLaplace:
    """Return the posterior of the last layer `weight` [k, d] after `features` [n, d]; `structure` is "full" or "kron".

    BackPACK is the fastest of its back ends here, and one minibatch faster than many. A gaussian posterior does not
    depend on the targets.
    """
    layer = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight})
    model = torch.nn.Sequential(torch.nn.Identity(), layer)
    posterior = Laplace(
        model, likelihood, subset_of_weights="last_layer", hessian_structure=structure, last_layer_name="1",
        backend=BackPackGGN,
    )  # fmt: skip
    targets = torch.zeros(len(features), len(weight), dtype=features.dtype) if targets is None else targets
    with warnings.catch_warnings():  # features that need no gradients are no mistake
        warnings.filterwarnings("ignore", message="Full backward hook")
        posterior.fit(DataLoader(TensorDataset(features, targets), batch_size=len(features)))
    return posterior


def precision(posterior: ParametricLaplace) -> Tensor:
    """Return the precision [k d, k d] of a "full" one."""
    return posterior.posterior_precision


def variance(posterior: ParametricLaplace, features: Tensor) -> Tensor:
    """Return the variance of each output.  [n, k]"""
    return posterior(features, pred_type="glm")[1].diagonal(dim1=1, dim2=2)


def probabilities(posterior: ParametricLaplace, features: Tensor) -> Tensor:
    """Return the probit approximation of a classifier whose logits have this posterior.  [n, k]"""
    posterior.likelihood = "classification"
    try:
        return posterior(features, pred_type="glm", link_approx="probit")
    finally:
        posterior.likelihood = "regression"
