"""Text files, on this machine or at an address, as one corpus: opening, fingerprint, texts.

The records of text files of five formats, each read from an opened file in one pass.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa

from ..artefacts import digest, sha256_of
from ..errors import BlissError
from ..tables import open_table, read_schema
from .addresses import (
    base_name,
    check_unchanged,
    is_gzip,
    is_remote,
    marks_of,
    open_file,
    text_suffix,
)
from .captions import CAPTION_PROMPT, PAPER_PROMPT
from .delimited import (
    Layout,
    columns_in_lines,
    decoded,
    delimited_rows,
    find_layout,
    malformed,
    plain_blocks,
)
from .parquet_pages import parquet_batches
from .sources import (
    JSON,
    NO_OPTIONS,
    CorpusOptions,
    TextBatch,
    arrow_values,
    batch_values,
    choose_arrow_column,
    choose_column,
    split_columns,
    split_values,
)


@dataclass(frozen=True)
class TextFile:
    """One file, or several with the same columns, with one text or list of texts per record.

    Rows count on from file to file.
    """

    spec: str
    addresses: tuple[str, ...]
    column: str | None
    marks: tuple[str, ...] = field(repr=False)
    """What every file's system said of its change when it was opened."""
    layout: Layout | None = None
    """How delimited text is cut; None for other formats and for lines without columns."""
    split_cells: str | None = None
    default_prompt: str = CAPTION_PROMPT
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None
    note: str | None = field(default=None, compare=False)
    """What else its user should know."""

    @property
    def notices(self) -> tuple[str, ...]:
        """How its lines are cut, where that is not taken for granted."""
        if self.note is not None:
            return (f"{self.spec}: {self.note}",)
        if self.layout is None or self.layout.usual:
            return ()
        return (f"{self.spec}: {self.layout.text}",)

    def facts(self) -> dict[str, JSON]:
        """Facts for manifests.

        The fingerprint is over the bytes of files on this machine, and over what the system of
        other files says of their change, so that they are fetched once.
        """
        if is_remote(self.addresses[0]):
            named = zip(map(base_name, self.addresses), self.marks, strict=True)
            fingerprint = f"remote:{digest({str(n): each for n, each in enumerate(named)})}"
        else:
            contents = []
            for path in self.addresses:
                with readable(path):
                    contents.append(sha256_of(Path(path)))
            fingerprint = f"sha256:{contents[0]}"
            if len(contents) > 1:
                fingerprint = f"files:{digest({str(n): each for n, each in enumerate(contents)})}"
        cut: dict[str, JSON] = {}
        if self.layout is not None and not self.layout.usual:
            header = "yes" if self.layout.header else "no"
            cut = {"delimiter": self.layout.delimiter, "header": header}
        if self.split_cells is not None:
            cut["split_cells"] = self.split_cells
        return {
            "kind": "text-file",
            "spec": self.spec,
            "column": self.column,
            "config": None,
            "split": None,
            "revision": None,
            **cut,
            "fingerprint": fingerprint,
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The texts in order, `size` at a time; files are closed when the iterator is.

        BlissError, at the end, where a file was changed since it was opened.
        """
        with closing(self._values()) as values:
            yield from batch_values(split_values(values, self.split_cells), size)

    def _values(self) -> Values:
        first = 0
        for address in self.addresses:
            done = 0
            read = SUFFIXES[text_suffix(address)] if self.layout is None else read_delimited
            how = self.column if self.layout is None else self.layout
            with closing(file_values(address, read, how)) as values:
                for row, value in values:
                    yield first + row, value
                    done = row + 1
            first += done
        check_unchanged(self.addresses, self.marks)


def file_values(address: str, read: Callable[[IO[bytes], str, Any], Values], how: object) -> Values:
    """(row in the file, value) of one file; whatever fails names the file and the row."""
    done = 0
    try:
        with open_text(address) as file, closing(read(file, address, how)) as values:
            for row, value in values:
                yield row, value
                done = row + 1
    except BlissError:
        raise
    except Exception as error:
        raise unreadable(address, error, f" beyond row {done}") from error


@contextmanager
def open_text(address: str) -> Iterator[IO[bytes]]:
    """A text file opened for reading, without its compression."""
    with open_file(address, read_ahead=text_suffix(address) != ".parquet") as file:
        if is_gzip(address):
            with gzip.open(file) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield file


def open_text_file(path: str | Path, column: str | None) -> TextFile:
    """Open one file by its suffix, one of SUFFIXES; see `open_text_files`."""
    address = os.fspath(path)
    return open_text_files(base_name(address), [address], CorpusOptions(column))


def open_text_files(
    spec: str, addresses: Sequence[str], options: CorpusOptions = NO_OPTIONS
) -> TextFile:
    """Open files of one suffix as one corpus, to be called `spec`.

    Without a column the obvious one is taken. UsageError where the column is not in the first file
    or none is obvious, or where the lines of delimited text can be cut in several ways; BlissError
    where its first part cannot be read, or a file is not there.
    """
    first = addresses[0]
    suffix = text_suffix(first)
    marks = marks_of(addresses)
    column, layout, note = options.column, None, None
    cut = (options.column, options.delimiter, options.header) != (None, None, None)
    try:
        if suffix != ".parquet":
            with open_text(first) as file:
                check_text_encoding(file, first)
        with open_text(first) as file:
            if suffix in DELIMITED or (suffix == ".txt" and cut):
                layout = find_layout(file, first, options)
                column = layout.column
            elif suffix == ".txt":
                note = columns_in_lines(file, first)
            elif suffix in COLUMN_SUFFIXES:
                column = COLUMN_CHOICES[suffix](file, first, column)
    except BlissError:
        raise
    except Exception as error:
        raise unreadable(first, error) from error
    prompt = CAPTION_PROMPT if options.split_cells is None else PAPER_PROMPT
    cells = options.split_cells
    return TextFile(spec, tuple(addresses), column, marks, layout, cells, prompt, note=note)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn a system error into a BlissError that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(str(path), error) from error


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
    nuls = start[::2].count(0), start[1::2].count(0)
    if max(nuls) > len(start) // 4 > min(nuls):
        raise BlissError(
            f"{name} is not UTF-8: every other byte is NUL, as in UTF-16 without its mark",
            "UTF-8 text",
            "Save it as UTF-8",
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
    """(record from 0, value) of delimited text as `layout` says.

    Arrow reads the blocks that it certainly reads as the csv module does, which takes a third of
    the time; the csv module reads the others.
    """
    header: list[str] | None = None
    wanted: list[int] | None = None

    def values(rows: Iterator[tuple[int, list[str]]]) -> Iterator[object]:
        nonlocal header, wanted
        for line, fields in rows:
            if header is None and layout.header:
                header = [each.strip() for each in fields]
                continue
            if wanted is None:
                header = header or [str(at) for at in range(1, len(fields) + 1)]
                wanted = [header.index(each) for each in _present(name, layout.column, header)]
            if header is not None and len(fields) > len(header):
                raise malformed(name, line, f"{len(fields)} fields under {len(header)} columns")
            yield joined([fields[at] if at < len(fields) else None for at in wanted])

    number = lines = 0
    for block in plain_blocks(file, layout):
        found = None
        if header is not None and wanted is not None:
            found = _arrow_values(block, layout, len(header), wanted)
        if found is None:
            found = values(delimited_rows(io.BytesIO(block), name, layout, lines))
        for value in found:
            yield number, value
            number += 1
        lines += block.count(b"\n")
    for value in values(delimited_rows(file, name, layout, lines)):
        yield number, value
        number += 1
    if wanted is None and header is not None:
        _present(name, layout.column, header)


def _arrow_values(
    block: bytes, layout: Layout, width: int, wanted: Sequence[int]
) -> Iterator[object] | None:
    """The values of a block of `plain_blocks`.

    None where it is not UTF-8, or where a record has more or fewer fields than `width`.
    """
    from pyarrow import csv

    names = [str(at) for at in range(width)]
    texts = [names[at] for at in wanted]
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
            csv.ParseOptions(
                delimiter=layout.delimiter,
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.string()), include_columns=texts
            ),
        )
    except pa.ArrowInvalid:
        return None
    return joined_columns([table[text] for text in texts])


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
        schema = read_schema(file)
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
        with open_table(file) as table:
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
