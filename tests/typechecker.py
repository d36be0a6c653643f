"""The type checker that watches the package's functions while tests run."""

from collections.abc import Callable

import beartype

# An int passes for a float, as PEP 484 has it and as mypy reads our signatures; beartype by itself would refuse it.
STRICT = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def typechecked(function: Callable) -> Callable:
    """The function with its types checked, but for constructors: those of dataclasses refuse in words of their own."""
    return function if function.__name__ == "__init__" else STRICT(function)
