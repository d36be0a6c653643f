"""Published tables, as CSV."""
