"""The kind of search of an index folder: build its structure and install it.

A structure covers the stored rows there were when it was built, removed ones too. Its file is
written first and the manifest, which names it, last: an interrupted building leaves the index as
it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...artefacts import sha256_of, write_atomically
from ...errors import BlissError, UsageError
from ..store.folder import local_folder
from ..store.manifest import IndexFolder
from ..store.vectors import IndexRows
from ..vectors.unit_rows import Rows
from .kinds import EXACT, Kind, check_asked, check_fit, check_parameters, read_kind, training_note
from .plan import Machine, Task, auto_kind, this_machine
from .structures import (
    FOLDER,
    SEED,
    StoredStructure,
    fill_structure,
    new_structure,
    stored_structure,
    version,
    write_structure,
)

AUTO, FLAT = "auto", "Flat"


@dataclass(frozen=True)
class MadeStructure:
    """A structure on disk, not yet an index's own."""

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
    vectors: Rows, dimension: int, kind: str, path: Path, threads: int | None = None
) -> MadeStructure:
    """Build a structure of `kind` over all of `vectors` into the file `path`, and install nothing.

    Raises UsageError where FAISS does not know the kind or it does not fit the vectors.
    """
    parts = read_kind(kind)
    check_fit(parts, len(vectors), dimension)
    structure = new_structure(parts, dimension)
    fill_structure(structure, parts, vectors, threads)
    write_atomically(path, lambda file: write_structure(structure, file))
    return MadeStructure(parts, path, len(vectors), threads)


def chosen_kind(
    folder: str | Path, kind: str, machine: Machine | None = None
) -> tuple[str, str | None]:
    """The kind to set: `kind` itself, or for "auto" one for the index's size, and why that."""
    if kind == FLAT:
        return EXACT, "Flat scans every vector, which is exact search"
    if kind != AUTO:
        return kind, None
    manifest = IndexFolder.open(local_folder(folder)).manifest
    task = Task(str(folder), manifest.stored_count, manifest.dimension, 2)
    return auto_kind(task, machine or this_machine(with_gpus=True))


def note_of_size(folder: str | Path, kind: str) -> str | None:
    """What is to be said where an index is small for a kind that fits it; errors as to set it."""
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
    """Make `kind` the search of a finished index, `parameters` stored; the manifest's "search".

    A structure that is there already, over all rows, is kept and only its parameters change;
    without any the index keeps those it has for this kind.
    Raises UsageError for a kind that is unknown or does not fit, BlissError for an index that is
    not whole or cannot be written; the index is then as it was.
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
        check_asked(read_kind(kind), parameters or {})
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
    """Move a structure made over all stored rows of an index into it; as `set_search_kind`."""
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
    name = f"{FOLDER}/{_file_name(made.kind.name)}-{checksum[:12]}.faiss"
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


def _file_name(kind: str) -> str:
    """A kind as part of a file name."""
    return "".join(letter if letter.isalnum() else "_" for letter in kind)[:60]
