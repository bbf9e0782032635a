"""A range of rows, cut into pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator


def slices(count: int, size: int) -> Iterator[slice]:
    """0..count in slices of `size`, or of 1 where that is less."""
    size = max(1, size)
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))
