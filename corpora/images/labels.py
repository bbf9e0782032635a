"""Files that say which image has which label: csv, tsv, jsonl and parquet with a path column.

Also: which column of a table holds the labels, and how its values become class names.
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import BlissError, UsageError
from ...safe_text import cell_text, counted
from ...tables import open_table
from ..addresses import is_remote
from ..delimited import EXCELS
from ..parquet_pages import check_rows, parquet_batches
from ..sources import SEPARATORS
from .folders import ImageList, list_paths
from .source import PATH_TOO_LONG, ImageOptions, display_path, is_inside, valid_text

LABEL_FILE_NAMES = (
    *("labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet"),
    *("metadata.csv", "metadata.jsonl", "metadata.parquet"),
)
"""A folder that holds one of these is labelled by it; `datasets` calls it metadata."""

LONGEST_LABEL = 1024
"""Bytes of the longest name of a class."""
LABEL_TOO_LONG = f"its label is longer than {LONGEST_LABEL:,} bytes"
_ALIKE_SHOWN = 5
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
    has_labels: bool = True
    """Whether it has a column of labels."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Records whose label cannot be one, and why; they have none."""


Columns = tuple[list[str], list[str | None], bool]
"""Paths, labels, and whether there is a column of labels."""


def read_label_file(file: str, options: ImageOptions, captions: bool = False) -> LabelFile:
    """Read a csv, tsv, jsonl or parquet file by its suffix.

    With `captions`, what is read as labels are captions: of any length, and a list of them counts
    as that many records. UsageError where the columns are not there; BlissError where it cannot be
    read.
    """
    readers = {".parquet": _parquet_columns, ".jsonl": _jsonl_columns}
    read = readers.get(os.path.splitext(file)[1].lower(), _csv_columns)
    paths, labels, has_labels = read(file, options, captions)
    empty = next((row for row, path in enumerate(paths) if not path), None)
    if empty is not None:
        raise BlissError(
            f"record {empty + 1} of {display_path(file)} has no path",
            "a path in every record",
            "Correct or remove that record",
        )
    problems = {}
    for row, label in enumerate(labels):
        if not captions and label is not None and len(label.encode("utf-8")) > LONGEST_LABEL:
            labels[row], problems[row] = None, LABEL_TOO_LONG
    name = display_path(os.path.basename(file))
    return LabelFile(name, tuple(paths), tuple(labels), has_labels, problems)


def list_labelled(file: str, options: ImageOptions) -> ImageList:
    """The images that a label file names, each record a row.

    UsageError where no record names a file inside the label file's folder.
    """
    read = read_label_file(file, options)
    if not read.paths:
        raise BlissError(
            f"{display_path(file)} has no records", "a path in each record", "Check the file"
        )
    root = os.path.dirname(os.path.abspath(file))
    paths = [_in_this_system(root, path) for path in read.paths]
    listed = list_paths(root, paths, read.labels, bool(options.follow_links))
    if len(listed.problems) == len(paths):
        remedy = "Put the file into the folder that holds the images"
        if PATH_TOO_LONG in listed.problems.values():
            remedy = "Name the column of paths with --image-column, or save the images as files"
        elif is_remote(paths[0]):
            remedy = "Download the images, for example with img2dataset, and give what it makes"
        raise UsageError(
            f"{display_path(file)} names no file in its folder, {display_path(root)} (the first: "
            f"{display_path(read.paths[0])})",
            "paths relative to the folder of the file, or absolute ones inside it",
            remedy,
        )
    notices = similar_labels(read.labels) if read.has_labels else (no_labels(file),)
    return replace(listed, problems={**read.problems, **listed.problems}, notices=notices)


def no_labels(where: str) -> str:
    """What to say of a table without a column of labels."""
    usual = f"{', '.join(LABEL_COLUMNS[:3])}, …"
    return f"{display_path(where)}: no column holds labels ({usual}); --label-column names another"


