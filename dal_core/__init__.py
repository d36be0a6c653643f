"""Deep active learning on frozen features: the algorithms of four papers, and the experiments that reproduce them."""

__version__ = "0.6.0"

# Part of every stored result's key: raise it whenever numbers change, and older results are computed anew.
RESULTS_VERSION = 3
