"""What every refusal of bad input has to be: one line that names what is wrong, of a kind that callers can catch."""

import pytest

from dal_core.encoders import EncoderUnavailableError
from dal_core.grid import RunRefusedError
from dal_core.origins.raw import DatasetUnavailableError, UnreadableInstanceError
from dal_core.report.artefacts import ManifestError
from dal_core.report.notebooks import UsageError

# Exactly these: a JSONDecodeError or a UnicodeDecodeError is a ValueError, too, but says nothing to a user.
DOCUMENTED = (
    ValueError, FileNotFoundError, DatasetUnavailableError, EncoderUnavailableError, UnreadableInstanceError,
    RunRefusedError, ManifestError, UsageError,
)  # fmt: skip


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def refusal_of(call, *words, kinds=DOCUMENTED):
    """The one line with which `call` is refused; `words` have to be in it."""
    with pytest.raises(kinds) as raised:
        call()
    assert type(raised.value) in kinds, f"{type(raised.value).__name__} is none of the package's errors"
    return checked(str(raised.value), *words)


def checked(message, *words):
    assert message.strip(), "the message is empty"
    assert len(message.splitlines()) == 1, f"more than one line: {message!r}"
    assert len(message) < 6000, f"a line of {len(message)} characters"  # a path may have 4096
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return message
