"""The rows of an index folder: their vectors, and which of them were removed.

Vectors are read part by part from disk, or stay in memory once read if they are few. Removed rows
are a sorted list beside the parts, which do not change. Each removal writes a new list,
`removed.npy`, `removed_2.npy`, `removed_3.npy`, …, and then replaces the manifest, which names the
list that is valid. Lists are never changed, so a crash leaves the index as it was before or after;
undoing a removal names the list before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import MANIFEST, is_count, misfit, read_array, sha256_of, write_array
from ...errors import BlissError, UsageError
from ..vectors.layout import vector_file
from ..vectors.rows import (
    MappedVectors,
    PartedRows,
    are_ascending_rows,
    load_vectors,
    part_starts,
    remaining,
)
from ..vectors.unit_rows import Blocks, stored_unit_rows
from .manifest import IndexFolder, unusable

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


REMOVED = "removed.npy"
EXPORT = "text.index"
"""The export for other programs; deleted by every change, as it would be out of date."""
_NAME = re.compile(r"removed(_[2-9]|_[1-9][0-9]{1,8})?\.npy")
_ACCOUNT: Mapping[str, Any] = {
    "file": lambda name: isinstance(name, str) and _NAME.fullmatch(name),
    "count": lambda rows: is_count(rows) and rows > 0,
    "log": [{"rows": lambda rows: is_count(rows) and rows > 0}],
}
"""What the manifest says of removed rows, as `misfit` checks it."""


def list_name(number: int) -> str:
    """The list after so many removals."""
    return REMOVED if number == 1 else f"removed_{number}.npy"


def removed_rows(folder: IndexFolder) -> np.ndarray | None:
    """int64 [r], ascending, the stored rows that were removed; None where none was.

    Raises BlissError where the manifest's account of them is not one bliss wrote, or the list is
    missing, has changed, or is none.
    """
    removed, count = folder.manifest.removed, folder.manifest.stored_count
    if removed is None:
        return None
    wrong = misfit(removed, _ACCOUNT) is not None
    if wrong or sum(entry["rows"] for entry in removed["log"]) not in (0, removed["count"]):
        raise unusable(str(folder.path / MANIFEST), "removed")
    name = removed["file"]
    folder.check(name)
    rows = read_rows(folder.path / name, count)
    if len(rows) != removed["count"] or len(rows) >= count:
        raise BlissError(
            f"{folder.path / name} lists {len(rows):,} of {count:,} rows",
            f"the {removed['count']:,} its manifest says, and fewer than all",
            "Restore the file or build the index again",
        )
    return rows


def read_rows(path: Path, count: int) -> np.ndarray:
    """The rows a list holds; BlissError unless they ascend within 0..count - 1."""
    rows = read_array(path, remedy="Restore the file or build the index again")
    if not are_ascending_rows(rows, count):
        raise BlissError(
            f"{path} does not list rows of the index",
            f"ascending row numbers from 0 to {count - 1:,}",
            "Restore the file or build the index again",
        )
    return rows


def live_rows(folder: IndexFolder) -> np.ndarray | None:
    """int64 [M], the stored rows that were not removed; None where none was."""
    removed = removed_rows(folder)
    return None if removed is None else remaining(folder.manifest.stored_count, removed)


def remove_rows(path: Path, rows: np.ndarray, where: Mapping[str, Any]) -> dict[str, Any]:
    """Hide stored rows int64 [u] of a finished index; its new manifest.

    `where` is the reason that its log states. Rows that were removed before do not count again, and
    where they all were, for the same reason, nothing changes. Raises UsageError where nothing would
    be left or nothing is to be removed, BlissError where the folder cannot be written or another
    run works in it.
    """
    with IndexFolder.locked(path) as folder:
        count, before = folder.manifest.stored_count, removed_rows(folder)
        gone = np.zeros(0, np.int64) if before is None else before
        rows, log = np.setdiff1d(rows, gone), list((folder.manifest.removed or {}).get("log", ()))
        if not rows.size:
            if where and any(entry.get("where") == dict(where) for entry in log):
                return folder.manifest.to_json()
            raise UsageError(
                f"none of the {count - len(gone):,} captions of {path} was named",
                "one or more to remove",
                "Try the request with --dry-run",
            )
        union = np.union1d(gone, rows).astype(np.int64)
        if len(union) >= count:
            raise UsageError(
                f"all {count - len(gone):,} captions of {path} were to be removed",
                "a caption or more that stays",
                "Narrow the request, or delete the folder",
            )
        log.append({"where": where, "rows": len(rows)})
        name = list_name(len(log))
        write_array(path / name, union)
        checksums = {**folder.manifest.checksums, name: sha256_of(path / name)}
        removed = {"file": name, "count": len(union), "log": log}
        return _replace(folder.with_fields(removed=removed, checksums=checksums))


def restore_rows(path: Path, last_only: bool) -> tuple[dict[str, Any], int]:
    """Undo the last removal by request, or all of them: the manifest, and how many rows came back.

    Near-duplicates that were left out when the index was built stay so. Where nothing was removed
    by request, as when the same command is repeated, nothing changes.
    """
    with IndexFolder.locked(path) as folder:
        gone, before = removed_rows(folder), folder.manifest.removed or {"log": [], "count": 0}
        by_request = [number for number, entry in enumerate(before["log"]) if "where" in entry]
        if gone is None or not by_request:
            return folder.manifest.to_json(), 0
        log = before["log"][: by_request[-1 if last_only else 0]]
        back = sum(entry["rows"] for entry in before["log"][len(log) :])
        kept = [list_name(number + 1) for number in range(len(log))]
        checksums = {
            name: value
            for name, value in folder.manifest.checksums.items()
            if not _NAME.fullmatch(name) or name in kept
        }
        removed = None
        if log:
            folder.check(kept[-1])
            removed = {"file": kept[-1], "count": before["count"] - back, "log": log}
        return _replace(folder.with_fields(removed=removed, checksums=checksums)), back


def _replace(folder: IndexFolder) -> dict[str, Any]:
    """Put the manifest in place, then delete the lists it no longer names."""
    (folder.path / EXPORT).unlink(missing_ok=True)
    folder.write_manifest()
    for path in folder.path.glob("removed*.npy"):
        if path.name not in folder.manifest.checksums and _NAME.fullmatch(path.name):
            with suppress(OSError):  # the removal is done
                path.unlink(missing_ok=True)
    return folder.manifest.to_json()
