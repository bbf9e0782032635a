"""All pairs of near rows, exactly: those whose inner product is at least some number.

Let x = (y, z) in an orthonormal basis, y its leading coordinates. By Cauchy and Schwarz

    x·x' = y·y' + z·z' <= y·y' + |z||z'|

so that rows of a few numbers, y and |z|, bound every product from above. The leading coordinates
are those in which the rows are long, about the first eigenvectors of their second moments: of most
pairs that are far apart the bound is too low.

1. Bounds of a block of rows with another, each pair of blocks once.
2. Where few bounds reach the number, those pairs alone are multiplied, else the whole block.
3. Pairs that may reach it are multiplied in float64 and rounded to float32, as in `nearest`.

    >>> import numpy as np
    >>> found = near_pairs(np.eye(3, dtype=np.float32)[[0, 1, 0]], least=0.9, most=3)
    >>> [each.tolist() for each in found]
    [[0], [2], [1.0]]
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from threading import Lock

import numpy as np

from .blas import share_among_threads
from .unit_rows import Rows, blocks_of, slices

LEADING = 128
"""Coordinates of a bound, beside |z|."""
SAMPLED = 2048
"""Rows that the basis is of, at most."""
SLACK = 1e-4
"""More than float32 products and coordinates change a bound."""
ROWS_AT_ONCE = 1024
"""Of a block: 4 MiB of bounds."""
FEW = 1 / 128
"""The share of a block's bounds up to which pairs are multiplied one by one."""
PAIRS_AT_ONCE = 512
"""Their rows stay in cache."""


def near_pairs(
    rows: Rows, least: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pairs i < j of unit rows [n, d] with an inner product of at least `least`, by i, then j.

    Gives i and j, int64 [p], and the products, float32 [p]; None where there are more than `most`,
    as soon as that is known.
    """
    bounds = _bounds(rows)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count, lock = 0, Lock()

    def work(blocks: Iterator[tuple[slice, slice]]) -> None:
        nonlocal count
        memory = np.empty(ROWS_AT_ONCE**2, np.float32)
        for one, other in blocks:
            first, second = _candidates(rows, bounds, (one, other), least - SLACK, memory)
            with lock:
                count += len(first)
                if count > most:
                    return
            product = _products(rows, first, second, np.float64).astype(np.float32)
            near = product >= least
            found.append((first[near], second[near], product[near]))

    blocks = list(slices(len(rows), ROWS_AT_ONCE))
    pairs = list(combinations_with_replacement(blocks, 2))
    share_among_threads(work, pairs, len(pairs))
    if count > most:
        return None
    first, second, product = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((second, first))
    return first[order], second[order], product[order]


def _bounds(rows: Rows) -> np.ndarray:
    """float32 [n, r + 1], (y, |z|) of each row, |z| rounded up."""
    sample = rows[:: -(-len(rows) // SAMPLED)]
    moments = sample.T @ sample
    basis = moments[:, :: max(1, len(moments) // LEADING)][:, :LEADING]
    basis = np.linalg.qr(moments @ np.linalg.qr(basis)[0])[0]  # a step of subspace iteration
    made = np.empty((len(rows), basis.shape[1] + 1), np.float32)
    for start, block in blocks_of(rows):
        leading = block @ basis
        rest = 1 - np.einsum("nr,nr->n", leading, leading, dtype=np.float64)
        made[start : start + len(block), :-1] = leading
        made[start : start + len(block), -1] = np.sqrt(np.maximum(rest, 0) + SLACK)
    return made


def _candidates(
    rows: Rows, bounds: np.ndarray, blocks: tuple[slice, slice], least: float, memory: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """i and j, int64 [p], of the pairs of two blocks with float32 products of at least `least`."""
    one, other = blocks
    width = other.stop - other.start
    products = memory[: (one.stop - one.start) * width].reshape(-1, width)
    np.matmul(bounds[one], bounds[other].T, out=products)
    at = np.flatnonzero(products >= least)
    whole = len(at) > FEW * products.size
    if whole:
        np.matmul(rows[one], rows[other].T, out=products)
        at = np.flatnonzero(products >= least)
    first, second = at // width + one.start, at % width + other.start
    once = first < second
    first, second = first[once], second[once]
    if not whole:
        near = _products(rows, first, second, np.float32) >= least
        first, second = first[near], second[near]
    return first, second


def _products(rows: Rows, first: np.ndarray, second: np.ndarray, dtype: type) -> np.ndarray:
    """[p], inner products of pairs of rows, one at a time."""
    made: np.ndarray = np.empty(len(first), dtype)
    for some in slices(len(first), PAIRS_AT_ONCE):
        made[some] = np.einsum("pd,pd->p", rows[first[some]], rows[second[some]], dtype=dtype)
    return made
