"""Parquet and Arrow files read in batches that cannot outgrow the file.

Pages of parquet files are looked at first. A page of a few bytes may unpack to gigabytes, and one
value of a dictionary stands for any number of rows. So the header of every page is read first: a
page that unpacks to much more than it takes in the file is refused, and so few rows are read at a
time that they fit even if each of them is as long as the longest page.

Arrow IPC files are read record batch by record batch. A compressed buffer of a few kilobytes may
unpack to gigabytes, and a batch without buffers may claim any number of rows. So the header of
every message (a flatbuffer, `Message.fbs` of Apache Arrow) is read first: a message that unpacks to
much more than it takes in the file, or more rows than the file has bytes, are refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..tables import read_batches

MAX_PAGE = 32 << 20
"""Bytes that a page may unpack to, whatever it takes in the file."""
MAX_RATIO = 4
"""A larger page may unpack to so many times its bytes in the file."""
MAX_ROWS = 100_000
"""Rows that a file may claim, however few bytes it has; a larger one may claim one for each."""
_MAX_HEADER = 1 << 20


class PageTooLarge(pa.ArrowInvalid):
    """A page, or a number of rows, that is not unpacked."""


def check_row_count(rows: int, size: int) -> None:
    """PageTooLarge where a file of `size` bytes claims many more rows than it can hold.

    Rows without a value take no bytes in parquet and Arrow files.
    """
    if rows > max(MAX_ROWS, size):
        raise PageTooLarge(f"it claims {rows:,} rows in {size:,} bytes")


def check_rows(table: pq.ParquetFile, file: IO[bytes]) -> None:
    """`check_row_count` for a parquet file, by what all of its row groups claim."""
    groups = range(table.num_row_groups)
    counts = [table.metadata.row_group(number).num_rows for number in groups]
    if min(counts, default=0) < 0:
        raise pa.ArrowInvalid("a row group has a negative number of rows")
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    check_row_count(sum(counts), size)


def parquet_batches(
    table: pq.ParquetFile, file: IO[bytes], columns: Sequence[str], rows: int, group: int
) -> Iterator[pa.RecordBatch]:
    """Some columns of a row group, at most `rows` rows at a time, read by the calling thread.

    Raises PageTooLarge, before anything is unpacked.
    """
    largest = max(largest_page(table, file, columns, group), 1)
    at_once = max(1, min(rows, MAX_PAGE // largest))
    yield from read_batches(table, at_once, columns, [group])


def largest_page(table: pq.ParquetFile, file: IO[bytes], columns: Sequence[str], group: int) -> int:
    """The most bytes that a page of these columns unpacks to."""
    largest, place = 0, file.tell()
    metadata = table.metadata.row_group(group)
    try:
        for number in range(metadata.num_columns):
            chunk = metadata.column(number)
            if chunk.path_in_schema.split(".")[0] in columns:
                starts = [chunk.data_page_offset]
                if chunk.dictionary_page_offset:
                    starts.append(chunk.dictionary_page_offset)
                end = min(starts) + chunk.total_compressed_size
                for packed, unpacked in _pages(file, min(starts), end):
                    if unpacked > max(MAX_PAGE, MAX_RATIO * packed):
                        raise PageTooLarge(
                            f"a page of column {chunk.path_in_schema} unpacks from {packed} to "
                            f"{unpacked} bytes, limit {MAX_PAGE >> 20} MiB"
                        )
                    largest = max(largest, unpacked)
    finally:
        file.seek(place)
    return largest


def _pages(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    """(bytes in the file, bytes unpacked) of each page of a column chunk."""
    while start < end:
        size = 256
        while True:
            file.seek(start)
            header = io.BytesIO(file.read(size))
            try:
                fields = _struct(header)
                break
            except EOFError:
                if size >= _MAX_HEADER:
                    raise PageTooLarge("a page header is larger than 1 MiB") from None
                size *= 16
        unpacked, packed = fields.get(2, -1), fields.get(3, -1)
        if unpacked < 0 or packed < 0:
            raise pa.ArrowInvalid("a page header gives no size")
        yield packed, unpacked
        start += header.tell() + packed


def _struct(data: io.BytesIO, depth: int = 0) -> dict[int, int]:
    """The integer fields of a struct in Thrift's compact protocol; EOFError where it is cut."""
    if depth > 16:
        raise pa.ArrowInvalid("a page header is nested too deeply")
    found: dict[int, int] = {}
    number = 0
    while (byte := _byte(data)) != 0:
        step = byte >> 4
        number = number + step if step else _zigzag(_varint(data))
        value = _value(data, byte & 15, depth)
        if value is not None:
            found[number] = value
    return found


def _value(data: io.BytesIO, kind: int, depth: int, in_list: bool = False) -> int | None:
    """Read a value; what it is for an integer."""
    if kind in (1, 2):
        if in_list:
            _byte(data)
    elif kind == 3:
        _byte(data)
    elif kind in (4, 5, 6):
        return _zigzag(_varint(data))
    elif kind == 7:
        _skip(data, 8)
    elif kind == 8:
        _skip(data, _varint(data))
    elif kind in (9, 10):
        head = _byte(data)
        count = head >> 4 if head >> 4 != 15 else _varint(data)
        for _ in range(count):
            _value(data, head & 15, depth + 1, in_list=True)
    elif kind == 12:
        _struct(data, depth + 1)
    else:
        raise pa.ArrowInvalid("a page header is damaged")
    return None


def _byte(data: io.BytesIO) -> int:
    byte = data.read(1)
    if not byte:
        raise EOFError
    return byte[0]


def _varint(data: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(data)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise pa.ArrowInvalid("a page header is damaged")


def _zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _skip(data: io.BytesIO, count: int) -> None:
    if len(data.read(count)) < count:
        raise EOFError


_MAGIC = b"ARROW1\0\0"
_DICTIONARY, _RECORDS = 2, 3
_MAX_MESSAGE_HEADER = 16 << 20


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
        if not 0 < header_size <= _MAX_MESSAGE_HEADER:
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
