"""Rows that are the same up to rounding: one image's embedding as float16, or scaled.

An image without a file is known by the digest of its unit row, which any rounding changes. The row
x is therefore kept as a sketch too: 16 sums t_j = Σ_i ±x_i with fixed random signs, in 32 bytes.
For two rows at distance δ the differences of the t_j are about normal with standard deviation δ
(Achlioptas 2003), so δ² is about the mean of their squares. Rounding a unit row to float16 moves it
by at most 2^-11, so the float16 rows of two scalings of one image are at most 9.8e-4 apart. Rows
count as the same where the estimate of δ is at most 2.26e-3: the chance to miss two that are 1e-3
apart is about 1e-10, and rows that count as the same have a cosine above 0.99999.

Sketches are looked up in a grid whose cells are 8 times as wide as the largest difference of one
sum; a query near the border of a cell is looked up on both sides of it, so that the grid misses
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..indexer.vectors import Rows, slices

SUMS = 16
RADIUS = 2.26e-3
"""The largest estimated distance of rows that count as the same."""
ROWS_AT_ONCE, PAIRS_AT_ONCE = 16_384, 1 << 20
_STEPS = 4096
"""Steps of a sketch per unit: int16 then holds sums up to 8, eight standard deviations."""
_LARGEST = round(SUMS * (RADIUS * _STEPS) ** 2)
"""The largest sum of squared differences, in steps."""
_CELL = 8 * int(np.ceil(np.sqrt(_LARGEST)))
_GRID = 5
"""How many of the sums make up the grid."""


def sketch_rows(rows: Rows) -> np.ndarray:
    """int16 [n, SUMS], the sketches of unit rows [n, d]."""
    d = rows[:1].shape[1]
    # The stream of RandomState is frozen: saved sketches must fit those of later versions.
    signs = np.random.RandomState(SUMS).choice(np.array([-1, 1], np.float32), (d, SUMS))
    made = np.empty((len(rows), SUMS), np.int16)
    for few in slices(len(rows), ROWS_AT_ONCE):
        sums = np.rint(np.asarray(rows[few], np.float32) @ signs * _STEPS)
        made[few] = np.clip(sums, -(1 << 15), (1 << 15) - 1)
    return made


def same_rows(queries: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of the same row, by sketches int16 [n, SUMS] and [m, SUMS]: int64 [p], positions
    in `queries`, and int64 [p], positions in `among`."""
    found = [np.zeros((2, 0), np.int64)]
    if len(among):
        keys = _keys(_cells(among))
        order = np.argsort(keys, kind="stable")
        for rows in slices(len(queries), ROWS_AT_ONCE):
            for query, first, last in _probes(queries[rows], keys[order]):
                found += _compared(queries, among, order, (query + rows.start, first, last))
    pairs = np.concatenate(found, axis=1)
    one, other = pairs[:, np.lexsort((pairs[1], pairs[0]))]
    return one, other


def _probes(
    queries: np.ndarray, keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The queries int64 [q] that a cell may hold, and where it begins and ends in sorted `keys`."""
    cells = _cells(queries)
    inside = queries[:, :_GRID] - cells * _CELL
    # -1 near the lower border of the cell, 1 near the upper one: there is room for one of them.
    near = (inside >= _CELL - _CELL // 8).astype(np.int64) - (inside < _CELL // 8)
    for subset in range(1 << _GRID):
        moved = np.array([subset >> j & 1 for j in range(_GRID)], bool)
        some = np.flatnonzero((near[:, moved] != 0).all(axis=1))
        wanted = _keys(cells[some] + near[some] * moved)
        first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        there = last > first
        yield some[there], first[there], last[there]


def _compared(
    queries: np.ndarray,
    among: np.ndarray,
    order: np.ndarray,
    probes: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Iterator[np.ndarray]:
    """int64 [2, p], the pairs of the same row, of each query with the sketches of its cell."""
    query, first, last = probes
    ends = np.cumsum(last - first)
    start = 0
    while start < len(query):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        counts = last[start:stop] - first[start:stop]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        one = np.repeat(query[start:stop], counts)
        other = order[np.repeat(first[start:stop], counts) + offsets]
        apart = queries[one].astype(np.int64) - among[other]
        same = np.square(apart).sum(axis=1) <= _LARGEST
        yield np.stack([one[same], other[same]])
        start = stop


def _cells(sketches: np.ndarray) -> np.ndarray:
    """int64 [n, _GRID], the cell of each sketch."""
    return sketches[:, :_GRID].astype(np.int64) // _CELL


def _keys(cells: np.ndarray) -> np.ndarray:
    """int64 [n], the number of each cell."""
    return (cells + (1 << 11)) @ (1 << 12 * np.arange(_GRID, dtype=np.int64))
