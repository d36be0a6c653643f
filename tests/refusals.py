"""What every refusal of bad input has to be: one line that names what is wrong, of a kind that callers can catch."""

import numpy as np
import pytest
import torch

from dal_lab.companion.artefacts import ManifestError
from dal_lab.runs.failures import RunRefusedError
from dal_lab.sources.encoders import EncoderUnavailableError
from dal_lab.sources.raw import DatasetUnavailableError, UnreadableInstanceError

# Exactly these: a JSONDecodeError or a UnicodeDecodeError is a ValueError, too, but says nothing to a user.
DOCUMENTED = (
    ValueError, FileNotFoundError, DatasetUnavailableError, EncoderUnavailableError, UnreadableInstanceError,
    RunRefusedError, ManifestError,
)  # fmt: skip


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def refusal_of(call, *words, kinds=DOCUMENTED):
    """Return the one line with which `call` is refused; `words` have to be in it."""
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


def with_entry(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


def faults(name, value):
    """Return values that the argument cannot have, by what is wrong with them."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        yield "NaN", with_entry(value, float("nan"))
        yield "infinite", with_entry(value, float("inf"))
        yield "integers", value.long()
        yield "half", value.half()
        yield "another dtype", value.float()
        yield "another device", value.to("meta")
        yield "too few", value[:-1]
        if value.ndim > 1:
            yield "too few columns", value[..., :-1]
        yield "one axis more", value.unsqueeze(0)
        yield "no axis", value.sum()
        yield "a list", value.tolist()
        yield "an array", value.numpy()
    elif isinstance(value, torch.Tensor):
        yield "floats", value.double()
        yield "bools", value.bool()
        yield "int32", value.int()
        yield "too few", value[:-1]
        yield "negative", with_entry(value, -1)
        yield "too large", with_entry(value, int(value.max()) + 1)
        yield "a list", value.tolist()
    elif isinstance(value, torch.Generator):
        yield from (("a seed", 0), ("NumPy's", np.random.default_rng(0)), ("none", None))
    elif isinstance(value, bool):
        yield from (("a word", "no"), ("a number", 1), ("none", None))
    elif isinstance(value, int):
        yield from (("zero", 0), ("negative", -3), ("a float", 2.5), ("a bool", True), ("a text", "3"), ("none", None))
    elif isinstance(value, float):
        yield from (("zero or text", 0.0 if name != "factor" else "a"), ("negative", -1.0), ("NaN", float("nan")))
        yield from (("infinite", float("inf")), ("a bool", True), ("a text", "1"), ("no float", 10**400))
    elif isinstance(value, str):
        yield from (("misspelt", value[:-1]), ("nothing", ""), ("a number", 3), ("a list", [value]))
