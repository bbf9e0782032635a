"""Copies within a collection, and of another one: the same file, pixels or picture.

exact        the same bytes (SHA-256)
same-pixels  the same upright RGB pixels in another file
near         the same picture: resized, encoded again, cropped a little, mirrored, watermarked
look-alike   very similar embeddings that are not the same picture, or not known to be

Candidates for the last two are the nearest images by embedding, found among all near pairs or, in
large collections, with FAISS. A candidate is `near` where the aligned correlation of both pictures
(`alignment`) is high. Without pictures, from embeddings alone, only equal vectors are `near`: how
similar two vectors are does not tell a copy from another photograph of the same scene.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from ...errors import UsageError
from ...indexer import (
    MEASURES,
    SKETCH,
    EmbeddedImages,
    Rows,
    SelectedRows,
    Texts,
    check_same_model,
    distinct_texts,
    near_pairs,
    nearest_searcher,
    numbers_of,
    ranks,
    sketch_of,
    slices,
    text_column,
)
from ...progress import Progress, no_progress
from ...scorer import NO_FILE, Reference, as_members
from .alignment import align_pairs

KINDS = ("exact", "same-pixels", "near", "look-alike")
SAME_FILE, SAME_PIXELS, NEAR, LOOK_ALIKE = range(4)
QUERIES_AT_ONCE, PAIRS_AT_ONCE = 16_384, 4096
ALL_PAIRS_UP_TO = 100_000
"""Images of which all near pairs are found before the nearest of each are chosen."""
PAIRS_AN_IMAGE = 40
"""Where there are more near pairs for each image, only its nearest are searched for."""
SCHEMA = pa.schema(
    [
        ("group", pa.int32()),
        ("row", pa.int64()),
        ("image", pa.string()),
        ("kind", pa.string()),
        ("similarity", pa.float32()),
        ("correlation", pa.float32()),
        ("mirrored", pa.bool_()),
        ("keep", pa.bool_()),
        ("label", pa.string()),
        ("leak", pa.bool_()),
        ("other", pa.bool_()),
        ("split", pa.string()),
    ]
)

OpenPicture = Callable[[int], "np.ndarray | Image.Image | None"]
"""The picture of an image by its position: an array [h, w], [h, w, 3] or a Pillow image."""


class Pairs(NamedTuple):
    """u pairs of images and how alike they are."""

    first: np.ndarray
    """int64 [u], positions among the images."""
    second: np.ndarray
    """int64 [u], positions among the images, or among those of the other collection."""
    kind: np.ndarray
    """int8 [u], positions in KINDS."""
    similarity: np.ndarray
    """float32 [u], cosines; NaN where the other vector is not known."""
    correlation: np.ndarray
    """float32 [u], aligned correlations of the pictures; NaN where none was computed."""
    mirrored: np.ndarray
    """bool [u]."""

    def some(self, which: np.ndarray) -> Pairs:
        """The pairs at int64 [m], in that order."""
        return Pairs(*(column[which] for column in self))


@dataclass(frozen=True)
class Copies:
    """The copies among images, and of images of another collection."""

    images: EmbeddedImages
    pairs: Pairs
    leaks: Pairs | None = None
    """Pairs of an image and one of `against`; None where nothing was compared."""
    against: EmbeddedImages | Reference | None = None
    compared: int = 0
    """Pairs of pictures that were compared."""
    unseen: int = 0
    """Images among the candidates whose picture could not be had."""
    splits: Texts[str | None] | None = None
    """The split that each image is in: copies in several are leaks."""
    groups: np.ndarray = field(init=False)
    """int64 [n], the group of copies of each image, -1 for images without copies."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _groups(self.pairs, len(self.images.rows)))

    @property
    def kept(self) -> np.ndarray:
        """int64 [g], the image to keep of each group: the largest, then the first by name.

        Names are compared without their endings: `a.jpg` comes before `a-copy.jpg`.
        """
        members = np.flatnonzero(self.groups >= 0)
        paths = [os.path.splitext(self.images.paths[i]) for i in members.tolist()]
        by_name = np.empty(len(members), np.int64)
        by_name[sorted(range(len(paths)), key=paths.__getitem__)] = np.arange(len(paths))
        order = np.lexsort((by_name, -_area(self.images)[members], self.groups[members]))
        _, first = np.unique(self.groups[members][order], return_index=True)
        return members[order[first]]

    def table(self) -> pa.Table:
        """A row for each image of a group, with the columns of SCHEMA.

        Groups of copies come first, then pairs with an image of the other collection, then pairs
        of look-alikes, most similar first, with one image of each group. `kind`,
        `similarity`, `correlation` and `mirrored` are of the closest other image in the group;
        `keep` is a suggestion; `other` marks images of the other collection. A group with images of
        several splits is a leak.
        """
        return pa.concat_tables([self._copy_rows(), self._leak_rows(), self._alike_rows()])

    def notice(self) -> str:
        """What was compared and what the result is worth, in one sentence."""
        if self.compared:
            missing = f"; {self.unseen:,} pictures could not be had" if self.unseen else ""
            return f"{self.compared:,} pairs of pictures compared{missing}"
        return (
            "no pictures were compared: only equal files and equal vectors are called copies, and "
            "look-alikes may be copies"
        )

    def _copy_rows(self) -> pa.Table:
        kept = np.zeros(len(self.groups), bool)
        kept[self.kept] = True
        members = np.flatnonzero(self.groups >= 0)
        i = members[np.lexsort((members, ~kept[members], self.groups[members]))]
        pair = _closest(self.pairs, len(self.groups))[i]
        found = _rows(self.images, i, self.groups[i], self.pairs.some(pair), kept[i])
        if self.splits is None:
            return found
        split = text_column(self.splits).take(i)
        number, group = numbers_of(split, distinct_texts(self.splits)), self.groups[i]
        known = np.unique(np.stack([group, number])[:, number >= 0], axis=1)[0]
        leak = np.bincount(known, minlength=len(self.groups))[group] > 1
        columns = {"leak": pa.array(leak), "split": pa.array(split, pa.string())}
        for name, values in columns.items():
            found = found.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)
        return found

    def _leak_rows(self) -> pa.Table:
        leaks = self.leaks
        if leaks is None:
            return SCHEMA.empty_table()
        leaks = leaks.some(np.flatnonzero(leaks.kind < LOOK_ALIKE))
        group = self.groups.max(initial=-1) + 1 + np.arange(len(leaks.first))
        keep = np.zeros(len(group), bool)
        found = _rows(self.images, leaks.first, group, leaks, keep, leak=True)
        if not isinstance(self.against, EmbeddedImages):
            return found
        others = _rows(self.against, leaks.second, group, leaks, ~keep, leak=True, other=True)
        turns = np.arange(2 * len(group)).reshape(2, -1).T.ravel()
        return pa.concat_tables([found, others]).take(pa.array(turns))

    def _alike_rows(self) -> pa.Table:
        """Pairs of look-alikes, with one image of each group."""
        shown = self.groups < 0
        shown[self.kept] = True
        first, second = self.pairs.first, self.pairs.second
        alike = (self.pairs.kind == LOOK_ALIKE) & shown[first] & shown[second]
        pair = np.flatnonzero(alike)
        pair = pair[np.argsort(-self.pairs.similarity[pair], kind="stable")].repeat(2)
        leaks = 0 if self.leaks is None else int((self.leaks.kind < LOOK_ALIKE).sum())
        group = self.groups.max(initial=-1) + 1 + leaks + np.arange(len(pair)) // 2
        at = np.where(np.arange(len(pair)) % 2, second[pair], first[pair])
        return _rows(self.images, at, group, self.pairs.some(pair), np.ones(len(at), bool))


