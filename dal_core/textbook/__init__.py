"""Every method as its paper states it, to lay beside the paper; the fast ways have to equal it."""

from dal_core.textbook.boss import judge, mean_loss
from dal_core.textbook.cdo import cdo
from dal_core.textbook.refine import progressive_filter
from dal_core.textbook.sas import mean_accuracy, sas
from dal_core.textbook.training import SameShuffle, retrain, train_head
from dal_core.textbook.typiclass import class_balanced_select

__all__ = [
    "SameShuffle",
    "cdo",
    "class_balanced_select",
    "judge",
    "mean_accuracy",
    "mean_loss",
    "progressive_filter",
    "retrain",
    "sas",
    "train_head",
]
