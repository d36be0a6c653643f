"""Every method as its paper states it: loops and inverses, for reading, and for tests of the fast forms."""

from dal_core.textbook.bait import bait_select

__all__ = ["bait_select"]
