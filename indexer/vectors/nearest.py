"""Exact search by inner product, in blocks.

float32 products find the candidates; their similarities are then computed again, one pair at a
time, in float64 and rounded to float32. So a similarity does not depend on how the texts were cut
into blocks or the queries into batches, equal texts get equal similarities, and ties go to the
lower row. A few more candidates than k are fetched; should the last of them still come within
rounding of the k-th, more are fetched for those queries. The queries go in batches small enough for
their candidates to fit in memory.

The products are numpy's: its wheels carry a newer BLAS than FAISS's, with kernels for recent CPUs
(`benchmarks/search_kernel.py`).

The largest products of each query, kept while blocks of products go by.

A search costs one comparison a product. `exact_hits` of nearest.py turns the candidates into hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock

import numpy as np

from ...errors import UsageError
from .blas import share_among_threads

SPARE = 6
"""Candidates fetched beyond k."""

ROUNDING = 2e-6
"""More than float32 search and the float64 similarity can differ by, for unit rows."""

TEXTS_AT_ONCE, PRODUCTS_AT_ONCE = 2048, 1 << 19
"""Of a scan, on each thread: 2 MiB of products, which stay in cache."""

PAIRS_AT_ONCE = 16_384

CANDIDATE_BYTES = 512 << 20
"""Memory for the candidates of one batch of queries, 24 bytes each with what merges them."""


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
    stored: Callable[[], Iterator[tuple[int, np.ndarray]]] | None = None
    """Yields (first row, rows as they lie on disk, fp16 or fp32, not renormalised), if any do."""


Search = Callable[[np.ndarray, int, "np.ndarray | None"], Hits]
"""Unit queries [n, d], k, and the stored rows that may be found, ascending (None: all) to the
hits among stored rows. Similarities are exact; which rows are found may be approximate."""


def array_vectors(rows: np.ndarray) -> Vectors:
    """The rows of one float32 array [M, d] in memory."""
    return Vectors(len(rows), lambda: iter([(0, rows)]), lambda wanted: rows[wanted])


@dataclass(frozen=True)
class Reach:
    """How many candidates a scan gives, and how far its products may be off."""

    first: int
    """Fetched at first."""
    most: int
    """Fetched at most."""
    error: np.ndarray | float
    """float [n] or one number: no product is off by more."""


Scan = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Unit queries [n, d] and w -> float32 [n, w], the largest products in any order; their rows."""


def nearest_texts(queries: np.ndarray, texts: Vectors, k: int) -> Hits:
    """The k texts of largest inner product with each unit row of `queries` [n, d].

    Raises UsageError saying both numbers when k is not between 1 and M.
    """
    check_k(k, texts.count)
    reach = Reach(min(k + SPARE, texts.count), texts.count, ROUNDING)
    return certain_hits(queries, texts, k, lambda some, wanted: _scan(some, texts, wanted), reach)[
        0
    ]


