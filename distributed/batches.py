"""Batches of rows that travel between processes, and their assembly into parts.

A part (indexer/store/parts.py) is cut into batches in its own order, never by where a run stopped.
A batch travels as one row of an Arrow table, whatever it holds; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .. import errors
from ..errors import BlissError
from ..safe_text import counted

ROWS, END, READ_ERROR, FAILED = "rows", "end", "read error", "failed"
"""Kinds of batches: rows of a part; the end of the input; reading stopped; a step failed."""

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("part", pa.int64()),
        ("number", pa.int64()),
        ("last", pa.bool_()),
        ("content", pa.large_binary()),
    ]
)


class Batch(NamedTuple):
    """Batch `number` of part `part`; `last` marks the part's last one."""

    part: int
    number: int
    last: bool
    table: pa.Table
    kind: str = ROWS


Step = Callable[[pa.Table], pa.Table]
"""What is done to the table of each batch; may raise BlissError."""


@dataclass(frozen=True)
class Stages:
    """The three stages that every batch goes through, each in processes of its own."""

    read: Callable[[int], Iterator[Batch]]
    """The batches of one ticket, in order; runs on the machine of the calling process."""
    prepare: Step
    encoder: Callable[[], Step]
    """Called once in each encoding process."""


def to_arrow(batch: Batch) -> pa.Table:
    """A batch as an Arrow table of one row, with the schema SCHEMA."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.table.schema) as writer:
        writer.write_table(batch.table)
    content = pa.array([sink.getvalue().to_pybytes()], pa.large_binary())
    values = [[batch.kind], [batch.part], [batch.number], [batch.last]]
    return pa.table([*values, content], schema=SCHEMA)


def from_arrow(rows: pa.Table) -> Iterator[Batch]:
    """The batches in a table of any number of rows."""
    for row in range(len(rows)):
        kind, part, number, last, content = (rows[name][row] for name in SCHEMA.names)
        table = pa.ipc.open_stream(content.as_buffer()).read_all()
        yield Batch(part.as_py(), number.as_py(), last.as_py(), table, kind.as_py())


def apply_step(step: Step, batch: Batch) -> Batch:
    """The batch after one step; an exception becomes a batch of the kind FAILED."""
    if batch.kind != ROWS:
        return batch
    try:
        return batch._replace(table=step(batch.table))
    except Exception as error:
        return error_batch(error, FAILED)


def error_batch(error: Exception, kind: str) -> Batch:
    """An error as a batch, so that it arrives unchanged and without a traceback."""
    if isinstance(error, BlissError):
        facts = [type(error).__name__, error.given, error.needed, error.remedy]
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        facts = [
            "BlissError",
            f"a worker failed ({reason})",
            "workers with the same version of bliss-audit and enough memory and disk space",
            "Run the same command again to continue from the finished parts",
        ]
    return Batch(-1, 0, True, pa.table({"error": [json.dumps(facts)]}), kind)


def batch_error(batch: Batch) -> BlissError:
    """The error that `error_batch` stored."""
    name, given, needed, remedy = json.loads(batch.table["error"][0].as_py())
    error: BlissError = getattr(errors, name, BlissError)(given, needed, remedy)
    return error


def change_folder(folder: str) -> None:
    """Enter the folder of the command, if it exists here, so that relative paths mean the same."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def array_to_arrow(array: np.ndarray) -> pa.Array:
    """Numbers [m, d] as an Arrow array of m lists."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def arrow_to_array(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers [m, d] from what `array_to_arrow` made."""
    arrays = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(arrays).reshape(len(column), column.type.list_size)


def count_rows(batches: Iterable[Batch], on_rows: Callable[[int], None]) -> Iterator[Batch]:
    """The batches; `on_rows` is called with the number of rows so far after each of them."""
    rows = 0
    for batch in batches:
        if batch.kind == ROWS:
            rows += len(batch.table)
            on_rows(rows)
        yield batch


@dataclass
class PartGatherer:
    """Assembles batches that arrive in any order into whole parts."""

    expected: frozenset[int] | None = None
    """The parts that must arrive, where that is known from the start."""
    input_rows: int | None = None
    """How many rows the input has; known once its END has arrived."""
    read_error: BlissError | None = None
    incomplete: dict[int, dict[int, Batch]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def gather(self, batches: Iterable[Batch]) -> Iterator[tuple[int, pa.Table]]:
        """(number, table) of every part once all its batches have arrived, some perhaps twice.

        Raises the BlissError of a batch that FAILED at once, a READ_ERROR after every part that
        was read before it, and BlissError where batches are missing at the end.
        """
        for batch in batches:
            if batch.kind == FAILED:
                raise batch_error(batch)
            if batch.kind == READ_ERROR:
                self.read_error = batch_error(batch)
            elif batch.kind == END:
                self.input_rows = batch.number
            elif batch.part not in self.done:
                found = self.incomplete.setdefault(batch.part, {})
                found[batch.number] = batch
                last = next((number for number, each in found.items() if each.last), None)
                if last is not None and len(found) == last + 1:
                    del self.incomplete[batch.part]
                    self.done.add(batch.part)
                    yield batch.part, pa.concat_tables(found[n].table for n in range(len(found)))
        if self.read_error is not None:
            raise self.read_error
        missing = len(self.incomplete) + len((self.expected or frozenset()) - self.done)
        if missing:
            raise BlissError(
                f"{counted(missing, 'part')} did not come back from the workers",
                "workers that run until their work is done",
                "Run the same command again to continue from the finished parts",
            )
