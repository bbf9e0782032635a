"""The cache of image embeddings: of whole folders, and of single images by their content.

`CACHE/image-embeddings/` holds an entry, a small JSON file, for every finished folder of
embeddings: where it is and what it was made of. Entries are never trusted: a folder that is gone,
or whose manifest or checksums no longer match, is skipped. The files of a folder that is reused are
hard links, or copies where it is on another disk.

When images are added to a collection, removed or renamed, its finished parts are moved to the stash
`earlier/` and the collection is cut into parts anew; an image whose SHA-256 is in the stash, or in
a registered folder of the same collection, takes its vector from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import (
    BUILDING,
    MANIFEST,
    check_checksum,
    digest,
    read_json,
    read_manifest,
    register,
    registered,
    reuse_files,
    write_json,
)
from ...errors import BlissError
from ..store.parts import drop_records, files_of, finished_part
from ..vectors.layout import metadata_file, read_parquet, vector_file
from ..vectors.rows import MappedVectors
from .embedded import KIND, stored_measures
from .measures import Measures

IMAGES = "image-embeddings"
STASH = "earlier"
IGNORED = "Make it again"
WHICH = ("images", "collection")
"""The fields of a request that say which images there are; the others say how they are embedded."""


@dataclass(frozen=True)
class CachedVectors:
    """The unit rows of m images that were embedded before, by content."""

    hashes: np.ndarray
    """S32 [m], SHA-256 of their files, sorted."""
    places: np.ndarray
    """int64 [m, 2], the number of a file of vectors and the row in it."""
    vectors: Sequence[np.ndarray]
    exif_rotated: tuple[np.ndarray, ...]
    """For each file of vectors bool [rows], which images EXIF rotated."""
    metadata: tuple[Path, ...] = ()
    """The file beside each file of vectors."""
    _measures: dict[int, Sequence[Measures | None]] = field(default_factory=dict)
    """Those beside the file of vectors that was read last."""

    def __contains__(self, sha256: str) -> bool:
        return self._position(sha256) is not None

    def __len__(self) -> int:
        return len(self.hashes)

    def get(self, sha256: str) -> tuple[np.ndarray, bool, Measures | None]:
        """float32 [d], the vector of an image in the cache, whether EXIF rotated it, measures."""
        file, row = self.places[self._position(sha256)]
        if file not in self._measures:
            self._measures.clear()
            self._measures[file] = stored_measures(self.metadata[file])
        rotated = bool(self.exif_rotated[file][row])
        return np.array(self.vectors[file][row]), rotated, self._measures[file][row]

    def _position(self, sha256: str) -> int | None:
        wanted = np.array(bytes.fromhex(sha256), "S32")
        at = int(np.searchsorted(self.hashes, wanted))
        return at if at < len(self.hashes) and self.hashes[at] == wanted else None


def register_images(cache: Path, folder: Path, spec: str) -> None:
    """Add an entry for `folder`, the finished embeddings of the collection `spec`.

    A cache that cannot be written is no error: the images are embedded again elsewhere.
    """
    with suppress(BlissError, OSError):
        request = read_manifest(folder, KIND, IGNORED)["request"]
        facts = {"request": request, "collection": collection_name(spec)}
        register(_entries(cache, request), folder, facts)


def reuse_images(cache: Path, folder: Path, request: Mapping[str, Any], spec: str) -> Path | None:
    """Fill `folder` with embeddings of `spec` in another folder for the same `request`.

    Returns where they were, or None where there are none that are intact; `folder` is then as it
    was, except for files that its next part replaces.
    """
    for found, facts in registered(_entries(cache, request), exclude=folder):
        # Files of another collection may have the same names, sizes and times, and other content.
        if facts.get("collection") != collection_name(spec) or not _same(facts, request):
            continue
        with suppress(BlissError, OSError, KeyError, TypeError):
            manifest = read_manifest(found, KIND, IGNORED)
            if not _same(manifest, request):
                continue
            # The names in the manifest are not trusted.
            numbers = [number for number, rows in enumerate(manifest["parts"]) if rows]
            names = [name for number in numbers for name in files_of("img", number)]
            reuse_files(found, folder, names, manifest)
            drop_records(folder)
            return found
    return None


def previous_folder(
    cache: Path, folder: Path, request: Mapping[str, Any], spec: str
) -> Path | None:
    """Where another state of the collection `spec`, or an apparent copy of it, was embedded with
    the same settings; None if nowhere. Which images are the same, only their content tells."""
    for found, facts in registered(_entries(cache, request), exclude=folder):
        if facts.get("collection") == collection_name(spec) or _same(facts, request):
            with suppress(BlissError, AttributeError):
                # It may have been made again with other settings since its entry was written.
                if _settings(read_manifest(found, KIND, IGNORED)["request"]) == _settings(request):
                    return found
    return None


def collection_name(spec: str) -> str:
    """The name of a collection in the cache: its absolute path where it is a path."""
    return os.path.abspath(spec) if os.path.exists(spec) else spec


def _entries(cache: Path, request: Mapping[str, Any]) -> Path:
    return cache / IMAGES / _settings(request)


def _settings(request: Mapping[str, Any]) -> str:
    """A digest of a request without what says which images there are."""
    return digest({name: value for name, value in request.items() if name not in WHICH})


def _same(stored: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether an entry or manifest is of such images, of whatever collection."""
    before = stored.get("request")
    return isinstance(before, dict) and all(
        before.get(name) == request.get(name) for name in {*before, *request} - {"collection"}
    )


