"""Strategies made of strategies; importing the package registers them all."""

from dal_core.ensembles import autoal, refine, selectal, tailor, tcm

__all__ = ["autoal", "refine", "selectal", "tailor", "tcm"]
