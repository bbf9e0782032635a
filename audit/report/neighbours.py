"""The reference images nearest to each shown image: what it was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


def reference_neighbours(run: RunFolder, positions: np.ndarray) -> list[list[Neighbour]]:
    """At most SHOWN neighbours of the images at `positions`, nearest first.

    Copies of the image itself do not count. Empty lists where the run kept no reference images, as
    with a fitted reference.
    """
    audited = audited_embeddings(run)
    nothing: list[list[Neighbour]] = [[] for _ in positions]
    if audited is None or not len(positions):
        return nothing
    places = audited.places(run.columns(["row"])["row"].to_numpy())[positions]
    queries, own = audited.vectors[places], audited.hashes(places.tolist())
    return neighbours_of(run, queries, own) or nothing


def neighbours_of(
    run: RunFolder, queries: np.ndarray, own: Sequence[str]
) -> list[list[Neighbour]] | None:
    """The same of any unit rows `queries` [q, d] of images that are known by `own`.

    None where the run kept no reference images.
    """
    given = run.facts.get("request", {}).get("reference")
    stored, collection, members = reference_embeddings(run), REFERENCE, None
    if not given:
        stored, collection = audited_embeddings(run), AUDITED
    if stored is None:
        return None
    if not given:
        table = run.columns(["row", "left_out"])
        left_out = table["left_out"].to_numpy(zero_copy_only=False).astype(bool)
        members = stored.places(table["row"].to_numpy())[left_out]
    similarity, near = nearest(stored, queries, members)
    distinct = np.unique(near[np.isfinite(similarity)])
    paths, labels = _paths(stored, distinct), stored.column("label", distinct)
    rows = stored.rows()[distinct]
    hashes = stored.hashes(distinct.tolist())

    def image_at(at: int) -> Wanted:
        return Wanted(int(rows[at]), paths[at], hashes[at] if stored.ours else None)

    found = []
    for i, (values, there) in enumerate(zip(similarity, near, strict=True)):
        kept = [
            Neighbour(collection, image_at(at), labels[at], float(value))
            for value, at in zip(values, np.searchsorted(distinct, there).tolist(), strict=True)
            if np.isfinite(value) and hashes[at] != own[i]
        ]
        found.append(kept[:SHOWN])
    return found


def nearest(
    stored: StoredImages, queries: np.ndarray, members: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines float32 [q, r] and places int64 [q, r] of the nearest stored images, best first.

    `queries` [q, d] are unit rows; only `members` (places, ascending) count, or all where it is
    None. r is CANDIDATES; missing ones have a cosine of -inf.
    """
    every = np.arange(stored.layout.count) if members is None else np.asarray(members)
    values = np.full((len(queries), CANDIDATES), -np.inf, np.float32)
    places = np.full((len(queries), CANDIDATES), -1, np.int64)
    for start in range(0, len(every), ROWS_AT_ONCE):
        here = every[start : start + ROWS_AT_ONCE]
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
