"""The largest products of each query, kept while blocks of products go by.

For passes that make all products of queries and texts anyway: the search then costs one comparison
a product. `exact_hits` of nearest.py turns the candidates into hits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def keep_largest(kept: Candidates, products: np.ndarray, first: int) -> None:
    """Put what is larger among `products` [t, b], of texts `first` and on, into `kept`."""
    width = kept.values.shape[1]
    found = np.flatnonzero(products > kept.lowest)
    if not found.size:
        return
    text, query = np.divmod(found, products.shape[1])
    order = np.argsort(query, kind="stable")
    text, query = text[order], query[order]
    touched, starts, counts = np.unique(query, return_index=True, return_counts=True)
    place = np.repeat(np.arange(len(touched)), counts)
    column = width + np.arange(len(query)) - np.repeat(starts, counts)
    values = np.full((len(touched), width + counts.max()), -np.inf, kept.values.dtype)
    rows = np.full(values.shape, -1, np.int64)
    values[:, :width], rows[:, :width] = kept.values[touched], kept.rows[touched]
    values[place, column], rows[place, column] = products[text, query], first + text
    best = np.argpartition(values, -width, axis=1)[:, -width:]
    kept.values[touched] = np.take_along_axis(values, best, axis=1)
    kept.rows[touched] = np.take_along_axis(rows, best, axis=1)
