"""Where downloads, features and measured rates are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for what is kept: `DAL_CACHE`, else `dal_core` in the user's cache folder.

    Raises:
        FileNotFoundError: if the user has neither.
    """
    if named := os.environ.get("DAL_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dal_core"
    except RuntimeError:
        needed = "downloads and features need a folder, and this user has no home folder"
        raise FileNotFoundError(f"{needed}; name one with DAL_CACHE") from None
