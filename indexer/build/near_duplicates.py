"""Near-duplicate captions by embedding: greedily in row order, exactly, part by part.

A row is dropped if an earlier row that is kept has a cosine of at least the threshold with it, on
the stored vectors. All pairs of kept rows are compared, in blocks: the work grows with the square
of the number of rows. Products are computed in float32; those within rounding of the threshold
again in float64. The dropped rows of each part are written as soon as they are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...artefacts import read_array, write_array
from ...errors import BlissError
from ..store.parts import vector_file
from ..vectors.nearest import ROUNDING
from ..vectors.rows import load_vectors
from ..vectors.unit_rows import stored_unit_rows

BLOCK, OTHERS = 1024, 8192
"""Rows that are compared at once, and with how many others."""


def near_duplicates(
    folder: Path, parts: Sequence[int], threshold: float, progress: Callable[[str, int, int], None]
) -> np.ndarray:
    """int64 [u], ascending, the stored rows to drop; `parts` are the stored rows of each part.

    Continues after the parts that an earlier run compared. Memory holds two parts as float32.
    """
    found: list[np.ndarray] = []
    done, total = 0, sum(parts)
    for number, rows in enumerate(parts):
        gone = _stored_result(folder, number, rows)
        if gone is None:
            gone = _part_duplicates(folder, number, found, threshold)
            write_array(_file(folder, number), gone)
        found.append(gone)
        done += rows
        progress("rows compared for near duplicates", done, total)
    starts = np.cumsum([0, *parts])
    return np.concatenate(
        [rows + start for rows, start in zip(found, starts, strict=False)]
    ).astype(np.int64)


def greedy_duplicates(rows: np.ndarray, kept: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """bool [m]: which of the unit rows [m, d] are dropped, given the earlier rows `kept`."""
    gone = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        mine = slice(start, min(len(rows), start + BLOCK))
        before = [*kept, rows[:start][~gone[:start]]]
        for others in before:
            _mark_near(rows[mine], gone[mine], others, threshold)
        near = _near(rows[mine], rows[mine], threshold)
        stays = ~gone[mine]
        for i in np.flatnonzero(stays):
            stays[i] = not (near[i, :i] & stays[:i]).any()
        gone[mine] = ~stays
    return gone


def _part_duplicates(
    folder: Path, number: int, found: Sequence[np.ndarray], threshold: float
) -> np.ndarray:
    """int64, the dropped rows of one part; `found` are those of the parts before it."""
    rows = _unit_rows(folder, number)
    gone = np.zeros(len(rows), bool)
    for earlier, lost in enumerate(found):
        others = _unit_rows(folder, earlier)
        if len(others) and len(rows):
            _mark_near(rows, gone, np.delete(others, lost, axis=0), threshold)
    left = np.flatnonzero(~gone)
    gone[left] = greedy_duplicates(rows[left], [], threshold)
    return np.flatnonzero(gone)


def _mark_near(rows: np.ndarray, gone: np.ndarray, others: np.ndarray, threshold: float) -> None:
    """Mark in `gone` bool [m] every one of the rows [m, d] that is near one of `others`."""
    for start in range(0, len(others), OTHERS):
        for first in range(0, len(rows), BLOCK):
            open_rows = first + np.flatnonzero(~gone[first : first + BLOCK])
            near = _near(rows[open_rows], others[start : start + OTHERS], threshold)
            gone[open_rows[near.any(axis=1)]] = True


def _near(rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """bool [m, o]: which pairs of unit rows have a cosine of at least the threshold."""
    cosine = rows @ others.T
    perhaps = cosine >= threshold - ROUNDING
    if not perhaps.any():
        return perhaps
    near = cosine >= threshold + ROUNDING
    unsure = np.nonzero(perhaps & ~near)
    for start in range(0, len(unsure[0]), OTHERS):
        i, j = (each[start : start + OTHERS] for each in unsure)
        near[i, j] = np.einsum("pd,pd->p", rows[i], others[j], dtype=np.float64) >= threshold
    return near


def _unit_rows(folder: Path, number: int) -> np.ndarray:
    path = folder / vector_file("text", number)
    if not path.is_file():
        return np.empty((0, 0), np.float32)
    return stored_unit_rows(load_vectors(path), str(path))


def _stored_result(folder: Path, number: int, rows: int) -> np.ndarray | None:
    """The dropped rows of a part that an earlier run wrote, or None."""
    try:
        gone = read_array(_file(folder, number))
    except BlissError:
        return None
    fits = (
        gone.ndim == 1
        and gone.dtype == np.int64
        and (np.diff(gone, prepend=-1, append=rows) > 0).all()
    )
    return gone if fits else None


def _file(folder: Path, number: int) -> Path:
    return folder / "near" / f"near_{number}.npy"
