"""Arrow IPC files read record batch by record batch, each looked at before it is unpacked.

A compressed buffer of a few kilobytes may unpack to gigabytes, and a batch without buffers may
claim any number of rows. So the header of every message (a flatbuffer, `Message.fbs` of Apache
Arrow) is read first: a message that unpacks to much more than it takes in the file, or more rows
than the file has bytes, are refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa

from .parquet_pages import MAX_PAGE, MAX_RATIO, PageTooLarge, check_row_count

_MAGIC = b"ARROW1\0\0"
_DICTIONARY, _RECORDS = 2, 3
_MAX_HEADER = 16 << 20


def open_arrow_stream(file: IO[bytes]) -> pa.RecordBatchStreamReader:
    """A reader over an Arrow file of either kind; of one with a footer, over the stream in it."""
    if file.read(len(_MAGIC)) != _MAGIC:
        file.seek(0)
    return pa.ipc.open_stream(file)


def arrow_batches(
    file: IO[bytes], reader: pa.RecordBatchStreamReader, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Some columns of the record batches that `reader`, made by `open_arrow_stream`, reads.

    Their offsets are validated, since pyarrow would follow them out of the batch. Raises
    PageTooLarge before anything that is too large is unpacked, and what pyarrow raises for damaged
    content.
    """
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    checked = _checked_batches(file, place, size)
    while True:
        place = file.tell()
        next(checked, None)
        file.seek(place)
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        chosen = batch.select(list(columns))
        for column in chosen.columns:
            _validate(column)
        yield chosen


def _validate(array: pa.Array) -> None:
    """ArrowInvalid where an offset or length of an array is wrong; text may be any bytes."""
    array.validate()
    kind = array.type
    if pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            _validate(array.field(number))
    elif pa.types.is_string(kind):
        array.cast(pa.binary()).validate(full=True)
    elif pa.types.is_large_string(kind):
        array.cast(pa.large_binary()).validate(full=True)
    else:
        array.validate(full=True)


def _checked_batches(file: IO[bytes], place: int, size: int) -> Iterator[None]:
    """Check the messages from `place` on; yields at each record batch."""
    rows = 0
    while True:
        file.seek(place)
        start = file.read(8)
        if start[:4] == b"\xff\xff\xff\xff":
            body = place + 8
            length = start[4:8]
        else:  # as before Arrow 0.15
            body = place + 4
            length = start[:4]
        if len(length) < 4:
            return
        header_size = int.from_bytes(length, "little", signed=True)
        if header_size == 0:
            return
        if not 0 < header_size <= _MAX_HEADER:
            raise pa.ArrowInvalid("a message header is damaged")
        file.seek(body)
        header = file.read(header_size)
        body += header_size
        try:
            message = _Table(header, _offset(header, 0))
            kind, packed = message.number(1, "B"), message.number(3, "q")
            if not 0 <= packed <= size - body:
                raise IndexError
            if kind in (_DICTIONARY, _RECORDS):
                records = message.table(2)
                if records is not None and kind == _DICTIONARY:
                    records = records.table(1)
                if records is not None:
                    rows += _check(records, file, body, packed)
                    check_row_count(rows, size)
        except (struct.error, IndexError):
            raise pa.ArrowInvalid("a message header is damaged") from None
        if kind == _RECORDS:
            yield
        place = body + packed


def _check(records: _Table, file: IO[bytes], body: int, packed: int) -> int:
    """The rows of a RecordBatch; PageTooLarge where its buffers unpack to too much."""
    rows = records.number(0, "q")
    if rows < 0:
        raise IndexError
    if records.table(3) is None:
        return rows
    unpacked = 0
    for offset, length in records.pairs(2):
        if length >= 8:
            if not 0 <= offset <= packed - 8:
                raise IndexError
            file.seek(body + offset)
            stated = int.from_bytes(file.read(8), "little", signed=True)
            unpacked += length if stated < 0 else stated
    if unpacked > max(MAX_PAGE, MAX_RATIO * packed):
        raise PageTooLarge(
            f"a record batch unpacks from {packed} to {unpacked} bytes, limit {MAX_PAGE >> 20} MiB"
        )
    return rows


class _Table:
    """A table of a flatbuffer; struct.error for an offset outside it."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        if self._fields < 0:
            raise IndexError
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def _at(self, field: int) -> int:
        """Where a field is; 0 where the table leaves it out."""
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return 0
        offset: int = struct.unpack_from("<H", self._data, self._fields + entry)[0]
        return self._place + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        """A number in one of `struct`'s forms; 0 where it is left out."""
        place = self._at(field)
        value: int = struct.unpack_from(f"<{form}", self._data, place)[0] if place else 0
        return value

    def table(self, field: int) -> _Table | None:
        """The table that a field leads to."""
        place = self._at(field)
        return _Table(self._data, place + _offset(self._data, place)) if place else None

    def pairs(self, field: int) -> Iterator[tuple[Any, ...]]:
        """The structs of two int64 in a vector."""
        place = self._at(field)
        if not place:
            return
        place += _offset(self._data, place)
        count = _offset(self._data, place)
        for number in range(count):
            yield struct.unpack_from("<qq", self._data, place + 4 + 16 * number)


def _offset(data: bytes, place: int) -> int:
    value: int = struct.unpack_from("<I", data, place)[0]
    return value
