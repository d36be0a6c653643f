"""Selection strategies; importing the package registers them all."""

from dal_core.strategies import (
    alfamix,
    badge,
    bait,
    bald,
    coreset,
    dropquery,
    falcun,
    herding,
    probcover,
    typiclust,
    uncertainty,
)
from dal_core.strategies.registry import (
    get,
    members,
    names,
    needs_oracle,
    option_names,
    query,
    register,
)
