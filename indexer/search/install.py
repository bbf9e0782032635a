"""Setting the kind of search of an index: its structure is built and installed.

A structure covers all rows stored when it was built, removed ones too. Its file is written before
the manifest that names it: an interrupted build leaves the index as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import sha256_of, write_atomically
from ...errors import BlissError, UsageError
from ..store.manifest import IndexFolder, local_folder
from ..store.stored_rows import IndexRows
from ..vectors.unit_rows import Rows
from .kinds import EXACT, Kind, check_fit, check_limits, check_parameters, read_kind, training_note
from .plan import Task, auto_kind, this_machine
from .structures import (
    FOLDER,
    SEED,
    StoredStructure,
    fill_structure,
    image_transform,
    new_structure,
    stored_structure,
    version,
    write_structure,
)

AUTO, FLAT = "auto", "Flat"


@dataclass(frozen=True)
class MadeStructure:
    """A structure on disk that is not installed."""

    kind: Kind
    path: Path
    rows: int
    threads: int | None
    """What it was built with; None: FAISS's own choice, or 1 for a graph."""

    @property
    def bytes(self) -> int:
        """Size of its file."""
        return self.path.stat().st_size


def make_structure(
    vectors: Rows,
    dimension: int,
    kind: str,
    path: Path,
    threads: int | None = None,
    *,
    images: np.ndarray | None = None,
) -> MadeStructure:
    """Build a structure of `kind` over all of `vectors` in the file `path`, without installing it.

    `images` float32 [n, d] are a sample of those that will be searched for, for a kind that is laid
    out by images. Raises UsageError where they are missing, where FAISS does not know the kind or
    it does not fit the vectors.
    """
    parts = read_kind(kind)
    check_fit(parts, len(vectors), dimension)
    transform = None
    if parts.by_images:
        if images is None:
            raise UsageError(
                f"kind of search '{kind}' was asked for without images to lay it out by",
                "a sample of the images that are to be audited",
                f"Run `bliss index tune INDEX --images DIR --kind {kind}`",
            )
        transform = image_transform(vectors, images)
    structure = new_structure(parts, dimension, transform)
    fill_structure(structure, parts, vectors, threads)
    write_atomically(path, lambda file: write_structure(structure, file))
    return MadeStructure(parts, path, len(vectors), threads)


def chosen_kind(folder: str | Path, kind: str) -> tuple[str, str | None]:
    """The kind to set: `kind`, or for "auto" one that suits the index's size, and the reason."""
    if kind == FLAT:
        return EXACT, "Flat scans every vector, which is exact search"
    if kind != AUTO:
        return kind, None
    manifest = IndexFolder.open(local_folder(folder)).manifest
    task = Task(str(folder), manifest.stored_count, manifest.dimension, 2)
    return auto_kind(task, this_machine(with_gpus=True))


def size_note(folder: str | Path, kind: str) -> str | None:
    """A note where an index is small for a kind that fits it; errors as of `set_search_kind`."""
    if kind == EXACT:
        return None
    parts, manifest = read_kind(kind), IndexFolder.open(local_folder(folder)).manifest
    check_fit(parts, manifest.stored_count, manifest.dimension)
    return training_note(parts, manifest.stored_count)


def set_search_kind(
    folder: str | Path,
    kind: str,
    parameters: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Make `kind`, with `parameters`, the search of a finished index; the manifest's "search".

    A structure that exists already, over all rows, is kept and only its parameters change; without
    `parameters` the index keeps those it has for this kind. Raises UsageError for a kind that is
    unknown or does not fit, BlissError for an index that is damaged or cannot be written; the index
    is then unchanged.
    """
    folder = local_folder(folder)
    kind = chosen_kind(folder, kind)[0]
    if kind == EXACT and parameters:
        raise UsageError(
            f"{', '.join(parameters)} were given for exact search",
            "no parameters: it has none",
            "Leave them out, or ask for another kind",
        )
    if kind != EXACT:
        check_limits(read_kind(kind), parameters or {})
    with IndexFolder.locked(folder) as opened:
        if kind == EXACT:
            return _replace(opened, {"kind": EXACT}, None)
        before = _usable_structure(opened, kind, threads)
        chosen = _chosen_parameters(opened.manifest.search, kind, parameters)
        if before is None:
            path = folder / FOLDER / "making.faiss"
            dimension = opened.manifest.dimension
            made = make_structure(IndexRows(opened), dimension, kind, path, threads)
            return _install(opened, made, chosen)
        search = {
            **opened.manifest.search,
            "parameters": check_parameters(before.kind, chosen),
        }
        return _replace(opened, search, opened.manifest.checksums[before.file])


def install_structure(
    folder: str | Path, made: MadeStructure, parameters: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Install a structure made over all stored rows of an index; see `set_search_kind`."""
    folder = local_folder(folder)
    with IndexFolder.locked(folder) as opened:
        if made.rows != opened.manifest.stored_count:
            raise BlissError(
                f"a structure over {made.rows:,} rows was given for {folder}",
                f"one over its {opened.manifest.stored_count:,} stored rows",
                "Make it again",
            )
        path = folder / FOLDER / "making.faiss"
        with open(made.path, "rb") as source:
            write_atomically(path, lambda file: shutil.copyfileobj(source, file))
        return _install(opened, replace(made, path=path), parameters or {})


def _usable_structure(
    folder: IndexFolder, kind: str, threads: int | None
) -> StoredStructure | None:
    """The index's structure, where it is whole, of this kind and over all rows."""
    try:
        found = stored_structure(folder)
        if found is None or found.kind.name != kind:
            return None
        found.check()
    except BlissError:
        return None
    every = found.rows == folder.manifest.stored_count
    return found if every and found.threads == threads else None


def _chosen_parameters(
    search: Any, kind: str, parameters: Mapping[str, int] | None
) -> Mapping[str, int]:
    """The parameters given, else those that the index has for the same kind already."""
    if parameters is not None or not isinstance(search, dict) or search.get("kind") != kind:
        return parameters or {}
    found = search.get("parameters")
    return found if isinstance(found, dict) else {}


def _install(
    folder: IndexFolder, made: MadeStructure, parameters: Mapping[str, int]
) -> dict[str, Any]:
    """Name the file by its content, so that no installed file is overwritten by another."""
    checksum = sha256_of(made.path)
    kind = "".join(letter if letter.isalnum() else "_" for letter in made.kind.name)[:60]
    name = f"{FOLDER}/{kind}-{checksum[:12]}.faiss"
    os.replace(made.path, folder.path / name)
    search = {
        "kind": made.kind.name,
        "parameters": check_parameters(made.kind, parameters),
        "file": name,
        "rows": made.rows,
        "seed": SEED,
        "threads": made.threads,
        "faiss": version(),
    }
    return _replace(folder, search, checksum)


def _replace(folder: IndexFolder, search: dict[str, Any], checksum: str | None) -> dict[str, Any]:
    """Write the manifest with another "search", then delete structures it does not name."""
    checksums = {
        name: value
        for name, value in folder.manifest.checksums.items()
        if not name.startswith(f"{FOLDER}/")
    }
    if checksum is not None:
        checksums[search["file"]] = checksum
    folder.with_fields(search=search, checksums=checksums).write_manifest()
    if (folder.path / FOLDER).is_dir():
        for path in (folder.path / FOLDER).iterdir():
            if f"{FOLDER}/{path.name}" != search.get("file") and ".faiss" in path.suffixes:
                path.unlink(missing_ok=True)
    return search
