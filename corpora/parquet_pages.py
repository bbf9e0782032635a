"""Parquet files read in batches that cannot outgrow the file: pages are looked at before.

A page of a few bytes may unpack to gigabytes, and one value of a dictionary stands for any number
of rows. So the header of every page is read first: a page that unpacks to much more than it takes
in the file is refused, and so few rows are read at a time that they fit even if each of them is as
long as the longest page.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import IO

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
