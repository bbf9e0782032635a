"""The vectors of an index folder: part by part on disk, in memory once read if they are few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import check_checksum
from ..errors import BlissError
from .layout import load_vectors
from .nearest import Vectors
from .parts import vector_file
from .unit_rows import stored_unit_rows

RESIDENT_BYTES = 4 << 30
"""Indexes up to this size as float32 stay in memory once searched; larger ones are streamed."""


def open_stored_vectors(folder: Path, manifest: Mapping[str, Any]) -> Vectors:
    """All stored rows of an index as unit rows; shapes are checked now, contents when first read.

    Raises BlissError where a file is none or has another shape than the manifest says; at the
    first reading of a part, where its bytes have changed.
    """
    parts = []
    for number, rows in enumerate(manifest["parts"]):
        if not rows:
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
        parts.append((name, array))
    return _vectors(folder, manifest, parts)


def _vectors(
    folder: Path, manifest: Mapping[str, Any], parts: list[tuple[str, np.ndarray]]
) -> Vectors:
    """Vectors over stored parts: kept in memory once read if small, streamed if large."""
    starts = np.cumsum([0, *(len(array) for _, array in parts)])
    resident = sum(array.size for _, array in parts) * 4 <= RESIDENT_BYTES
    whole: list[np.ndarray] = []
    checked: set[str] = set()

    def unit_rows(name: str, array: np.ndarray) -> np.ndarray:
        rows = stored_unit_rows(array, str(folder / name))
        if name not in checked:
            check_checksum(folder, name, manifest)
            checked.add(name)
        return rows

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        if resident:
            if not whole:
                rows = [unit_rows(*part) for part in parts]
                whole.append(rows[0] if len(rows) == 1 else np.concatenate(rows))
            yield 0, whole[0]
            return
        for start, part in zip(starts, parts, strict=False):
            yield int(start), unit_rows(*part)

    def fetch(rows: np.ndarray) -> np.ndarray:
        if whole:
            return whole[0][rows]
        out = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
        part = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(part):
            here = part == number
            name, array = parts[number]
            out[here] = stored_unit_rows(array[rows[here] - starts[number]], str(folder / name))
        return out

    return Vectors(int(starts[-1]), blocks, fetch)