def begun_request(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The request as `folder` states it where it was begun for the same one: version 0.1 did not
    state the collection."""
    before = _stored_request(folder)
    return before if {"collection": request["collection"], **before} == request else dict(request)


def stash_parts(folder: Path, request: Mapping[str, Any]) -> None:
    """Move the finished parts of `folder` to the stash if only its images, or labels, have changed.

    Does nothing where the folder was begun for the same request, or for one that differs in more.
    It may be interrupted at any point and called again.
    """
    before = _stored_request(folder)
    differing = {name for name in {*before, *request} if before.get(name) != request.get(name)}
    if not differing or differing - set(WHICH):
        return
    state = digest({name: before.get(name) for name in WHICH})
    for number, checksums in list(_finished_parts(folder)):
        name = f"{state}_{number}"
        moved = {
            vector_file("img", number): f"{name}.npy",
            metadata_file(number): f"{name}.parquet",
        }
        record = {"checksums": {new: checksums[old] for old, new in moved.items()}}
        write_json(folder / STASH / f"{name}.json", record)
        for old, new in moved.items():
            os.replace(folder / old, folder / STASH / new)
    for name in ("parts", "img_emb", "metadata"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / BUILDING, {"request": dict(request)})
    (folder / MANIFEST).unlink(missing_ok=True)


def delete_stash(folder: Path) -> None:
    """Delete the stash once everything is embedded."""
    shutil.rmtree(folder / STASH, ignore_errors=True)


def open_cached_vectors(folder: Path, previous: Path | None = None) -> CachedVectors:
    """The intact parts in the stash of `folder` and those of the finished folder `previous`."""
    hashes: list[np.ndarray] = [np.zeros(0, "S32")]
    places: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    vectors: list[Path] = []
    rotated: list[np.ndarray] = []
    beside: list[Path] = []
    for part, metadata in [*_stashed_parts(folder), *(_parts_of(previous) if previous else ())]:
        table = read_parquet(metadata, ["sha256", "exif_rotated"])
        known = table["sha256"].to_pylist()
        rotated.append(np.array(table["exif_rotated"].to_pylist(), bool))
        hashes.append(np.array([bytes.fromhex(value) for value in known], "S32"))
        places.append(np.stack([np.full(len(known), len(vectors)), np.arange(len(known))], axis=1))
        vectors.append(part)
        beside.append(metadata)
    joined = np.concatenate(hashes)
    order = np.argsort(joined, kind="stable")
    return CachedVectors(
        joined[order],
        np.concatenate(places)[order],
        MappedVectors(vectors),
        tuple(rotated),
        tuple(beside),
    )


def _stashed_parts(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(vectors, metadata) of every intact part in the stash."""
    for record in sorted((folder / STASH).glob("*.json")):
        names = (f"{record.stem}.npy", f"{record.stem}.parquet")
        with suppress(BlissError):
            if _are_intact(record.parent, names, read_json(record)):
                yield record.with_suffix(".npy"), record.with_suffix(".parquet")


def _parts_of(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(vectors, metadata) of every intact part of a finished folder."""
    for number, checksums in _finished_parts(folder):
        names = (vector_file("img", number), metadata_file(number))
        if _are_intact(folder, names, {"checksums": checksums}):
            yield folder / names[0], folder / names[1]


def _are_intact(folder: Path, names: Iterable[str], facts: Mapping[str, Any]) -> bool:
    """Whether the files match their checksums; images of others are embedded again."""
    try:
        for name in names:
            check_checksum(folder, name, facts)
    except (BlissError, AttributeError):
        return False
    return True


def _stored_request(folder: Path) -> dict[str, Any]:
    """The request that a folder was finished or begun for; {} where it cannot be read."""
    begun = next((n for n in (MANIFEST, BUILDING) if (folder / n).is_file()), None)
    try:
        before = read_json(folder / begun).get("request") if begun else None
    except BlissError:
        return {}
    return before if isinstance(before, dict) else {}


def _finished_parts(folder: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(number, checksums) of every finished part with vectors; its files are not checked."""
    if (folder / MANIFEST).is_file():
        manifest = read_json(folder / MANIFEST)
        for number, rows in enumerate(manifest.get("parts", ())):
            names = (vector_file("img", number), metadata_file(number))
            if rows and all((folder / name).is_file() for name in names):
                yield number, manifest["checksums"]
        return
    for path in sorted((folder / "parts").glob("part_*.json")):
        number = int(path.stem.removeprefix("part_"))
        record = finished_part(folder, number)
        if record is not None and record["rows"]:
            yield number, record["checksums"]
