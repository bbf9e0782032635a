"""Caption indexes: M captions with their vectors and origins, numbered 0..M - 1 and searchable.

`CaptionIndex` is what everybody else uses. `open_index` opens one folder (`FolderIndex`),
`join_indexes` makes one of several (`JoinedIndex`), `ArrayIndex` is in memory; the rows that
`index.without(rows)` hides, or that were removed from a folder, have no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import checked
from ...errors import BlissError, UsageError
from ..encode.encoder import check_same_model
from ..store.addresses import folder_of
from ..store.manifest import IndexFolder, IndexManifest
from ..store.parts import StoredCaptions
from ..store.stored_rows import IndexRows, live_rows
from ..vectors.nearest import Hits, exact_search, merge_hits
from ..vectors.rows import JoinedRows, SelectedRows, by_part, part_starts, remaining
from ..vectors.unit_rows import Rows
from .captions import CaptionIndex, Origin
from .dispatch import made_searcher, plan_for, searcher_of
from .install import MadeStructure
from .kinds import DEFAULT_SEARCH, SearchChoice
from .searchers import ExactSearcher, Searcher


@dataclass(frozen=True)
class FolderIndex:
    """The index in one folder."""

    opened: IndexFolder
    stored: Rows
    """All stored rows."""
    live: np.ndarray | None
    captions: StoredCaptions
    origins: Sequence[Origin]
    first_rows: np.ndarray
    """int64 [origins], the first stored row of each origin."""
    searcher: Searcher
    choice: SearchChoice = DEFAULT_SEARCH
    """How it was to be searched when it was opened."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.opened.path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The content of its manifest."""
        return self.opened.manifest.content

    @property
    def count(self) -> int:
        """M."""
        return len(self.stored) if self.live is None else len(self.live)

    @property
    def model(self) -> Mapping[str, Any]:
        """The facts of its model."""
        return self.opened.manifest.model

    @property
    def vectors(self) -> Rows:
        """The live rows."""
        return self.stored if self.live is None else SelectedRows(self.stored, self.live)

    @property
    def stored_count(self) -> int:
        """How many rows are stored."""
        return len(self.stored)

    def nearest(self, queries: np.ndarray, k: int) -> Hits:
        """Hits among the live rows."""
        hits = self.searcher.search(queries, k, self.live)
        if self.live is None:
            return hits
        return Hits(hits.similarity, np.searchsorted(self.live, hits.rows))

    def captions_of(self, rows: np.ndarray) -> list[str]:
        """See `CaptionIndex`."""
        return self.captions[self.stored_rows(rows)]

    def origins_of(self, rows: np.ndarray) -> list[Origin]:
        """See `CaptionIndex`."""
        number = np.searchsorted(self.first_rows, self.stored_rows(rows), side="right") - 1
        return [self.origins[each] for each in number]

    def without(self, hidden: np.ndarray) -> FolderIndex:
        """See `CaptionIndex`."""
        return replace(self, live=self.stored_rows(remaining(self.count, hidden)))

    def stored_rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 [u], the stored rows of rows int64 [u]."""
        return np.asarray(rows) if self.live is None else self.live[rows]


@dataclass(frozen=True)
class JoinedIndex:
    """Several indexes searched as one: their rows follow one another, their hits are merged."""

    members: tuple[CaptionIndex, ...]
    manifest: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the first."""
        return self.members[0].folder

    @property
    def count(self) -> int:
        """M."""
        return int(self.starts[-1])

    @property
    def model(self) -> Mapping[str, Any]:
        """The facts of the first's model: the others have the same."""
        return self.members[0].model

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [members + 1], the first row of each member, and M."""
        return part_starts(member.count for member in self.members)

    @cached_property
    def vectors(self) -> Rows:
        """The live rows of all."""
        return JoinedRows([member.vectors for member in self.members])

    @cached_property
    def live(self) -> np.ndarray | None:
        """int64 [M], counting the stored rows of all members one after another."""
        if all(member.live is None for member in self.members):
            return None
        found, start = [], 0
        for member in self.members:
            rows = np.arange(member.stored_count) if member.live is None else member.live
            found.append(rows + start)
            start += member.stored_count
        return np.concatenate(found)

    @property
    def stored_count(self) -> int:
        """How many rows all members store."""
        return sum(member.stored_count for member in self.members)

    @property
    def origins(self) -> Sequence[Origin]:
        """Those of every member."""
        return [origin for member in self.members for origin in member.origins]

    def nearest(self, queries: np.ndarray, k: int) -> Hits:
        """The best of every member's hits."""
        found = []
        for member, start in zip(self.members, self.starts.tolist(), strict=False):
            if member.count:
                hits = member.nearest(queries, min(k, member.count))
                found.append(Hits(hits.similarity, hits.rows + start))
        return merge_hits(found, k)

    def captions_of(self, rows: np.ndarray) -> list[str]:
        """See `CaptionIndex`."""
        found = [""] * len(rows)
        for number, places, here in by_part(self.starts, np.asarray(rows)):
            captions = self.members[number].captions_of(here)
            for place, caption in zip(places.tolist(), captions, strict=True):
                found[place] = caption
        return found

    def origins_of(self, rows: np.ndarray) -> list[Origin]:
        """See `CaptionIndex`."""
        found: dict[int, Origin] = {}
        for number, places, here in by_part(self.starts, np.asarray(rows)):
            found |= zip(places.tolist(), self.members[number].origins_of(here), strict=True)
        return [found[place] for place in range(len(rows))]

    def without(self, hidden: np.ndarray) -> JoinedIndex:
        """See `CaptionIndex`."""
        members = list(self.members)
        for number, _, here in by_part(self.starts, np.asarray(hidden)):
            members[number] = members[number].without(here)
        return JoinedIndex(tuple(members), self.manifest)


