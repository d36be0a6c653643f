"""BAIT and its approximations: `select` has the options, `recursion` the picks; the textbook is in `textbook.bait`."""

from dal_core.strategies.bait.select import bait, bait_first_scores, bait_select

__all__ = ["bait", "bait_first_scores", "bait_select"]
