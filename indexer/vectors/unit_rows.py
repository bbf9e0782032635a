"""Unit rows: the one place where vectors from outside are checked and normalised.

    unit(v) = v/‖v‖, v/max|v| first, so that huge and tiny rows neither overflow nor vanish

Everything behind it (search, moments, scores) takes float32 [n, d] rows of Euclidean length 1,
whose inner products are cosines, and does not check again.

    >>> import numpy as np
    >>> found = normalise_rows(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]]))
    >>> found.unit.tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0], [0.0, 1.0]]
    >>> found.adjusted, found.unusable.tolist()
    (1, [1])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...errors import BlissError

STORED_TOLERANCE = 2e-3
"""Largest |length - 1| of a stored row; fp16 rounding of a unit row stays below 1e-3."""

ROUNDING = 1e-5
"""Rows this close to length 1 count as unit rows already."""


class Rows(Protocol):
    """n unit rows: an array [n, d], or anything on disk that is indexed like one."""

    def __len__(self) -> int:
        """n."""

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        """float32 [m, d], the rows of a slice or of int64 [m] row numbers."""


Blocks = Iterator[tuple[int, np.ndarray]]
"""(first row, float32 [m, d]), in row order."""


def blocks_of(rows: Rows) -> Blocks:
    """All rows in blocks: those of `rows.blocks()`, or everything at once for an array."""
    if hasattr(rows, "blocks"):
        yield from rows.blocks()
    else:
        yield 0, rows[:]


@dataclass(frozen=True)
class NormalisedRows:
    """Unit rows made from vectors, and how many vectors were not unit rows already."""

    unit: np.ndarray
    """float32 [n, d]; unusable rows are all zero."""
    adjusted: int
    """How many usable rows were not of length 1 before."""
    unusable: np.ndarray
    """int64 [u], positions of rows that were zero or held NaN or infinity."""


def normalise_rows(vectors: np.ndarray) -> NormalisedRows:
    """Divide each row of `vectors` [n, d] by its length.

    Rows that are zero or hold NaN or infinity become zero and are listed in `unusable`. Raises
    BlissError for anything but a 2-d array of real numbers.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise BlissError(
            f"embeddings of shape {vectors.shape} and type {vectors.dtype} were given",
            "numbers in an array of shape [n, d], one row a vector",
            "Save them with numpy.save as one float array",
        )
    unit = np.empty(vectors.shape, np.float32)
    if vectors.dtype == np.float16:  # exact, and numpy's arithmetic on float16 is slow
        unit[:] = vectors
        vectors = unit
    # Not the maximum of abs(): the lowest number of an integer type has no positive there.
    highest, lowest = (ends(axis=1).astype(np.float64) for ends in (vectors.max, vectors.min))
    largest = np.maximum(highest, -lowest)
    usable = np.isfinite(largest) & (largest > 0)
    with np.errstate(over="ignore"):  # of unusable rows
        # Dividing by the largest entry first keeps huge and tiny rows from overflowing.
        np.divide(vectors, np.where(usable, largest, 1)[:, None], out=unit, casting="same_kind")
    unit[~usable] = 0
    lengths = row_lengths(unit)
    unit /= np.where(usable, lengths, 1)[:, None].astype(np.float32)
    off = np.abs(lengths[usable] * largest[usable] - 1) > ROUNDING
    return NormalisedRows(unit, int(off.sum()), np.flatnonzero(~usable))


def stored_unit_rows(vectors: np.ndarray, where: str, first: int = 0) -> np.ndarray:
    """float32 [n, d] unit rows from stored ones (fp16 or fp32), upcast and renormalised.

    Raises BlissError naming `where` and the first row, counted from `first`, whose length is off
    by more than 2e-3.
    """
    rows = vectors.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = row_lengths(rows)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= STORED_TOLERANCE))
    if wrong.size:
        raise BlissError(
            f"row {first + wrong[0]} of {where} has length {lengths[wrong[0]]:.4f} "
            f"({wrong.size:,} such rows)",
            f"unit rows, to within {STORED_TOLERANCE}",
            "Index the folder with --embeddings, which normalises, or embed it again",
        )
    rows /= lengths[:, None].astype(np.float32)
    return rows


def row_lengths(rows: np.ndarray) -> np.ndarray:
    """float64 [n], the Euclidean lengths of `rows` [n, d]."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` (at least 1) that together cover range(count).

    >>> list(slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, size)
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))
