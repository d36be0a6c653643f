"""Measures how fast the methods are, next to the same computations written straight from the formulas."""
