"""How fast the two hot paths are, next to the same computations written straight from the formulas."""
