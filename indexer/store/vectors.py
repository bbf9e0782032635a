"""The vectors of an index folder: part by part on disk, in memory once read if they are few."""

from __future__ import annotations

import numpy as np

from ...errors import BlissError
from ..vectors.layout import vector_file
from ..vectors.rows import MappedVectors, PartedRows, load_vectors, part_starts
from ..vectors.unit_rows import Blocks, stored_unit_rows
from .manifest import IndexFolder

RESIDENT_BYTES = 4 << 30
"""Indexes up to this size as float32 stay in memory once searched, where a plan says no more."""


class IndexRows(PartedRows):
    """The stored rows of an index from row `start` on, up to `stop` (None: all), removed ones too.

    Shapes are checked now; a part's contents are compared with its checksum when it is first read.
    `resident` keeps all rows in memory as float32 once they were scanned (None: where they are
    few). Raises BlissError where a file has another shape than the manifest says. A copy in
    another process maps the files itself.
    """

    def __init__(
        self,
        folder: IndexFolder,
        start: int = 0,
        resident: bool | None = None,
        stop: int | None = None,
    ) -> None:
        self._opened_with = folder, start, resident, stop
        self.folder = folder
        self.dimension = folder.manifest.dimension
        self.names: list[str] = []
        rows_left: list[int] = []
        self.skipped: list[int] = []
        """Of each part, how many of its rows come before `start`."""
        first = 0
        for number, rows in enumerate(folder.manifest.parts):
            skipped, before, first = max(0, start - first), first, first + rows
            end = rows if stop is None else min(rows, stop - before)
            if skipped >= end:
                continue
            name = vector_file("text", number)
            array = load_vectors(folder.path / name)
            if array.shape != (rows, self.dimension):
                raise BlissError(
                    f"{folder.path / name} holds an array of shape {array.shape}",
                    f"{(rows, self.dimension)}, as its manifest says",
                    "Restore the file or build the index again",
                )
            self.names.append(name)
            rows_left.append(end - skipped)
            self.skipped.append(skipped)
        self.starts = part_starts(rows_left)
        self._arrays = MappedVectors([folder.path / name for name in self.names])
        few = sum(rows_left) * self.dimension * 4 <= RESIDENT_BYTES
        self.resident = few if resident is None else resident
        self._whole: np.ndarray | None = None
        self._checked: set[int] = set()

    def __reduce__(self) -> tuple[type[IndexRows], tuple[object, ...]]:
        return IndexRows, self._opened_with

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return super().__getitem__(wanted) if self._whole is None else self._whole[wanted]

    def blocks(self) -> Blocks:
        """All rows at once where they are resident, else as `PartedRows.blocks`."""
        if not self.resident:
            yield from super().blocks()
            return
        if self._whole is None:
            rows = np.empty((len(self), self.dimension), np.float32)
            for first, block in super().blocks():
                rows[first : first + len(block)] = block
            self._whole = rows
        yield 0, self._whole

    def stored_blocks(self) -> Blocks:
        """Each part as it is stored, fp16 or fp32 and not renormalised, once it was checked."""
        for number in range(len(self.names)):
            self._check(number)
            yield int(self.starts[number]), self.part(number)

    def part(self, number: int) -> np.ndarray:
        """The mapped rows of a part."""
        skipped = self.skipped[number]
        count = int(self.starts[number + 1] - self.starts[number])
        rows: np.ndarray = self._arrays[number][skipped : skipped + count]
        return rows

    def unit_rows(self, number: int, stored: np.ndarray, first: int = 0) -> np.ndarray:
        """Unit rows from stored ones; BlissError where they are none or the file has changed."""
        path = self.folder.path / self.names[number]
        unit = stored_unit_rows(stored, str(path), self.skipped[number] + first)
        self._check(number)
        return unit

    def _check(self, number: int) -> None:
        if number not in self._checked:
            self.folder.check(self.names[number])
            self._checked.add(number)
