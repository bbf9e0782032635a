"""Texts of n images in Arrow's memory, read as a tuple of them is.

A Python string takes 49 bytes beside its characters, and eight more in a tuple: for paths, labels
and contents of a million images that is more than their vectors need to be scored. Here a text
takes its UTF-8 bytes and eight, a label four, a digest 32.

Hexadecimal SHA-256 digests, all with the same text before them, in 32 bytes each.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS_AT_ONCE = 16_384

Texts = Sequence
"""n texts in order: a tuple, a list, or a TextColumn."""


@dataclass(frozen=True, eq=False)
class TextColumn(Sequence[Any]):
    """n texts, None among them or not."""

    values: pa.Array
    """large_binary [n], UTF-8, or int32 numbers of such; a lone surrogate, which Python strings may
    hold and Arrow strings may not, is written as its three bytes. Or fixed_size_binary [n]."""
    before: bytes = b""
    """Stands before each digest where `values` are digests, which are read in hexadecimal."""

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int, /) -> Any: ...
    @overload
    def __getitem__(self, at: slice, /) -> TextColumn: ...
    def __getitem__(self, at: Any, /) -> Any:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step == 1:
                return replace(self, values=self.values.slice(start, max(0, stop - start)))
            return self.take(np.arange(start, stop, step))
        number = operator.index(at)
        if not -len(self) <= number < len(self):
            raise IndexError(f"text {number} of {len(self)}")
        return self[number % len(self) :][:1]._texts()[0]

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks():
            yield from block._texts()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextColumn):
            pairs = zip(self.blocks(), other.blocks(), strict=False)
            return len(self) == len(other) and all(a.plain().equals(b.plain()) for a, b in pairs)
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        """What `pa.array` makes of it: strings."""
        plain = self.plain()
        if plain.offset:  # else the bytes before it count where offsets have 32 bits
            plain = plain.take(pa.array(np.arange(len(plain))))
        return plain.cast(type or pa.string())

    def take(self, rows: np.ndarray) -> TextColumn:
        """The texts at int64 `rows` [m], in their order."""
        return replace(self, values=self.values.take(pa.array(rows)))

    def blocks(self) -> Iterator[TextColumn]:
        """The column in slices of ROWS_AT_ONCE."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self[start : start + ROWS_AT_ONCE]

    def plain(self) -> pa.Array:
        """large_binary [n], neither a dictionary nor digests."""
        if pa.types.is_dictionary(self.values.type):
            return self.values.dictionary.take(self.values.indices)
        if pa.types.is_fixed_size_binary(self.values.type):
            return unpacked(self.before, self.values)
        return self.values

    def _texts(self) -> list[str | None]:
        if pa.types.is_fixed_size_binary(self.values.type):
            return _texts(self.plain())
        return _texts(self.values)


def text_column(texts: Iterable[str | None]) -> TextColumn:
    """A column of any texts, made a block at a time; one that is a column already is itself."""
    if isinstance(texts, TextColumn):
        return texts
    following, arrays = iter(texts), []
    while block := list(islice(following, ROWS_AT_ONCE)):
        arrays.append(as_bytes(block))
    return joined(arrays)


def categories(texts: Iterable[str | None]) -> TextColumn:
    """The column with each distinct text held once."""
    column = text_column(texts)
    if pa.types.is_dictionary(column.values.type):
        return column
    return TextColumn(column.plain().dictionary_encode())


def joined(arrays: Sequence[pa.Array]) -> TextColumn:
    """The column of the texts of all arrays of one type, one after the other."""
    if not arrays:
        return TextColumn(pa.array([], pa.large_binary()))
    if pa.types.is_dictionary(arrays[0].type):
        arrays = pa.chunked_array(arrays).unify_dictionaries().chunks
    return TextColumn(pa.concat_arrays(arrays))


def packed_texts(texts: pa.Array) -> TextColumn:
    """The column of large_binary texts, as digests where each is one with the same before it."""
    made = packed(texts)
    return TextColumn(texts) if made is None else TextColumn(made[1], made[0])


def joined_contents(parts: Iterable[TextColumn]) -> TextColumn:
    """What `packed_texts` made of each part, one after the other."""
    columns = [column for column in parts if len(column)]
    if len({(column.before, column.values.type) for column in columns}) > 1:
        return joined([column.plain() for column in columns])
    before = columns[0].before if columns else b""
    return replace(joined([column.values for column in columns]), before=before)


