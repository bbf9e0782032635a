"""Embedded images, and how they are read back or taken from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, check_checksum, digest, read_manifest
from ..corpora.images import ImageList, list_paths
from ..errors import BlissError
from .layout import (
    EmbeddingFolder,
    load_vectors,
    metadata_parts,
    open_embedding_folder,
    read_parquet,
)
from .parts import BUILDING, metadata_file, vector_file
from .stored_rows import (
    ChosenRows,
    Rows,
    StoredRows,
    open_outside_rows,
    open_stored_rows,
    resident_if_few,
)
from .unit_rows import normalise_rows

KIND = "image-embeddings"
PATH_COLUMNS = ("image_path", "path", "url")
LABEL_COLUMN = "label"
ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Failure:
    """One image that could not be used, by source row, with its path and the reason."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True)
class EmbeddedImages:
    """n usable images of one collection and the failures among it."""

    vectors: Rows
    """Unit rows of d dimensions: float32 [n, d], or on disk where that is more than 256 MiB."""
    rows: np.ndarray
    """int64 [n], source rows: positions in the collection, failures counted."""
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    hashes: tuple[str, ...]
    """Content of each image: SHA-256 of its file, or of its vector where no file was read."""
    failures: tuple[Failure, ...]
    model: Mapping[str, Any]
    source: str
    """Where they come from, for messages."""
    normalised: int = 0
    """How many outside vectors were not of unit length."""
    exif_rotated: int = 0
    fingerprint: str = ""
    """Changes where any vector, content or path does; "" where that is not known."""


def open_embedded_images(folder: Path, source: str) -> EmbeddedImages:
    """The finished embeddings that `embed_images` wrote; BlissError where they are not whole."""
    manifest = read_manifest(folder, KIND, "Run the command that began it again to finish it")
    for name in manifest["checksums"]:
        check_checksum(folder, name, manifest)
    numbers = [number for number, rows in enumerate(manifest["parts"]) if rows]
    failures = tuple(Failure(**failure) for failure in manifest["failures"])
    if not numbers:
        raise BlissError(
            f"none of the {len(failures):,} images in {source} could be read "
            f"(the first: {failures[0].path}: {failures[0].reason})",
            "at least one readable image",
            "Check the files",
        )
    stored = open_stored_rows([folder / vector_file("img", number) for number in numbers])
    rows, paths, labels, hashes = [], [], [], []
    names: dict[str | None, str | None] = {}
    for number in numbers:
        table = read_parquet(folder / metadata_file(number))
        rows.append(table["row"].to_numpy())
        paths += table["image_path"].to_pylist()
        labels += [names.setdefault(label, label) for label in table["label"].to_pylist()]
        hashes += table["sha256"].to_pylist()
    return EmbeddedImages(
        vectors=resident_if_few(stored, manifest["model"]["dimension"]),
        rows=np.concatenate(rows),
        paths=tuple(paths),
        labels=tuple(labels),
        hashes=tuple(hashes),
        failures=failures,
        model=manifest["model"],
        source=source,
        exif_rotated=manifest.get("exif_rotated", 0),
        fingerprint=digest(manifest["checksums"]),
    )


def read_image_embeddings(folder: str | Path) -> EmbeddedImages:
    """Precomputed image embeddings in clip-retrieval's layout, normalised here.

    Labels come from a metadata column `label`, paths from `image_path`, `path` or `url`. Zero and
    non-finite vectors become failures. A folder that bliss wrote keeps its model's facts.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file() or (folder / BUILDING).is_file():
        return open_embedded_images(folder, str(folder))
    layout = open_embedding_folder(folder, "img")
    paths, labels = _paths_and_labels(layout)
    stored = open_outside_rows(layout.vectors)
    bad, hashes, adjusted = _looked_through(stored)
    if len(bad) == len(stored):
        raise BlissError(
            f"all {len(stored):,} embeddings in {folder} are zero or not finite",
            "finite vectors",
            "Embed the images again",
        )
    kept = np.setdiff1d(np.arange(len(stored)), bad)
    reason = "the embedding is zero or not finite"
    return EmbeddedImages(
        vectors=resident_if_few(ChosenRows(stored, kept), layout.dimension),
        rows=kept,
        paths=tuple(paths[i] for i in kept.tolist()),
        labels=tuple(labels[i] for i in kept.tolist()),
        hashes=tuple(hashes),
        failures=tuple(Failure(i, paths[i], reason) for i in bad.tolist()),
        model={"model": None, "weights_sha256": None, "dimension": layout.dimension},
        source=str(folder),
        normalised=adjusted,
        fingerprint=hashlib.sha256("".join(hashes).encode()).hexdigest(),
    )


def _looked_through(stored: StoredRows) -> tuple[np.ndarray, list[str], int]:
    """One pass: int64 [u], the unusable rows; what the others are known by; how many of them were
    not of unit length."""
    bad, hashes, adjusted = [], [], 0
    for path, first, stop in zip(stored.paths, stored.starts, stored.starts[1:], strict=False):
        for start in range(0, int(stop - first), ROWS_AT_ONCE):
            made = normalise_rows(load_vectors(path)[start : start + ROWS_AT_ONCE])
            bad.append(made.unusable + start + first)
            adjusted += made.adjusted
            usable = np.delete(made.unit, made.unusable, axis=0)
            hashes += ["vector:" + hashlib.sha256(row).hexdigest() for row in usable]
    return np.concatenate(bad), hashes, adjusted


def list_photographs(folder: str | Path, image_root: str | None = None) -> ImageList:
    """The image files behind embeddings, row by row as `read_image_embeddings` counts them.

    Paths are relative to `image_root`, or to the embeddings' folder, and may not leave it; rows
    whose metadata names no file are rows without one. Errors as `read_image_embeddings`.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder, KIND, "Run the command that began it again to finish it")
        named = {failure["row"]: str(failure["path"]) for failure in manifest["failures"]}
        labelled: dict[int, str | None] = {}
        for number, rows in enumerate(manifest["parts"]):
            if rows:
                columns = read_parquet(folder / metadata_file(number)).to_pydict()
                named |= zip(columns["row"], columns["image_path"], strict=True)
                labelled |= zip(columns["row"], columns["label"], strict=True)
        count = max(named, default=-1) + 1
        paths = [named.get(row, f"row {row}") for row in range(count)]
        labels = [labelled.get(row) for row in range(count)]
    else:
        paths, labels = _paths_and_labels(open_embedding_folder(folder, "img"))
    return list_paths(image_root or folder, paths, labels)


def _paths_and_labels(layout: EmbeddingFolder) -> tuple[list[str], list[str | None]]:
    """What the metadata calls each row; a part without such a column, or a null, has none."""
    paths: list[str] = []
    labels: list[str | None] = []
    for table in metadata_parts(layout):
        named = next((name for name in PATH_COLUMNS if name in table.column_names), None)
        values = table[named].to_pylist() if named else [None] * len(table)
        first = len(paths)
        paths += [f"row {first + i}" if x is None else str(x) for i, x in enumerate(values)]
        there = LABEL_COLUMN in table.column_names
        values = table[LABEL_COLUMN].to_pylist() if there else [None] * len(table)
        labels += [None if x is None else str(x) for x in values]
    return paths, labels
