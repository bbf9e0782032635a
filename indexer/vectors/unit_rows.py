"""The one boundary where vectors become unit rows.

Everything behind it (search, moments, scores) takes float32 [n, d] rows of Euclidean length 1 and
checks nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import BlissError

STORED_TOLERANCE = 2e-3
"""Largest |length - 1| of a stored row; fp16 rounding of a unit row stays below 1e-3."""

ROUNDING = 1e-5
"""Rows this close to length 1 count as unit rows already."""


@dataclass(frozen=True)
class NormalisedRows:
    """Unit rows made from outside vectors, and what had to be done to them."""

    unit: np.ndarray
    """float32 [n, d]; unusable rows are all zero."""
    adjusted: int
    """How many usable rows were not of length 1 before."""
    unusable: np.ndarray
    """int64 [u], positions of rows that were zero or held NaN or infinity."""


def normalise_rows(vectors: np.ndarray) -> NormalisedRows:
    """Divide each row of [n, d] by its length; name the rows where that is impossible."""
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind not in "fiu":
        raise BlissError(
            f"embeddings of shape {vectors.shape} and type {vectors.dtype} were given",
            "numbers in an array of shape [n, d], one row a vector",
            "Save them with numpy.save as one float array",
        )
    # Not the maximum of abs(): the lowest number of an integer type has no positive there.
    highest, lowest = (ends(axis=1).astype(np.float64) for ends in (vectors.max, vectors.min))
    largest = np.maximum(highest, -lowest)
    usable = np.isfinite(largest) & (largest > 0)
    scaled = np.zeros(vectors.shape, np.float32)
    # Dividing by the largest entry first keeps huge and tiny rows from overflowing.
    scaled[usable] = vectors[usable] / largest[usable, None]
    lengths = row_lengths(scaled)
    unit = scaled / np.where(usable, lengths, 1)[:, None].astype(np.float32)
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
    """Euclidean lengths, float64 [n], of [n, d] rows."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
