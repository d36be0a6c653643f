"""Oracle strategies: upper baselines that look at true labels; importing the package registers them all."""

from dal_core.oracles import annealing, boss, cdo, lookahead

__all__ = ["annealing", "boss", "cdo", "lookahead"]
