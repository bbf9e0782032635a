"""Exact search by inner product, in blocks; the only file that imports faiss.

FAISS finds the candidates; their similarities are then computed again, one pair at a time, in
float64 and rounded to float32. So a similarity does not depend on how the texts were cut into
blocks or the queries into batches, equal texts get equal similarities, and ties go to the lower
row. A few more candidates than k are fetched; should the last of them still come within rounding
of the k-th, more are fetched for those queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .candidates import Candidates

SPARE = 6
"""Candidates fetched beyond k."""

ROUNDING = 2e-6
"""More than float32 search and the float64 similarity can differ by, for unit rows."""

PAIRS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Hits:
    """The k nearest texts of each of n queries, most similar first, equal ones by row."""

    similarity: np.ndarray
    """float32 [n, k], inner products."""
    rows: np.ndarray
    """int64 [n, k]."""


@dataclass(frozen=True)
class Vectors:
    """M unit rows to search: in blocks for scanning, by row for fetching."""

    count: int
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]
    """Yields (first row, float32 [m, d]) in row order."""
    fetch: Callable[[np.ndarray], np.ndarray]
    """Rows int64 [u] -> float32 [u, d]."""


def array_vectors(rows: np.ndarray) -> Vectors:
    """The rows of one float32 array [M, d] in memory."""
    return Vectors(len(rows), lambda: iter([(0, rows)]), lambda wanted: rows[wanted])


def nearest_texts(queries: np.ndarray, texts: Vectors, k: int) -> Hits:
    """The k texts of largest inner product with each unit row of `queries` [n, d].

    Raises UsageError saying both numbers when k is not between 1 and M.
    """
    check_k(k, texts.count)
    queries = np.ascontiguousarray(queries, np.float32)
    n = len(queries)
    hits = Hits(np.empty((n, k), np.float32), np.empty((n, k), np.int64))
    open_queries, wanted = np.arange(n), min(k + SPARE, texts.count)
    while open_queries.size:
        rough, rows = _scan(queries[open_queries], texts, wanted)
        similarity, rows = _exact_order(queries[open_queries], texts, rows)
        hits.similarity[open_queries] = similarity[:, :k]
        hits.rows[open_queries] = rows[:, :k]
        unsure = rough[:, -1] + ROUNDING >= similarity[:, k - 1]
        open_queries = open_queries[unsure if wanted < texts.count else np.zeros_like(unsure)]
        wanted = min(4 * wanted, texts.count)
    return hits


def check_k(k: int, count: int) -> None:
    """Raise UsageError saying both numbers when k is not between 1 and `count`."""
    if not 1 <= k <= count:
        raise UsageError(
            f"k = {k} was asked of an index of M = {count:,} texts",
            f"k between 1 and {count:,}",
            "Ask for a smaller k or build a larger index",
        )


def exact_hits(queries: np.ndarray, texts: Vectors, k: int, found: Candidates) -> Hits:
    """Hits of unit rows `queries` [n, d] from candidates, k or more of each, of a search elsewhere.

    Their products must be right to ROUNDING; where the last candidate comes that near to the k-th
    hit, the query is searched again.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    similarity, rows = _exact_order(queries, texts, found.rows)
    hits = Hits(similarity[:, :k].copy(), rows[:, :k].copy())
    if found.rows.shape[1] < texts.count:
        unsure = np.flatnonzero(found.lowest + ROUNDING >= similarity[:, k - 1])
        if unsure.size:
            again = nearest_texts(queries[unsure], texts, k)
            hits.similarity[unsure], hits.rows[unsure] = again.similarity, again.rows
    return hits


def _scan(queries: np.ndarray, texts: Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's k best over all blocks: float32 similarities, descending, and int64 rows."""
    import faiss

    best: tuple[np.ndarray, np.ndarray] | None = None
    for first, block in texts.blocks():
        found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        similarity, rows = found[0], found[1] + first
        if best is not None:
            similarity = np.concatenate([best[0], similarity], axis=1)
            rows = np.concatenate([best[1], rows], axis=1)
            order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
            similarity = np.take_along_axis(similarity, order, axis=1)
            rows = np.take_along_axis(rows, order, axis=1)
        best = similarity, rows
    assert best is not None
    return best


def _exact_order(
    queries: np.ndarray, texts: Vectors, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates `rows` [n, m] with pairwise similarities, sorted by them and then by row."""
    similarity = np.empty(rows.shape, np.float32)
    step = max(1, PAIRS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        vectors = texts.fetch(rows[block].ravel()).reshape(*rows[block].shape, -1)
        similarity[block] = np.einsum("nmd,nd->nm", vectors, queries[block], dtype=np.float64)
    order = np.lexsort((rows, -similarity), axis=1)
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)


def write_flat_index(path: Path, texts: Vectors, dimension: int) -> None:
    """Write a FAISS IndexFlatIP file of all texts, for other programs; we never read it back."""
    import faiss

    from ..artefacts import write_atomically

    index = faiss.IndexFlatIP(dimension)
    for _, block in texts.blocks():
        index.add(block)
    write_atomically(path, lambda file: file.write(faiss.serialize_index(index).tobytes()))