@dataclass(frozen=True)
class ArrayIndex:
    """An index of texts whose vectors are in memory; it has no folder."""

    texts: Sequence[str]
    vectors: np.ndarray
    """float32 [M, d], unit rows."""
    model: Mapping[str, Any]

    folder = Path("the texts given")
    live = None

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the manifest of a folder would say."""
        count = self.count
        return {
            "model": dict(self.model),
            "dtype": "float32",
            "sources": [{"name": "arrays", "licence": None, "corpus": {}, "rows": count}],
            "count": count,
            "counts": {"read": count, "kept": count},
            "failures": [],
            "prompts": None,
            "checksums": {},
        }

    @property
    def count(self) -> int:
        """M."""
        return len(self.texts)

    @property
    def stored_count(self) -> int:
        """M."""
        return len(self.texts)

    @property
    def origins(self) -> Sequence[Origin]:
        """One."""
        return [Origin(str(self.folder), "arrays", None)]

    def nearest(self, queries: np.ndarray, k: int) -> Hits:
        """Exact hits."""
        return exact_search(queries, self.vectors, k)

    def captions_of(self, rows: np.ndarray) -> list[str]:
        """See `CaptionIndex`."""
        return [self.texts[row] for row in np.asarray(rows).tolist()]

    def origins_of(self, rows: np.ndarray) -> list[Origin]:
        """See `CaptionIndex`."""
        return list(self.origins) * len(rows)

    def without(self, hidden: np.ndarray) -> ArrayIndex:
        """See `CaptionIndex`."""
        kept = remaining(self.count, hidden)
        return ArrayIndex(self.captions_of(kept), self.vectors[kept], self.model)


@checked
def open_index(folder: str | Path, choice: SearchChoice = DEFAULT_SEARCH) -> FolderIndex:
    """Open a finished index; its vectors are memory-mapped and read at the first search.

    One at an address (s3://, gs://, …) is first copied into the cache, if it is not there. It is
    searched as its manifest says, unless `choice` says otherwise. Raises BlissError where the
    folder is not a finished index or its files do not fit its manifest, UsageError where it
    cannot be searched as chosen, on this machine.
    """
    given, folder = str(folder), folder_of(folder)
    opened = IndexFolder.open(folder)
    plan = plan_for(opened, choice)
    if choice.kind or choice.parameters:  # cached hits of another search are not those of this one
        chosen = {"kind": choice.kind, "parameters": dict(choice.parameters or {})}
        opened = opened.with_fields(searched_as=chosen)
    rows = IndexRows(opened, resident=plan.resident)
    origins, first_rows = _origins(given, opened.manifest)
    return FolderIndex(
        opened,
        rows,
        live_rows(opened),
        StoredCaptions(opened),
        origins,
        first_rows,
        searcher_of(opened, rows, choice, plan),
        choice,
    )


def open_indexes(folders: Sequence[str], choice: SearchChoice = DEFAULT_SEARCH) -> CaptionIndex:
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
    return JoinedIndex(tuple(indexes), _joint_manifest(indexes))


def searches_all(index: CaptionIndex) -> bool:
    """Whether `index.nearest` compares every query with every caption, here on the CPU."""
    if isinstance(index, JoinedIndex):
        return all(map(searches_all, index.members))
    searcher = index.searcher if isinstance(index, FolderIndex) else None
    return isinstance(index, ArrayIndex) or isinstance(searcher, ExactSearcher)


def with_structure(
    index: FolderIndex, made: MadeStructure, parameters: Mapping[str, int]
) -> FolderIndex:
    """The same index searched through a structure made over its stored rows, not installed."""
    return replace(index, searcher=made_searcher(index.stored, made, parameters))


def _origins(folder: str, manifest: IndexManifest) -> tuple[list[Origin], np.ndarray]:
    """The sources that have rows, and the first stored row of each."""
    sources = [source for source in manifest.sources if source.rows]
    starts = part_starts(source.rows for source in sources)
    if starts[-1] != manifest.stored_count:
        raise BlissError(
            f"the manifest of {folder} names sources of {starts[-1]:,} rows for "
            f"{manifest.stored_count:,} stored ones",
            "sources that account for every row",
            "Restore it from a backup or build the index again",
        )
    origins = [Origin(folder, source.name, source.licence) for source in sources]
    return origins, starts[:-1]


def _joint_manifest(indexes: Sequence[CaptionIndex]) -> dict[str, Any]:
    """What the manifests say together; "indexes" lists the facts of each."""
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
    """One of several joined indexes; cached hits depend on how each of them is searched."""
    named = ("sources", "prompts", "search", "checksums")
    facts = {name: index.manifest.get(name) for name in named}
    return {"folder": str(index.folder), "count": index.count, **facts}