def add_labels(listed: ImageList, file: str, options: ImageOptions) -> ImageList:
    """A listed folder with the labels of a file; images that the file does not name have none.

    Paths are relative to the file's folder, or else to the listed folder or the only folder in it.
    Records that name no image become rows at the end, which fail. UsageError where no record names
    any, or there are no labels; BlissError where the file gives one image two labels.
    """
    read = read_label_file(file, options)
    if not read.has_labels:
        raise UsageError(
            f"{display_path(file)} has no column with labels",
            f"one called {', '.join(LABEL_COLUMNS)}, in its first line",
            "Name the column with --label-column",
        )
    base, root = os.path.dirname(os.path.abspath(file)), os.path.abspath(listed.root)
    names = {unicodedata.normalize("NFC", path): path for path in listed.paths}
    names |= dict(zip(listed.paths, listed.paths, strict=True))
    tops = {path.partition("/")[0] for path in listed.paths if "/" in path}
    for folder in (base, root, *(os.path.join(root, top) for top in tops if len(tops) == 1)):
        places = [_place(root, folder, path, names) for path in read.paths]
        if any(place in names for place in places):
            break
    else:
        raise UsageError(
            f"{display_path(file)} names {counted(len(read.paths), 'image')}, "
            f"{display_path(read.paths[0])} first, none of which is among the "
            f"{listed.count:,} of {display_path(listed.root)}, "
            f"{display_path(listed.paths[0])} first"
            if read.paths
            else f"{display_path(file)} has no records",
            "paths relative to the folder of the file",
            "Correct the paths, give another file with --labels, or move this one away",
        )
    labels: dict[str, str | None] = {}
    for path, place, label in zip(read.paths, places, read.labels, strict=True):
        if labels.setdefault(place, label) != label:
            raise BlissError(
                f"{display_path(file)} gives {display_path(path)} the labels {labels[place]!r} "
                f"and {label!r}",
                "one label for each image",
                "Correct the file",
            )
    there = tuple(labels.pop(path, None) for path in listed.paths)
    follow = bool(options.follow_links)
    extra = list_paths(root, list(labels), list(labels.values()), follow)
    doubtful = {places[row]: problem for row, problem in read.problems.items()}
    found = {row: doubtful[path] for row, path in enumerate(listed.paths) if path in doubtful}
    problems = {**found, **listed.problems}
    other_case = {path.casefold(): path for path in listed.paths}
    for row, path in enumerate(extra.paths):
        missing = f"{read.name} names it, but it is not among the images"
        if path.casefold() in other_case:
            missing += f"; {display_path(other_case[path.casefold()])} differs in case alone"
        problems[listed.count + row] = extra.problems.get(row, missing)
    return replace(
        listed,
        paths=(*listed.paths, *extra.paths),
        labels=(*there, *extra.labels),
        problems=problems,
    )


def _in_this_system(root: str, path: str) -> str:
    """A path with its backslashes as slashes where no file has that very name."""
    if "\\" not in path or "\0" in path or os.path.lexists(os.path.join(root, path)):
        return path
    return path.replace("\\", "/")


def label_file_in(folder: str) -> str | None:
    """The one of LABEL_FILE_NAMES in a folder; UsageError where it holds several."""
    found = [name for name in LABEL_FILE_NAMES if os.path.isfile(os.path.join(folder, name))]
    if len(found) > 1:
        raise UsageError(
            f"{display_path(folder)} holds {' and '.join(found)}",
            "one file with labels",
            "Name it with --labels, or move the others away",
        )
    return os.path.join(folder, found[0]) if found else None


def similar_labels(labels: Iterable[str | None]) -> tuple[str, ...]:
    """What to say of classes whose names differ in case, spaces or Unicode composition alone."""
    spellings: dict[str, set[str]] = {}
    for label in {label for label in labels if label is not None}:
        plain = " ".join(unicodedata.normalize("NFC", label).casefold().split())
        spellings.setdefault(plain, set()).add(label)
    alike = sorted(sorted(each) for each in spellings.values() if len(each) > 1)
    if not alike:
        return ()
    shown = "; ".join(" and ".join(map(ascii, each)) for each in alike[:_ALIKE_SHOWN])
    more = f"; {len(alike) - _ALIKE_SHOWN:,} more" if len(alike) > _ALIKE_SHOWN else ""
    return (f"classes whose names differ in case, spaces or Unicode form alone: {shown}{more}",)


