"""Every method as its paper states it, to lay beside the paper: what the fast ways must equal."""

from dal_core.textbook.bait import bait_select
from dal_core.textbook.clustering import class_balanced_select, k_means_seeds, lloyd, most_typical, typiclust_select
from dal_core.textbook.coverage import herding_select, k_center_greedy, probcover_select
from dal_core.textbook.diversity import alfamix_candidates, badge_embedding_norm, badge_select, falcun_select
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
from dal_core.textbook.oracles import cdo, judge, mean_accuracy, mean_loss, sas
from dal_core.textbook.refine import progressive_filter
from dal_core.textbook.training import SameShuffle, retrain, train_head
from dal_core.textbook.uncertainty import (
    dropout_disagreements,
    entropy_scores,
    highest,
    least_confident_scores,
    margin_scores,
    margin_with_updates,
    mutual_information,
)
