"""The captions nearest to every image, searched in parts that outlive the run that made them.

A part is a run of images in source order. Its hits are `hits/NAME.npy`, one record an image of
`similarity` float32 [k] and `rows` int64 [k], and NAME stands for all that they depend on: the
vectors of its images, the index and how it is searched, and k. `NAME.json`, written last, holds
the checksum. So the same command goes on where it was killed, and a grown collection searches only
for the parts that changed.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..artefacts import check_checksum, digest, read_json, sha256_of, write_array, write_json
from ..errors import BlissError
from ..indexer.search.index import CaptionIndex, search
from ..indexer.vectors.nearest import Hits
from ..indexer.vectors.rows import Rows
from ..indexer.vectors.scratch import let_go, scratch_array
from ..progress import Progress, no_progress
from ..scorer.bliss import Retrieved, gather_texts

HITS = "hits"
PAIRS_A_PART = 1 << 31
"""Images times captions of one part: about half a minute on two cores."""
LEAST_ROWS, MOST_ROWS = 4096, 16_384
"""Images of one part; a streamed index is read once for each."""


@dataclass(frozen=True)
class KeptHits:
    """The folder that parts are kept in, and the names this run has written or read there."""

    folder: Path
    used: set[str] = field(default_factory=set)


def retrieve(
    index: CaptionIndex,
    images: Rows,
    k: int,
    progress: Progress = no_progress,
    kept: KeptHits | None = None,
) -> Retrieved:
    """The k captions nearest to each unit row of `images` [n, d], with their vectors.

    Parts that `kept` holds whole are read, the others searched for and written there. Raises
    BlissError where its folder cannot be written.
    """
    n = len(images)
    found = Hits(scratch_array((n, k), np.float32), scratch_array((n, k), np.int64))
    made_with = {"index": _searched(index), "captions": index.count, "k": k}
    for start in range(0, n, size := part_rows(index.count)):
        part = slice(start, min(n, start + size))
        queries = np.ascontiguousarray(images[part], np.float32)
        if kept is None:
            hits = search(index, queries, k)
        else:
            hits = _kept_part(kept, made_with, index, queries, k)
        found.similarity[part], found.rows[part] = hits.similarity, hits.rows
        let_go(found.similarity, found.rows)
        progress("images searched", part.stop, n)
    return gather_texts(found, index.vectors.fetch)


def part_rows(captions: int) -> int:
    """Images of one part, by the number of captions and nothing else."""
    return min(MOST_ROWS, max(LEAST_ROWS, PAIRS_A_PART // max(1, captions)))


def _searched(index: CaptionIndex) -> str:
    """Stands for the stored rows, the way they are searched, and which of them are live."""
    live = None if index.live is None else hashlib.sha256(index.live.data).hexdigest()
    return digest({"manifest": dict(index.manifest), "live": live})


def forget_unused(kept: KeptHits) -> None:
    """Delete the parts that this run had no use for: those of other images or another index."""
    for path in kept.folder.glob("*.*"):
        if path.name.split(".")[0] not in kept.used:
            with suppress(OSError):
                path.unlink()


def _kept_part(
    kept: KeptHits, made_with: dict[str, object], index: CaptionIndex, queries: np.ndarray, k: int
) -> Hits:
    facts = {
        "kind": HITS,
        **made_with,
        "images": len(queries),
        "vectors": hashlib.sha256(queries.data).hexdigest(),
    }
    name = digest(facts)
    kept.used.add(name)
    stored = _read(kept.folder, name, facts)
    if stored is None:
        hits = search(index, queries, k)
        stored = np.empty(len(queries), [("similarity", "<f4", (k,)), ("rows", "<i8", (k,))])
        stored["similarity"], stored["rows"] = hits.similarity, hits.rows
        path = kept.folder / f"{name}.npy"
        write_array(path, stored)
        facts["checksums"] = {path.name: sha256_of(path)}
        write_json(kept.folder / f"{name}.json", facts)
    return Hits(stored["similarity"], stored["rows"])


def _read(folder: Path, name: str, facts: dict[str, object]) -> np.ndarray | None:
    """A part that is whole and was made of just this, else None."""
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
    return np.load(path, allow_pickle=False)
