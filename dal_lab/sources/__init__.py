"""Where data sets come from, one way a module."""
