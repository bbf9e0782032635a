"""The embedded sets of an evaluation, one after the other in one array."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer import EmbeddedImages, whole_rows
from ..scorer import NO_FILE, same_rows, sketch_rows

REFERENCE, TEST = 0, 1
"""Numbers of the first two parts; outlier sets follow."""


@dataclass(frozen=True)
class EmbeddedSet:
    """n embedded images; without `hashes`, images are compared by their vectors."""

    images: np.ndarray
    """float32 [n, d], unit rows."""
    labels: tuple[str | None, ...]
    hashes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """What names an image everywhere, "" where nothing does."""


@dataclass(frozen=True)
class World:
    """All N images: the reference set, the test set, then each outlier set."""

    images: np.ndarray
    """float32 [N, d], unit rows."""
    labels: tuple[str | None, ...]
    hashes: tuple[str, ...]
    part: np.ndarray
    """int64 [N]: 0 reference, 1 test, 2 + i outlier set i."""
    outliers: tuple[str, ...]
    """Names of the outlier sets."""
    ids: tuple[str, ...]

    def keys_of(self, row: int) -> set[str]:
        """The content and id of an image: copies share one of them."""
        return {self.hashes[row], self.ids[row]} - {""}

    def rows_of(self, part: int) -> np.ndarray:
        """int64, the rows of one part."""
        return np.flatnonzero(self.part == part)


def set_of(images: EmbeddedImages) -> EmbeddedSet:
    """The images, labels and content hashes of an embedded collection.

    Its ids are the paths that are absolute, or addresses: a relative one may occur in two folders.
    """
    ids = tuple(path if path.startswith("/") or "://" in path else "" for path in images.paths)
    labels, hashes = tuple(images.labels), tuple(images.hashes)
    return EmbeddedSet(whole_rows(images.vectors), labels, hashes, ids)


def make_world(
    reference: EmbeddedSet, test: EmbeddedSet, outliers: Mapping[str, EmbeddedSet]
) -> World:
    """Put sets of one model together.

    Raises BlissError naming the set where vectors are not finite, not unit rows, of another
    dimension, or do not fit their labels; UsageError for an outlier set called `other classes`.
    """
    if OTHER_CLASSES in outliers:
        raise UsageError(
            f"an outlier set is called '{OTHER_CLASSES}'",
            "another name: that one is for the other classes of the test set",
            "Rename it",
        )
    named = {"the reference set": reference, "the test set": test}
    named |= {f"the outlier set '{name}'": found for name, found in outliers.items()}
    for name, found in named.items():
        _check_set(found, name, reference.images.shape[1])
    sets = list(named.values())
    images = np.concatenate([found.images for found in sets]).astype(np.float32, copy=False)
    return World(
        images,
        tuple(label for found in sets for label in found.labels),
        _one_name_a_row(images, [content for found in sets for content in _hashes(found)]),
        np.repeat(np.arange(len(sets)), [len(found.labels) for found in sets]),
        tuple(outliers),
        tuple(name for found in sets for name in found.ids or ("",) * len(found.labels)),
    )


OTHER_CLASSES = "other classes"
"""Group of the test images whose class is not normal in a draw."""


def fingerprints(world: World) -> dict[str, dict[str, object]]:
    """For each part its image count and a SHA-256 over its vectors and labels, in order."""
    facts: dict[str, dict[str, object]] = {}
    for number, name in enumerate(("reference", "test", *world.outliers)):
        rows = world.rows_of(number)
        found = hashlib.sha256(np.ascontiguousarray(world.images[rows], "<f4").tobytes())
        found.update("\0".join(world.labels[row] or "" for row in rows).encode())
        facts[name] = {"images": len(rows), "sha256": found.hexdigest()}
    return facts


def _hashes(found: EmbeddedSet) -> tuple[str, ...]:
    return found.hashes or tuple(
        NO_FILE + hashlib.sha256(row.astype(np.float32).tobytes()).hexdigest()
        for row in found.images
    )


def _one_name_a_row(images: np.ndarray, hashes: list[str]) -> tuple[str, ...]:
    """The contents of images [N, d]; those known by their rows alone are named as the first image
    with the same row up to rounding."""
    by_row = [row for row, content in enumerate(hashes) if content.startswith(NO_FILE)]
    if by_row:
        sketches = sketch_rows(images)
        one, other = same_rows(sketches[by_row], sketches)
        for query, first in zip(*np.unique(one, return_index=True), strict=True):
            hashes[by_row[query]] = hashes[other[first]]
    return tuple(hashes)


def _check_set(found: EmbeddedSet, name: str, dimension: int) -> None:
    count, *rest = found.images.shape
    if rest != [dimension]:
        raise BlissError(
            f"{name} has vectors of shape {found.images.shape}",
            f"{dimension} dimensions, as the reference set has",
            "Embed every set with the same model",
        )
    if len(found.labels) != count or len(found.hashes) not in (0, count):
        raise BlissError(
            f"{name} has {count} images, {len(found.labels)} labels and {len(found.hashes)} hashes",
            "one label for every image",
            "Check the set",
        )
    bad = np.flatnonzero(~np.isfinite(found.images).all(axis=1))
    if len(bad):
        raise BlissError(
            f"{name} holds {len(bad)} vectors that are not finite (the first: row {bad[0]})",
            "finite embeddings",
            "Embed those images again or leave them out",
        )
    length = np.linalg.norm(found.images.astype(np.float64), axis=1)
    if count and np.abs(length - 1).max() > 1e-3:
        raise BlissError(
            f"{name} holds vectors of length {length[np.abs(length - 1).argmax()]:.3g}",
            "unit rows",
            "Normalise them first",
        )
