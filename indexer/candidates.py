"""The largest products of each query, kept while blocks of products go by.

A search costs one comparison a product. `exact_hits` of nearest.py turns the candidates into hits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

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
