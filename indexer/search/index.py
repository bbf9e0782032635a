"""A caption index that can be searched: M live captions with their vectors and where they are from.

An index is opened from one folder by `open_index`, or joined from several by `join_indexes`; some
of its rows can be hidden by `without_rows`. Whoever uses one sees rows 0..M - 1 only.

Several caption indexes searched as one: their rows follow one another, their hits are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import read_manifest
from ...errors import BlissError, UsageError
from ..encode.encoder import check_same_model
from ..store.addresses import folder_of
from ..store.folder import HOW_TO_BUILD, KIND
from ..store.parts import open_captions, read_captions
from ..store.removed import live_rows
from ..store.vectors import open_stored_vectors
from ..vectors.nearest import Hits, Search, Vectors, check_k
from ..vectors.rows import merge_hits, remaining, renumbered, select_vectors
from .dispatch import plan_for, search_of, search_through
from .install import MadeStructure
from .kinds import OWN, SearchChoice

CAPTIONS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Origin:
    """Where some rows of an index are from."""

    index: str
    """The folder."""
    source: str
    licence: str | None


@dataclass(frozen=True)
class CaptionIndex:
    """M live captions among the stored ones; see the module."""

    folder: Path
    """Its folder; of several joined ones the first."""
    manifest: Mapping[str, Any]
    stored: Vectors
    """All stored rows."""
    live: np.ndarray | None
    """int64 [M], ascending, the stored row of each live one; None: they are the same."""
    captions: Callable[[np.ndarray], list[str]]
    """Stored rows int64 [u] -> their captions."""
    origins: Sequence[tuple[int, Origin]]
    """(first stored row, origin) of each source, ascending; a source without rows is left out."""
    find: Search

    @property
    def vectors(self) -> Vectors:
        """The live rows."""
        return self.stored if self.live is None else select_vectors(self.stored, self.live)

    @property
    def count(self) -> int:
        """M."""
        return self.stored.count if self.live is None else len(self.live)

    @property
    def model(self) -> Mapping[str, Any]:
        """The facts of the model its vectors come from."""
        return self.manifest["model"]


def open_index(folder: str | Path, choice: SearchChoice = OWN) -> CaptionIndex:
    """Open a finished index; vectors are memory-mapped and read at the first search.

    One at an address (s3://, gs://, …) is first copied into the cache, if it is not there. It is
    searched as it says itself, unless `choice` says otherwise. Raises BlissError where the
    folder is not a finished index or its files do not fit its manifest, UsageError where it
    cannot be searched as chosen, on this machine.
    """
    given, folder = str(folder), folder_of(folder)
    manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
    if not isinstance(manifest["model"].get("dimension"), int):
        raise BlissError(
            f"{folder}/manifest.json has no usable 'model'",
            "the manifest as bliss wrote it",
            "Restore it from a backup or build the folder again",
        )
    plan = plan_for(folder, manifest, choice)
    if choice.kind or choice.parameters:  # whatever is kept of its answers is kept apart
        asked = {"kind": choice.kind, "parameters": dict(choice.parameters or {})}
        manifest = {**manifest, "searched_as": asked}
    vectors = open_stored_vectors(folder, manifest, resident=plan.resident)
    store = open_captions(folder, manifest)
    return CaptionIndex(
        folder,
        manifest,
        vectors,
        live_rows(folder, manifest, vectors.count),
        lambda rows: read_captions(store, rows),
        _origins(given, manifest),
        search_of(folder, manifest, vectors, choice, plan),
    )


def with_structure(
    index: CaptionIndex, made: MadeStructure, parameters: Mapping[str, int]
) -> CaptionIndex:
    """The same index searched through a structure made over its stored rows, not installed."""
    return replace(index, find=search_through(index.stored, made, parameters))


def search(index: CaptionIndex, queries: np.ndarray, k: int) -> Hits:
    """The k captions nearest to each unit row of `queries` [n, d], in live rows.

    Similarities are exact relative to the stored vectors, upcast to float32 and renormalised;
    unless the index has an approximate kind of search, so are the rows. Raises UsageError when k
    is not between 1 and M, BlissError for queries of another dimension.
    """
    if queries.shape[1] != index.model["dimension"]:
        raise BlissError(
            f"queries of {queries.shape[1]} dimensions were given",
            f"{index.model['dimension']} dimensions, as {index.folder} has",
            "Embed both with the same model",
        )
    check_k(k, index.count)
    hits = index.find(queries, k, index.live)
    return hits if index.live is None else renumbered(hits, index.live)


def without_rows(index: CaptionIndex, hidden: np.ndarray) -> CaptionIndex:
    """The same index with live rows `hidden` int64 [u] gone; the others are renumbered."""
    left = remaining(index.count, hidden)
    return replace(index, live=left if index.live is None else index.live[left])


def stored_rows_of(index: CaptionIndex, rows: np.ndarray) -> np.ndarray:
    """int64 [u], the stored rows of live rows."""
    return np.asarray(rows) if index.live is None else index.live[rows]


def captions_of(index: CaptionIndex, rows: np.ndarray) -> list[str]:
    """The captions of index rows int64 [u]."""
    return index.captions(stored_rows_of(index, rows))


def origins_of(index: CaptionIndex, rows: np.ndarray) -> list[Origin]:
    """Where each of rows int64 [u] is from."""
    starts = [first for first, _ in index.origins]
    number = np.searchsorted(starts, stored_rows_of(index, rows), side="right") - 1
    return [index.origins[i][1] for i in number]


def find_captions(index: CaptionIndex, wanted: Mapping[str, str]) -> dict[str, int]:
    """For each key of `wanted`, the first row whose caption equals its text, where there is one.

    Compared after lower-casing and turning underscores and hyphens into spaces.
    """
    sought: dict[str, list[str]] = {}
    for key, text in wanted.items():
        sought.setdefault(plain(text), []).append(key)
    found: dict[str, int] = {}
    for start in range(0, index.count, CAPTIONS_AT_ONCE):
        rows = np.arange(start, min(index.count, start + CAPTIONS_AT_ONCE))
        for row, caption in zip(rows, captions_of(index, rows), strict=True):
            for key in sought.get(plain(caption), ()):
                found.setdefault(key, int(row))
        if len(found) == len(wanted):
            break
    return found


def plain(text: str) -> str:
    """Lower case, with underscores and hyphens as spaces."""
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())


def _origins(folder: str, manifest: Mapping[str, Any]) -> list[tuple[int, Origin]]:
    origins, first = [], 0
    for source in manifest["sources"]:
        if source["rows"]:
            origin = Origin(folder, source["name"], source.get("licence"))
            origins.append((first, origin))
            first += source["rows"]
    if first != sum(manifest["parts"]):
        raise BlissError(
            f"the manifest of {folder} names sources of {first:,} rows for "
            f"{sum(manifest['parts']):,} stored ones",
            "sources that account for every row",
            "Restore it from a backup or build the index again",
        )
    return origins


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
