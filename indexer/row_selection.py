"""Some rows of a set of vectors shown as if they were all: what is left once rows are removed.

The rows that remain are renumbered from 0; `live` int64 [M], ascending, says which row each was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .nearest import Hits, Vectors, nearest_texts

COPIED_AT_ONCE = 32_768
"""Rows of a block that are copied at once where some of them are left out."""


def select_vectors(vectors: Vectors, live: np.ndarray) -> Vectors:
    """The rows `live` of `vectors`, renumbered."""
    stored = vectors.stored
    return Vectors(
        len(live),
        lambda: _chosen(vectors.blocks(), live),
        lambda rows: vectors.fetch(live[rows]),
        None if stored is None else lambda: _chosen(stored(), live),
    )


def _chosen(
    blocks: Iterator[tuple[int, np.ndarray]], live: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    for first, block in blocks:
        start, stop = np.searchsorted(live, (first, first + len(block)))
        if stop - start == len(block):
            yield int(start), block
            continue
        for at in range(start, stop, COPIED_AT_ONCE):
            yield int(at), block[live[at : min(stop, at + COPIED_AT_ONCE)] - first]


def renumbered(hits: Hits, live: np.ndarray) -> Hits:
    """Hits in rows of the whole set as rows of the selection; all must be in it."""
    return Hits(hits.similarity, np.searchsorted(live, hits.rows))


def remaining(count: int, removed: np.ndarray) -> np.ndarray:
    """int64 [M], rows 0..count - 1 without those of `removed`."""
    kept = np.ones(count, bool)
    kept[removed] = False
    return np.flatnonzero(kept)


def exact_search(vectors: Vectors, queries: np.ndarray, k: int, kept: np.ndarray | None) -> Hits:
    """The k nearest of the rows `kept`, or of all, by scanning them; hits among all rows."""
    if kept is None:
        return nearest_texts(queries, vectors, k)
    hits = nearest_texts(queries, select_vectors(vectors, kept), k)
    return Hits(hits.similarity, kept[hits.rows])


def merge_hits(found: Sequence[Hits], k: int) -> Hits:
    """The k best of several hits of the same n queries, whose rows are disjoint."""
    if len(found) == 1:
        return found[0]
    similarity = np.concatenate([hits.similarity for hits in found], axis=1)
    rows = np.concatenate([hits.rows for hits in found], axis=1)
    order = np.lexsort((rows, -similarity), axis=1)[:, :k]
    return Hits(
        np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)
    )
