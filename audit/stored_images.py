"""The image embeddings of a run, read where they lie and only as far as they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..artefacts import MANIFEST
from ..indexer.vectors.layout import (
    EmbeddingFolder,
    column_names,
    is_embedding_folder,
    load_vectors,
    metadata_parts,
    open_embedding_folder,
    read_parquet,
)
from ..indexer.vectors.unit_rows import normalise_rows
from .photographs import Wanted
from .run_folder import RunFolder

ROWS_AT_ONCE = 65_536
NO_FILE = "vector:"
"""Begins the content of an image that is known by its vector alone."""


@dataclass(frozen=True)
class StoredImages:
    """A folder of image embeddings, read where it lies."""

    layout: EmbeddingFolder
    ours: bool
    """Whether bliss wrote it: its rows are then the usable images, with content hashes."""

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where the images stand whose source rows are `rows`, all of a run, in table order."""
        return np.arange(len(rows)) if self.ours else np.asarray(rows, np.int64)

    def rows(self) -> np.ndarray:
        """int64 [n], the source row of every stored image."""
        if not self.ours:
            return np.arange(self.layout.count)
        return np.concatenate(
            [table["row"].to_numpy() for table in metadata_parts(self.layout, ["row"])]
        )

    def vectors(self, places: np.ndarray) -> np.ndarray:
        """float32 [m, d], unit rows at `places`."""
        starts = np.cumsum([0, *self.layout.rows])
        found = np.empty((len(places), self.layout.dimension), np.float32)
        for number, path in enumerate(self.layout.vectors):
            here = np.flatnonzero((places >= starts[number]) & (places < starts[number + 1]))
            if len(here):
                found[here] = load_vectors(path)[places[here] - starts[number]]
        return normalise_rows(found).unit

    def hashes(self, places: Sequence[int]) -> list[str]:
        """What the images at `places` are known by: SHA-256 of the file, else of the vector."""
        if self.ours:
            return [str(content) for content in self.column("sha256", np.array(places, np.int64))]
        return [NO_FILE + hashlib.sha256(row).hexdigest() for row in self.vectors(np.array(places))]

    def mean(self) -> np.ndarray:
        """float64 [d], the mean of all unit rows."""
        total = np.zeros(self.layout.dimension)
        for start in range(0, self.layout.count, ROWS_AT_ONCE):
            stop = min(self.layout.count, start + ROWS_AT_ONCE)
            total += self.vectors(np.arange(start, stop)).sum(axis=0, dtype=np.float64)
        return total / self.layout.count

    def column(self, name: str, places: np.ndarray) -> list[str | None]:
        """One metadata column of the images at `places` int64 [m], None in parts that lack it."""
        starts = np.cumsum([0, *self.layout.rows])
        found: list[str | None] = [None] * len(places)
        for number, path in enumerate(self.layout.metadata):
            here = np.flatnonzero((places >= starts[number]) & (places < starts[number + 1]))
            if len(here) and name in column_names(path):
                rows = pa.array(places[here] - starts[number])
                values = read_parquet(path, [name])[name].take(rows).to_pylist()
                for place, value in zip(here.tolist(), values, strict=True):
                    found[place] = value
        return found


def stored_images(folder: Path) -> StoredImages | None:
    """The embeddings in `folder`, or None where there are none."""
    if not is_embedding_folder(folder, "img"):
        return None
    return StoredImages(open_embedding_folder(folder, "img"), (folder / MANIFEST).is_file())


def audited_embeddings(run: RunFolder) -> StoredImages | None:
    """The embeddings a run was made from: its own, or those it was given."""
    given = run.facts.get("request", {}).get("embeddings")
    return stored_images(run.folder / "images") or (stored_images(Path(given)) if given else None)


def wanted_images(run: RunFolder) -> list[Wanted]:
    """Every image of a run, in the order of its table, with its content where a file was read."""
    table = run.columns(["row", "path"])
    rows, paths = table["row"].to_pylist(), table["path"].to_pylist()
    stored = audited_embeddings(run)
    known: Sequence[str | None] = [None] * len(rows)
    if stored is not None and stored.ours:
        known = stored.hashes(range(len(rows)))
    return [Wanted(*each) for each in zip(rows, paths, known, strict=True)]
