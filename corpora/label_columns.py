"""Which column of a table holds labels, and what its values say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import UsageError
from .image_paths import display_path

PATH_COLUMNS = ("path", "file_name", "filename", "image_path", "image", "file")
LABEL_COLUMNS = ("label", "labels", "class", "cls")
ESCAPED_COLUMNS = ("escaped_path", "escaped_label")
"""Of a csv file whose cells are as `csv_cells` writes them."""


def choose_named(
    where: str,
    names: Sequence[str],
    given: str | None,
    usual: Sequence[str] = LABEL_COLUMNS,
    option: str = "--label-column",
) -> str | None:
    """`given`, or else the first of the `usual` names that is there, or None.

    UsageError naming `option` where `given` is not among `names`.
    """
    if given is not None:
        if given not in names:
            raise UsageError(
                f"{where} has no column {given!r}",
                f"one of {', '.join(names) or 'none'}",
                f"Correct {option}",
            )
        return given
    return next((name for name in usual if name in names), None)


def label_text(value: object) -> str | None:
    """A label as text: None for nothing, empty text and NaN; whole numbers without a point."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return display_path(text.strip()) or None


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, from what `datasets` wrote into the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features["info"]["features"][column]["names"]
        return tuple(str(name) for name in names)
    except (ValueError, KeyError, TypeError):
        return None


def image_features(schema: pa.Schema) -> list[str]:
    """The columns that `datasets` wrote as images."""
    try:
        features: Mapping[str, Any] = json.loads(
            (schema.metadata or {}).get(b"huggingface", b"{}")
        )["info"]["features"]
        return [name for name in schema.names if features[name].get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def label_values(
    values: pa.Array | pa.ChunkedArray,
    schema: pa.Schema,
    column: str,
    names: Sequence[str] | None,
) -> list[str | None]:
    """The labels of a column; numbers of a ClassLabel become its names, -1 none."""
    kind = schema.field(column).type
    if pa.types.is_nested(kind):
        raise UsageError(
            f"column {column!r} holds {kind}",
            "one label for each image: text or a number",
            "Name another column with --label-column",
        )
    known = names or class_names(schema, column)
    try:
        found = values.to_pylist()
    except UnicodeDecodeError:
        found = values.cast(pa.binary()).to_pylist()
    if known is None:
        return [label_text(value) for value in found]
    return [_class_name(value, known) for value in found]


def _class_name(value: object, names: Sequence[str]) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return label_text(value)
    if 0 <= value < len(names):
        return label_text(names[value])
    return None if value < 0 else str(value)
