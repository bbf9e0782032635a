"""Atomic files, and the manifests of finished folders.

Every artefact (caption index, image embeddings, reference, audit) is a folder with a
`manifest.json`. Files are written under a temporary name, fsynced and renamed, so that an
interrupted write changes no finished file; the manifest is written last and lists their checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import BlissError, unwritable

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

_BUILT: Mapping[str, type] = {"parts": list, "failures": list, "model": dict}
FIELDS: Mapping[str, Mapping[str, type]] = {
    "caption-index": {**_BUILT, "count": int, "counts": dict, "sources": list, "dtype": str},
    "image-embeddings": _BUILT,
    "clipn": {"model": dict, "weights": str},
    "reference": {"classes": list, "prompts": list, "model": dict},
    "oecl-head": {"model": dict, "counts": dict, "settings": dict},
}
"""The fields that the manifest of each kind must have besides its checksums, and their types."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` on a temporary beside `path`, fsync it, and rename it to `path`.

    Raises BlissError naming the path and the system's reason when the disk is full or the folder
    cannot be written (UsageError where a file is in its place); whatever was at `path` before is
    then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _remove_if_there(temporary)


def _remove_if_there(path: Path) -> None:
    """Delete a temporary file, ignoring errors of a folder that vanished or became read-only."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system lets folders be opened (POSIX)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one `.npy` file atomically, never with pickled objects."""
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def link_file(source: Path, target: Path) -> None:
    """Link `target` to a finished file, replacing it; where links are not possible, copy.

    Raises BlissError where the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # a system without links, or another disk
            with open(source, "rb") as file:
                write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
            return
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        _remove_if_there(temporary)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON atomically; the same content gives the same bytes."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; BlissError with the path and reason where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BlissError(
            f"{path} could not be read ({error})",
            "a JSON file that bliss wrote",
            "Restore the file or build the folder again",
        ) from error
    if not isinstance(content, dict):
        raise BlissError(
            f"{path} holds a {type(content).__name__}", "a JSON object", "Build the folder again"
        )
    return content


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Mapping[str, Any]) -> str:
    """A short, stable fingerprint of JSON-like content: SHA-256 of its sorted form."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path, kind: str, files: Iterable[str], **facts: Any) -> None:
    """Write `folder/manifest.json`: format version, kind, facts, and a checksum for each file.

    `files` are names relative to `folder`. Call it last: a folder with a manifest is finished.
    """
    seal(folder, kind, {name: sha256_of(folder / name) for name in files}, facts)


def seal(folder: Path, kind: str, checksums: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose checksums were computed when its files were written."""
    write_json(
        folder / MANIFEST,
        {"format_version": FORMAT_VERSION, "kind": kind, **facts, "checksums": dict(checksums)},
    )


def read_manifest(folder: Path, kind: str, do: str) -> dict[str, Any]:
    """The manifest of a finished `kind` folder; `do` is the remedy where there is none.

    Raises BlissError where there is no folder or manifest, for another kind or format version, and
    where a field of FIELDS is missing or has another type.
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise BlissError(f"{folder} {state}", f"a finished {kind} folder", do)
    manifest = read_json(path)
    if manifest.get("kind") != kind:
        raise BlissError(f"{folder} is a {manifest.get('kind')} folder", f"a {kind} folder", do)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{folder} has format version {manifest.get('format_version')}",
            f"version {FORMAT_VERSION}",
            "Use the bliss-audit version that wrote it, or build it again",
        )
    for name, type_ in {**FIELDS.get(kind, {}), "checksums": dict}.items():
        if not isinstance(manifest.get(name), type_):
            raise BlissError(
                f"{path} has no usable '{name}'",
                "the manifest as bliss wrote it",
                "Restore it from a backup or build the folder again",
            )
    return manifest


def check_checksum(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Raise BlissError where file `name` is missing from `folder` or differs from its checksum."""
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise BlissError(
            f"the manifest of {folder} names a file outside it ({name})",
            "names of files inside the folder",
            "Restore the manifest from a backup or build the folder again",
        )
    path = folder / name
    expected = manifest.get("checksums", {}).get(name)
    if not path.is_file():
        problem = f"{path} is missing"
    elif expected is None:
        problem = f"{path} is not listed in its manifest"
    elif sha256_of(path) != expected:
        problem = f"{path} does not match the checksum in its manifest"
    else:
        return
    raise BlissError(
        problem, "the file as bliss wrote it", "Restore it from a backup or build the folder again"
    )
