"""The captions nearest to every image, searched in batches that outlive the run that made them.

A batch is a run of images in source order. Its hits are `hits/NAME.npy`, one record an image of
`similarity` float32 [k] and `rows` int64 [k], and NAME is a digest of all that they depend on: the
vectors of its images, the index and how it is searched, and k. `NAME.json`, written last, holds
the checksum. So the same command continues where it was killed, and after a collection has grown
only the batches that changed are searched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

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
from ..indexer import (
    SCRATCH,
    CaptionIndex,
    Engine,
    Hits,
    Rows,
    SelectedRows,
    release_pages,
    scratch_array,
    search_index,
    slices,
)
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


class SummingSearch(Protocol):
    """A search that makes sums over all captions in passing, such as `TextPass`."""

    def search(self, images: np.ndarray, k: int) -> tuple[Hits, list[np.ndarray]]:
        """The k nearest captions of images [n, d], and float64 [n] for each term."""

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The terms alone."""


@dataclass(frozen=True)
class CaptionSums:
    """One number an image, from sums over all captions that the search makes in passing."""

    made: SummingSearch
    """Of one term, over the captions of an index that is searched exactly, in this process."""
    values: np.ndarray
    """float64 [n], set by `retrieve`."""


def retrieve(  # noqa: PLR0913 - five positional
    index: CaptionIndex,
    images: Rows,
    k: int,
    progress: Progress = no_progress,
    cache: HitsCache | None = None,
    *,
    engine: Engine | None = None,
    sums: CaptionSums | None = None,
) -> Retrieved:
    """The k captions nearest to each unit row of `images` [n, d], with their vectors.

    Batches that `cache` has are read, the others searched for and saved there. An `engine` searches
    elsewhere, and leaves the vectors to be read where they are used. `sums` are filled. Raises
    BlissError where the folder of the cache cannot be written.
    """
    n = len(images)
    found = Hits(scratch_array((n, k), np.float32), scratch_array((n, k), np.int64))
    searched = {"index": _digest_of_search(index), "captions": index.count, "k": k}
    batches = list(slices(n, batch_rows(index.count)))
    folder = None if cache is None else cache.folder
    with nullcontext(index) if engine is None else engine.spread(index) as spread:
        made = None if sums is None else sums.made
        search = BatchSearch(spread, images, k, folder, searched, made)
        each = map(search, batches) if engine is None else engine.map(search, batches)
        for batch, (name, hits, values) in zip(batches, each, strict=True):
            found.similarity[batch], found.rows[batch] = hits.similarity, hits.rows
            if sums is not None:
                sums.values[batch] = values
            release_pages(found.similarity, found.rows)
            if cache is not None:
                cache.used.add(name)
            progress("images searched", batch.stop, n)
    if engine is None:
        return gather_texts(found, index.vectors, SCRATCH)
    chosen = gather_texts(found, _Numbers(len(index.vectors)), SCRATCH)
    return replace(chosen, vectors=SelectedRows(index.vectors, np.asarray(chosen.vectors)))


@dataclass(frozen=True)
class _Numbers:
    """Row numbers in place of the `count` rows, which are read elsewhere."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return np.asarray(wanted)


def batch_rows(captions: int) -> int:
    """Images of one batch, by the number of captions and nothing else."""
    return min(MOST_ROWS, max(LEAST_ROWS, PAIRS_A_BATCH // max(1, captions)))


def _digest_of_search(index: CaptionIndex) -> str:
    """A digest of the stored rows, the way they are searched, and which of them are live."""
    live = None if index.live is None else hashlib.sha256(index.live.data).hexdigest()
    return digest({"manifest": dict(index.manifest), "live": live})


@dataclass(frozen=True)
class BatchSearch:
    """The search of one batch of images, here or in another process."""

    index: CaptionIndex
    images: Rows
    k: int
    folder: Path | None
    """Where hits are saved; None: nowhere."""
    searched: Mapping[str, object]
    """What hits depend on besides the images."""
    sums: SummingSearch | None = None
    """What is made in the same pass."""

    def __call__(self, batch: slice) -> tuple[str, Hits, np.ndarray | None]:
        """The name of the batch in the folder, its hits, and the sums, if any."""
        queries = np.ascontiguousarray(self.images[batch], np.float32)
        if self.folder is None:
            return "", *self._search(queries)
        facts = {
            "kind": HITS,
            **self.searched,
            "images": len(queries),
            "vectors": hashlib.sha256(queries.data).hexdigest(),
        }
        name = digest(facts)
        stored, sums = _read(self.folder, name, facts), None
        if stored is None:
            hits, sums = self._search(queries)
            pair = [("similarity", "<f4", (self.k,)), ("rows", "<i8", (self.k,))]
            stored = np.empty(len(queries), pair)
            stored["similarity"], stored["rows"] = hits.similarity, hits.rows
            path = self.folder / f"{name}.npy"
            write_array(path, stored)
            facts["checksums"] = {path.name: sha256_of(path)}
            write_json(self.folder / f"{name}.json", facts)
        elif self.sums is not None:
            sums = self.sums(queries)[0]
        return name, Hits(stored["similarity"], stored["rows"]), sums

    def _search(self, queries: np.ndarray) -> tuple[Hits, np.ndarray | None]:
        if self.sums is None:
            return search_index(self.index, queries, self.k), None
        hits, (sums,) = self.sums.search(queries, self.k)
        return hits, sums


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