@dataclass(frozen=True)
class CopySettings:
    """How copies are found; the defaults are measured in docs/copies.md."""

    neighbours: int = 10
    """Nearest images that each image is compared with."""
    candidate: float = 0.85
    """Cosine from which pictures are compared."""
    correlation: float = 0.984
    """Aligned correlation from which two pictures are the same."""
    look_alike: float = 0.95
    """Cosine from which images that are not the same picture are listed."""

    def __post_init__(self) -> None:
        for name in ("candidate", "correlation", "look_alike"):
            value = getattr(self, name)
            if not -1 <= value <= 1:
                raise UsageError(f"{name} is {value}", "a number from -1 to 1", "Correct it")
        if self.neighbours < 1:
            raise UsageError(f"neighbours is {self.neighbours}", "1 or more", "Try 10")


DEFAULTS = CopySettings()


def find_copies(  # noqa: PLR0913 - all but the first are keyword-only
    images: EmbeddedImages,
    *,
    open_picture: OpenPicture | None = None,
    against: EmbeddedImages | Reference | None = None,
    open_other: OpenPicture | None = None,
    splits: Texts[str | None] | None = None,
    settings: CopySettings = DEFAULTS,
    progress: Progress = no_progress,
) -> Copies:
    """The copies among `images`, and of images of `against`, another collection or a reference.

    `splits` [n] are the splits that the images are in, None for none: copies in several are leaks.

    Pictures are the sketches beside the embeddings, else what `open_picture` (for `against`,
    `open_other`) gives; without either, see the module. A reference knows only the contents of its
    files, so that only exact copies of them are found. Raises BlissError for collections of two
    models.
    """
    mine = _Pictures(images, open_picture)
    pairs = _join(mine.equal, _near_pairs(mine, mine, settings, progress))
    leaks, unseen = None, len(mine.unseen)
    if isinstance(against, EmbeddedImages):
        check_same_model(images.model, images.source, against.model, against.source)
        theirs = _Pictures(against, open_other)
        near = _for_equal(_near_pairs(mine, theirs, settings, progress), mine.first)
        leaks = _join(_equal_across(images, against), near)
        unseen = len(mine.unseen) + len(theirs.unseen)
    elif against is not None:
        leaks = _in_reference(images, against)
    return Copies(images, pairs, leaks, against, mine.compared, unseen, splits)


