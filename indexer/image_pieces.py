"""An image collection in pieces: rows with their encoded images, read by one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from ..corpora.image_source import ImageItem, ImageSource
from ..errors import BlissError
from .encode.preprocessing import UnreadableImage
from .images.decoding import DecodingLimits, read_file
from .pieces import END, Piece

PIECE_BYTES = 128 << 20
"""Encoded images from which on a piece takes no more."""
FETCHED_AT_ONCE = 8
"""Images whose content is read at the same time."""

ITEMS = pa.schema(
    [
        ("row", pa.int64()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("problem", pa.string()),
        ("data", pa.large_binary()),
    ]
)
"""Of each row what ImageItem says of it; `data` is null where there is a problem."""


@dataclass(frozen=True)
class ImageReading:
    """A collection that is to be read in pieces."""

    images: ImageSource
    finished: Callable[[int], bool]
    """Whether the part of that number is not read."""
    part_rows: int
    piece_rows: int
    limits: DecodingLimits


def read_images(reading: ImageReading) -> Iterator[Piece]:
    """Every row of the parts that are not finished, with its content, and then a piece END.

    A piece ends with its part, after `piece_rows` rows or PIECE_BYTES: by the order of the
    collection alone. The number of the piece END is how many rows the collection has. Raises what
    `images.items` and fetching an image raise, but for images that are missing or unreadable.
    """
    rows = number = size = 0
    batch: list[dict[str, object]] = []

    def made(last: bool) -> Piece:
        part = (rows - 1) // reading.part_rows
        return Piece(part, number, last, pa.Table.from_pylist(batch, ITEMS))

    with closing(_fetched(reading)) as items:  # type: ignore[type-var]
        for item in items:
            if len(batch) == reading.piece_rows or size >= PIECE_BYTES:
                yield made(False)
                batch, size, number = [], 0, number + 1
            rows = item.row + 1
            if not reading.finished(item.row // reading.part_rows):
                size += len(item.data) if isinstance(item.data, bytes) else 0
                batch.append({name: getattr(item, name) for name in ITEMS.names})
            if batch and rows % reading.part_rows == 0:
                yield made(True)
                batch, size, number = [], 0, 0
    if batch:
        yield made(True)
    yield Piece(-1, rows, True, pa.table({"rows": [rows]}), END)


def _fetched(reading: ImageReading) -> Iterator[ImageItem]:
    """Every item in order, its content read, FETCHED_AT_ONCE at a time."""

    def skip(row: int) -> bool:
        return reading.finished(row // reading.part_rows)

    def fetch(item: ImageItem) -> ImageItem:
        return item if skip(item.row) else with_content(item, reading.limits)

    with (
        ThreadPoolExecutor(FETCHED_AT_ONCE) as pool,
        closing(reading.images.items(skip)) as items,  # type: ignore[type-var]
    ):
        for some in _batches(items, FETCHED_AT_ONCE):
            yield from pool.map(fetch, some)


def _batches(items: Iterator[ImageItem], size: int) -> Iterator[list[ImageItem]]:
    """`size` items at a time; where reading breaks off, first those that were read before."""
    some: list[ImageItem] = []
    try:
        for item in items:
            some.append(item)
            if len(some) == size:
                full, some = some, []
                yield full
    except BlissError:
        if some:
            yield some
        raise
    if some:
        yield some


def with_content(item: ImageItem, limits: DecodingLimits) -> ImageItem:
    """The item with its bytes, or with the problem that the decoding process would have told."""
    if item.problem:
        return item._replace(file=None, data=None)
    try:
        data = item.data() if callable(item.data) else item.data
        if data is None:
            assert item.file is not None, "a skipped item was to be read"
            data = read_file(item.file, limits)
        return item._replace(file=None, data=data)
    except UnreadableImage as error:
        reason = str(error)
    except UnicodeEncodeError:
        reason = "the file name is not valid on this system"
    except FileNotFoundError:
        reason = "the file does not exist"
    except PermissionError:
        reason = "there is no permission to read the file"
    return item._replace(file=None, data=None, problem=reason)
