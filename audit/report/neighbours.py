"""The reference images nearest to each shown image: what it was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from ...indexer import Texts, distinct_texts, numbers_of
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
PATH_COLUMNS = ("image_path", "path", "url")


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
    own: list[str | None],
    other: list[str | None],
    doubtful: Sequence[int] = (),
) -> list[Nearest]:
    """The neighbours of the images at `positions`, and those of two classes of each.

    Copies of the image itself do not count, and for their class audited images of the rows
    `doubtful` do not stand. Empty lists where the run kept no reference images, as with a fitted
    reference.
    """
    audited = audited_embeddings(run)
    if audited is None or not len(positions):
        return [Nearest([], [], []) for _ in positions]
    table = run.columns(["row", "left_out", "label", "nearest_class"])
    places = audited.places(table["row"].to_numpy())
    if run.facts.get("request", {}).get("reference"):
        stored, collection = reference_embeddings(run), REFERENCE
        if stored is None:
            return [Nearest([], [], []) for _ in positions]
        members = np.arange(stored.layout.count)
        labels: Texts[str | None] = stored.column("label", members)
    else:
        stored, collection = audited, AUDITED
        inside = table["left_out"].to_numpy(zero_copy_only=False).astype(bool)
        members = places[inside]
        column = pc.coalesce(table["label"], table["nearest_class"]).filter(inside)
        labels = column.to_pylist()
    sound = np.ones(len(members), bool)
    if collection == AUDITED:
        sound = ~np.isin(table["row"].to_numpy()[inside], doubtful)
    queries, itself = audited.vectors[places[positions]], places[positions].tolist()
    hashes = audited.hashes(itself)
    names = distinct_texts(labels)
    of = numbers_of(labels, {name: c for c, name in enumerate(names)})
    found = _Finder(stored, collection, members, of, names, sound)
    return [
        Nearest(*three)
        for three in zip(
            found(queries, hashes, None, SHOWN),
            found(queries, hashes, own, OF_A_CLASS),
            found(queries, hashes, other, OF_A_CLASS),
            strict=True,
        )
    ]


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
        self, queries: np.ndarray, own: list[str], classes: list[str | None] | None, most: int
    ) -> list[list[Neighbour]]:
        """At most `most` neighbours of each query, not those with its own hash.

        With `classes` only those of each query's class, none where it is None or has no images.
        """
        similarity = np.full((len(queries), CANDIDATES), -np.inf, np.float32)
        near = np.full((len(queries), CANDIDATES), -1, np.int64)
        if classes is None:
            similarity, near = nearest(self.stored, queries, self.members)
        else:
            for c in {self.names.index(name) for name in {*classes} if name in self.names}:
                here = np.array([name == self.names[c] for name in classes])
                some = self.members[(self.of == c) & self.sound]
                similarity[here], near[here] = nearest(self.stored, queries[here], some)
        distinct = np.unique(near[np.isfinite(similarity)])
        if not len(distinct):
            return [[] for _ in queries]
        paths, rows = _paths(self.stored, distinct), self.stored.rows()[distinct]
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


def _paths(stored: StoredImages, places: np.ndarray) -> list[str]:
    """What the images at `places` are called, by the first metadata column that names them."""
    columns = [stored.column(name, places) for name in PATH_COLUMNS]
    return [
        next((value for value in values if value is not None), f"row {place}")
        for place, *values in zip(places.tolist(), *columns, strict=True)
    ]
