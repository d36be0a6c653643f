"""Selection strategies; importing the package registers them all."""

from dal_core.strategies import (
    bait,
    class_aware,
    coverage,
    falcun,
    gradient,
    mixing,
    posterior,
    probcover,
    typiclust,
    uncertainty,
)
from dal_core.strategies.registry import (
    ACQUISITION_SIZE,
    RECORD,
    get,
    names,
    needs_oracle,
    option_names,
    plans_ahead,
    query,
    records,
    register,
)

__all__ = [
    "ACQUISITION_SIZE",
    "RECORD",
    "bait",
    "class_aware",
    "coverage",
    "falcun",
    "get",
    "gradient",
    "mixing",
    "names",
    "needs_oracle",
    "option_names",
    "plans_ahead",
    "posterior",
    "probcover",
    "query",
    "records",
    "register",
    "typiclust",
    "uncertainty",
]
