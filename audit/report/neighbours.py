"""The reference images nearest to each shown image: what it was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from ...indexer import distinct_texts, numbers_of
from ..folder import RunFolder
from ..review.photographs import (
    AUDITED,
    REFERENCE,
    StoredImages,
    Wanted,
    audited_embeddings,
    reference_embeddings,
)

SHOWN = 3
OF_A_CLASS = 2
"""Neighbours shown of the class an image is filed under, and of the one it looks like."""
CANDIDATES = 8
"""Taken before copies of the image itself are dropped."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Neighbour:
    """One reference image near to an image."""

    collection: str
    """AUDITED or REFERENCE."""
    image: Wanted
    label: str | None
    similarity: float
    """Cosine of the two embeddings."""


@dataclass(frozen=True)
class Nearest:
    """The neighbours of one image, each list nearest first."""

    any: list[Neighbour]
    """Of all classes, at most SHOWN."""
    own: list[Neighbour]
    """Of the class the image is filed under, or without one of its nearest class."""
    other: list[Neighbour]
    """Of the class it looks like, where that is another."""


def reference_neighbours(
    run: RunFolder,
    positions: np.ndarray,
    own: Sequence[str | None],
    other: Sequence[str | None],
    doubtful: Sequence[int] = (),
) -> list[Nearest]:
    """The neighbours of the images at `positions`, and those of two classes of each.

    Copies of the image itself do not count, and for their class audited images of the rows
    `doubtful` do not stand. Empty lists where the run kept no reference images, as with a fitted
    reference.
    """
    audited, find = audited_embeddings(run), _finder(run, doubtful)
    if audited is None or find is None or not len(positions):
        return [Nearest([], [], []) for _ in positions]
    places = audited.places(run.rows)[positions]
    queries, hashes = audited.vectors[places], audited.hashes(places.tolist())
    return [
        Nearest(*three)
        for three in zip(
            find(queries, hashes, None, SHOWN),
            find(queries, hashes, own, OF_A_CLASS),
            find(queries, hashes, other, OF_A_CLASS),
            strict=True,
        )
    ]


def neighbours_of(
    run: RunFolder, queries: np.ndarray, own: Sequence[str]
) -> list[list[Neighbour]] | None:
    """The neighbours of any unit rows `queries` [q, d] of images that are known by `own`.

    None where the run kept no reference images.
    """
    find = _finder(run)
    return None if find is None else find(queries, own, None, SHOWN)


def _finder(run: RunFolder, doubtful: Sequence[int] = ()) -> _Finder | None:
    """What finds the reference images of a run, None where it kept none."""
    if run.facts.get("request", {}).get("reference"):
        stored = reference_embeddings(run)
        if stored is None:
            return None
        members = np.arange(stored.layout.count)
        labels, sound = stored.column("label", members), np.ones(len(members), bool)
        return _Finder(stored, REFERENCE, members, *_numbered(labels), sound)
    stored = audited_embeddings(run)
    if stored is None:
        return None
    table = run.columns(["row", "left_out", "label", "nearest_class"])
    table = table.filter(table["left_out"])
    rows = run.rows
    inside = np.isin(rows, table["row"].to_numpy())
    labels = pc.coalesce(table["label"], table["nearest_class"]).to_pylist()
    sound = ~np.isin(table["row"].to_numpy(), doubtful)
    return _Finder(stored, AUDITED, stored.places(rows)[inside], *_numbered(labels), sound)


def _numbered(labels: list[str | None]) -> tuple[np.ndarray, list[str]]:
    """int64 [n], the number of each label, -1 for none, and their names by number."""
    names = distinct_texts(labels)
    return numbers_of(labels, names), names


@dataclass(frozen=True)
class _Finder:
    """The images that neighbours are found among: `members` (places, ascending) of `stored`."""

    stored: StoredImages
    collection: str
    members: np.ndarray
    of: np.ndarray
    """int64 [members], their classes by number in `names`, -1 for none."""
    names: list[str]
    sound: np.ndarray
    """bool [members], which can stand for their class."""

    def __call__(
        self,
        queries: np.ndarray,
        own: Sequence[str],
        classes: Sequence[str | None] | None,
        most: int,
    ) -> list[list[Neighbour]]:
        """At most `most` neighbours of each query, not those with its own hash.

        With `classes` only those of each query's class, none where it is None or has no images.
        """
        similarity = np.full((len(queries), CANDIDATES), -np.inf, np.float32)
        near = np.full((len(queries), CANDIDATES), -1, np.int64)
        if classes is None:
            similarity, near = nearest(self.stored, queries, self.members)
        else:
            wanted = {*classes}
            for c, name in enumerate(self.names):
                if name in wanted:
                    here = np.array([each == name for each in classes])
                    some = self.members[(self.of == c) & self.sound]
                    similarity[here], near[here] = nearest(self.stored, queries[here], some)
        distinct = np.unique(near[np.isfinite(similarity)])
        if not len(distinct):
            return [[] for _ in queries]
        paths, rows = self.stored.names(distinct), self.stored.rows()[distinct]
        hashes = self.stored.hashes(distinct.tolist())
        numbers = self.of[np.searchsorted(self.members, distinct)].tolist()

        def image_at(at: int, value: float) -> Neighbour:
            wanted = Wanted(int(rows[at]), paths[at], hashes[at] if self.stored.ours else None)
            label = None if numbers[at] < 0 else self.names[numbers[at]]
            return Neighbour(self.collection, wanted, label, value)

        return [
            [
                image_at(at, float(value))
                for value, at in zip(values, np.searchsorted(distinct, there).tolist(), strict=True)
                if np.isfinite(value) and hashes[at] != itself
            ][:most]
            for values, there, itself in zip(similarity, near, own, strict=True)
        ]


def nearest(
    stored: StoredImages, queries: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines float32 [q, r] and places int64 [q, r] of the nearest stored images, best first.

    `queries` [q, d] are unit rows; only `members` (places, ascending) count. r is CANDIDATES;
    missing ones have a cosine of -inf.
    """
    values = np.full((len(queries), CANDIDATES), -np.inf, np.float32)
    places = np.full((len(queries), CANDIDATES), -1, np.int64)
    for start in range(0, len(members), ROWS_AT_ONCE):
        here = members[start : start + ROWS_AT_ONCE]
        cosines = queries @ stored.vectors[here].T
        top = min(CANDIDATES, len(here))
        best = np.argpartition(-cosines, top - 1, axis=1)[:, :top]
        values = np.hstack([values, np.take_along_axis(cosines, best, axis=1)])
        places = np.hstack([places, here[best]])
        order = np.lexsort((places, -values), axis=1)[:, :CANDIDATES]
        values = np.take_along_axis(values, order, axis=1)
        places = np.take_along_axis(places, order, axis=1)
    return values, places
