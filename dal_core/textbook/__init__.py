"""Every method as its paper states it, to lay beside the paper; the fast ways have to equal it."""

from dal_core.textbook.alfamix import alfamix_candidates
from dal_core.textbook.badge import badge_embedding_norm, badge_embeddings, badge_select
from dal_core.textbook.bald import mutual_information
from dal_core.textbook.boss import judge, mean_loss
from dal_core.textbook.cdo import cdo
from dal_core.textbook.clustering import k_means_seeds, lloyd, most_typical
from dal_core.textbook.coreset import k_center_greedy
from dal_core.textbook.dropquery import dropout_disagreements
from dal_core.textbook.falcun import falcun_select
from dal_core.textbook.herding import herding_select
from dal_core.textbook.probcover import probcover_select
from dal_core.textbook.refine import progressive_filter
from dal_core.textbook.sas import mean_accuracy, sas
from dal_core.textbook.training import SameShuffle, retrain, train_head
from dal_core.textbook.typiclass import class_balanced_select
from dal_core.textbook.typiclust import typiclust_select
from dal_core.textbook.uncertainty import entropy_scores, highest, least_confident_scores, margin_scores
from dal_core.textbook.updates import margin_with_updates
