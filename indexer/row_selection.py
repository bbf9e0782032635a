"""Some rows of a set of vectors shown as if they were all: what is left once rows are removed.

The rows that remain are renumbered from 0; `live` int64 [M], ascending, says which row each was.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .nearest import Hits, Vectors


def select_vectors(vectors: Vectors, live: np.ndarray) -> Vectors:
    """The rows `live` of `vectors`, renumbered."""

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for first, block in vectors.blocks():
            start, stop = np.searchsorted(live, (first, first + len(block)))
            if stop > start:
                whole = stop - start == len(block)
                yield int(start), block if whole else block[live[start:stop] - first]

    return Vectors(len(live), blocks, lambda rows: vectors.fetch(live[rows]))


def renumbered(hits: Hits, live: np.ndarray) -> Hits:
    """Hits in rows of the whole set as rows of the selection; all must be in it."""
    return Hits(hits.similarity, np.searchsorted(live, hits.rows))


def remaining(count: int, removed: np.ndarray) -> np.ndarray:
    """int64 [M], rows 0..count - 1 without those of `removed`."""
    kept = np.ones(count, bool)
    kept[removed] = False
    return np.flatnonzero(kept)
