"""Every method as its paper states it, to lay beside the paper: what the fast ways must equal."""

from dal_core.textbook.alfamix import alfamix_candidates
from dal_core.textbook.badge import badge_embedding_norm, badge_embeddings, badge_select
from dal_core.textbook.bait import bait_select
from dal_core.textbook.bald import mutual_information
from dal_core.textbook.boss import judge, mean_loss
from dal_core.textbook.cdo import cdo
from dal_core.textbook.clustering import k_means_seeds, lloyd, most_typical
from dal_core.textbook.coreset import k_center_greedy
from dal_core.textbook.dropquery import dropout_disagreements
from dal_core.textbook.falcun import falcun_select
from dal_core.textbook.herding import herding_select
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
from dal_core.textbook.probcover import probcover_select
from dal_core.textbook.refine import progressive_filter
from dal_core.textbook.sas import mean_accuracy, sas
from dal_core.textbook.training import SameShuffle, retrain, train_head
from dal_core.textbook.typiclass import class_balanced_select
from dal_core.textbook.typiclust import typiclust_select
from dal_core.textbook.uncertainty import entropy_scores, highest, least_confident_scores, margin_scores
from dal_core.textbook.updates import margin_with_updates
