"""Sets of unit rows: in .npy files, joined, selected, and read in blocks; scratch arrays.

`Rows` (unit_rows.py) is anything of M rows that has a length and gives float32 [m, d] for a slice
or for int64 [m] row numbers. A NumPy array is one; so are

    PartedRows      the rows of several .npy files, one file after another
    JoinedRows      several sets of rows, one set after another
    ArrayRows       the rows of an array of somebody else's, normalised
    SelectedRows    some rows of another set, renumbered from 0

`blocks_of` reads any of them from the first row to the last.

    >>> import numpy as np
    >>> rows = JoinedRows([np.eye(2, dtype=np.float32), -np.eye(2, dtype=np.float32)])
    >>> some = SelectedRows(rows, np.array([0, 3]))
    >>> len(rows), len(some), some[np.array([1])].tolist()
    (4, 2, [[-0.0, -1.0]])

Scratch arrays are large temporary arrays in an unlinked file, so that the system can page them out.
An audit of a million images has some 400 bytes of hits and scores for each. The file is in the
temporary folder (`TMPDIR`) and ends with the process.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import read_array
from ...errors import BlissError
from .unit_rows import Blocks, Rows, blocks_of, normalise_rows, slices, stored_unit_rows

RESIDENT_BYTES = 256 << 20
"""Rows up to this size as float32 are held in memory; more of them stay on disk."""
BLOCK_BYTES = 64 << 20
"""Size as float32 of the blocks that rows on disk are read in."""
COPIED_ROWS = 32_768
"""Rows copied at a time where some rows of a block are left out."""
OPEN_FILES = 16
"""Files that one set of mapped arrays holds open: an index may have more parts than the system
lets a process open."""


class PartedRows:
    """The unit rows (fp16 or fp32) of several .npy files [m, d]; a file is open only while read.

    So none of its pages counts as memory of this process afterwards: a million images of 512
    dimensions are 2 GB as float32. Rows are checked when they are read (`stored_unit_rows`).
    Raises BlissError naming a file that cannot be read or has another dimension than the first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        shapes = [load_vectors(path).shape for path in paths]
        for path, shape in zip(paths, shapes, strict=True):
            if shape[1] != shapes[0][1]:
                raise BlissError(
                    f"{path} holds vectors of {shape[1]} dimensions",
                    f"{shapes[0][1]}, as {paths[0]} has",
                    "Embed every part with the same model",
                )
        self.paths = tuple(paths)
        self.dimension = shapes[0][1]
        self.starts = part_starts(count for count, _ in shapes)
        """int64 [parts + 1], the first row of each part, and M."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        if isinstance(wanted, slice):
            wanted = np.arange(*wanted.indices(len(self)))
        found = np.empty((len(wanted), self.dimension), np.float32)
        for number, places, rows in by_part(self.starts, wanted):
            found[places] = self.unit_rows(number, _read(self.part(number), rows))
        return found

    def blocks(self) -> Blocks:
        """Blocks of BLOCK_BYTES, none of which spans two parts."""
        for number, start in enumerate(self.starts[:-1].tolist()):
            part = self.part(number)
            for some in slices(len(part), BLOCK_BYTES // (4 * self.dimension)):
                yield start + some.start, self.unit_rows(number, part[some], some.start)

    def part(self, number: int) -> np.ndarray:
        """The rows of a part as they are stored."""
        return load_vectors(self.paths[number])

    def unit_rows(self, number: int, stored: np.ndarray, first: int = 0) -> np.ndarray:
        """Unit rows from stored ones of a part, the first of which is its row `first`."""
        return stored_unit_rows(stored, str(self.paths[number]), first)


class OutsideRows(PartedRows):
    """Rows of .npy files that others wrote: normalised as they are read, unusable ones zero."""

    def unit_rows(self, number: int, stored: np.ndarray, first: int = 0) -> np.ndarray:
        """`normalise_rows` of some stored rows."""
        return normalise_rows(stored).unit


class ArrayRows:
    """The rows of an array [M, d], in memory or mapped: normalised as they are read."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return normalise_rows(self.vectors[wanted]).unit

    def blocks(self) -> Blocks:
        """Blocks of BLOCK_BYTES."""
        for some in slices(len(self), BLOCK_BYTES // (4 * self.vectors.shape[1])):
            yield some.start, self[some]


class JoinedRows:
    """The rows of several sets of one dimension, one set after another."""

    def __init__(self, members: Sequence[Rows]) -> None:
        self.members = tuple(members)
        self.starts = part_starts(map(len, members))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        if isinstance(wanted, slice):
            wanted = np.arange(*wanted.indices(len(self)))
        found = np.empty((len(wanted), self.members[0][:0].shape[1]), np.float32)
        for number, places, rows in by_part(self.starts, wanted):
            found[places] = self.members[number][rows]
        return found

    def blocks(self) -> Blocks:
        """The blocks of every member."""
        for start, member in zip(self.starts.tolist(), self.members, strict=False):
            for first, block in blocks_of(member):
                yield start + first, block


class SelectedRows:
    """The rows `chosen` int64 [M] of another set, in that order; read when they are indexed."""

    def __init__(self, rows: Rows, chosen: np.ndarray) -> None:
        self.rows, self.chosen = rows, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return self.rows[self.chosen[wanted]]

    def blocks(self) -> Blocks:
        """What is left of the blocks of the whole set, or copies where `chosen` is not sorted."""
        if (np.diff(self.chosen) > 0).all():
            yield from select_blocks(blocks_of(self.rows), self.chosen)
        else:
            for some in slices(len(self), COPIED_ROWS):
                yield some.start, self[some]


def select_blocks(blocks: Blocks, chosen: np.ndarray) -> Blocks:
    """Blocks of the rows `chosen` int64 [M], ascending, renumbered from 0."""
    for first, block in blocks:
        start, stop = np.searchsorted(chosen, (first, first + len(block))).tolist()
        if stop - start == len(block):
            yield start, block
            continue
        for some in slices(stop - start, COPIED_ROWS):
            here = chosen[start + some.start : start + some.stop]
            yield start + some.start, block[here - first]


def whole_rows(rows: Rows) -> np.ndarray:
    """float32 [M, d], all rows in memory."""
    return rows if isinstance(rows, np.ndarray) else rows[:]


def resident_if_few(rows: Rows, dimension: int) -> Rows:
    """`rows` as an array where that takes RESIDENT_BYTES or less, else as given."""
    return whole_rows(rows) if len(rows) * dimension * 4 <= RESIDENT_BYTES else rows


def are_ascending_rows(rows: np.ndarray, count: int) -> bool:
    """Whether an array lists rows of 0..count - 1, each once and in order.

    Values are compared, since the differences of a damaged list can overflow.
    """
    if rows.ndim != 1 or rows.dtype != np.int64:
        return False
    within = not rows.size or (rows[0] >= 0 and rows[-1] < count)
    return bool(within and (rows[1:] > rows[:-1]).all())


def remaining(count: int, removed: np.ndarray) -> np.ndarray:
    """int64 [M], ascending, the rows 0..count - 1 that are not in `removed`."""
    left = np.ones(count, bool)
    left[removed] = False
    return np.flatnonzero(left)


def part_starts(counts: Iterable[int]) -> np.ndarray:
    """int64 [parts + 1], the first row of each part, and the number of all rows."""
    return np.cumsum([0, *counts], dtype=np.int64)


def by_part(starts: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(part, places in `rows`, row numbers within the part) for each part that `rows` touch."""
    part = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(part).tolist():
        places = np.flatnonzero(part == number)
        yield number, places, rows[places] - starts[number]


def load_vectors(path: Path) -> np.ndarray:
    """Memory-map a .npy file of float vectors [m, d]; BlissError where it is not one."""
    array = read_array(path, mapped=True, remedy="Embed the folder again")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise BlissError(
            f"{path} holds an array of shape {array.shape} and type {array.dtype}",
            "float vectors in an array of shape [rows, dimensions]",
            "Save the embeddings as one 2-d float array",
        )
    return array


class MappedVectors(Sequence[np.ndarray]):
    """The arrays of several .npy files, mapped when they are needed, OPEN_FILES at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open = lru_cache(OPEN_FILES)(load_vectors)

    def __reduce__(self) -> tuple[type[MappedVectors], tuple[tuple[Path, ...]]]:
        return MappedVectors, (self.paths,)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: Any, /) -> Any:
        """float16 or float32 [m, d], the array of a file; errors as of `load_vectors`."""
        return self._open(self.paths[number])


def _read(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of a mapped array; consecutive ones as one slice, which reads no page twice."""
    if len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
        return array[rows[0] : rows[-1] + 1]
    return array[rows]


SCRATCH_BYTES = 16 << 20
"""Arrays up to this size are held in memory."""


def scratch_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array: in a file where it is large and the disk has room, else in memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= SCRATCH_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            # Allocate it all now: a page without room on the disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError):  # no room there, or no such call on this system
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype).reshape(shape)


def release_pages(*arrays: np.ndarray) -> None:
    """Give the memory of scratch arrays back to the system; their values stay."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        base = base.obj if isinstance(base, memoryview) else base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


class ScratchAllocator:
    """`scratch_array` and `release_pages` for functions that take an `Allocator`."""

    empty = staticmethod(scratch_array)
    release = staticmethod(release_pages)


SCRATCH = ScratchAllocator()
