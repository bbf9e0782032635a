"""Embeddings on disk in the layout clip-retrieval writes, made part by part and resumable.

`FOLDER/text_emb/text_emb_3.npy` (or `img_emb/img_emb_3.npy`) holds the vectors of part 3 and
`FOLDER/metadata/metadata_3.parquet` a row for each of them; captions also lie in
`FOLDER/captions/`, where one is found without a scan. A part covers fixed source rows,
whatever interruptions there were; `FOLDER/parts/part_3.json` is written last and says that the
part is whole. `building.json` holds the request, so that the same command continues and another
one is refused. The manifest ends the building.

Captions by row without a scan: for each part their UTF-8 bytes in one file, offsets in another.

A part's files are opened, and checked against the manifest, when its first caption is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import (
    MANIFEST,
    check_checksum,
    read_json,
    seal,
    sha256_of,
    write_array,
    write_atomically,
    write_json,
)
from ...errors import BlissError, UsageError
from ..vectors.rows import by_part, part_starts
from .lock import LOCK
from .sources import in_current_terms

BUILDING = "building.json"
BUILDING_FOLDERS = ("parts", "plan", "shards", "near")
OUR_FOLDERS = (
    *BUILDING_FOLDERS,
    *"text_emb img_emb metadata captions search earlier adding repairing".split(),
)
OUR_FILES = (MANIFEST, BUILDING, "removed*.npy", "text.index", "build.log.jsonl")
"""What bliss writes into such a folder; patterns."""
_NONE = object()


@dataclass(frozen=True)
class Part:
    """One part as it is made: vectors [m, d], a metadata row for each, and what failed."""

    vectors: np.ndarray
    metadata: pa.Table
    failures: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, int] | None = None
    record: Mapping[str, Any] | None = None
    """What its record says beyond that."""


def vector_file(kind: str, number: int) -> str:
    """Name of a part's vectors; `kind` is "text" or "img"."""
    return f"{kind}_emb/{kind}_emb_{number}.npy"


def metadata_file(number: int) -> str:
    """Name of a part's metadata."""
    return f"metadata/metadata_{number}.parquet"


def begin_building(
    folder: Path,
    request: Mapping[str, Any],
    overwrite: bool,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Start a folder for `request`, or continue one that was started for the same request.

    Raises UsageError naming the fields that differ where the folder was begun, or finished, for
    another request, and where it holds files that are not ours. `overwrite` empties what we wrote.
    `facts` are kept beside the request for whoever ends the building.
    """
    for name in (MANIFEST, BUILDING):
        if not (folder / name).is_file():
            continue
        before = _request_of(folder / name, overwrite)
        if before == dict(request):
            break
        if in_current_terms(before) == dict(request):
            return  # begun by an earlier version: its own words stay beside its parts
        if overwrite:
            _empty(folder)
            break
        raise UsageError(
            f"{folder} was made with other settings "
            f"({', '.join(differing_fields(before, request))} differ)",
            "the same settings to continue it, or an empty folder",
            "Choose another output folder, or pass --overwrite to make this one again",
        )
    else:
        if folder.is_dir() and any(not _passing(path) for path in folder.iterdir()):
            raise UsageError(
                f"{folder} holds files that bliss did not put there",
                "an empty or new output folder",
                "Choose another one",
            )
    if not (folder / MANIFEST).is_file():
        write_json(folder / BUILDING, {"request": dict(request), "facts": dict(facts or {})})


def differing_fields(before: Any, after: Any, name: str = "") -> list[str]:
    """The fields in which two requests differ, as `rules.max_characters` or `sources[0].name`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            field
            for key in sorted({*before, *after})
            for field in differing_fields(
                before.get(key, _NONE), after.get(key, _NONE), f"{name}.{key}" if name else key
            )
        ]
    lists = isinstance(before, list) and isinstance(after, list)
    if lists and any(isinstance(each, Mapping) for each in (*before, *after)):
        return [
            field
            for number, (one, other) in enumerate(zip_longest(before, after, fillvalue=_NONE))
            for field in differing_fields(one, other, f"{name}[{number}]")
        ]
    return [] if before == after else [name]


def _passing(path: Path) -> bool:
    """Whether a file is a lock or what an interrupted write left."""
    return path.suffix == ".tmp" or path.name == LOCK


def _request_of(path: Path, overwrite: bool) -> dict[str, Any]:
    """The request a folder was begun for; an unreadable one is no obstacle to overwriting."""
    try:
        before = read_json(path).get("request")
    except BlissError:
        if not overwrite:
            raise
        before = None
    return before if isinstance(before, dict) else {}


