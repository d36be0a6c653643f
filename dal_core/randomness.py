"""Explicit generators, split from a run's seed by what they are used for."""

import hashlib

import torch

from dal_core.checks import check_generator

Purpose = str | int


def generator_for(seed: int, *purpose: Purpose) -> torch.Generator:
    """A CPU generator that depends on `seed` and on `purpose` alone, e.g. `generator_for(0, "minibatches", 7)`.

    Drawing more numbers for one purpose never shifts those of another, so two strategies that consume
    different amounts of randomness still start from the same labelled set and the same initial head.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def integer_seed(generator: torch.Generator) -> int:
    """A seed for a library that wants an integer (scikit-learn's `random_state`), drawn from `generator`."""
    check_generator("generator", generator)
    return int(torch.randint(2**31 - 1, (), generator=generator))


def generators_from(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """`count` generators of their own, so that what one of them is used for does not shift what the others draw."""
    return [torch.Generator().manual_seed(integer_seed(generator)) for _ in range(count)]


def choose(population: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` distinct positions of `range(population)`, uniformly, in random order.  [count] int64

    Raises:
        ValueError: unless 0 <= count <= population.
    """
    check_generator("generator", generator)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= population:
        raise ValueError(f"count is {count}; 0 to {population}, the size of the population, was expected")
    return torch.randperm(population, generator=generator)[:count]
