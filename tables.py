"""Parquet files, read by the calling thread alone.

pyarrow's reader threads may still run when a short command ends, and then abort it: "terminate
called without an active exception", exit code 134. So every table of the library is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

Source = Path | IO[bytes]
"""A path, or an opened file where the path may not be UTF-8, which Arrow cannot open."""


def open_table(source: Source) -> pq.ParquetFile:
    """A parquet file to read in batches; ArrowException or OSError where it is none."""
    return pq.ParquetFile(source, pre_buffer=False)


def read_schema(source: Source) -> pa.Schema:
    """The columns of a parquet file and their types; errors as of `open_table`."""
    with open_table(source) as table:
        return table.schema_arrow


def count_rows(source: Source) -> int:
    """The number of rows of a parquet file; errors as of `open_table`."""
    with open_table(source) as table:
        return int(table.metadata.num_rows)


def read_table(source: Source, columns: Sequence[str] | None = None) -> pa.Table:
    """All columns of a parquet file, or some in the order given.

    Raises ArrowException or OSError where it cannot be read, or has not one column of a name.
    """
    with open_table(source) as table:
        _check_names(table, columns or ())
        return table.read(None if columns is None else list(columns), use_threads=False)


def read_batches(
    table: pq.ParquetFile,
    rows: int,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of at most that many rows, of some columns and row groups or all of them.

    Errors as of `read_table`.
    """
    names = None if columns is None else list(columns)
    _check_names(table, names or ())
    yield from table.iter_batches(rows, row_groups=groups, columns=names, use_threads=False)


def file_batches(
    path: Path, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """`read_batches` of the file at a path; errors as of `open_table` and `read_table`."""
    with open(path, "rb") as opened, open_table(opened) as table:
        yield from read_batches(table, rows, columns)


def _check_names(table: pq.ParquetFile, columns: Sequence[str]) -> None:
    there = Counter(table.schema_arrow.names)
    for name in columns:
        if there[name] != 1:
            how = "more than one" if there[name] else "no"
            raise pa.ArrowInvalid(f"there is {how} column {name}")