def _place(root: str, folder: str, path: str, names: Mapping[str, str]) -> str:
    """The image of `names` that a path relative to `folder` leads to; else where it leads."""
    place = _below(root, os.path.normpath(os.path.join(folder, _in_this_system(folder, path))))
    return names.get(place) or names.get(unicodedata.normalize("NFC", place), place)


def _below(root: str, path: str) -> str:
    """`path` relative to `root` with forward slashes where it is inside, else as it is."""
    if path != root and is_inside(path, root):
        return os.path.relpath(path, root).replace(os.sep, "/")
    return path


def _csv_columns(file: str, options: ImageOptions, captions: bool) -> Columns:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        encoding = _encoding(file)
        with open(file, encoding=encoding, errors="surrogateescape", newline="") as lines:
            first = lines.readline()
            told = EXCELS.fullmatch(first)
            delimiter = told[1] if told else _delimiter(file, first, options)
            if not told:
                lines.seek(0)
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
            f"line {reader.line_num + bool(told)} of {display_path(file)} cannot be read ({error})",
            "well-formed csv",
            "Correct that line, or quote its field if it holds the separator",
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    finally:
        csv.field_size_limit(before)
    return paths, labels, label_at is not None


def _encoding(file: str) -> str:
    """UTF-8, or UTF-16 where the file begins with its mark."""
    with open(file, "rb") as start:
        return "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _delimiter(file: str, header: str, options: ImageOptions) -> str:
    """The one separator that cuts a column of paths out of the header; else its suffix's."""
    usual = "\t" if file.lower().endswith(".tsv") else ","
    wanted = {_plain(each) for each in (options.image_column or "path", *PATH_COLUMNS)}
    wanted.add(_plain(ESCAPED_COLUMNS[0]))
    for sign in (usual, *SEPARATORS):
        fields = [_plain(each.strip().strip('"')) for each in header.split(sign)]
        if len(fields) > 1 and wanted & {*fields}:
            return sign
    return usual


