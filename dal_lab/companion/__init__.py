"""The paper companion: notebooks and what they share, figures, tables, verdicts, the site, and the command line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dal_lab.companion.session import Session


def start(notebook: str, parameters: Mapping[str, Any]) -> "Session":
    """Return the session of a notebook: `companion.start("02_fast_fishing", globals())` is its first call.

    Raises:
        ValueError: if a parameter is not what it may be, naming it, what was found and what was expected.
    """
    from dal_lab.companion.session import Session  # The command's help needs none of what this imports.

    return Session.of(notebook, parameters)
