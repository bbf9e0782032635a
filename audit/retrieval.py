"""The captions nearest to every image, searched in batches that outlive the run that made them.

A batch is a run of images in source order. Its hits are `hits/NAME.npy`, one record an image of
`similarity` float32 [k] and `rows` int64 [k], and NAME is a digest of all that they depend on: the
vectors of its images, the index and how it is searched, and k. `NAME.json`, written last, holds
the checksum. So the same command continues where it was killed, and after a collection has grown
only the batches that changed are searched.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..artefacts import (
    check_checksum,
    digest,
    read_array,
    read_json,
    sha256_of,
    write_array,
    write_json,
)
from ..errors import BlissError
from ..indexer import SCRATCH, CaptionIndex, Hits, Rows, release_pages, scratch_array, search_index
from ..progress import Progress, no_progress
from ..scorer import Retrieved, gather_texts

HITS = "hits"
PAIRS_A_BATCH = 1 << 31
"""Images times captions of one batch: about half a minute on two cores."""
LEAST_ROWS, MOST_ROWS = 4096, 16_384
"""Images of one batch; a streamed index is read once for each."""


@dataclass(frozen=True)
class HitsCache:
    """The folder that batches are saved in, and the names this run has written or read there."""

    folder: Path
    used: set[str] = field(default_factory=set)

    def delete_unused(self) -> None:
        """Delete the batches that this run did not use: those of other images or another index."""
        for path in self.folder.glob("*.*"):
            if path.name.split(".")[0] not in self.used:
                with suppress(OSError):
                    path.unlink()


def retrieve(
    index: CaptionIndex,
    images: Rows,
    k: int,
    progress: Progress = no_progress,
    cache: HitsCache | None = None,
) -> Retrieved:
    """The k captions nearest to each unit row of `images` [n, d], with their vectors.

    Batches that `cache` has are read, the others searched for and saved there. Raises BlissError
    where its folder cannot be written.
    """
    n = len(images)
    found = Hits(scratch_array((n, k), np.float32), scratch_array((n, k), np.int64))
    searched = {"index": _digest_of_search(index), "captions": index.count, "k": k}
    for start in range(0, n, size := batch_rows(index.count)):
        batch = slice(start, min(n, start + size))
        queries = np.ascontiguousarray(images[batch], np.float32)
        if cache is None:
            hits = search_index(index, queries, k)
        else:
            hits = _cached_search(cache, searched, index, queries, k)
        found.similarity[batch], found.rows[batch] = hits.similarity, hits.rows
        release_pages(found.similarity, found.rows)
        progress("images searched", batch.stop, n)
    return gather_texts(found, index.vectors, SCRATCH)


def batch_rows(captions: int) -> int:
    """Images of one batch, by the number of captions and nothing else."""
    return min(MOST_ROWS, max(LEAST_ROWS, PAIRS_A_BATCH // max(1, captions)))


def _digest_of_search(index: CaptionIndex) -> str:
    """A digest of the stored rows, the way they are searched, and which of them are live."""
    live = None if index.live is None else hashlib.sha256(index.live.data).hexdigest()
    return digest({"manifest": dict(index.manifest), "live": live})


def _cached_search(
    cache: HitsCache, searched: dict[str, object], index: CaptionIndex, queries: np.ndarray, k: int
) -> Hits:
    facts = {
        "kind": HITS,
        **searched,
        "images": len(queries),
        "vectors": hashlib.sha256(queries.data).hexdigest(),
    }
    name = digest(facts)
    cache.used.add(name)
    stored = _read(cache.folder, name, facts)
    if stored is None:
        hits = search_index(index, queries, k)
        stored = np.empty(len(queries), [("similarity", "<f4", (k,)), ("rows", "<i8", (k,))])
        stored["similarity"], stored["rows"] = hits.similarity, hits.rows
        path = cache.folder / f"{name}.npy"
        write_array(path, stored)
        facts["checksums"] = {path.name: sha256_of(path)}
        write_json(cache.folder / f"{name}.json", facts)
    return Hits(stored["similarity"], stored["rows"])


def _read(folder: Path, name: str, facts: dict[str, object]) -> np.ndarray | None:
    """A saved batch that is complete and was made from exactly this, otherwise None."""
    record, path = folder / f"{name}.json", folder / f"{name}.npy"
    if not record.is_file():
        return None
    try:
        before = read_json(record)
        check_checksum(folder, path.name, before)
    except (BlissError, AttributeError):
        return None
    if {**before, "checksums": None} != {**facts, "checksums": None}:
        return None
    return read_array(path)
