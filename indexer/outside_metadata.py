"""What the metadata of somebody else's image embeddings calls each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BlissError
from .text_column import ROWS_AT_ONCE, TextColumn, arrow_texts, as_bytes, categories, joined
from .vectors.layout import EmbeddingFolder, column_names, read_parquet

PATH_COLUMNS = ("image_path", "path", "url")
LABEL_COLUMN = "label"


def paths_and_labels(layout: EmbeddingFolder) -> tuple[TextColumn, TextColumn]:
    """What the metadata calls each row and how it labels it, no other column being read.

    A part without such a column, or a null, has no label, and "row 7" for a path. BlissError where
    a name is not UTF-8.
    """
    paths: list[pa.Array] = []
    labels: list[pa.Array] = []
    first = 0
    for file, count in zip(layout.metadata, layout.rows, strict=True):
        there = column_names(file)
        named = next((name for name in PATH_COLUMNS if name in there), None)
        for values in _column(file, named, count):
            paths.append(_numbered(values, first))
            first += len(values)
        labelled = LABEL_COLUMN if LABEL_COLUMN in there else None
        labels += [values.dictionary_encode() for values in _column(file, labelled, count)]
    return joined(paths), categories(joined(labels))


def _column(file: Path, name: str | None, count: int) -> Iterator[pa.Array]:
    """large_binary arrays of a few of its texts at a time, nulls where there is no such column."""
    try:
        arrays = arrow_texts(read_parquet(file, [name])[name]) if name else [_nothing(count)]
        for values in arrays:
            for start in range(0, len(values), ROWS_AT_ONCE):
                yield values.slice(start, ROWS_AT_ONCE)
    except pa.ArrowInvalid as error:
        raise BlissError(
            f"column '{name}' of {file} could not be read ({error})",
            "text in UTF-8",
            "Write the metadata again",
        ) from error


def _nothing(count: int) -> pa.Array:
    return pa.nulls(count, pa.large_binary())


def _numbered(values: pa.Array, first: int) -> pa.Array:
    """The texts, rows without one by their number, `first` that of the first."""
    if not values.null_count:
        return values
    return pc.coalesce(values, as_bytes(f"row {first + i}" for i in range(len(values))))
