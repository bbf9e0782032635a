"""Work cut into pieces that travel between processes: what a piece is, and how it is written.

A part (indexer/parts.py) is cut into pieces in its own order, never by where a run stopped. A
piece travels as one row of an Arrow table, whatever it holds; nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .. import errors
from ..errors import BlissError

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
