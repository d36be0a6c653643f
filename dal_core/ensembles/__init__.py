"""Strategies made of strategies; importing the package registers them all."""

from dal_core.ensembles import refine

__all__ = ["refine"]
