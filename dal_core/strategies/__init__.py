"""Selection strategies; importing the package registers them all."""

from dal_core.oracles import typiclass
from dal_core.strategies import alfamix, badge, bald, falcun, herding, probcover, typiclust, uncertainty
from dal_core.strategies.bait import select
from dal_core.strategies.registry import (
    ACQUISITION_SIZE,
    MEMORY,
    RECORD,
    get,
    members,
    names,
    needs_oracle,
    option_names,
    plans_ahead,
    query,
    records,
    register,
    remembers,
)

__all__ = [
    "ACQUISITION_SIZE",
    "MEMORY",
    "RECORD",
    "alfamix",
    "badge",
    "bald",
    "falcun",
    "get",
    "herding",
    "members",
    "names",
    "needs_oracle",
    "option_names",
    "plans_ahead",
    "probcover",
    "query",
    "records",
    "register",
    "remembers",
    "select",
    "typiclass",
    "typiclust",
    "uncertainty",
]
