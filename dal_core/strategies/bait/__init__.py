"""BAIT and its approximations: `select` holds options and recursion; as the paper has it: `dal_core.textbook.bait`.

Axes in all files: n samples (unlabelled ones, candidates), m labelled, b batch, p picks, k classes, d features, c rows
of a sample's factor x, s the side of M or of a space (k d in that of the parameters), u = p c rows X of p picks,
r rows of all samples, v vectors.
"""

from dal_core.strategies.bait.select import bait, bait_first_scores, bait_select