class _Pictures:
    """The small grey pictures of a collection, from its sketches or as they are opened."""

    def __init__(self, images: EmbeddedImages, opened: OpenPicture | None) -> None:
        self.images, self.opened = images, opened
        self.equal = _equal_pairs(images)
        self.first = _first_equal(self.equal, len(images.rows))
        """int64 [n], the first image with the same file or pixels as each."""
        self.distinct = np.unique(self.first)
        self.are_there = images.sketches is not None or opened is not None
        self.unseen: set[int] = set()
        self.compared = 0
        self._made: dict[int, np.ndarray] = {}

    def some(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [m, SKETCH, SKETCH] and bool [m], which of these pictures there are."""
        found, there = np.zeros((len(rows), SKETCH, SKETCH), np.uint8), np.zeros(len(rows), bool)
        sketches = self.images.sketches
        if sketches is not None:
            there = sketches.digests[rows] != b""
            distinct, inverse = np.unique(rows[there], return_inverse=True)
            found[there] = sketches[distinct][inverse]
        if self.opened is not None:
            for place in np.flatnonzero(~there).tolist():
                picture = self._open(int(rows[place]))
                if picture is not None:
                    found[place], there[place] = picture, True
        if self.are_there:
            self.unseen |= set(rows[~there].tolist())
        return found, there

    def _open(self, row: int) -> np.ndarray | None:
        if row not in self._made and row not in self.unseen and self.opened is not None:
            picture = self.opened(row)
            if picture is not None:
                self._made[row] = sketch_of(picture)
        return self._made.get(row)


def candidate_pairs(
    vectors: Rows,
    others: Rows | None = None,
    settings: CopySettings = DEFAULTS,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of near unit rows, to be compared: first, second int64 [u], cosines float32 [u].

    They are those of each row and the nearest other ones, or of each row and the nearest `others`,
    the vectors of another collection. Within one collection a pair comes once, first < second.
    """
    n = len(vectors)
    if others is None and n <= ALL_PAIRS_UP_TO:
        found = near_pairs(vectors, settings.candidate, PAIRS_AN_IMAGE * n)
        if found is not None:
            progress("images compared for copies", n, n)
            return _nearest_of_each(*found, settings.neighbours)
    searched = vectors if others is None else others
    k = min(settings.neighbours + (others is None), len(searched))
    searcher = nearest_searcher(searched)
    parts: list[tuple[np.ndarray, ...]] = []
    for some in slices(n, QUERIES_AT_ONCE):
        hits = searcher.search(np.ascontiguousarray(vectors[some], np.float32), k)
        wanted = hits.similarity >= settings.candidate
        if others is None:
            wanted &= hits.rows != np.arange(n)[some, None]
            wanted &= wanted.cumsum(axis=1) <= settings.neighbours
        query, place = np.nonzero(wanted)
        rows, cosine = hits.rows[query, place], hits.similarity[query, place]
        query = query + some.start
        if others is None:
            query, rows = np.minimum(query, rows), np.maximum(query, rows)
        parts.append((query, rows, cosine))
        progress("images compared for copies", some.stop, n)
    first, second, cosine = map(np.concatenate, zip(*parts, strict=True))
    if others is None:
        _, unique = np.unique(first * n + second, return_index=True)
        first, second, cosine = first[unique], second[unique], cosine[unique]
    return first, second, cosine


def _nearest_of_each(
    first: np.ndarray, second: np.ndarray, cosine: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs [p] that are among the `most` nearest of either row, of equal ones the first."""
    row, other = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.lexsort((other, -np.tile(cosine, 2), row))
    row = row[order]
    nearer = np.arange(len(row)) - np.searchsorted(row, row)
    kept = np.unique(order[nearer < most] % max(1, len(first)))
    return first[kept], second[kept], cosine[kept]


def _near_pairs(
    mine: _Pictures, theirs: _Pictures, settings: CopySettings, progress: Progress
) -> Pairs:
    """Pairs by embedding that are near or look alike, of images that are not equal."""
    vectors = SelectedRows(mine.images.vectors, mine.distinct)
    others = None
    if theirs is not mine:
        others = SelectedRows(theirs.images.vectors, theirs.distinct)
    if not (mine.are_there and theirs.are_there):  # no picture can tell a less similar pair
        least = max(settings.candidate, settings.look_alike)
        settings = replace(settings, candidate=least)
    first, second, cosine = candidate_pairs(vectors, others, settings, progress)
    first, second = mine.distinct[first], theirs.distinct[second]
    correlation = np.full(len(first), np.nan, np.float32)
    mirrored = np.zeros(len(first), bool)
    # Neighbouring rows lie in the same part, so that few parts are read for each batch.
    for some in slices(len(first), PAIRS_AT_ONCE):
        one, other = mine.some(first[some]), theirs.some(second[some])
        both = np.flatnonzero(one[1] & other[1])
        aligned = align_pairs(one[0][both], other[0][both])
        correlation[some.start + both] = aligned.correlation
        mirrored[some.start + both] = aligned.mirrored
        mine.compared += len(both)
        progress("pairs of pictures compared", min(len(first), some.stop), len(first))
    same = correlation >= settings.correlation
    kind = np.where(same, NEAR, LOOK_ALIKE).astype(np.int8)
    listed = np.flatnonzero(same | (cosine >= settings.look_alike))
    found = Pairs(first, second, kind, cosine, correlation, mirrored)
    return found.some(listed)


def _equal_pairs(images: EmbeddedImages) -> Pairs:
    """Pairs of the same file, vector or pixels: each image with the first that is equal."""
    n = len(images.rows)
    found = [_same(ranks(images.hashes), np.arange(n), SAME_FILE)]
    if images.sketches is not None:
        measured = np.flatnonzero(images.sketches.digests != b"")
        _, pixels = np.unique(images.sketches.digests[measured], return_inverse=True)
        found.append(_same(pixels, measured, SAME_PIXELS))
    return _equal(images, images, found)


def _first_equal(equal: Pairs, n: int) -> np.ndarray:
    """int64 [n], the first image with the same file or pixels as each."""
    first = np.arange(n)
    groups = _groups(equal, n)
    members = np.flatnonzero(groups >= 0)
    _, at, inverse = np.unique(groups[members], return_index=True, return_inverse=True)
    first[members] = members[at[inverse]]
    return first


def _for_equal(pairs: Pairs, first_equal: np.ndarray) -> Pairs:
    """The pairs, once for every image that is equal to their first one."""
    order = np.argsort(first_equal, kind="stable")
    start = np.searchsorted(first_equal[order], pairs.first)
    stop = np.searchsorted(first_equal[order], pairs.first, side="right")
    counts = stop - start
    repeated = pairs.some(np.arange(len(counts)).repeat(counts))
    inside = np.arange(len(repeated.first)) - np.repeat(np.cumsum(counts) - counts, counts)
    return repeated._replace(first=order[np.repeat(start, counts) + inside])


def _same(numbers: np.ndarray, rows: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of `rows` of equal numbers: each with the first of them."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    earlier = rows[first[inverse]]
    later = np.flatnonzero(earlier != rows)
    return earlier[later], rows[later], kind


def _equal_across(images: EmbeddedImages, others: EmbeddedImages) -> Pairs:
    """Pairs of an image and the first of the others of the same file, vector or pixels."""
    first: dict[str, int] = {}
    for j, content in enumerate(others.hashes):
        first.setdefault(content, j)
    at = numbers_of(images.hashes, first)
    here = np.flatnonzero(at >= 0)
    found = [(here, at[here], SAME_FILE)]
    if images.sketches is not None and others.sketches is not None:
        digests, places = np.unique(others.sketches.digests, return_index=True)
        mine = images.sketches.digests
        at = np.minimum(np.searchsorted(digests, mine), len(digests) - 1)
        here = np.flatnonzero((mine != b"") & (digests[at] == mine))
        found.append((here, places[at[here]], SAME_PIXELS))
    return _equal(images, others, found)


def _equal(
    images: EmbeddedImages,
    others: EmbeddedImages,
    found: list[tuple[np.ndarray, np.ndarray, int]],
) -> Pairs:
    first, second = (np.concatenate([each[side] for each in found]) for side in (0, 1))
    kind = np.concatenate([np.full(len(each[0]), each[2], np.int8) for each in found])
    cosine = np.ones(len(first), np.float32)
    for some in slices(len(first), PAIRS_AT_ONCE):
        one, other = images.vectors[first[some]], others.vectors[second[some]]
        cosine[some] = np.einsum("pd,pd->p", one, other, dtype=np.float64)
    named = np.array([images.hashes[i].startswith(NO_FILE) for i in first.tolist()], bool)
    kind[named & (kind == SAME_FILE)] = NEAR
    nothing = np.full(len(first), np.nan, np.float32)
    return Pairs(first, second, kind, cosine, nothing, np.zeros(len(first), bool))


def _in_reference(images: EmbeddedImages, reference: Reference) -> Pairs:
    """The images whose content is in a reference, which holds no vectors of its images."""
    known = as_members(reference.members).find(images.hashes)
    here = np.flatnonzero(known >= 0)
    nothing = np.full(len(here), np.nan, np.float32)
    kind = np.zeros(len(here), np.int8)
    return Pairs(here, known[here], kind, nothing, nothing, np.zeros(len(here), bool))


def _join(equal: Pairs, near: Pairs) -> Pairs:
    """Both, where one pair occurs twice the closer kind."""
    joined = Pairs(*(np.concatenate(columns) for columns in zip(equal, near, strict=True)))
    order = np.lexsort((joined.kind, joined.second, joined.first))
    first, second = joined.first[order], joined.second[order]
    new = np.ones(len(order), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return joined.some(order[new])


def _groups(pairs: Pairs, n: int) -> np.ndarray:
    """int64 [n], numbered by first image; look-alikes make no group."""
    copies = pairs.kind < LOOK_ALIKE
    if not copies.any():
        return np.full(n, -1, np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = pairs.first[copies], pairs.second[copies]
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    groups = np.full(n, -1, np.int64)
    members = np.unique(np.concatenate([first, second]))
    distinct, at = np.unique(component[members], return_index=True)
    numbers = np.empty(n, np.int64)
    numbers[distinct[np.argsort(at)]] = np.arange(len(distinct))
    groups[members] = numbers[component[members]]
    return groups


def _closest(pairs: Pairs, n: int) -> np.ndarray:
    """int64 [n], for each image the pair of the closest copy, -1 for none."""
    closest = np.full(n, -1, np.int64)
    rank = np.lexsort((-np.nan_to_num(pairs.similarity, nan=-2), pairs.kind))[::-1]
    rank = rank[pairs.kind[rank] < LOOK_ALIKE]
    for side in (pairs.first, pairs.second):
        better = np.full(n, -1, np.int64)
        better[side[rank]] = np.arange(len(rank))
        closest = np.where(closest < 0, better, np.maximum(closest, better))
    return np.where(closest < 0, -1, rank[closest] if len(rank) else -1)


def _area(images: EmbeddedImages) -> np.ndarray:
    """float64 [n], pixels of each image, 0 where they are not known."""
    if images.quality is None:
        return np.zeros(len(images.rows))
    sides = images.quality[:, [MEASURES.index("width"), MEASURES.index("height")]]
    return np.nan_to_num(sides.astype(np.float64)).prod(axis=1)


def _rows(
    images: EmbeddedImages,
    at: np.ndarray,
    group: np.ndarray,
    pairs: Pairs,
    keep: np.ndarray,
    **flags: bool,
) -> pa.Table:
    """Rows of the table, in the columns of SCHEMA: the images `at` int64 [m], each with its pair.

    `flags` are the columns `leak` and `other`.
    """
    similarity, correlation = pairs.similarity, pairs.correlation
    columns = (
        group,
        images.rows[at],
        text_column(images.paths).take(at),
        np.array(KINDS)[pairs.kind],
        pa.array(similarity, mask=np.isnan(similarity)),
        pa.array(correlation, mask=np.isnan(correlation)),
        pairs.mirrored,
        keep,
        text_column(images.labels).take(at),
        np.full(len(at), flags.get("leak", False)),
        np.full(len(at), flags.get("other", False)),
        pa.nulls(len(at)),
    )
    return pa.table(
        [pa.array(each, field.type) for each, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
