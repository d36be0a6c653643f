"""Models that runs train, and how they are trained."""
