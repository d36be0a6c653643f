"""Deep active learning: the methods of the papers, as functions on tensors.

>>> import torch
>>> import dal_core as dal
>>> draw = torch.Generator().manual_seed(0)
>>> features, logits = torch.randn(100, 8, generator=draw), torch.randn(100, 3, generator=draw)
>>> snapshot = dal.Snapshot.of(features, logits, labelled=[3, 14, 15], labels=[0, 1, 2])
>>> dal.query("badge", snapshot, 2, seed=0).tolist()
[49, 72]

`names()` lists the strategies, `register` adds one, and `textbook` holds each method as its paper states it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from dal_core.snapshot import Snapshot

__version__ = "0.10.0"

# Part of every stored run's key, for the loop and the data: raise it when their numbers change, and all runs are
# computed anew. A strategy, oracle, ensemble or study has a version of its own, which voids its runs alone.
RESULTS_VERSION = 4

# Where the names of the front door live; a module is imported when its name is first asked for.
HOMES = {
    "dal_core.context": "Context",
    "dal_core.data": "Data FeatureBank FeatureData Labelled",
    "dal_core.ensembles.filtering": "progressive_filter",
    "dal_core.experiment": "Experiment Protocol Strategy",
    "dal_core.laplace": "precision_matrix covariance_matrix mean_field_logits predictive_variance second_order_update "
    "first_order_update log_likelihoods monte_carlo_weights monte_carlo_probabilities sample_weights",
    "dal_core.loop": "run",
    "dal_core.metrics": "accuracy nll brier ece ace",
    "dal_core.models.heads": "Head",
    "dal_core.models.learners": "Linear Mlp",
    "dal_core.models.training": "Training train_head",
    "dal_core.pool": "Pool",
    "dal_core.protocols": "Learner Model Outputs Task",
    "dal_core.snapshot": "Snapshot Predictions LastLayer Regression WithModel Truth",
    "dal_core.strategies.alfamix": "alfamix_candidates",
    "dal_core.strategies.badge": "badge_embedding_norm badge_select",
    "dal_core.strategies.bait": "bait_select",
    "dal_core.strategies.coreset": "k_center_greedy",
    "dal_core.strategies.herding": "herding_select",
    "dal_core.strategies.probcover": "probcover_select",
    "dal_core.strategies.registry": "names get register",
    "dal_core.strategies.typiclust": "typiclust_select",
    "dal_core.task": "Classification",
    "dal_core.updates": "Updates",
}
_HOME_OF = {name: home for home, names in HOMES.items() for name in names.split()}
__all__ = ["query", *sorted(_HOME_OF)]


def query(name: str, snapshot: "Snapshot", batch_size: int, *, seed: int = 0, **options: Any) -> "Tensor":
    """Return the batch that the strategy `name` picks, in the order of picking.  [b] int64

    Args:
        snapshot: what is labelled and what is not, as `Snapshot.of` makes it.
        seed: of all that the strategy draws.
        options: the strategy's own.

    Returns:
        Positions in the arrays that `Snapshot.of` was given; of another snapshot, among its unlabelled instances.

    Raises:
        ValueError: for an unknown name or option, and for input that the strategy cannot use.
    """
    import torch

    from dal_core.strategies import registry

    picked = registry.query(registry.get(name, options), snapshot, batch_size, torch.Generator().manual_seed(seed))
    return picked if snapshot.instances is None else snapshot.instances[picked]


def __getattr__(name: str) -> Any:
    if name == "textbook":
        return importlib.import_module("dal_core.textbook")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dal_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), "textbook", *_HOME_OF]
