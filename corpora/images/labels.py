"""Files that say which image has which label: csv, tsv and parquet with a path column.

Which column of a table holds labels, and what its values say.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...csv_cells import cell_text
from ...errors import BlissError, UsageError
from ..parquet_pages import parquet_batches
from .folders import ImageList, list_paths
from .source import ImageOptions, display_path, is_inside

LABEL_FILE_NAMES = ("labels.csv", "labels.tsv", "labels.parquet")
"""A flat folder that holds one of these is labelled by it."""

_LONGEST_FIELD = 1 << 20
_ROWS_AT_ONCE = 4096
_MOST_TEXT, _MOST_RATIO = 64 << 20, 16
"""Bytes that the texts of a parquet file may have, or that many times those of the file."""


@dataclass(frozen=True)
class LabelFile:
    """The records of one file; paths are relative to its folder."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]


def read_label_file(file: str, options: ImageOptions) -> LabelFile:
    """Read a csv, tsv or parquet file by its suffix.

    UsageError where the columns are not there; BlissError where it cannot be read.
    """
    read = _parquet_columns if file.lower().endswith(".parquet") else _csv_columns
    paths, labels = read(file, options)
    empty = next((row for row, path in enumerate(paths) if not path), None)
    if empty is not None:
        raise BlissError(
            f"record {empty + 1} of {display_path(file)} has no path",
            "a path in every record",
            "Correct or remove that record",
        )
    return LabelFile(display_path(os.path.basename(file)), tuple(paths), tuple(labels))


def list_labelled(file: str, options: ImageOptions) -> ImageList:
    """The images that a label file names, each record a row."""
    read = read_label_file(file, options)
    if not read.paths:
        raise BlissError(
            f"{display_path(file)} has no records", "a path in each record", "Check the file"
        )
    return list_paths(os.path.dirname(os.path.abspath(file)), read.paths, read.labels)


def add_labels(listed: ImageList, file: str, options: ImageOptions) -> ImageList:
    """A listed folder with the labels of a file; images that the file does not name have none.

    Records that name no image of the folder become rows at the end, which fail. BlissError where
    the file gives one image two labels.
    """
    read = read_label_file(file, options)
    base, root = os.path.dirname(os.path.abspath(file)), os.path.abspath(listed.root)
    labels: dict[str, str | None] = {}
    for path, label in zip(read.paths, read.labels, strict=True):
        place = _below(root, os.path.normpath(os.path.join(base, path)))
        if labels.setdefault(place, label) != label:
            raise BlissError(
                f"{display_path(file)} gives {display_path(path)} the labels {labels[place]!r} "
                f"and {label!r}",
                "one label for each image",
                "Correct the file",
            )
    there = tuple(labels.pop(path, None) for path in listed.paths)
    extra = list_paths(root, list(labels), list(labels.values()))
    problems = {**listed.problems}
    for row in range(extra.count):
        missing = f"{read.name} names it, but it is not among the images"
        problems[listed.count + row] = extra.problems.get(row, missing)
    return replace(
        listed,
        paths=(*listed.paths, *extra.paths),
        labels=(*there, *extra.labels),
        problems=problems,
    )


def label_file_in(listed: ImageList) -> str | None:
    """The label file of a flat folder, if it holds exactly one of LABEL_FILE_NAMES."""
    if any("/" in path for path in listed.paths):
        return None
    found = [os.path.join(listed.root, name) for name in LABEL_FILE_NAMES]
    found = [file for file in found if os.path.isfile(file)]
    return found[0] if len(found) == 1 else None


def _below(root: str, path: str) -> str:
    """`path` relative to `root` with forward slashes where it is inside, else as it is."""
    if path != root and is_inside(path, root):
        return os.path.relpath(path, root).replace(os.sep, "/")
    return path


def _csv_columns(file: str, options: ImageOptions) -> tuple[list[str], list[str | None]]:
    delimiter = "\t" if file.lower().endswith(".tsv") else ","
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next(reader, [])
            path_at, label_at = _columns(file, header, options)
            escaped = [at for at in (path_at, label_at)
                       if at is not None and header[at] in ESCAPED_COLUMNS]  # fmt: skip
            paths: list[str] = []
            labels: list[str | None] = []
            for fields in reader:
                if not fields:
                    continue
                if len(fields) > len(header):
                    raise csv.Error(f"{len(fields)} fields under {len(header)} columns")
                fields += [""] * (len(header) - len(fields))
                for at in escaped:
                    fields[at] = cell_text(fields[at])
                paths.append(fields[path_at])
                labels.append(label_text(fields[label_at]) if label_at is not None else None)
    except csv.Error as error:
        raise BlissError(
            f"line {reader.line_num} of {display_path(file)} cannot be read ({error})",
            "well-formed csv",
            "Correct that line, or quote its field if it holds the separator",
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    finally:
        csv.field_size_limit(before)
    return paths, labels


def _parquet_columns(file: str, options: ImageOptions) -> tuple[list[str], list[str | None]]:
    try:
        with open(file, "rb") as opened:
            table = pq.ParquetFile(opened, pre_buffer=False)
            schema = table.schema_arrow
            path_at, label_at = _columns(file, schema.names, options)
            names = [schema.names[path_at]]
            if label_at is not None:
                names.append(schema.names[label_at])
            read = _read_columns(table, opened, names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    values, found = read
    paths = ["" if value is None else str(value) for value in values]
    if label_at is None:
        return paths, [None] * len(paths)
    return paths, found


def _read_columns(
    table: pq.ParquetFile, file: IO[bytes], names: list[str]
) -> tuple[list[object], list[str | None]]:
    """The paths and labels; ArrowInvalid where they are much larger than the file."""
    paths: list[object] = []
    labels: list[str | None] = []
    size, limit = 0, max(_MOST_TEXT, _MOST_RATIO * os.fstat(file.fileno()).st_size)
    for group in range(table.num_row_groups):
        for batch in parquet_batches(table, file, names, _ROWS_AT_ONCE, group):
            size += batch.nbytes
            if size > limit:
                raise pa.ArrowInvalid(f"its texts unpack to more than {limit >> 20} MiB")
            paths += batch.column(names[0]).to_pylist()
            if len(names) > 1:
                labels += label_values(batch.column(names[1]), table.schema_arrow, names[1], None)
    return paths, labels


def _columns(file: str, names: Sequence[str], options: ImageOptions) -> tuple[int, int | None]:
    """Where the path column is, and the label column, if there is one."""
    where = display_path(file)
    path_names = (*PATH_COLUMNS, ESCAPED_COLUMNS[0])
    path = choose_named(where, names, options.image_column, path_names, "--image-column")
    if path is None:
        raise UsageError(
            f"{where} has no column with paths among {', '.join(names) or 'none'}",
            f"one called {', '.join(PATH_COLUMNS)}, in its first line",
            "Name the column with --image-column",
        )
    label_names = (*LABEL_COLUMNS, ESCAPED_COLUMNS[1])
    label = choose_named(where, names, options.label_column, label_names)
    return names.index(path), None if label is None else names.index(label)


def _unreadable(file: str, error: Exception) -> BlissError:
    return BlissError(
        f"{display_path(file)} could not be read ({getattr(error, 'strerror', None) or error})",
        "a complete, readable csv, tsv or parquet file",
        "Check the file and its permissions",
    )


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
