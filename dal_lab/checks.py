"""Checks of files, folders and lists of names: one line with the argument, what was found and what was expected."""

import os
from pathlib import Path

from dal_core.checks import check_text, shown

LONGEST_NAME = 200  # Most systems limit a file's name to 255 bytes; such a name is part of one.


def check_file_name(name: str, value: object) -> None:
    """Raise ValueError unless `value` can be part of a file's name, and does not lead out of the file's folder."""
    check_text(name, value)
    assert isinstance(value, str), "check_text lets only strings pass"
    if "/" in value or "\\" in value or value in (".", "..") or len(os.fsencode(value)) > LONGEST_NAME:
        raise ValueError(
            f"{name} is {shown(value)}; a name without folders, of at most {LONGEST_NAME} bytes, was expected"
        )


def expanded(name: str, path: str | Path) -> Path:
    """Return the path with the home folder in place of a leading `~`, or raise ValueError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} is {shown(str(path))}; an existing home folder in place of ~ was expected") from error


def check_folder(name: str, path: object) -> None:
    """Raise ValueError unless `path` is a folder, or can become one."""
    if not isinstance(path, str | Path) or "\0" in str(path):
        found = str(path) if isinstance(path, Path) else path
        raise ValueError(f"{name} is {shown(found)}; the path of a folder was expected")
    place = expanded(name, path)
    for each in (place, *place.parents):
        try:
            if each.is_dir():
                return
            if each.exists():
                raise ValueError(f"{name} is {shown(str(path))}; a folder was expected, but {shown(str(each))} is none")
        except OSError as error:
            raise ValueError(f"{name} is {shown(str(path))}; a folder was expected: {error.strerror}") from error


def check_names(name: str, value: object, *, fewest: int = 1) -> None:
    """Raise ValueError unless `value` is a list of at least so many different names; a single text is no list."""
    if not isinstance(value, list | tuple) or len(value) < fewest or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} is {shown(value)}; a list of at least {fewest} names was expected")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} is {shown(value)}; different names were expected")
