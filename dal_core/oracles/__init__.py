"""Oracle strategies: upper baselines that look at true labels; importing the package registers them all."""

from dal_core.oracles import boss, cdo, dropqueryclass, lookahead, sas, typiclass

__all__ = ["boss", "cdo", "dropqueryclass", "lookahead", "sas", "typiclass"]
