"""`scores.csv`: the same rows as `scores.parquet`, for a spreadsheet; no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from .safe_text import spreadsheet_text

ROWS_AT_ONCE = 1000
BETWEEN = " | "
"""Between the entries of a list."""


def write_scores_csv(
    names: Sequence[str], batches: Iterable[pa.RecordBatch], write: Callable[[bytes], object]
) -> None:
    """Hand the table to `write`, as UTF-8 CSV with a header, a batch of rows at a time.

    Nulls are empty cells, truth values true and false, numbers as Python writes them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for batch in batches:
        columns = [[_cell(value) for value in column.to_pylist()] for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))
        write(text.getvalue().encode("utf-8"))
        text.seek(0)
        text.truncate()
    write(text.getvalue().encode("utf-8"))


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return spreadsheet_text(value)
    if isinstance(value, list):
        return spreadsheet_text(BETWEEN.join(str(each) for each in value))
    return "" if value is None else value
