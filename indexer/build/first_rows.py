"""The first of each group of equal captions, in bounded memory; the only use of DuckDB.

DuckDB groups the captions and spills what does not fit. It starts with little memory and gets twice
as much only when it fails for lack of it, so that the memory needed hardly depends on the number of
captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import temporary_folder, write_atomically
from ...corpora import closed_after
from ...errors import BlissError
from ...tables import open_table, read_batches

LEAST_MEMORY, MOST_MEMORY = 32 << 20, 16 << 30
ROWS = 32_768
"""Rows of a row group, and rows given to DuckDB at once."""
FIRSTS = pa.schema([("ordinal", pa.int64())])

_QUERY = "SELECT min(ordinal) AS ordinal FROM staged GROUP BY caption ORDER BY ordinal"


def write_first_rows(staged: Path, firsts: Path) -> None:
    """Write to `firsts` the int64 `ordinal` of the first row of each caption, ascending.

    `staged` is a parquet file with the columns caption and ordinal. Raises BlissError where the
    disk is too full for what does not fit into memory.
    """
    memory = LEAST_MEMORY
    while True:
        try:
            write_atomically(firsts, partial(_write, staged, firsts.parent, memory))
            return
        except _NeedsMemory:
            memory *= 2


class _NeedsMemory(Exception):
    """DuckDB needs more memory than it was given."""


def _write(staged: Path, folder: Path, memory: int, file: IO[bytes]) -> None:
    with pq.ParquetWriter(file, FIRSTS, compression="zstd") as writer:
        with closed_after(_first_rows(staged, folder, memory)) as batches:
            for batch in batches:
                writer.write_batch(batch)


def _first_rows(staged: Path, folder: Path, memory: int) -> Iterator[pa.RecordBatch]:
    import duckdb

    settings = {
        "memory_limit": f"{memory}B",
        "threads": "1",
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    # Arrow and DuckDB open no path that is not UTF-8: Arrow reads an open file instead, and DuckDB
    # spills to the system's temporary folder.
    is_utf8 = not any("\ud800" <= character <= "\udfff" for character in str(folder))
    spill = folder if is_utf8 else None
    try:
        with (
            temporary_folder(spill) as scratch,
            duckdb.connect(config={**settings, "temp_directory": f"{scratch}/spill"}) as connection,
            open(staged, "rb") as opened,
            open_table(opened) as file,
        ):
            schema = pa.schema([("caption", pa.string()), ("ordinal", pa.int64())])
            batches = read_batches(file, ROWS, schema.names)
            connection.register("staged", pa.RecordBatchReader.from_batches(schema, batches))
            yield from connection.sql(_QUERY).to_arrow_reader(ROWS)
    except duckdb.OutOfMemoryException as error:
        if memory < MOST_MEMORY and "max_temp_directory_size" not in str(error):
            raise _NeedsMemory from error
        raise _no_room(folder, error) from error
    except duckdb.IOException as error:
        raise _no_room(folder, error) from error


def _no_room(folder: Path, error: Exception) -> BlissError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return BlissError(
        f"duplicate captions could not be found in {folder} ({reason})",
        "space on its disk for a copy of all captions",
        "Free some space or choose another folder, then run the same command again",
    )
