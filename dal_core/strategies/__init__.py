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
from dal_core.strategies.registry import get, names, needs_oracle, option_names, query, register

__all__ = [
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
    "posterior",
    "probcover",
    "query",
    "register",
    "typiclust",
    "uncertainty",
]
