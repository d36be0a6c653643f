"""Runs: configured, planned, computed on one or many machines, stored, and found again."""
