"""Selection strategies; importing the package registers them all."""

from dal_core.strategies import coverage, gradient, uncertainty
from dal_core.strategies.registry import get, names, needs_oracle, option_names, query, register

__all__ = ["coverage", "get", "gradient", "names", "needs_oracle", "option_names", "query", "register", "uncertainty"]
