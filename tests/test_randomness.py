"""Generators depend on seed and purpose alone; threads are fixed and restored."""

import hashlib

import torch

from dal_core.randomness import choose, generator_for, generators_from, integer_seed


def first_numbers(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_generator_follows_from_seed_and_purpose():
    digest = hashlib.sha256(b"(3, 'minibatches', 7)").digest()
    assert generator_for(3, "minibatches", 7).initial_seed() == int.from_bytes(digest[:8], "little")
    assert first_numbers(generator_for(3, "minibatches", 7)) == first_numbers(generator_for(3, "minibatches", 7))


def test_other_seeds_and_purposes_give_other_streams():
    purposes = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, "a1"), (0,)]
    assert len({tuple(first_numbers(generator_for(*purpose))) for purpose in purposes}) == len(purposes)


def test_generators_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    first_numbers(generator_for(0, "a"))
    integer_seed(generator_for(0, "a"))
    choose(11, 5, generator_for(0, "a"))
    assert torch.equal(torch.get_rng_state(), state)


def test_integer_seed_is_a_python_integer_and_moves_on(generator):
    seeds = [integer_seed(generator) for _ in range(50)]
    assert all(type(seed) is int and 0 <= seed < 2**31 - 1 for seed in seeds)
    assert len(set(seeds)) == 50
    assert seeds[0] == integer_seed(torch.Generator().manual_seed(0))


def test_generators_from_one_are_independent_and_fewer_are_the_first_of_more(generator):
    def streams(count: int) -> list[list[float]]:
        return [first_numbers(each) for each in generators_from(torch.Generator().manual_seed(1), count)]

    assert streams(3) == streams(7)[:3]
    assert len({tuple(stream) for stream in streams(7)}) == 7
    assert generators_from(generator, 0) == []


def test_choose_takes_distinct_positions_uniformly_in_random_order(generator):
    drawn = torch.stack([choose(5, 3, generator) for _ in range(3000)])
    assert drawn.dtype == torch.int64
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    for place in range(3):  # at each place each position has probability 1/5; 4 deviations are 0.029
        shares = torch.bincount(drawn[:, place], minlength=5) / 3000
        torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_choose_all_is_a_permutation(generator):
    assert sorted(choose(11, 11, generator).tolist()) == list(range(11))
