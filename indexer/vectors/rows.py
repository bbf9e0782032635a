"""Unit rows that stay on disk: asked for a few rows at a time, as an array is.

Some rows of a set of vectors shown as if they were all: what is left once rows are removed.

The rows that remain are renumbered from 0; `live` int64 [M], ascending, says which row each was.

A range of rows, cut into pieces that fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import BlissError
from .layout import load_vectors
from .nearest import Hits, Vectors, nearest_texts
from .unit_rows import normalise_rows, stored_unit_rows

RESIDENT_BYTES = 256 << 20
"""Rows up to this size as float32 are held in memory; more of them stay on disk."""


class Rows(Protocol):
    """n unit rows: an array [n, d], or what can be asked like one."""

    def __len__(self) -> int:
        """n."""

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        """float32 [m, d], the rows of a slice or of int64 [m] numbers."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of several .npy parts, one after the other; the files are open only while read.

    So no page of them counts as memory of this process afterwards: a million images of 512
    dimensions are 2 GB as float32, and no more of them is held than was asked for last.
    """

    paths: tuple[Path, ...]
    starts: np.ndarray
    """int64 [parts + 1], first row of each part, and n."""
    as_unit_rows: Callable[[np.ndarray, str], np.ndarray] = stored_unit_rows
    """From rows as they are stored, and where that is, to unit rows."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        if isinstance(wanted, slice):
            wanted = np.arange(*wanted.indices(len(self)))
        part = np.searchsorted(self.starts, wanted, side="right") - 1
        found = np.empty((len(wanted), load_vectors(self.paths[0]).shape[1]), np.float32)
        for number in np.unique(part):
            here = part == number
            path = self.paths[number]
            rows = _read(load_vectors(path), wanted[here] - self.starts[number])
            found[here] = self.as_unit_rows(rows, str(path))
        return found


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of others, in a chosen order; nothing is read before it is asked for."""

    rows: Rows
    chosen: np.ndarray
    """int64 [n]."""

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return self.rows[self.chosen[wanted]]


def whole_rows(rows: Rows) -> np.ndarray:
    """float32 [n, d], all of them in memory, for what cannot do with less."""
    return rows if isinstance(rows, np.ndarray) else rows[:]


def resident_if_few(rows: Rows, dimension: int) -> Rows:
    """`rows` of d dimensions as an array where that takes RESIDENT_BYTES at most, else as given."""
    return whole_rows(rows) if len(rows) * dimension * 4 <= RESIDENT_BYTES else rows


def open_outside_rows(paths: Sequence[Path]) -> StoredRows:
    """The rows of .npy files that others wrote, normalised as they are read; unusable ones are
    zero. Errors as `open_stored_rows`."""
    stored = open_stored_rows(paths)
    return StoredRows(stored.paths, stored.starts, lambda rows, where: normalise_rows(rows).unit)


def open_stored_rows(paths: Sequence[Path]) -> StoredRows:
    """The unit rows (fp16 or fp32) of .npy files [m, d] of one dimension.

    Raises BlissError naming a file that is none or has another dimension; rows are checked when
    they are read.
    """
    shapes = [load_vectors(path).shape for path in paths]
    for path, shape in zip(paths, shapes, strict=True):
        if shape[1] != shapes[0][1]:
            raise BlissError(
                f"{path} holds vectors of {shape[1]} dimensions",
                f"{shapes[0][1]}, as {paths[0]} has",
                "Embed every part with the same model",
            )
    starts = np.cumsum([0, *(rows for rows, _ in shapes)], dtype=np.int64)
    return StoredRows(tuple(paths), starts)


def _read(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of a mapped array; a run of them as one slice, which reads no page twice."""
    if len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
        return array[rows[0] : rows[-1] + 1]
    return array[rows]


COPIED_AT_ONCE = 32_768
"""Rows of a block that are copied at once where some of them are left out."""


def select_vectors(vectors: Vectors, live: np.ndarray) -> Vectors:
    """The rows `live` of `vectors`, renumbered."""
    stored = vectors.stored
    return Vectors(
        len(live),
        lambda: _chosen(vectors.blocks(), live),
        lambda rows: vectors.fetch(live[rows]),
        None if stored is None else lambda: _chosen(stored(), live),
    )


def _chosen(
    blocks: Iterator[tuple[int, np.ndarray]], live: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    for first, block in blocks:
        start, stop = np.searchsorted(live, (first, first + len(block)))
        if stop - start == len(block):
            yield int(start), block
            continue
        for at in range(start, stop, COPIED_AT_ONCE):
            yield int(at), block[live[at : min(stop, at + COPIED_AT_ONCE)] - first]


def renumbered(hits: Hits, live: np.ndarray) -> Hits:
    """Hits in rows of the whole set as rows of the selection; all must be in it."""
    return Hits(hits.similarity, np.searchsorted(live, hits.rows))


def remaining(count: int, removed: np.ndarray) -> np.ndarray:
    """int64 [M], rows 0..count - 1 without those of `removed`."""
    kept = np.ones(count, bool)
    kept[removed] = False
    return np.flatnonzero(kept)


def exact_search(vectors: Vectors, queries: np.ndarray, k: int, kept: np.ndarray | None) -> Hits:
    """The k nearest of the rows `kept`, or of all, by scanning them; hits among all rows."""
    if kept is None:
        return nearest_texts(queries, vectors, k)
    hits = nearest_texts(queries, select_vectors(vectors, kept), k)
    return Hits(hits.similarity, kept[hits.rows])


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


def slices(count: int, size: int) -> Iterator[slice]:
    """0..count in slices of `size`, or of 1 where that is less."""
    size = max(1, size)
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))