def is_finished(folder: Path) -> bool:
    """Whether the manifest, written last, is there."""
    return (folder / MANIFEST).is_file()


def write_part(folder: Path, kind: str, number: int, part: Part) -> None:
    """Write one part; its record comes last and makes it count."""
    if len(part.vectors):
        write_array(folder / vector_file(kind, number), part.vectors)
        write_atomically(
            folder / metadata_file(number), lambda file: pq.write_table(part.metadata, file)
        )
        if kind == "text":
            write_captions(folder, number, part.metadata["caption"].to_pylist())
    files = files_of(kind, number) if len(part.vectors) else ()
    write_json(
        folder / f"parts/part_{number}.json",
        {
            **(part.record or {}),
            "rows": len(part.vectors),
            "checksums": {name: sha256_of(folder / name) for name in files},
            "failures": list(part.failures),
            "counts": dict(part.counts or {}),
        },
    )


def finished_part(folder: Path, number: int) -> dict[str, Any] | None:
    """The record of a whole part, or None when it is missing or its files have changed."""
    path = folder / f"parts/part_{number}.json"
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        for name in record["checksums"]:
            check_checksum(folder, name, record)
    except (BlissError, KeyError, TypeError, AttributeError):
        return None
    return record


def finished_parts(folder: Path) -> frozenset[int]:
    """The numbers of all whole parts of an unfinished folder."""
    numbers = [int(path.stem.removeprefix("part_")) for path in (folder / "parts").glob("*.json")]
    return frozenset(n for n in numbers if finished_part(folder, n) is not None)


def finish_building(folder: Path, kind: str, part_count: int, facts: Mapping[str, Any]) -> None:
    """Write the manifest over all parts, then drop the records it now holds.

    `facts` must name the artefact's "kind"; "files" may list further files to checksum.
    """
    records = [read_json(folder / f"parts/part_{p}.json") for p in range(part_count)]
    begun = read_json(folder / BUILDING)
    rest = dict(facts)
    checksums = {name: sha256_of(folder / name) for name in rest.pop("files", ())}
    counts: dict[str, int] = {}
    for record in records:
        # Not computed again: what has changed since must not pass for whole.
        checksums |= record["checksums"]
        for name, value in record["counts"].items():
            counts[name] = counts.get(name, 0) + value
    seal(
        folder,
        rest.pop("kind"),
        checksums,
        {
            "request": begun["request"],
            "parts": [record["rows"] for record in records],
            "failures": [failure for record in records for failure in record["failures"]],
            "vector_kind": kind,
            **counts,
            **rest,
        },
    )
    drop_records(folder)


def drop_records(folder: Path) -> None:
    """Delete what a finished folder no longer needs, and what interrupted writes left in it."""
    for name in BUILDING_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / BUILDING).unlink(missing_ok=True)
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def files_of(kind: str, number: int) -> tuple[str, ...]:
    """Names of all files of a part that has rows."""
    captions = caption_files(number) if kind == "text" else ()
    return vector_file(kind, number), metadata_file(number), *captions


def _empty(folder: Path) -> None:
    """Delete what bliss writes into such a folder, and nothing else."""
    for name in OUR_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in OUR_FILES:
        for path in folder.glob(name):
            path.unlink(missing_ok=True)


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


class StoredCaptions:
    """The captions of the stored rows of an index folder; a part is opened when it is needed."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.starts = part_starts(manifest["parts"])
        self._opened: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, rows: np.ndarray) -> list[str]:
        """The captions of stored rows int64 [u]; BlissError where a file is missing or changed."""
        found = [""] * len(rows)
        for number, places, here in by_part(self.starts, np.asarray(rows)):
            texts, offsets = self._part(number)
            for place, start, stop in zip(places, offsets[here], offsets[here + 1], strict=True):
                found[place] = bytes(texts[start:stop]).decode("utf-8", "replace")
        return found

    def _part(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8, all captions of a part one after another; int64 [m + 1], where each begins."""
        if number not in self._opened:
            texts, starts = caption_files(number)
            for name in (texts, starts):
                check_checksum(self.folder, name, self.manifest)
            offsets = np.load(self.folder / starts, mmap_mode="r", allow_pickle=False)
            rows = int(self.starts[number + 1] - self.starts[number])
            if offsets.shape != (rows + 1,):
                raise BlissError(
                    f"{self.folder / starts} holds {len(offsets) - 1:,} captions",
                    f"{rows:,}, one for every vector of its part",
                    "Restore the file or build the index again",
                )
            path = self.folder / texts
            mapped = np.memmap(path, np.uint8, "r") if offsets[-1] else np.zeros(0, np.uint8)
            self._opened[number] = mapped, offsets
        return self._opened[number]
