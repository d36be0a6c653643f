"""Selection strategies; importing the package registers them all."""

from dal_core.strategies import uncertainty
from dal_core.strategies.registry import get, names, needs_oracle, option_names, query, register

__all__ = ["get", "names", "needs_oracle", "option_names", "query", "register", "uncertainty"]
