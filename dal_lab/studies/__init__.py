"""Experiments of the papers that are no plain active learning runs, a file each."""
