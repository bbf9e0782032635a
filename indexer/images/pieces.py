"""Work cut into pieces that travel between processes: what a piece is, and how it is written.

A part (indexer/store/parts.py) is cut into pieces in its own order, never by where a run stopped. A
piece travels as one row of an Arrow table, whatever it holds; nothing in it is pickled.

An image collection in pieces: rows with their encoded images, read by one process.

What is done to pieces of images: decoded in a process that may hang or crash, then encoded.
"""

from __future__ import annotations

import functools
import json
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ... import errors
from ...corpora.images.source import ImageItem, ImageSource
from ...errors import BlissError
from ..encode.preprocessing import UnreadableImage
from ..encode.worker_encoders import WorkerEncoder, load_for_worker
from .decoding import Decoded, DecodingLimits, Undecodable, read_file
from .workers import (
    Asked,
    Outcome,
    Processes,
    Recognised,
    decode_one,
    end_process,
    start_process,
    watch,
)

WORK, END, BROKE_OFF, FAILED = "work", "end", "broke off", "failed"
"""A piece of a part; what reading ends with; where reading broke off; work that cannot be done."""

ROW = pa.schema(
    [
        ("kind", pa.string()),
        ("part", pa.int64()),
        ("number", pa.int64()),
        ("last", pa.bool_()),
        ("content", pa.large_binary()),
    ]
)


class Piece(NamedTuple):
    """Piece `number` of part `part`; `last` says that the part has no further ones."""

    part: int
    number: int
    last: bool
    table: pa.Table
    kind: str = WORK


Step = Callable[[pa.Table], pa.Table]
"""What is done to each piece of work; raises BlissError where it cannot be done at all."""


def to_row(piece: Piece) -> pa.Table:
    """A piece as an Arrow table of one row, of the schema ROW."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.table.schema) as writer:
        writer.write_table(piece.table)
    content = pa.array([sink.getvalue().to_pybytes()], pa.large_binary())
    values = [[piece.kind], [piece.part], [piece.number], [piece.last]]
    return pa.table([*values, content], schema=ROW)


def from_rows(rows: pa.Table) -> Iterator[Piece]:
    """The pieces in a table of any number of rows."""
    for row in range(len(rows)):
        kind, part, number, last, content = (rows[name][row] for name in ROW.names)
        table = pa.ipc.open_stream(content.as_buffer()).read_all()
        yield Piece(part.as_py(), number.as_py(), last.as_py(), table, kind.as_py())


def apply_step(step: Step, piece: Piece) -> Piece:
    """The piece after one step; whatever goes wrong comes back as a piece of the kind FAILED."""
    if piece.kind != WORK:
        return piece
    try:
        return piece._replace(table=step(piece.table))
    except Exception as error:
        return error_piece(error, FAILED)


def error_piece(error: Exception, kind: str) -> Piece:
    """An error as a piece, so that it arrives as it is and without a traceback."""
    if isinstance(error, BlissError):
        facts = [type(error).__name__, error.given, error.needed, error.remedy]
    else:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        facts = [
            "BlissError",
            f"a worker could not go on ({what})",
            "workers with the same bliss-audit, and memory and disk enough for it",
            "Run the same command again to go on from the finished parts",
        ]
    return Piece(-1, 0, True, pa.table({"error": [json.dumps(facts)]}), kind)


def error_of(piece: Piece) -> BlissError:
    """The error that `error_piece` made into a piece."""
    name, given, needed, remedy = json.loads(piece.table["error"][0].as_py())
    kind = getattr(errors, name, BlissError)
    found: BlissError = kind(given, needed, remedy)
    return found


def rows_of_array(array: np.ndarray) -> pa.Array:
    """Numbers [m, d] as one Arrow value a row."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def array_of_rows(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers [m, d] from what `rows_of_array` made."""
    arrays = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(arrays).reshape(len(column), column.type.list_size)


def counted(pieces: Iterable[Piece], told: Callable[[int], None]) -> Iterator[Piece]:
    """The pieces; `told` is how many rows of work have come after each of them."""
    rows = 0
    for piece in pieces:
        if piece.kind == WORK:
            rows += len(piece.table)
            told(rows)
        yield piece


@dataclass
class Gathered:
    """Pieces put together again to whole parts, in whatever order they come."""

    wanted: frozenset[int] | None = None
    """The parts to expect, where that is known from the start."""
    rows: int | None = None
    """What reading ended with: how many rows there were."""
    broke_off: BlissError | None = None
    open: dict[int, dict[int, Piece]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)


