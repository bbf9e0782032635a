"""Captions by row without a scan: for each part their UTF-8 bytes in one file, offsets in another.

A part's files are opened, and checked against the manifest, when its first caption is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import check_checksum, write_array, write_atomically
from ..errors import BlissError

Opened = tuple[np.ndarray, np.ndarray]
"""uint8, all captions of a part one after the other; int64 [m + 1], where each begins."""


@dataclass(frozen=True)
class CaptionStore:
    """The captions of the stored rows of one index folder."""

    folder: Path
    manifest: Mapping[str, Any]
    starts: np.ndarray
    """int64 [parts + 1], first row of each part, and the count of all."""
    opened: dict[int, Opened] = field(default_factory=dict, repr=False)


def caption_files(number: int) -> tuple[str, str]:
    """Names of a part's two files."""
    return f"captions/captions_{number}.bin", f"captions/offsets_{number}.npy"


def write_captions(folder: Path, number: int, captions: Sequence[str]) -> None:
    """Write the captions of one part, in row order."""
    encoded = [caption.encode("utf-8", "backslashreplace") for caption in captions]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    texts, starts = caption_files(number)
    write_atomically(folder / texts, lambda file: file.writelines(encoded))
    write_array(folder / starts, offsets)


def open_captions(folder: Path, manifest: Mapping[str, Any]) -> CaptionStore:
    """The store of an index; nothing is read yet."""
    return CaptionStore(folder, manifest, np.cumsum([0, *manifest["parts"]], dtype=np.int64))


def read_captions(store: CaptionStore, rows: np.ndarray) -> list[str]:
    """The captions of stored rows int64 [u]; BlissError where a file is missing or has changed."""
    part = np.searchsorted(store.starts, rows, side="right") - 1
    found = [""] * len(rows)
    for number in np.unique(part):
        texts, offsets = _part(store, int(number))
        here = np.flatnonzero(part == number)
        within = np.asarray(rows)[here] - store.starts[number]
        for place, start, stop in zip(here, offsets[within], offsets[within + 1], strict=True):
            found[place] = bytes(texts[start:stop]).decode("utf-8", "replace")
    return found


def _part(store: CaptionStore, number: int) -> Opened:
    if number not in store.opened:
        texts, starts = caption_files(number)
        for name in (texts, starts):
            check_checksum(store.folder, name, store.manifest)
        offsets = np.load(store.folder / starts, mmap_mode="r", allow_pickle=False)
        rows = int(store.starts[number + 1] - store.starts[number])
        if offsets.shape != (rows + 1,):
            raise BlissError(
                f"{store.folder / starts} holds {len(offsets) - 1:,} captions",
                f"{rows:,}, one for every vector of its part",
                "Restore the file or build the index again",
            )
        size = int(offsets[-1])
        mapped = np.memmap(store.folder / texts, np.uint8, "r") if size else np.zeros(0, np.uint8)
        store.opened[number] = mapped, offsets
    return store.opened[number]
