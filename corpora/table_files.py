"""Parquet and Arrow files, batch by batch, with what is damaged in them named and passed over."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BlissError
from .addresses import open_file, reachable
from .image_source import Skip
from .parquet_pages import PageTooLarge, parquet_batches

ROWS_AT_ONCE = 32


class Skipped(NamedTuple):
    """That many rows which nobody asked for."""

    rows: int


class Damaged(NamedTuple):
    """That many rows, or more where the file does not tell, that cannot be read."""

    rows: int
    reason: str


Rows = Generator[pa.RecordBatch | Skipped | Damaged, None, None]


def read_schema(address: str) -> pa.Schema:
    """The schema of a parquet or Arrow file; BlissError where it cannot be read."""
    with reachable(address), open_file(address) as file:
        if is_parquet(address):
            return pq.read_schema(file)
        with _open_arrow(file) as reader:
            return reader.schema


def is_parquet(address: str) -> bool:
    """Whether a file is parquet by its name; it is Arrow otherwise."""
    return address.lower().endswith(".parquet")


def table_rows(file: IO[bytes], address: str, columns: list[str], skip: Skip) -> Rows:
    """Some columns of every row of a file; `skip` counts rows from 0 in this file.

    Raises BlissError where a column is missing; errors of the system are passed on.
    """
    try:
        if is_parquet(address):
            with pq.ParquetFile(file, pre_buffer=False) as table:
                _check_columns(address, table.schema_arrow, columns)
                yield from _parquet_rows(table, file, columns, skip)
        else:
            with _open_arrow(file) as reader:
                _check_columns(address, reader.schema, columns)
                for batch in reader:
                    for start in range(0, len(batch), ROWS_AT_ONCE):
                        yield batch.slice(start, ROWS_AT_ONCE)
    except (pa.ArrowException, OSError) as error:
        yield Damaged(1, _damage(error))


def _parquet_rows(table: pq.ParquetFile, file: IO[bytes], columns: list[str], skip: Skip) -> Rows:
    first = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if all(skip(first + n) for n in range(size)):
            yield Skipped(size)
        else:
            yield from _group_rows(table, file, columns, group)
        first += size


def _group_rows(table: pq.ParquetFile, file: IO[bytes], columns: list[str], group: int) -> Rows:
    """The rows of one group; everything is read by the calling thread."""
    done, size = 0, table.metadata.row_group(group).num_rows
    try:
        for batch in parquet_batches(table, file, columns, ROWS_AT_ONCE, group):
            yield batch
            done += len(batch)
    except (pa.ArrowException, OSError) as error:
        yield Damaged(size - done, _damage(error))


def _open_arrow(file: IO[bytes]) -> Any:
    """A reader over an Arrow file of either kind."""
    start = file.read(6)
    file.seek(0)
    if start == b"ARROW1":
        whole = pa.ipc.open_file(file)
        return pa.RecordBatchReader.from_batches(
            whole.schema, (whole.get_batch(n) for n in range(whole.num_record_batches))
        )
    return pa.ipc.open_stream(file)


def _check_columns(address: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in schema.names:
            raise BlissError(
                f"{address} has no column {column!r}",
                "the same columns in every file of a collection",
                "Correct that file or leave it out",
            )


def _damage(error: pa.ArrowException | OSError) -> str:
    """What Arrow complains of in the content; an error that comes from elsewhere is raised.

    Arrow raises OSError for damaged content too, without a number and from its own code.
    """
    if isinstance(error, OSError):
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = last.tb_frame.f_code.co_filename if last is not None else ""
        if error.errno is not None or not where.startswith("pyarrow"):
            raise error
    if isinstance(error, PageTooLarge):
        return f"the table is not read: {error}"
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"the table is damaged ({text[0][:100]})"
