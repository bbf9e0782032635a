"""The records of text files of five formats, each read from an opened file in one pass."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BlissError
from .columns import arrow_values, choose_arrow_column, choose_column, split_columns
from .delimited import Layout, decoded, delimited_rows, malformed
from .parquet_pages import parquet_batches

START = 4096  # bytes looked at to tell text from what is none
MAX_LINE = 1 << 20  # characters; a longer line is no caption, and would have to fit in memory

_SAMPLE = 100  # JSON lines looked at to learn which columns there are
_ROWS = 4096  # parquet rows decoded at a time

Values: TypeAlias = Generator[tuple[int, object], None, None]


def check_text_encoding(file: IO[bytes], name: str) -> None:
    """BlissError for UTF-16, UTF-32 and no text at all, which would else be read as rubbish."""
    start = file.read(START)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BlissError(
            f"{name} is not UTF-8: it starts like UTF-16", "UTF-8 text", "Save it as UTF-8"
        )
    if b"\x00\x00" in start:
        raise BlissError(
            f"{name} is not text: it holds runs of NUL bytes", "UTF-8 text", "Check the file"
        )
    lost = start.decode("utf-8", "replace").count("\ufffd")
    if lost > len(start) // 10:
        raise BlissError(
            f"{name} is not UTF-8: {lost:,} of its first {len(start):,} bytes belong to no "
            "character",
            "UTF-8 text",
            "Save it as UTF-8, or check that it is the right file",
        )


def read_lines(file: IO[bytes], name: str) -> Generator[tuple[int, str], None, None]:
    """(line number from 0, line without its end); BlissError for a line over MAX_LINE."""
    with decoded(file, None) as text:
        for number in itertools.count():
            line = text.readline(MAX_LINE)
            if not line:
                return
            if len(line) == MAX_LINE and not line.endswith("\n"):
                raise BlissError(
                    f"line {number + 1} of {name} has more than {MAX_LINE - 1:,} characters",
                    "one text a line",
                    "Check that this is the right file",
                )
            yield number, line.removesuffix("\n")


def read_delimited(file: IO[bytes], name: str, layout: Layout) -> Values:
    """(record from 0, value) of delimited text as `layout` says."""
    rows = delimited_rows(file, name, layout)
    header: list[str] | None = None
    if layout.header:
        header = [each.strip() for each in next(rows, (0, [layout.column]))[1]]
    wanted: list[int] | None = None
    for number, (line, fields) in enumerate(rows):
        if wanted is None:
            header = header or [str(at) for at in range(1, len(fields) + 1)]
            wanted = [header.index(each) for each in _present(name, layout.column, header)]
        if header is not None and len(fields) > len(header):
            raise malformed(name, line, f"{len(fields)} fields under {len(header)} columns")
        yield number, joined([fields[at] if at < len(fields) else None for at in wanted])
    if wanted is None and header is not None:
        _present(name, layout.column, header)


def _json_objects(
    file: IO[bytes], name: str
) -> Generator[tuple[int, dict[str, object]], None, None]:
    """(line number from 0, object), blank lines left out."""
    for number, line in read_lines(file, name):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise malformed(name, number + 1, str(error)) from error
        if not isinstance(record, dict):
            raise malformed(name, number + 1, f"a {type(record).__name__}, not an object")
        yield number, record


def _json_column(file: IO[bytes], name: str, given: str | None) -> str:
    """Columns are those of the first records together, in order of appearance."""
    holds_text: dict[str, bool] = {}
    for _, record in itertools.islice(_json_objects(file, name), _SAMPLE):
        for key, value in record.items():
            items = value if isinstance(value, list) else [value]
            text = any(isinstance(item, str) for item in items)
            holds_text[key] = holds_text.get(key, False) or text
    return choose_column(name, given, list(holds_text.items()))


def _read_jsonl(file: IO[bytes], name: str, column: str) -> Values:
    for number, record in _json_objects(file, name):
        wanted = split_columns(column, record)
        yield number, joined([record.get(each) for each in wanted])


def _parquet_column(file: IO[bytes], name: str, given: str | None) -> str:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(name, error) from error
    return choose_arrow_column(name, given, schema)


def read_parquet(file: IO[bytes], name: str, column: str) -> Values:
    """(row from 0, value) of one column, or several; BlissError where they cannot be read.

    Everything is read by the calling thread: Arrow's own threads, when left in the middle of a
    file that is a Python object, can keep the interpreter from ending.
    """
    row = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False) as table:
            wanted = _present(name, column, table.schema_arrow.names)
            for group in range(table.num_row_groups):
                for batch in parquet_batches(table, file, wanted, _ROWS, group):
                    for value in joined_columns([batch.column(each) for each in wanted]):
                        yield row, value
                        row += 1
    except (pa.ArrowException, OSError) as error:
        raise unreadable(name, error, f" beyond row {row}") from error


def _read_coco(file: IO[bytes], name: str, column: None) -> Values:
    """Captions of a COCO annotation file, which its format obliges one to read whole."""
    try:
        with decoded(file, None) as text:
            content = json.load(text)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(name, error) from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    captions = [
        annotation.get("caption") if isinstance(annotation, dict) else None
        for annotation in (annotations if isinstance(annotations, list) else [])
    ]
    if not any(isinstance(caption, str) for caption in captions):
        raise BlissError(
            f"{name} is JSON without captions",
            "a COCO annotation file: annotations, each with a caption",
            "Give other JSON as .jsonl, one object a line",
        )
    yield from enumerate(captions)


def joined_columns(arrays: Sequence[pa.Array | pa.ChunkedArray]) -> Iterator[object]:
    """The values of text columns of equal length, row by row; see `joined`."""
    if len(arrays) == 1:
        return iter(arrow_values(arrays[0]))
    return (joined(values) for values in zip(*map(arrow_values, arrays), strict=True))


def joined(values: Sequence[object]) -> object:
    """What the columns of a row hold: one value, or the list of all texts in several."""
    if len(values) == 1:
        return values[0]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _present(name: str, column: str, there: Sequence[str]) -> tuple[str, ...]:
    """The columns that `column` names; BlissError where a file lacks one."""
    wanted = split_columns(column, there)
    for each in wanted:
        if each not in there:
            raise BlissError(
                f"{name} has no column {each!r}",
                "the same columns in every file of a dataset",
                "Correct that file or leave it out",
            )
    return wanted


def unreadable(name: str, error: Exception, where: str = "") -> BlissError:
    """The BlissError for a file that cannot be read, or not beyond some row."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BlissError(
        f"{name} could not be read{where} ({reason})",
        "a complete, readable file",
        "Check the file and its permissions, or fetch it again",
    )


DELIMITED = (".csv", ".tsv")
COLUMN_SUFFIXES = (*DELIMITED, ".jsonl", ".parquet")
"""Suffixes of files with columns; a .txt file can have some too."""
COLUMN_CHOICES: dict[str, Callable[[IO[bytes], str, str | None], str]] = {
    ".jsonl": _json_column,
    ".parquet": _parquet_column,
}
SUFFIXES: dict[str, Callable[[IO[bytes], str, Any], Values]] = {
    ".txt": lambda file, name, _: read_lines(file, name),
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": _read_jsonl,
    ".parquet": read_parquet,
    ".json": _read_coco,
}
