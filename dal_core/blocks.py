"""Work in blocks of bounded memory."""

from collections.abc import Iterator

BLOCK_BYTES = 64 * 2**20  # Bytes of intermediate results held at a time; larger blocks are no faster on a CPU.


def blocks(count: int, bytes_a_row: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Yield consecutive slices of `count` rows, each of as many rows as fit into `block_bytes`, and at least one.

    >>> [(block.start, block.stop) for block in blocks(5, bytes_a_row=8, block_bytes=16)]
    [(0, 2), (2, 4), (4, 5)]
    """
    rows = max(1, block_bytes // max(1, bytes_a_row))
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))
