"""`scores.csv`: the same rows as `scores.parquet`, for a spreadsheet; no cell is a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from ..csv_cells import csv_text

ROWS_AT_ONCE = 1000


def write_scores_csv(
    names: Sequence[str], batches: Iterable[pa.RecordBatch], write: Callable[[bytes], object]
) -> None:
    """Hand the table to `write`, as UTF-8 CSV with a header, a batch of rows at a time.

    Truth values are true and false; all else is as `csv_cells` writes it.
    """
    write(csv_text([names]).encode("utf-8"))
    for batch in batches:
        columns = [[_lower(value) for value in column.to_pylist()] for column in batch.columns]
        write(csv_text(zip(*columns, strict=True)).encode("utf-8"))


def _lower(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