def certain_hits(
    queries: np.ndarray, texts: Vectors, k: int, scan: Scan, reach: Reach
) -> tuple[Hits, np.ndarray]:
    """Hits from a scan that may be off by `reach.error`, and the queries int64 [u] still unsure.

    A query is unsure while a text that was not fetched could be among its k: then four times as
    many are fetched, up to `reach.most`. Where that is all M none stays unsure.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    n = len(queries)
    error = np.broadcast_to(np.asarray(reach.error, np.float64), (n,))
    hits = Hits(np.empty((n, k), np.float32), np.empty((n, k), np.int64))
    asked, wanted = np.arange(n), reach.first
    while True:
        unsure = []
        step = max(1, CANDIDATE_BYTES // (24 * wanted))
        for start in range(0, len(asked), step):
            batch = asked[start : start + step]
            rough, rows = scan(queries[batch], wanted)
            similarity, rows = exact_order(queries[batch], texts, rows)
            hits.similarity[batch] = similarity[:, :k]
            hits.rows[batch] = rows[:, :k]
            if wanted < texts.count:
                unsure.append(batch[rough.min(axis=1) + error[batch] >= similarity[:, k - 1]])
        asked = np.concatenate(unsure) if unsure else asked[:0]
        if not asked.size or wanted >= reach.most:
            return hits, asked
        wanted = min(4 * wanted, reach.most)


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
    similarity, rows = exact_order(queries, texts, found.rows)
    hits = Hits(similarity[:, :k].copy(), rows[:, :k].copy())
    if found.rows.shape[1] < texts.count:
        unsure = np.flatnonzero(found.lowest + ROUNDING >= similarity[:, k - 1])
        if unsure.size:
            again = nearest_texts(queries[unsure], texts, k)
            hits.similarity[unsure], hits.rows[unsure] = again.similarity, again.rows
    return hits


def _scan(queries: np.ndarray, texts: Vectors, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The `wanted` texts of largest product with each query, over all blocks."""
    kept = no_candidates(len(queries), wanted, np.dtype(np.float32))
    length = max(TEXTS_AT_ONCE, wanted)
    width = max(1, PRODUCTS_AT_ONCE // length)
    lock = Lock()

    def work(pieces: Iterator[tuple[int, np.ndarray]]) -> None:
        memory = np.empty(min(width, len(queries)) * length, np.float32)
        for first, rows in pieces:
            for start in range(0, len(queries), width):
                batch = slice(start, start + width)
                some = queries[batch]
                products = memory[: len(some) * len(rows)].reshape(len(some), len(rows))
                np.matmul(some, rows.T, out=products)
                keep_largest(
                    Candidates(kept.values[batch], kept.rows[batch]), products, first, lock
                )

    share_among_threads(work, _pieces(texts, length), -(-texts.count // length))
    return kept.values, kept.rows


def _pieces(texts: Vectors, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """All blocks of texts, cut into pieces of at most `length` rows."""
    for first, block in texts.blocks():
        for start in range(0, len(block), length):
            rows = np.ascontiguousarray(block[start : start + length], np.float32)
            yield first + start, rows


def exact_order(
    queries: np.ndarray, texts: Vectors, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates `rows` [n, m] with pairwise similarities, sorted by them and then by row.

    Rows of -1 stand for none: they come last, with a similarity of -inf.
    """
    similarity = np.empty(rows.shape, np.float32)
    step = max(1, PAIRS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        vectors = texts.fetch(np.maximum(rows[block], 0).ravel()).reshape(*rows[block].shape, -1)
        similarity[block] = np.einsum("nmd,nd->nm", vectors, queries[block], dtype=np.float64)
    similarity[rows < 0] = -np.inf
    order = np.lexsort((rows, -similarity), axis=1)
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)


UNSHARED = nullcontext()

DENSE = 1 / 8
"""Where more of a block's products are larger than what was kept, the whole block is merged."""


@dataclass(frozen=True)
class Candidates:
    """The w texts of largest product with each of b queries so far, in no order."""

    values: np.ndarray
    """float [b, w], -inf where there were not yet w texts."""
    rows: np.ndarray
    """int64 [b, w]."""

    @property
    def lowest(self) -> np.ndarray:
        """float [b]: no text outside the candidates has a larger product."""
        return self.values.min(axis=1)


def no_candidates(queries: int, wanted: int, dtype: np.dtype) -> Candidates:
    """None yet of `wanted` for each query."""
    shape = queries, wanted
    return Candidates(np.full(shape, -np.inf, dtype), np.full(shape, -1, np.int64))


def keep_largest(
    kept: Candidates,
    products: np.ndarray,
    first: int,
    lock: AbstractContextManager[object] = UNSHARED,
) -> None:
    """Put what is larger among `products` [b, t], of texts `first` and on, into `kept`.

    The products may lie in either memory order. Threads that share `kept` share a `lock`.
    """
    with lock:
        lowest = kept.lowest
    larger = products > lowest[:, None]
    found = np.flatnonzero(larger.ravel(order="K"))
    if not found.size:
        return
    if found.size > products.size * DENSE:
        with lock:
            _keep_dense(kept, products, first)
        return
    if products.flags.c_contiguous:
        query, text = np.divmod(found, products.shape[1])
    else:
        text, query = np.divmod(found, products.shape[0])
        order = np.argsort(query, kind="stable")
        text, query = text[order], query[order]
    with lock:
        _keep_few(kept, query, products[query, text], first + text)


def _keep_few(
    kept: Candidates, query: np.ndarray, found: np.ndarray, rows_found: np.ndarray
) -> None:
    """Merge products `found` with the candidates of their queries, which ascend."""
    width = kept.values.shape[1]
    touched, starts, counts = np.unique(query, return_index=True, return_counts=True)
    place = np.repeat(np.arange(len(touched)), counts)
    column = width + np.arange(len(query)) - np.repeat(starts, counts)
    values = np.full((len(touched), width + counts.max()), -np.inf, kept.values.dtype)
    rows = np.full(values.shape, -1, np.int64)
    values[:, :width], rows[:, :width] = kept.values[touched], kept.rows[touched]
    values[place, column], rows[place, column] = found, rows_found
    best = np.argpartition(values, -width, axis=1)[:, -width:]
    kept.values[touched] = np.take_along_axis(values, best, axis=1)
    kept.rows[touched] = np.take_along_axis(rows, best, axis=1)


def _keep_dense(kept: Candidates, products: np.ndarray, first: int) -> None:
    """Merge all products: quicker where many are larger, as in the first block."""
    width = kept.values.shape[1]
    values = np.concatenate([kept.values, products], axis=1, dtype=kept.values.dtype)
    best = np.argpartition(values, -width, axis=1)[:, -width:]
    before = np.take_along_axis(kept.rows, np.minimum(best, width - 1), axis=1)
    kept.rows[:] = np.where(best < width, before, first + best - width)
    kept.values[:] = np.take_along_axis(values, best, axis=1)
