"""The kind of search of an index folder: build its structure and install it.

A structure covers the stored rows there were when it was built, removed ones too. Its file is
written first and the manifest, which names it, last: an interrupted building leaves the index as
it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefacts import MANIFEST, read_manifest, sha256_of, write_atomically, write_json
from ...errors import BlissError, UsageError
from ..store.folder import HOW_TO_BUILD, KIND, local_folder
from ..store.lock import only_run_in
from ..store.vectors import IndexRows
from ..vectors.unit_rows import Rows
from .kinds import EXACT, Kind, check_asked, check_fit, check_parameters, read_kind, training_note
from .plan import Machine, Task, auto_kind, this_machine
from .structures import (
    FOLDER,
    SEED,
    check_structure,
    fill_structure,
    new_structure,
    stored_kind,
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
    path = local_folder(folder)
    manifest = read_manifest(path, KIND, HOW_TO_BUILD)
    dimension, count = manifest["model"]["dimension"], sum(manifest["parts"])
    task = Task(str(folder), count, dimension, 2)
    return auto_kind(task, machine or this_machine(with_gpus=True))


def note_of_size(folder: str | Path, kind: str) -> str | None:
    """What is to be said where an index is small for a kind that fits it; errors as to set it."""
    if kind == EXACT:
        return None
    parts, manifest = read_kind(kind), read_manifest(local_folder(folder), KIND, HOW_TO_BUILD)
    count = sum(manifest["parts"])
    check_fit(parts, count, manifest["model"]["dimension"])
    return training_note(parts, count)


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
    read_manifest(folder, KIND, HOW_TO_BUILD)
    with only_run_in(folder):
        manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
        if kind == EXACT:
            return _replace(folder, manifest, {"kind": EXACT}, None)
        if not _is_there(folder, manifest, kind, threads):
            vectors = IndexRows(folder, manifest)
            path = folder / FOLDER / "making.faiss"
            made = make_structure(vectors, manifest["model"]["dimension"], kind, path, threads)
            return _install(folder, manifest, made, _kept(manifest, kind, parameters))
        stated = check_parameters(read_kind(kind), _kept(manifest, kind, parameters))
        search = {**manifest["search"], "parameters": stated}
        return _replace(folder, manifest, search, manifest["checksums"][search["file"]])


def install_structure(
    folder: str | Path, made: MadeStructure, parameters: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Move a structure made over all stored rows of an index into it; as `set_search_kind`."""
    folder = local_folder(folder)
    with only_run_in(folder):
        manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
        if made.rows != sum(manifest["parts"]):
            raise BlissError(
                f"a structure over {made.rows:,} rows was given for {folder}",
                f"one over its {sum(manifest['parts']):,} stored rows",
                "Make it again",
            )
        moved = folder / FOLDER / "making.faiss"
        with open(made.path, "rb") as source:
            write_atomically(moved, lambda file: shutil.copyfileobj(source, file))
        made = MadeStructure(made.kind, moved, made.rows, made.threads)
        return _install(folder, manifest, made, parameters or {})


def _is_there(folder: Path, manifest: Mapping[str, Any], kind: str, threads: int | None) -> bool:
    try:
        before = stored_kind(folder, manifest)
        if before is None or before.name != kind:
            return False
        check_structure(folder, manifest)
    except BlissError:
        return False
    search = manifest["search"]
    return search["rows"] == sum(manifest["parts"]) and search.get("threads") == threads


def _kept(
    manifest: Mapping[str, Any], kind: str, parameters: Mapping[str, int] | None
) -> Mapping[str, int]:
    """The parameters given, else those that the index has for the same kind already."""
    before = manifest.get("search")
    if parameters is not None or not isinstance(before, dict) or before.get("kind") != kind:
        return parameters or {}
    found = before.get("parameters")
    return found if isinstance(found, dict) else {}


def _install(
    folder: Path, manifest: Mapping[str, Any], made: MadeStructure, parameters: Mapping[str, int]
) -> dict[str, Any]:
    """Name the file by its content, so that no installed one is ever overwritten by another."""
    checksum = sha256_of(made.path)
    name = f"{FOLDER}/{_plain(made.kind.name)}-{checksum[:12]}.faiss"
    os.replace(made.path, folder / name)
    search = {
        "kind": made.kind.name,
        "parameters": check_parameters(made.kind, parameters),
        "file": name,
        "rows": made.rows,
        "seed": SEED,
        "threads": made.threads,
        "faiss": version(),
    }
    return _replace(folder, manifest, search, checksum)


def _replace(
    folder: Path, manifest: Mapping[str, Any], search: dict[str, Any], checksum: str | None
) -> dict[str, Any]:
    """Write the manifest with another "search", then drop structures it does not name."""
    checksums = {
        name: value
        for name, value in manifest["checksums"].items()
        if not name.startswith(f"{FOLDER}/")
    }
    if checksum is not None:
        checksums[search["file"]] = checksum
    write_json(folder / MANIFEST, {**manifest, "search": search, "checksums": checksums})
    if (folder / FOLDER).is_dir():
        for path in (folder / FOLDER).iterdir():
            if f"{FOLDER}/{path.name}" != search.get("file") and ".faiss" in path.suffixes:
                path.unlink(missing_ok=True)
    return search


def _plain(kind: str) -> str:
    """A kind as part of a file name."""
    return "".join(letter if letter.isalnum() else "_" for letter in kind)[:60]
