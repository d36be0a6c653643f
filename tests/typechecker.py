"""The type checker that watches the package's functions while tests run."""

from collections.abc import Callable

import beartype
import jaxtyping

# An int passes for a float, as PEP 484 has it and as mypy reads our signatures; beartype by itself would refuse it.
STRICT = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def typechecked(function: Callable) -> Callable:
    """Return the function with its types checked, but for constructors, as dataclasses refuse in words of their own."""
    return function if function.__name__ == "__init__" else STRICT(function)


def _but_for_nested_functions(**options: Callable) -> Callable:
    """Return the import hook's decorator; it leaves out nested functions, which it would compile at each definition."""
    decorate = JAXTYPED(**options)
    return lambda written: written if "<locals>" in getattr(written, "__qualname__", "") else decorate(written)


JAXTYPED = jaxtyping.jaxtyped
jaxtyping.jaxtyped = _but_for_nested_functions