def as_bytes(texts: Iterable[str | None]) -> pa.Array:
    """large_binary: the texts as a column holds them."""
    encoded = [None if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
    return pa.array(encoded, pa.large_binary())


def arrow_texts(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """large_binary arrays: the texts of an Arrow column, or what `str` makes of other values; NaN
    is none.

    Raises pa.ArrowInvalid where its strings or bytes are not UTF-8, and for lists and structs.
    """
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.cast(chunk.type.value_type)
        kind = chunk.type
        if pa.types.is_nested(kind):
            raise pa.ArrowInvalid(f"it holds {kind}")
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            chunk = chunk.cast(pa.large_string())
        if any(of(chunk.type) for of in (pa.types.is_string, pa.types.is_large_string)):
            chunk.validate(full=True)
            yield chunk.cast(pa.large_binary())
            continue
        for start in range(0, len(chunk), ROWS_AT_ONCE):
            block = chunk.slice(start, ROWS_AT_ONCE).to_pylist()
            yield as_bytes(None if each is None or each != each else str(each) for each in block)


def distinct_texts(texts: Texts[str | None]) -> list[str]:
    """The different texts, sorted; None is none."""
    values = categories(texts).values
    used = pc.unique(values.indices).drop_null()
    return sorted(name for name in _texts(values.dictionary.take(used)) if name is not None)


def numbers_of(texts: Texts[str | None], numbers: Mapping[str, int] | Sequence[str]) -> np.ndarray:
    """int64 [n], the number of each text, or its place among some names; -1 for None and others."""
    if not isinstance(numbers, Mapping):
        numbers = {name: number for number, name in enumerate(numbers)}
    values = categories(texts).values
    known = [numbers.get(name, -1) for name in _texts(values.dictionary)]  # type: ignore[arg-type]
    return np.array([*known, -1], np.int64)[values.indices.fill_null(len(known)).to_numpy()]


def ranks(texts: Texts[str]) -> np.ndarray:
    """int64 [n], from 0: equal texts have equal numbers, and larger ones larger numbers."""
    column = text_column(texts)
    digests = pa.types.is_fixed_size_binary(column.values.type)
    values = column.values if digests else column.plain()
    return pc.rank(values, tiebreaker="dense").to_numpy().astype(np.int64) - 1


def _texts(values: pa.Array) -> list[str | None]:
    """The texts of a few rows."""
    if pa.types.is_dictionary(values.type):
        if len(values.dictionary) > len(values):
            return _texts(values.dictionary.take(values.indices))
        names = _texts(values.dictionary)
        return [None if number is None else names[number] for number in values.indices.to_pylist()]
    return [
        None if found is None else found.decode("utf-8", "surrogatepass")
        for found in values.to_pylist()
    ]


DIGEST, HEX = 32, 64
DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
PAIRS = np.stack([np.repeat(DIGITS, 16), np.tile(DIGITS, 16)], axis=1)
"""uint8 [256, 2], the two digits of each byte."""
VALUES = np.full(256, 255, np.uint8)
VALUES[DIGITS] = np.arange(16)
"""uint8 [256], what a digit is worth, 255 for any other character."""


def packed(texts: pa.Array) -> tuple[bytes, pa.Array] | None:
    """What comes before each digest of large_binary [n], and fixed_size_binary(32) [n]; None where
    the texts are anything else."""
    n = len(texts)
    if not n or texts.null_count:
        return None
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64, n + 1, 8 * texts.offset)
    length = int(bounds[1] - bounds[0])
    if length < HEX or (np.diff(bounds) != length).any():
        return None
    rows = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]].reshape(n, length)
    before = rows[0, : length - HEX]
    made = np.empty((n, DIGEST), np.uint8)
    for start in range(0, n, ROWS_AT_ONCE):
        few = rows[start : start + ROWS_AT_ONCE]
        digits = VALUES[few[:, length - HEX :]]
        if digits.max() > 15 or (few[:, : length - HEX] != before).any():
            return None
        made[start : start + ROWS_AT_ONCE] = digits[:, ::2] << 4 | digits[:, 1::2]
    return before.tobytes(), _array(pa.binary(DIGEST), [made], n)


def unpacked(before: bytes, digests: pa.Array) -> pa.Array:
    """large_binary [n]: the texts that were packed."""
    n, length = len(digests), len(before) + HEX
    made = np.empty((n, length), np.uint8)
    if n:
        first = DIGEST * digests.offset
        raw = np.frombuffer(digests.buffers()[1], np.uint8, n * DIGEST, first)
        made[:, : len(before)] = np.frombuffer(before, np.uint8)
        made[:, len(before) :] = PAIRS[raw].reshape(n, HEX)
    return _array(pa.large_binary(), [np.arange(n + 1) * length, made], n)


def _array(kind: pa.DataType, parts: list[np.ndarray], n: int) -> pa.Array:
    return pa.Array.from_buffers(kind, n, [None, *(pa.py_buffer(part) for part in parts)])
