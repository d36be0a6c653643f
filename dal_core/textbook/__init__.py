"""Every method as its paper states it, in loops to lay beside the paper: what the fast ways must equal."""

from dal_core.textbook.laplace import (
    covariance_matrix,
    first_order_update,
    mean_field_logits,
    monte_carlo_probabilities,
    monte_carlo_weights,
    precision_matrix,
    predictive_variance,
    second_order_update,
)
from dal_core.textbook.metrics import accuracy, ace, brier, ece, nll

__all__ = [
    "accuracy",
    "ace",
    "brier",
    "covariance_matrix",
    "ece",
    "first_order_update",
    "mean_field_logits",
    "monte_carlo_probabilities",
    "monte_carlo_weights",
    "nll",
    "precision_matrix",
    "predictive_variance",
    "second_order_update",
]
