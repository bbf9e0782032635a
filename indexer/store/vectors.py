"""The vectors of an index folder: part by part on disk, in memory once read if they are few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import check_checksum
from ...errors import BlissError
from ..vectors.layout import load_vectors
from ..vectors.nearest import Vectors
from ..vectors.unit_rows import stored_unit_rows
from .parts import vector_file

RESIDENT_BYTES = 4 << 30
"""Indexes up to this size as float32 stay in memory once searched, where a plan says no more."""

STREAMED_BYTES = 64 << 20
"""Of a larger one, as much float32 is made from the stored rows at once."""

Parts = list[tuple[str, np.ndarray, int]]
"""File, mapped rows, and the first row of the file that counts."""


def open_stored_vectors(
    folder: Path, manifest: Mapping[str, Any], start: int = 0, resident: bool | None = None
) -> Vectors:
    """Stored rows of an index from row `start` on; shapes are checked now, contents when read.

    `resident` keeps them in memory as float32 once scanned, or does not; None: where they are few.
    Raises BlissError where a file is none or has another shape than the manifest says; at the
    first reading of a part, where its bytes have changed.
    """
    parts, first = [], 0
    for number, rows in enumerate(manifest["parts"]):
        skipped, first = max(0, start - first), first + rows
        if skipped >= rows:
            continue
        name = vector_file("text", number)
        array = load_vectors(folder / name)
        expected = (rows, manifest["model"].get("dimension"))
        if array.shape != expected:
            raise BlissError(
                f"{folder / name} holds an array of shape {array.shape}",
                f"{expected}, as its manifest says",
                "Restore the file or build the index again",
            )
        parts.append((name, array[skipped:], skipped))
    if resident is None:
        resident = sum(array.size for _, array, _ in parts) * 4 <= RESIDENT_BYTES
    return _vectors(folder, manifest, parts, resident)


def _vectors(folder: Path, manifest: Mapping[str, Any], parts: Parts, resident: bool) -> Vectors:
    """Vectors over stored parts: kept in memory once read, or streamed in bounded pieces."""
    starts = np.cumsum([0, *(len(array) for _, array, _ in parts)])
    whole: list[np.ndarray] = []
    checked: set[str] = set()

    def unit_rows(name: str, rows: np.ndarray, at: int = 0) -> np.ndarray:
        unit = stored_unit_rows(rows, str(folder / name), at)
        if name not in checked:
            check_checksum(folder, name, manifest)
            checked.add(name)
        return unit

    def pieces() -> Iterator[tuple[int, np.ndarray]]:
        for first, (name, array, skipped) in zip(starts, parts, strict=False):
            step = max(1, STREAMED_BYTES // (4 * array.shape[1]))
            for at in range(0, len(array), step):
                yield int(first) + at, unit_rows(name, array[at : at + step], skipped + at)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        if not resident:
            yield from pieces()
            return
        if not whole:
            rows = np.empty((int(starts[-1]), parts[0][1].shape[1]), np.float32)
            for first, piece in pieces():
                rows[first : first + len(piece)] = piece
            whole.append(rows)
        yield 0, whole[0]

    def mapped() -> Iterator[tuple[int, np.ndarray]]:
        for first, (name, array, _) in zip(starts, parts, strict=False):
            if name not in checked:
                check_checksum(folder, name, manifest)
                checked.add(name)
            yield int(first), array

    def fetch(rows: np.ndarray) -> np.ndarray:
        if whole:
            return whole[0][rows]
        dimension = parts[0][1].shape[1] if parts else 0
        out = np.empty((len(rows), dimension), np.float32)
        part = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(part):
            here = part == number
            name, array, _ = parts[number]
            out[here] = unit_rows(name, array[rows[here] - starts[number]])
        return out

    return Vectors(int(starts[-1]), blocks, fetch, mapped)
