"""Removed rows: a sorted list of stored rows beside the parts, which stay as they are.

Each removal writes the whole list anew, as `removed.npy`, `removed_2.npy`, `removed_3.npy`, …, and
then replaces the manifest, which names the list that counts. No list is ever changed, so a crash
leaves the index as it was or as it will be; to undo a removal is to name the list before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import MANIFEST, check_checksum, read_manifest, sha256_of, write_array, write_json
from ...errors import BlissError, UsageError
from ..vectors.rows import remaining
from .folder import HOW_TO_BUILD, KIND
from .lock import only_run_in

REMOVED = "removed.npy"
EXPORT = "text.index"
"""What was written for other programs holds the rows of before: a change deletes it."""
_NAME = re.compile(r"removed(_[2-9]|_[1-9][0-9]{1,8})?\.npy")


def list_name(number: int) -> str:
    """The file of the rows that are gone after so many removals."""
    return REMOVED if number == 1 else f"removed_{number}.npy"


def removed_rows(folder: Path, manifest: Mapping[str, Any], count: int) -> np.ndarray | None:
    """int64 [r], ascending, the rows of `count` stored ones that are gone; None where none is.

    Raises BlissError where the manifest's account of them is not one bliss wrote, or the list is
    missing, has changed, or is none.
    """
    removed = manifest.get("removed", "left out")
    if removed is None:
        return None
    if not _well_formed(removed):
        raise BlissError(
            f"{folder / MANIFEST} has no usable 'removed'",
            "the manifest as bliss wrote it",
            "Restore it from a backup or build the folder again",
        )
    name = removed["file"]
    check_checksum(folder, name, manifest)
    rows = read_rows(folder / name, count)
    if len(rows) != removed["count"] or len(rows) >= count:
        raise BlissError(
            f"{folder / name} lists {len(rows):,} of {count:,} rows",
            f"the {removed['count']:,} its manifest says, and fewer than all",
            "Restore the file or build the index again",
        )
    return rows


def read_rows(path: Path, count: int) -> np.ndarray:
    """The rows a list holds; BlissError unless they ascend within 0..count - 1."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BlissError(
            f"{path} could not be read ({error})",
            "a whole .npy file",
            "Restore the file or build the index again",
        ) from error
    ascending = rows.ndim == 1 and rows.dtype == np.int64
    if not ascending or not (np.diff(rows, prepend=-1, append=count) > 0).all():
        raise BlissError(
            f"{path} does not list rows of the index",
            f"ascending row numbers from 0 to {count - 1:,}",
            "Restore the file or build the index again",
        )
    return rows


def live_rows(folder: Path, manifest: Mapping[str, Any], count: int) -> np.ndarray | None:
    """int64 [M], the stored rows that were not removed; None where none was."""
    removed = removed_rows(folder, manifest, count)
    return None if removed is None else remaining(count, removed)


def remove_rows(folder: Path, rows: np.ndarray, where: Mapping[str, Any]) -> dict[str, Any]:
    """Hide stored rows int64 [u] of a finished index; `where` says in its log why. The manifest.

    Rows that are gone already do not count again. Raises UsageError where nothing would be left
    or nothing is to be removed, BlissError where the folder cannot be written or another run
    works in it.
    """
    with changing(folder) as manifest:
        count = sum(manifest["parts"])
        before = removed_rows(folder, manifest, count)
        gone = np.zeros(0, np.int64) if before is None else before
        rows = np.setdiff1d(rows, gone)
        if not rows.size:
            raise UsageError(
                f"none of the {count - len(gone):,} captions of {folder} was named",
                "one or more to remove",
                "Try the request with --dry-run",
            )
        union = np.union1d(gone, rows).astype(np.int64)
        if len(union) >= count:
            raise UsageError(
                f"all {count - len(gone):,} captions of {folder} were to be removed",
                "a caption or more that stays",
                "Narrow the request, or delete the folder",
            )
        log = [*(manifest["removed"] or {}).get("log", ()), {"where": where, "rows": len(rows)}]
        name = list_name(len(log))
        write_array(folder / name, union)
        checksums = {**manifest["checksums"], name: sha256_of(folder / name)}
        removed = {"file": name, "count": len(union), "log": log}
        return _replace(folder, {**manifest, "removed": removed, "checksums": checksums})


def restore_rows(folder: Path, last_only: bool) -> tuple[dict[str, Any], int]:
    """Undo all removals by request, or the last: the manifest, and how many rows came back.

    The near-duplicates that a building left out stay so. Raises UsageError where nothing was
    removed by request.
    """
    with changing(folder) as manifest:
        gone = removed_rows(folder, manifest, sum(manifest["parts"]))
        before = manifest["removed"] or {"log": [], "count": 0}
        asked = [number for number, entry in enumerate(before["log"]) if "where" in entry]
        if gone is None or not asked:
            raise UsageError(
                f"no caption was removed from {folder}", "something to undo", "Leave --undo out"
            )
        log = before["log"][: asked[-1 if last_only else 0]]
        back = sum(entry["rows"] for entry in before["log"][len(log) :])
        kept = [list_name(number + 1) for number in range(len(log))]
        checksums = {
            name: value
            for name, value in manifest["checksums"].items()
            if not _NAME.fullmatch(name) or name in kept
        }
        removed = None
        if log:
            check_checksum(folder, kept[-1], manifest)
            removed = {"file": kept[-1], "count": before["count"] - back, "log": log}
        return _replace(folder, {**manifest, "removed": removed, "checksums": checksums}), back


@contextmanager
def changing(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest of a finished index that nobody else changes meanwhile."""
    read_manifest(folder, KIND, HOW_TO_BUILD)  # before a lock makes the folder
    with only_run_in(folder):
        yield read_manifest(folder, KIND, HOW_TO_BUILD)


def _replace(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Put the manifest in place, then delete the lists it no longer names."""
    write_json(folder / MANIFEST, manifest)
    for path in folder.glob("removed*.npy"):
        if path.name not in manifest["checksums"] and _NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
    (folder / EXPORT).unlink(missing_ok=True)
    return manifest


def _well_formed(removed: Any) -> bool:
    if not isinstance(removed, dict) or not isinstance(removed.get("log"), list):
        return False
    entries: Sequence[Any] = removed["log"]
    counted = all(isinstance(e, dict) and _positive(e.get("rows")) for e in entries)
    return (
        isinstance(removed.get("file"), str)
        and _NAME.fullmatch(removed["file"]) is not None
        and _positive(removed.get("count"))
        and counted
        and (not entries or sum(entry["rows"] for entry in entries) == removed["count"])
    )


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
