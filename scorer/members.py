"""The images a reference was fitted on, by content and by row, and the classes of each.

Not part of the core, which knows neither contents nor strings: `Members.filed` turns contents into
the row and class numbers of `leave_one_out.LeftOut`. A content takes 16 bytes beside itself: it is
looked up by binary search among hashes of 64 bits made of its last 16 bytes (contents are
hexadecimal digests, so these are as good as random), and then compared whole, so that no two
contents are ever confused.

An image without a file has the digest of its unit row for a content, which any rounding changes.
The row x is therefore kept as a sketch too: 16 sums t_j = Σ_i ±x_i with fixed random signs, in 32
bytes. For two rows at distance δ the differences of the t_j are about normal with standard
deviation δ (Achlioptas 2003), so δ² is about the mean of their squares. Rounding a unit row to
float16 moves it by at most 2^-11, so the float16 rows of two scalings of one image are at most
9.8e-4 apart. Rows count as the same where the estimate of δ is at most 2.26e-3: the chance to miss
two that are 1e-3 apart is about 1e-10, and rows that count as the same have a cosine above 0.99999.
Sketches are looked up in a grid whose cells are 8 times as wide as the largest difference of one
sum; a query near the border of a cell is looked up on both sides of it, so that the grid misses
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..indexer.vectors import (
    Rows,
    SelectedRows,
    TextColumn,
    Texts,
    slices,
    text_column,
)

TAIL = 16
SPREAD = np.uint64(0x9E3779B97F4A7C15)
NO_FILE = "vector:"
"""Begins the content of an image that is known by its row alone."""


@dataclass(frozen=True, eq=False)
class Members(Mapping[str, tuple[int, ...]]):
    """u distinct contents and the classes of each: read like a dict, or many at once by arrays."""

    contents: TextColumn
    """[u], in order of first appearance."""
    starts: np.ndarray | None
    """int64 [u + 1], where the classes of each begin; None: each has one class."""
    classes: np.ndarray
    """int32 [e], class numbers."""
    hashes: np.ndarray
    """uint64 [u], ascending."""
    order: np.ndarray
    """int32 [u], the content of each hash."""
    sketches: np.ndarray | None = None
    """int16 [u, SUMS], of the row of each content; None where rows were not at hand."""

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    def __getitem__(self, content: str, /) -> tuple[int, ...]:
        at = int(self.find([content])[0]) if isinstance(content, str) else -1
        if at < 0:
            raise KeyError(content)
        return tuple(self.filing(np.array([at]))[1].tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        others = as_members(other)
        at = others.find(self.contents)
        if len(self) != len(others) or (at < 0).any():
            return False
        counts, classes = others.filing(at)
        mine = self.filing(np.arange(len(self)))
        return np.array_equal(counts, mine[0]) and np.array_equal(classes, mine[1])

    def filing(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many classes each of the contents `numbers` int64 [m] has, int64 [m], and these
        classes one after the other, int64 [p]."""
        if self.starts is None:
            return np.ones(len(numbers), np.int64), self.classes[numbers].astype(np.int64)
        first = self.starts[numbers]
        counts = self.starts[numbers + 1] - first
        before = np.cumsum(counts) - counts
        entries = np.arange(counts.sum()) + np.repeat(first - before, counts)
        return counts, self.classes[entries].astype(np.int64)

    def find(self, contents: Texts[str]) -> np.ndarray:
        """int64 [m], which of the u contents each of `contents` [m] is, -1 for none."""
        column = text_column(contents)
        if column.values is self.contents.values:
            return np.arange(len(self))
        if not len(self):
            return np.full(len(column), -1)
        found = [self._find(block.plain()) for block in column.blocks()]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _find(self, values: pa.Array) -> np.ndarray:
        found, hashes = np.full(len(values), -1), _hashes_of(values)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        rows = np.flatnonzero(self.hashes[at] == hashes)
        there = self.order[at[rows]].astype(np.int64)
        same = _equal(self.contents.take(there).plain(), values.take(pa.array(rows)))
        found[rows[same]] = there[same]
        for row in rows[~same].tolist():  # another content of the same hash
            last = np.searchsorted(self.hashes, hashes[row], side="right")
            for other in self.order[at[row] : last].tolist():
                if self.contents[other : other + 1].plain().equals(values.slice(row, 1)):
                    found[row] = other
        return found

    def recognise(
        self, contents: Texts[str], rows: Rows | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every image of `contents` [m] that is in the reference, int64 [p], ascending, and which
        of the u contents it is, int64 [p].

        With their unit `rows` [m, d], an image that is known by its row alone, or that is compared
        with one that is, is also recognised by a row that is the same up to rounding.
        """
        numbers = self.find(contents)
        here = np.flatnonzero(numbers >= 0)
        if rows is None or self.sketches is None or len(here) == len(numbers):
            return here, numbers[here]
        column = text_column(contents)
        unknown = np.flatnonzero(numbers < 0)
        by_row = _have_no_file(column.take(unknown))
        members = _have_no_file(self.contents)
        pairs = [np.stack([here, numbers[here]])]
        for queries, among in (
            (unknown[by_row], np.arange(len(self))),
            (unknown[~by_row], np.flatnonzero(members)),
        ):
            if len(queries) and len(among):
                sketches = sketch_rows(SelectedRows(rows, queries))
                one, other = same_rows(sketches, self.sketches[among])
                pairs.append(np.stack([queries[one], among[other]]))
        images, members = np.concatenate(pairs, axis=1)
        order = np.lexsort((members, images))
        return images[order], members[order]

    def filed(
        self, contents: Texts[str], rows: Rows | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The images of `contents` [m] that are in the reference, int64 [p], ascending, and their
        classes; one of several classes occurs once for each. `rows` as for `recognise`."""
        images, numbers = self.recognise(contents, rows)
        counts, classes = self.filing(numbers)
        images = np.repeat(images, counts)
        if len(numbers) == len(np.unique(images)):
            return images, classes
        pairs = np.unique(np.stack([images, classes]), axis=1)
        return pairs[0], pairs[1]

    def without(self, contents: Texts[str], classes: np.ndarray) -> Members:
        """The members after taking each of `contents` [m] out of its one of `classes` int64 [m]; a
        content without any class left is gone."""
        numbers = self.find(contents)
        counts, filed = self.filing(np.arange(len(self)))
        content = np.repeat(np.arange(len(self)), counts)
        several = 1 + int(max(filed.max(initial=0), classes.max(initial=0)))
        there = numbers >= 0
        gone = numbers[there] * several + classes[there]
        stays = ~np.isin(content * several + filed, gone)
        left, sizes = np.unique(content[stays], return_counts=True)
        sketches = None if self.sketches is None else self.sketches[left]
        return _searchable(self.contents.take(left), sizes, filed[stays], sketches)


def as_members(members: object) -> Members:
    """`Reference.members` in compact form: Members, a mapping, or None where they are unknown."""
    if isinstance(members, Members):
        return members
    members = {} if members is None else members
    assert isinstance(members, Mapping)
    sizes = np.fromiter((len(classes) for classes in members.values()), np.int64)
    every = (number for classes in members.values() for number in classes)
    return _searchable(text_column(iter(members)), sizes, np.fromiter(every, np.int64))


def make_members(
    contents: Texts[str], classes: np.ndarray, sketches: np.ndarray | None = None
) -> Members:
    """Images by content [n], each filed under one of `classes` int64 [n].

    `sketches` int16 [n, SUMS] are those of their rows. Contents stay in order of first appearance;
    the classes of one ascend.
    """
    column = _without_dictionary(text_column(contents))
    hashes = _hashes(column)
    order = np.argsort(hashes, kind="stable")
    alike = hashes[order[1:]] == hashes[order[:-1]]
    if not alike.any():
        return _sorted(column, None, classes, hashes, order, sketches)
    rows = np.unique(np.concatenate([order[1:][alike], order[:-1][alike]]))
    codes = column.take(rows).plain().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    group = np.arange(len(column))
    group[rows] = rows[first[codes]]
    pairs = np.lexsort((classes, group))
    group, classes = group[pairs], classes[pairs]
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (classes[1:] != classes[:-1])
    distinct, sizes = np.unique(group[new], return_counts=True)
    sketches = None if sketches is None else sketches[distinct]
    return _searchable(column.take(distinct), sizes, classes[new], sketches)


def _searchable(
    contents: TextColumn,
    sizes: np.ndarray,
    classes: np.ndarray,
    sketches: np.ndarray | None = None,
) -> Members:
    """Members of distinct contents [u] with `sizes` [u] classes each."""
    contents = _without_dictionary(contents)
    starts = None if (sizes == 1).all() else np.concatenate([[0], np.cumsum(sizes)])
    hashes = _hashes(contents)
    order = np.argsort(hashes, kind="stable")
    return _sorted(contents, starts, classes, hashes, order, sketches)


def _sorted(
    contents: TextColumn,
    starts: np.ndarray | None,
    classes: np.ndarray,
    hashes: np.ndarray,
    order: np.ndarray,
    sketches: np.ndarray | None,
) -> Members:
    small = np.int32 if len(order) < 1 << 31 else np.int64
    order, sorted_hashes = order.astype(small), hashes[order]
    return Members(contents, starts, classes.astype(np.int32), sorted_hashes, order, sketches)


def _have_no_file(contents: TextColumn) -> np.ndarray:
    """bool [n], which contents are digests of rows."""
    if contents.before:  # all of them are digests, after the same text
        return np.full(len(contents), contents.before == NO_FILE.encode())
    starts = [pc.starts_with(block.plain(), NO_FILE) for block in contents.blocks()]
    found = [start.fill_null(False).to_numpy(zero_copy_only=False) for start in starts]
    return np.concatenate([np.zeros(0, bool), *found])


def _without_dictionary(column: TextColumn) -> TextColumn:
    """The column without a dictionary, which distinct contents only make larger."""
    dictionary = pa.types.is_dictionary(column.values.type)
    return TextColumn(column.plain()) if dictionary else column


def _hashes(contents: TextColumn) -> np.ndarray:
    """uint64 [n], the hash of each content."""
    hashes = [_hashes_of(block.plain()) for block in contents.blocks()]
    return np.concatenate([np.zeros(0, np.uint64), *hashes])


def _hashes_of(values: pa.Array) -> np.ndarray:
    """uint64 [n] from the last 16 bytes of each of large_binary [n], shorter ones after zeros."""
    n = len(values)
    _, offsets, data = values.buffers()
    if not n or data is None or not data.size:
        return np.zeros(n, np.uint64)
    bounds = np.frombuffer(offsets, np.int64, n + 1, 8 * values.offset)[:, None]
    at = bounds[1:] + np.arange(-TAIL, 0)
    tail = np.frombuffer(data, np.uint8)[np.maximum(at, 0)] * (at >= bounds[:-1])
    words = tail.view("<u8").astype(np.uint64)
    return words[:, 0] * SPREAD ^ words[:, 1]


def _equal(some: pa.Array, others: pa.Array) -> np.ndarray:
    """bool [m], which texts are equal; null equals nothing."""
    return pc.equal(some, others).fill_null(False).to_numpy(zero_copy_only=False)


SUMS = 16
RADIUS = 2.26e-3
"""The largest estimated distance of rows that count as the same."""
SKETCHED_AT_ONCE, PAIRS_AT_ONCE = 16_384, 1 << 20
_STEPS = 4096
"""Steps of a sketch per unit: int16 then holds sums up to 8, eight standard deviations."""
_LARGEST = round(SUMS * (RADIUS * _STEPS) ** 2)
"""The largest sum of squared differences, in steps."""
_CELL = 8 * int(np.ceil(np.sqrt(_LARGEST)))
_GRID = 5
"""How many of the sums make up the grid."""


def sketch_rows(rows: Rows) -> np.ndarray:
    """int16 [n, SUMS], the sketches of unit rows [n, d]."""
    d = rows[:1].shape[1]
    # The stream of RandomState is frozen: saved sketches must fit those of later versions.
    signs = np.random.RandomState(SUMS).choice(np.array([-1, 1], np.float32), (d, SUMS))
    made = np.empty((len(rows), SUMS), np.int16)
    for few in slices(len(rows), SKETCHED_AT_ONCE):
        sums = np.rint(np.asarray(rows[few], np.float32) @ signs * _STEPS)
        made[few] = np.clip(sums, -(1 << 15), (1 << 15) - 1)
    return made


def same_rows(queries: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of the same row, by sketches int16 [n, SUMS] and [m, SUMS]: int64 [p], positions
    in `queries`, and int64 [p], positions in `among`."""
    found = [np.zeros((2, 0), np.int64)]
    if len(among):
        keys = _keys(_cells(among))
        order = np.argsort(keys, kind="stable")
        for rows in slices(len(queries), SKETCHED_AT_ONCE):
            for query, first, last in _probes(queries[rows], keys[order]):
                found += _compared(queries, among, order, (query + rows.start, first, last))
    pairs = np.concatenate(found, axis=1)
    one, other = pairs[:, np.lexsort((pairs[1], pairs[0]))]
    return one, other


def _probes(
    queries: np.ndarray, keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The queries int64 [q] that a cell may hold, and where it begins and ends in sorted `keys`."""
    cells = _cells(queries)
    inside = queries[:, :_GRID] - cells * _CELL
    # -1 near the lower border of the cell, 1 near the upper one: there is room for one of them.
    near = (inside >= _CELL - _CELL // 8).astype(np.int64) - (inside < _CELL // 8)
    for subset in range(1 << _GRID):
        moved = np.array([subset >> j & 1 for j in range(_GRID)], bool)
        some = np.flatnonzero((near[:, moved] != 0).all(axis=1))
        wanted = _keys(cells[some] + near[some] * moved)
        first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        there = last > first
        yield some[there], first[there], last[there]


def _compared(
    queries: np.ndarray,
    among: np.ndarray,
    order: np.ndarray,
    probes: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Iterator[np.ndarray]:
    """int64 [2, p], the pairs of the same row, of each query with the sketches of its cell."""
    query, first, last = probes
    ends = np.cumsum(last - first)
    start = 0
    while start < len(query):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        counts = last[start:stop] - first[start:stop]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        one = np.repeat(query[start:stop], counts)
        other = order[np.repeat(first[start:stop], counts) + offsets]
        apart = queries[one].astype(np.int64) - among[other]
        same = np.square(apart).sum(axis=1) <= _LARGEST
        yield np.stack([one[same], other[same]])
        start = stop


def _cells(sketches: np.ndarray) -> np.ndarray:
    """int64 [n, _GRID], the cell of each sketch."""
    return sketches[:, :_GRID].astype(np.int64) // _CELL


def _keys(cells: np.ndarray) -> np.ndarray:
    """int64 [n], the number of each cell."""
    return (cells + (1 << 11)) @ (1 << 12 * np.arange(_GRID, dtype=np.int64))