def _jsonl_columns(file: str, options: ImageOptions, captions: bool) -> Columns:
    paths: list[str] = []
    labels: list[str | None] = []
    fields: tuple[str, str | None] | None = None
    number = 0
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("it is no object")
                if fields is None:
                    path_at, label_at = _columns(file, list(record), options)
                    names = list(record)
                    fields = names[path_at], None if label_at is None else names[label_at]
                found = record.get(fields[1]) if fields[1] is not None else None
                for value in found if captions and isinstance(found, list) else [found]:
                    known = isinstance(value, str | int | float)
                    paths.append(str(record.get(fields[0]) or ""))
                    labels.append(label_text(value) if known else None)
    except (ValueError, RecursionError) as error:
        raise BlissError(
            f"line {number} of {display_path(file)} cannot be read ({error})",
            "a JSON object in each line",
            "Correct that line",
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    return paths, labels, fields is None or fields[1] is not None


def _parquet_columns(file: str, options: ImageOptions, captions: bool) -> Columns:
    try:
        with open(file, "rb") as opened:
            table = open_table(opened)
            schema = table.schema_arrow
            path_at, label_at = _columns(file, schema.names, options)
            names = [schema.names[path_at]]
            if label_at is not None:
                names.append(schema.names[label_at])
            read = _read_columns(table, opened, names, captions)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    values, found = read
    paths = ["" if value is None else str(value) for value in values]
    if label_at is None:
        return paths, [None] * len(paths), False
    return paths, found, True


def _read_columns(
    table: pq.ParquetFile, file: IO[bytes], names: list[str], captions: bool
) -> tuple[list[object], list[str | None]]:
    """The paths and labels; ArrowInvalid where they are much larger than the file."""
    paths: list[object] = []
    labels: list[str | None] = []
    check_rows(table, file)
    size, limit = 0, max(_MOST_TEXT, _MOST_RATIO * os.fstat(file.fileno()).st_size)
    for group in range(table.num_row_groups):
        for batch in parquet_batches(table, file, names, _ROWS_AT_ONCE, group):
            size += batch.nbytes
            if size > limit:
                raise pa.ArrowInvalid(f"its texts unpack to more than {limit >> 20} MiB")
            here = batch.column(names[0]).to_pylist()
            kind = batch.schema.field(names[-1]).type
            if captions and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                lists = [found or [None] for found in batch.column(names[1]).to_pylist()]
                here = [path for path, found in zip(here, lists, strict=True) for _ in found]
                labels += [label_text(text) for found in lists for text in found]
            elif len(names) > 1:
                labels += label_values(batch.column(names[1]), table.schema_arrow, names[1], None)
            paths += here
    return paths, labels


def _columns(file: str, names: Sequence[str], options: ImageOptions) -> tuple[int, int | None]:
    """Where the path column is, and the label column, if there is one."""
    where = display_path(file)
    path_names = (*PATH_COLUMNS, ESCAPED_COLUMNS[0])
    path = choose_named(where, names, options.image_column, path_names, "--image-column")
    if path is None:
        raise UsageError(
            f"{where} "
            + (
                f"has no column with paths among {', '.join(names)}"
                if any(names)
                else "names no columns"
            ),
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


PATH_COLUMNS = (
    "path", "file_name", "image_path", "image", "file", "file_path", "img_path", "image_name",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "cls", "category", "class_name", "target", "label_name",
    "class_label", "species", "breed",
)  # fmt: skip
"""The first of each kind that is there is taken."""
ESCAPED_COLUMNS = ("escaped_path", "escaped_label")
"""Of a csv file whose cells are as `csv_cells` writes them."""


class NoSuchColumn(UsageError):
    """A column that was named and is not there, or is several: `needed` lists those to choose."""


def choose_named(
    where: str,
    names: Sequence[str],
    given: str | None,
    usual: Sequence[str] = LABEL_COLUMNS,
    option: str = "--label-column",
) -> str | None:
    """`given`, or else the first of the `usual` names that is there, or None.

    A name counts in any case, and with spaces and other joints, where none is written just so:
    Class Name is class_name. NoSuchColumn naming `option` where `given` is not among `names`, or is
    several of them; UsageError where several have the chosen name.
    """
    if given is None:
        found = next((found[:1] for name in usual if (found := _spelled(names, name))), [])
        if not found:
            return None
    else:
        found = _spelled(names, given)
    if not found:
        raise NoSuchColumn(
            f"{where} has no column {given!r}",
            f"one of {', '.join(names) or 'none'}",
            f"Correct {option}",
        )
    if list(names).count(found[0]) > 1:
        raise UsageError(
            f"{where} has several columns called {found[0]!r}",
            "columns with names of their own",
            "Rename all but one of them",
        )
    if len(found) > 1:
        raise NoSuchColumn(
            f"{where} has several columns like {given!r}",
            f"one of {', '.join(found)}",
            f"Correct {option}",
        )
    return found[0]


def _spelled(names: Sequence[str], wanted: str) -> list[str]:
    """The names that are `wanted`, or else those that differ from it in case and joints alone."""
    if wanted in names:
        return [wanted]
    return [name for name in names if _plain(name) == _plain(wanted)]


def _plain(name: str) -> str:
    """The name of a column without case, spaces, hyphens and underscores."""
    return "".join(name.casefold().replace("_", " ").replace("-", " ").split())


def label_text(value: object) -> str | None:
    """A label as text: None for nothing, empty text and NaN; whole numbers without a point."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return valid_text(text.strip()) or None


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel column, from what `datasets` wrote into the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features["info"]["features"][column]["names"]
        return tuple(str(name) for name in names)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def image_features(schema: pa.Schema) -> list[str]:
    """The columns that `datasets` wrote as images."""
    try:
        features: Mapping[str, Any] = json.loads(
            (schema.metadata or {}).get(b"huggingface", b"{}")
        )["info"]["features"]
        return [name for name in schema.names if features[name].get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def is_too_long(value: pa.Scalar) -> bool:
    """Whether text is longer than a label may be; no Python object is made of it."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    text = value.as_buffer() if isinstance(value, pa.BinaryScalar) else None
    return text is not None and text.size > LONGEST_LABEL


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