def gather(pieces: Iterable[Piece], gathered: Gathered) -> Iterator[tuple[int, pa.Table]]:
    """(number, table) of every part once all its pieces are there; a piece may come twice.

    Raises the BlissError of a piece that FAILED at once, and the one that reading broke off with
    when everything that was read before has been given out. `gathered` tells the rest.
    """
    for piece in pieces:
        if piece.kind == FAILED:
            raise error_of(piece)
        if piece.kind == BROKE_OFF:
            gathered.broke_off = error_of(piece)
        elif piece.kind == END:
            gathered.rows = piece.number
        elif piece.part not in gathered.done:
            found = gathered.open.setdefault(piece.part, {})
            found[piece.number] = piece
            if any(each.last for each in found.values()) and _complete(found):
                del gathered.open[piece.part]
                gathered.done.add(piece.part)
                yield piece.part, pa.concat_tables(found[n].table for n in range(len(found)))
    if gathered.broke_off is not None:
        raise gathered.broke_off
    missing = len(gathered.open) + len((gathered.wanted or frozenset()) - gathered.done)
    if missing:
        raise BlissError(
            f"{missing} part{'s' * (missing != 1)} did not come back from the workers",
            "workers that stay until their work is done",
            "Run the same command again to go on from the finished parts",
        )


def _complete(found: dict[int, Piece]) -> bool:
    last = next(number for number, piece in found.items() if piece.last)
    return len(found) == last + 1


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


TOLD = ("row", "path", "label", "problem", "sha256", "exif_rotated")
"""Columns that stay from decoding to the end; `sha256` is null where there is a problem."""


@dataclass
class _Decoder:
    """One decoding process of this process, started when it is needed."""

    processes: Processes = field(default_factory=Processes)
    running: subprocess.Popen[bytes] | None = None

    def decode(self, item: ImageItem, asked: Asked) -> Outcome:
        process = self.running or start_process(self.processes)
        outcome, usable = decode_one(process, item, asked, self.processes)
        if not usable:
            end_process(process, self.processes)
        self.running = process if usable else None
        return outcome


@functools.lru_cache(maxsize=1)
def own_decoder() -> _Decoder:
    """Kept for the life of this process, whose end it does not outlive."""
    decoder = _Decoder()
    threading.Thread(target=watch, args=(decoder.processes,), daemon=True).start()
    return decoder


def decode_items(asked: Asked, items: pa.Table) -> pa.Table:
    """A table of `image_pieces.ITEMS` with pixels (uint8 bytes) in place of the images.

    `pixels` is null where there is a problem and where the content is known.
    """
    rows, pixels = [], []
    for row in items.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], data=row["data"])
        made = None if row["problem"] else own_decoder().decode(item, asked)
        if isinstance(made, Undecodable):
            row["problem"] = made.reason
        elif made is not None:
            row["sha256"] = made.sha256
            row["exif_rotated"] = made.exif_rotated if isinstance(made, Decoded) else None
        pixels.append(made.pixels.tobytes() if isinstance(made, Decoded) else None)
        rows.append({name: row.get(name) for name in TOLD})
    kinds = [pa.int64(), *[pa.string()] * 4, pa.bool_()]
    table = pa.Table.from_pylist(rows, pa.schema(list(zip(TOLD, kinds, strict=True))))
    return table.append_column("pixels", pa.array(pixels, pa.large_binary()))


def image_encoder(wanted: WorkerEncoder) -> Step:
    """What an encoding actor does to decoded images: `vector` (float32 bytes) replaces `pixels`."""
    encoder = load_for_worker(wanted)
    height, width = encoder.preprocessing.size

    def encode(table: pa.Table) -> pa.Table:
        column = table["pixels"]
        places = [i for i in range(len(table)) if column[i].is_valid]
        vectors: list[bytes | None] = [None] * len(table)
        for start in range(0, len(places), encoder.batch_size):
            some = places[start : start + encoder.batch_size]
            batch = np.stack([np.frombuffer(column[i].as_buffer(), np.uint8) for i in some])
            made = encoder.encode_images(batch.reshape(len(some), height, width, 3))
            for place, vector in zip(some, made, strict=True):
                vectors[place] = np.asarray(vector, np.float32).tobytes()
        return table.drop_columns("pixels").append_column("vector", pa.array(vectors, pa.binary()))

    return encode


def outcomes(table: pa.Table) -> list[tuple[ImageItem, Outcome]]:
    """What `decode_images` would have said of each row, with its vector in place of the pixels."""
    found: list[tuple[ImageItem, Outcome]] = []
    for row in table.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], problem=row["problem"] or "")
        if item.problem:
            found.append((item, Undecodable(item.row, item.problem)))
        elif row["vector"] is None:
            found.append((item, Recognised(item.row, row["sha256"])))
        else:
            vector = np.frombuffer(row["vector"], np.float32)
            found.append((item, Decoded(item.row, vector, row["sha256"], row["exif_rotated"])))
    return found
