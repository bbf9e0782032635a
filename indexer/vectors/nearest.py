"""Exact search: the k texts of largest inner product with each query.

    s(x, d) = x·d,  rows(x) = the k largest s(x, ·), of equal ones the lower row first

1. Scan: float32 products (numpy's BLAS), a block of texts at a time, and for each query a heap
   (FAISS's) of the k + SPARE texts of largest product, its candidates.
2. Order: the candidates' similarities again, one pair at a time in float64, rounded to float32.
3. Check: where the last candidate's product comes within ROUNDING of the k-th similarity, a text
   that was not fetched could belong to the k; such queries are scanned again for more candidates.

So a similarity does not depend on how texts or queries were cut into blocks, and equal texts have
equal similarities. Queries go in batches whose candidates fit in memory. numpy multiplies because
its wheels carry a newer BLAS than FAISS's (`benchmarks/search_kernel.py`).

    >>> import numpy as np
    >>> texts = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], np.float32)
    >>> hits = exact_search(np.array([[0.8, 0.6]], np.float32), texts, k=2)
    >>> hits.rows.tolist(), hits.similarity.round(2).tolist()
    ([[2, 1]], [[0.9599999785423279, 0.800000011920929]])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ...arguments import checked_arrays
from ...errors import UsageError
from .blas import share_among_threads
from .unit_rows import Rows, blocks_of, slices

SPARE = 6
"""Candidates fetched beyond k."""

ROUNDING = 2e-6
"""Bound on the difference of a float32 product of unit rows from its float64 similarity."""

TEXTS_AT_ONCE, PRODUCTS_AT_ONCE = 2048, 1 << 20
"""Of a scan, on each thread: 4 MiB of products."""
FEW_QUERIES = 16
"""So many or fewer meet twice as many texts at once: a block costs more than its product."""

SMALL_PRODUCT, LEAST_ROWS = 1_000_000, 40
"""Multiplications of the largest product that OpenBLAS has kernels for small ones for, and texts of
the smallest that is worth it."""

MANY = 8
"""Products are sorted out before they are added where at most one in so many is."""

PAIRS_AT_ONCE = 2048
"""Pairs of a query and a candidate whose vectors are held at once."""

CANDIDATE_BYTES = 512 << 20
"""Memory for the candidates of one batch of queries, 24 bytes each with what merges them."""


@dataclass(frozen=True)
class Hits:
    """The k nearest texts of each of n queries, most similar first, equal ones by row."""

    similarity: np.ndarray
    """float32 [n, k], inner products."""
    rows: np.ndarray
    """int64 [n, k]."""


class Candidates:
    """The w texts of largest product with each of n queries, of those added so far, unordered.

    `values` float32 [n, w], -inf where fewer than w texts were added, and `rows` int64 [n, w], -1
    there.
    """

    def __init__(self, queries: int, wanted: int) -> None:
        import faiss

        self.values = np.full((queries, wanted), -np.inf, np.float32)
        self.rows = np.full((queries, wanted), -1, np.int64)
        self._faiss: Any = faiss
        self._heaps = heaps = self._faiss.float_minheap_array_t()
        heaps.nh, heaps.k = queries, wanted
        heaps.val, heaps.ids = faiss.swig_ptr(self.values), faiss.swig_ptr(self.rows)

    def add(self, products: np.ndarray, query: int, text: int) -> None:
        """Add `products` [b, t] of the queries from `query` on with the texts from `text` on.

        Threads may add at the same time, but not for the same query.
        """
        numbers = np.arange(text, text + products.shape[1])[None]
        self._add(np.ascontiguousarray(products, np.float32), query, numbers)

    def _add(self, products: np.ndarray, query: int, numbers: np.ndarray) -> None:
        """Add `products` [b, t] with the texts `numbers` int64 [1 or b, t]."""
        b, t = products.shape
        products_at, numbers_at = map(self._faiss.swig_ptr, (products, numbers))
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)  # of this thread alone
        stride = t if len(numbers) > 1 else 0
        self._heaps.addn_with_ids(t, products_at, numbers_at, stride, query, b)
        self._faiss.omp_set_num_threads(threads)

    def add_columns(self, products: np.ndarray, query: int, text: int) -> None:
        """`add` for `products` [t, b], a row a text.

        Those above the least candidate of their query are picked first; few are once most texts
        were added.
        """
        t, b = products.shape
        place = np.flatnonzero(products > self.values[query : query + b, 0])
        if MANY * len(place) > t * b:
            self.add(products.T, query, text)
            return
        texts, queries = np.divmod(place, b)
        order = np.argsort(queries, kind="stable")
        counts = np.bincount(queries, minlength=b)
        column = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        picked = np.full((b, counts.max()), -np.inf, np.float32)
        numbers = np.zeros(picked.shape, np.int64)
        where = queries[order], column
        picked[where] = products.ravel()[place[order]]
        numbers[where] = texts[order] + text
        self._add(picked, query, numbers)

    @property
    def lowest(self) -> np.ndarray:
        """float32 [n]: no text outside the candidates has a larger product."""
        return self.values.min(axis=1)


class Scanner(Protocol):
    """A pass over all texts in low precision, which proposes candidates."""

    first: int
    """Candidates of the first scan."""
    most: int
    """Most candidates of any scan."""

    def scan(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """The largest products of unit queries [n, d], float32 [n, wanted], and rows, unordered."""

    def error(self, queries: np.ndarray) -> np.ndarray | float:
        """float [n] or one number: how far a product may be off at most."""


@checked_arrays(vectors=("queries", "texts"))
def exact_search(queries: np.ndarray, texts: Rows, k: int) -> Hits:
    """The k rows of `texts` (M unit rows) of largest inner product with each of `queries` [n, d].

    Both are unit rows (see `normalise_rows`); `texts` is an array [M, d] or lies on disk. Raises
    UsageError when k is not between 1 and M, or a query is not finite.
    """
    texts = np.asarray(texts, np.float32) if isinstance(texts, np.ndarray) else texts
    check_k(k, len(texts))
    hits = certain_hits(queries, texts, k, BlockScan(texts, k))[0]
    lost = np.flatnonzero(~np.isfinite(hits.similarity).all(axis=1))
    if lost.size:
        raise UsageError(
            f"query {lost[0]} has no similarity with one of its {k} texts that is a number",
            "queries and texts without NaN and infinity",
            "Leave those out, or embed them again",
        )
    return hits


def certain_hits(
    queries: np.ndarray, texts: Rows, k: int, scanner: Scanner
) -> tuple[Hits, np.ndarray]:
    """Hits from the candidates of `scanner`, and the uncertain queries.

    A query is uncertain while a text that was not fetched could be among its k: it is scanned again
    for four times as many candidates, up to `scanner.most`. The queries int64 [u] that are still
    uncertain then are returned; there are none where `scanner.most` is M.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    n = len(queries)
    error = np.broadcast_to(np.asarray(scanner.error(queries), np.float64), (n,))
    hits = Hits(np.empty((n, k), np.float32), np.empty((n, k), np.int64))
    remaining, wanted = np.arange(n), scanner.first
    while True:
        uncertain = [remaining[:0]]
        for some in slices(len(remaining), CANDIDATE_BYTES // (24 * wanted)):
            batch = remaining[some]
            rough, rows = scanner.scan(queries[batch], wanted)
            similarity, rows = exact_order(queries[batch], texts, rows)
            hits.similarity[batch] = similarity[:, :k]
            hits.rows[batch] = rows[:, :k]
            if wanted < len(texts):
                uncertain.append(batch[rough.min(axis=1) + error[batch] >= similarity[:, k - 1]])
        remaining = np.concatenate(uncertain)
        if not remaining.size or wanted >= scanner.most:
            return hits, remaining
        wanted = min(4 * wanted, scanner.most)


def check_k(k: int, count: int) -> None:
    """Raise UsageError, naming both numbers, when k is not between 1 and `count`."""
    if not 1 <= k <= count:
        raise UsageError(
            f"k = {k} was asked of an index of M = {count:,} texts",
            f"k between 1 and {count:,}",
            "Ask for a smaller k or build a larger index",
        )


def exact_hits(
    queries: np.ndarray, texts: Rows, k: int, rows: np.ndarray, lowest: np.ndarray
) -> Hits:
    """Hits of unit rows `queries` [n, d] from the candidates `rows` [n, w] of another scan, w >= k.

    No other text's product is above `lowest` [n], right to ROUNDING. Queries that are uncertain
    (step 3) are searched again.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    similarity, ordered = exact_order(queries, texts, rows)
    hits = Hits(similarity[:, :k].copy(), ordered[:, :k].copy())
    if rows.shape[1] < len(texts):
        uncertain = np.flatnonzero(lowest + ROUNDING >= similarity[:, k - 1])
        if uncertain.size:
            again = exact_search(queries[uncertain], texts, k)
            hits.similarity[uncertain], hits.rows[uncertain] = again.similarity, again.rows
    return hits


class BlockScan:
    """Step 1: float32 products of all texts, a block at a time, on as many threads as BLAS has."""

    def __init__(self, texts: Rows, k: int) -> None:
        self.texts = texts
        self.first, self.most = min(k + SPARE, len(texts)), len(texts)

    def error(self, queries: np.ndarray) -> float:
        """ROUNDING."""
        return ROUNDING

    def scan(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """The `wanted` texts of largest product with each query."""
        kept = Candidates(len(queries), wanted)
        length = max(TEXTS_AT_ONCE * (2 if len(queries) <= FEW_QUERIES else 1), wanted)
        width = max(1, PRODUCTS_AT_ONCE // length)
        batches = [(batch, Lock()) for batch in slices(len(queries), width)]

        turned = [np.ascontiguousarray(queries[batch].T) for batch, _ in batches]

        def work(blocks: Iterator[tuple[int, np.ndarray]]) -> None:
            memory = np.empty(min(width, len(queries)) * length, np.float32)
            for first, rows in blocks:
                for (batch, lock), some in zip(batches, turned, strict=True):
                    shape = len(rows), some.shape[1]
                    products = memory[: shape[0] * shape[1]].reshape(shape)
                    _multiply(rows, some, products)
                    with lock:
                        kept.add_columns(products, batch.start, first)

        share_among_threads(work, _text_blocks(self.texts, length), -(-len(self.texts) // length))
        return kept.values, kept.rows


def _multiply(rows: np.ndarray, queries: np.ndarray, out: np.ndarray) -> None:
    """`rows` [t, d] times `queries` [d, b], written to `out` [t, b].

    A few rows at a time where that is a product small enough for a BLAS that has kernels for those:
    it reads large ones twice, which takes most of the time where there are few queries.
    """
    d, b = queries.shape
    few = SMALL_PRODUCT // (b * d)
    if b == 1 or few < LEAST_ROWS or few >= len(rows):
        np.matmul(rows, queries, out=out)
        return
    whole = len(rows) // few * few
    np.matmul(rows[:whole].reshape(-1, few, d), queries, out=out[:whole].reshape(-1, few, b))
    np.matmul(rows[whole:], queries, out=out[whole:])


def _text_blocks(texts: Rows, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """The texts in blocks of at most `length` rows: (first row, float32 [m, d])."""
    for first, block in blocks_of(texts):
        for some in slices(len(block), length):
            yield first + some.start, np.ascontiguousarray(block[some], np.float32)


def exact_order(
    queries: np.ndarray, texts: Rows, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates `rows` [n, m] with their similarities, most similar first, equal ones by row.

    A row of -1 is no candidate: it comes last, with a similarity of -inf.
    """
    similarity = np.empty(rows.shape, np.float32)
    for block in slices(len(rows), PAIRS_AT_ONCE // rows.shape[1]):
        vectors = texts[np.maximum(rows[block], 0).ravel()].reshape(*rows[block].shape, -1)
        similarity[block] = np.einsum("nmd,nd->nm", vectors, queries[block], dtype=np.float64)
    similarity[rows < 0] = -np.inf
    order = np.lexsort((rows, -similarity), axis=1)
    return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)


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
