"""BAIT and its approximations (paper 2)."""
