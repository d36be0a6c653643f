"""Step through the cycles of a run on data in the plane, and see what the strategy picks and why."""
