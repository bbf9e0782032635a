"""Which images made a reference, and the classes each is filed under: 16 bytes beside a content.

Images are known by their contents, texts that are looked up by a mark of 64 bits from their last 16
bytes: contents are hexadecimal digests, so those are as good as random. Marks are sorted and
searched by halving; what they find is compared whole, so that no two contents are ever confused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..indexer.vectors.text_column import ROWS_AT_ONCE, TextColumn, Texts, text_column

TAIL = 16
SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Membership(Protocol):
    """Content of each reference image -> the classes it is filed under: a dict, or Members."""

    def __len__(self) -> int:
        """How many contents."""

    def __iter__(self) -> Iterator[str]:
        """Each content."""

    def __contains__(self, content: object, /) -> bool:
        """Whether an image of that content is in the reference."""

    def __getitem__(self, content: str, /) -> tuple[int, ...]:
        """Its classes; KeyError where it is in none."""

    def get(self, content: str, default: tuple[int, ...], /) -> tuple[int, ...]:
        """Its classes, or `default`."""

    def items(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        """Each content and its classes."""


@dataclass(frozen=True, eq=False)
class Members:
    """u distinct contents and the classes of each, read as a dict is; several at once by arrays."""

    contents: TextColumn
    """[u], in the order in which they came."""
    starts: np.ndarray | None
    """int64 [u + 1], where the classes of each begin; None: each has one."""
    classes: np.ndarray
    """int32 [e], class numbers."""
    marks: np.ndarray
    """uint64 [u], ascending."""
    order: np.ndarray
    """int32 [u], which content each mark is of."""

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    def __contains__(self, content: object, /) -> bool:
        return isinstance(content, str) and self.find([content])[0] >= 0

    def __getitem__(self, content: str, /) -> tuple[int, ...]:
        found = self.get(content)
        if found is None:
            raise KeyError(content)
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Members, Mapping)):
            return NotImplemented
        others = as_members(other)
        at = others.find(self.contents)
        if len(self) != len(others) or (at < 0).any():
            return False
        counts, classes = others.filing(at)
        mine = self.filing(np.arange(len(self)))
        return np.array_equal(counts, mine[0]) and np.array_equal(classes, mine[1])

    def get(self, content: str, default: Any = None, /) -> Any:
        """The classes of one content, or `default`."""
        at = int(self.find([content])[0]) if isinstance(content, str) else -1
        return default if at < 0 else tuple(self.filing(np.array([at]))[1].tolist())

    def keys(self) -> Iterator[str]:
        """The contents."""
        return iter(self)

    def items(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each content and its classes."""
        for first in range(0, len(self), ROWS_AT_ONCE):
            block = self.contents[first : first + ROWS_AT_ONCE]
            counts, classes = self.filing(np.arange(first, first + len(block)))
            following = iter(classes.tolist())
            for content, count in zip(block, counts.tolist(), strict=True):
                yield content, tuple(next(following) for _ in range(count))

    def filing(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many classes each of the contents `numbers` int64 [m] has, int64 [m], and which, one
        after the other, int64 [p]."""
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
        found, marks = np.full(len(values), -1), _marks_of(values)
        at = np.minimum(np.searchsorted(self.marks, marks), len(self) - 1)
        rows = np.flatnonzero(self.marks[at] == marks)
        there = self.order[at[rows]].astype(np.int64)
        same = _equal(self.contents.take(there).plain(), values.take(pa.array(rows)))
        found[rows[same]] = there[same]
        for row in rows[~same].tolist():  # another content of the same mark
            last = np.searchsorted(self.marks, marks[row], side="right")
            for other in self.order[at[row] : last].tolist():
                if self.contents[other : other + 1].plain().equals(values.slice(row, 1)):
                    found[row] = other
        return found

    def filed(self, contents: Texts[str]) -> tuple[np.ndarray, np.ndarray]:
        """Which of `contents` [m] are there, int64 [p], ascending, and the class of each; one that
        has several classes occurs with all of them."""
        numbers = self.find(contents)
        here = np.flatnonzero(numbers >= 0)
        counts, classes = self.filing(numbers[here])
        return np.repeat(here, counts), classes

    def without(self, contents: Texts[str], classes: np.ndarray) -> Members:
        """The members less `contents` [m], each out of the one of `classes` int64 [m]; a content
        that has no class left is gone."""
        numbers = self.find(contents)
        counts, filed = self.filing(np.arange(len(self)))
        content = np.repeat(np.arange(len(self)), counts)
        several = 1 + int(max(filed.max(initial=0), classes.max(initial=0)))
        there = numbers >= 0
        gone = numbers[there] * several + classes[there]
        stays = ~np.isin(content * several + filed, gone)
        left, sizes = np.unique(content[stays], return_counts=True)
        return _searchable(self.contents.take(left), sizes, filed[stays])


def no_members() -> dict[str, tuple[int, ...]]:
    """Of a reference whose images are not known."""
    return {}


def as_members(members: Membership) -> Members:
    """The same in compact form; what is in it already is itself."""
    if isinstance(members, Members):
        return members
    sizes = np.fromiter((len(classes) for _, classes in members.items()), np.int64)
    every = (number for _, classes in members.items() for number in classes)
    return _searchable(text_column(iter(members)), sizes, np.fromiter(every, np.int64))


def make_members(contents: Texts[str], classes: np.ndarray) -> Members:
    """Images by content [n], each filed under one of `classes` int64 [n].

    Contents stay in the order in which each comes first; the classes of one ascend.
    """
    column = _undictionaried(text_column(contents))
    marks = _marks(column)
    order = np.argsort(marks, kind="stable")
    alike = marks[order[1:]] == marks[order[:-1]]
    if not alike.any():
        return _sorted(column, None, classes, marks, order)
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
    return _searchable(column.take(distinct), sizes, classes[new])


def _searchable(contents: TextColumn, sizes: np.ndarray, classes: np.ndarray) -> Members:
    """Members of distinct contents [u], `sizes` [u] classes each."""
    contents = _undictionaried(contents)
    starts = None if (sizes == 1).all() else np.concatenate([[0], np.cumsum(sizes)])
    marks = _marks(contents)
    return _sorted(contents, starts, classes, marks, np.argsort(marks, kind="stable"))


def _sorted(
    contents: TextColumn,
    starts: np.ndarray | None,
    classes: np.ndarray,
    marks: np.ndarray,
    order: np.ndarray,
) -> Members:
    small = np.int32 if len(order) < 1 << 31 else np.int64
    return Members(contents, starts, classes.astype(np.int32), marks[order], order.astype(small))


def _undictionaried(column: TextColumn) -> TextColumn:
    """The column without a dictionary, which distinct contents only make larger."""
    dictionary = pa.types.is_dictionary(column.values.type)
    return TextColumn(column.plain()) if dictionary else column


def _marks(contents: TextColumn) -> np.ndarray:
    """uint64 [n], the mark of each."""
    marks = [_marks_of(block.plain()) for block in contents.blocks()]
    return np.concatenate([np.zeros(0, np.uint64), *marks])


def _marks_of(values: pa.Array) -> np.ndarray:
    """uint64 [n] from the last 16 bytes of each of large_binary [n]; zeros stand before fewer."""
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
    """bool [m], which texts are the same; null is none."""
    return pc.equal(some, others).fill_null(False).to_numpy(zero_copy_only=False)
