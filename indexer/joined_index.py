"""Several caption indexes searched as one: their rows follow one another, their hits are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from .caption_index import CaptionIndex, Origin, open_index, origins_of
from .encode.encoder import check_same_model
from .nearest import Hits, Vectors
from .row_selection import merge_hits
from .search_choice import OWN, SearchChoice


def open_indexes(folders: Sequence[str], choice: SearchChoice = OWN) -> CaptionIndex:
    """The indexes in `folders`, opened and joined; errors as of `open_index` and `join_indexes`."""
    return join_indexes([open_index(folder, choice) for folder in folders])


def join_indexes(indexes: Sequence[CaptionIndex]) -> CaptionIndex:
    """One index over all captions of `indexes`, in the order given; a single one is itself.

    Equal captions of several indexes all stay. Raises UsageError where none is given or one is
    given twice, BlissError where their models differ.
    """
    if not indexes:
        raise UsageError("no index was given", "one or more", "Add --index DIR")
    first = indexes[0]
    if len(indexes) == 1:
        return first
    folders = [index.folder.resolve() for index in indexes]
    if len(set(folders)) < len(folders):
        raise UsageError(
            "an index was given twice", "each --index once", "Leave the second one out"
        )
    for other in indexes[1:]:
        check_same_model(first.model, str(first.folder), other.model, str(other.folder))
    starts = np.cumsum([0, *(index.stored.count for index in indexes)])
    live = None
    if any(index.live is not None for index in indexes):
        live = np.concatenate(
            [_live_rows(i) + start for i, start in zip(indexes, starts, strict=False)]
        )

    def captions(rows: np.ndarray) -> list[str]:
        found = [""] * len(rows)
        member = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(member):
            here = np.flatnonzero(member == number)
            texts = indexes[number].captions(rows[here] - starts[number])
            for place, text in zip(here, texts, strict=True):
                found[place] = text
        return found

    def find(queries: np.ndarray, k: int, kept: np.ndarray | None) -> Hits:
        every = []
        for index, start in zip(indexes, starts, strict=False):
            stop = start + index.stored.count
            mine = None
            if kept is not None:
                mine = kept[slice(*np.searchsorted(kept, (start, stop)))] - start
            there = index.stored.count if mine is None else len(mine)
            if there:
                hits = index.find(queries, min(k, there), mine)
                every.append(Hits(hits.similarity, hits.rows + start))
        return merge_hits(every, k)

    return CaptionIndex(
        first.folder,
        _joint_manifest(indexes),
        _joint_vectors(indexes, starts),
        live,
        captions,
        [(int(s) + row, o) for i, s in zip(indexes, starts, strict=False) for row, o in i.origins],
        find,
    )


def origin_names(index: CaptionIndex, rows: np.ndarray) -> list[str]:
    """What to call the origin of each of rows int64 [u]: the source, where they are of several
    indexes with its index's name before it, or the whole folder where two are named alike."""
    folders = sorted({origin.index for _, origin in index.origins})
    names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = folders
    called = dict(zip(folders, names, strict=True))
    alone = len(folders) == 1

    def name(origin: Origin) -> str:
        return origin.source if alone else f"{called[origin.index]}: {origin.source}"

    return [name(origin) for origin in origins_of(index, rows)]


def _live_rows(index: CaptionIndex) -> np.ndarray:
    return np.arange(index.stored.count) if index.live is None else index.live


def _joint_vectors(indexes: Sequence[CaptionIndex], starts: np.ndarray) -> Vectors:
    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for index, start in zip(indexes, starts, strict=False):
            for first, block in index.stored.blocks():
                yield int(start) + first, block

    def fetch(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), indexes[0].model["dimension"]), np.float32)
        member = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(member):
            here = member == number
            out[here] = indexes[number].stored.fetch(rows[here] - starts[number])
        return out

    return Vectors(int(starts[-1]), blocks, fetch)


def _joint_manifest(indexes: Sequence[CaptionIndex]) -> dict[str, Any]:
    """What the manifests say together; `indexes` says of each what it brings."""
    manifests = [index.manifest for index in indexes]
    counts: dict[str, int] = {}
    for manifest in manifests:
        for name, value in manifest["counts"].items():
            counts[name] = counts.get(name, 0) + value
    checksums = {
        f"{index.folder}/{name}": value
        for index in indexes
        for name, value in index.manifest["checksums"].items()
    }
    return {
        **manifests[0],
        "indexes": [_member_facts(index) for index in indexes],
        "count": sum(manifest["count"] for manifest in manifests),
        "counts": counts,
        "sources": [source for manifest in manifests for source in manifest["sources"]],
        "failures": [failure for manifest in manifests for failure in manifest["failures"]],
        "checksums": checksums,
    }


def _member_facts(index: CaptionIndex) -> dict[str, Any]:
    """One of several joined indexes: its folder, its live captions, and what they are."""
    # What audits keep of a search depends on how each index is searched.
    named = ("sources", "prompts", "search", "checksums")
    facts = {name: index.manifest.get(name) for name in named}
    return {"folder": str(index.folder), "count": index.count, **facts}
