"""Delimited text (csv, tsv, txt with columns): the separator and the header, found or given."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from ..errors import BlissError, UsageError
from .addresses import text_suffix
from .sources import CAPTION_COLUMNS, SEPARATORS, UNDECODABLE, CorpusOptions, choose_column

USUAL = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SAMPLE = 1 << 18
"""Bytes looked at."""
_RECORDS = 200

_HEADER_WORDS = frozenset(
    (*CAPTION_COLUMNS, *"captions title label class name id image filename file path url".split())
)
EXCELS = re.compile(r"sep=(.)\r?\n")
"""The first line by which a spreadsheet program tells itself the separator."""
_NUMBER = re.compile(r"[-+]?[\d.,:eE+-]*\d[\d.,%]*")
_FILE_OR_ADDRESS = re.compile(r"\S*://\S*|\S+\.[A-Za-z]\w{1,4}(#\S*)?|\S*[/\\]\S*")


@dataclass(frozen=True)
class Layout:
    """How the records of a delimited file are cut, and what was found rather than given."""

    delimiter: str
    header: bool
    quoted: bool
    """Whether a field in double quotes may hold the separator; not in .txt files."""
    column: str
    """By the header's names, or by numbers from 1 where there is no header."""
    usual: bool
    """Whether the separator is its suffix's and the first line a header."""

    @property
    def text(self) -> str:
        """What was decided, in words."""
        header = "the first line is a header" if self.header else "no header"
        return f"columns separated by {SEPARATORS[self.delimiter]}, {header}, column {self.column}"


def find_layout(file: IO[bytes], name: str, options: CorpusOptions) -> Layout:
    """The layout of a file, from its start and what `options` say.

    UsageError where the separator, the header or the column cannot be told from it.
    """
    sample = file.read(SAMPLE)
    cut = len(sample) == SAMPLE
    text = sample.decode("utf-8-sig", UNDECODABLE)
    if cut:
        text = text[: text.rfind("\n") + 1] or text
    suffix = text_suffix(name)
    quoted = suffix != ".txt"
    told = EXCELS.match(text)
    if told is not None and told[1] in SEPARATORS:
        text = text[told.end() :]
        options = replace(options, delimiter=options.delimiter or told[1])
    found = {
        each: records
        for each in SEPARATORS
        if (records := _sample_records(text, each, quoted, cut)) is not None
    }
    delimiter = _delimiter(name, text, found, options)
    records = found.get(delimiter) or []
    first, rest = (records[0] if records else []), records[1:]
    header = _has_header(name, first, rest, options)
    numbers = [str(number) for number in range(1, len(first) + 1)]
    names = [each.strip() for each in first] if header else numbers
    usual = delimiter == USUAL[suffix] and header
    column = _column(name, options.column, names, rest if header else records)
    return Layout(delimiter, header, quoted, column, usual)


def delimited_rows(
    file: IO[bytes], name: str, layout: Layout, before: int = 0
) -> Generator[tuple[int, list[str]], None, None]:
    """(line number from 1 where the record ends, its fields), blank lines left out.

    `before` is the number of lines that were read before.
    """
    with decoded(file, "", "utf-8" if before else "utf-8-sig") as text:
        start = text.readline()
        told = not before and EXCELS.fullmatch(start) is not None
        lines = text if told else itertools.chain([start] if start else [], text)
        reader = _reader(lines, layout.delimiter, layout.quoted)
        try:
            for fields in reader:
                if fields:
                    yield before + reader.line_num + told, fields
        except csv.Error as error:
            raise malformed(name, before + reader.line_num + told, str(error)) from error


FIRST_BLOCK, BLOCK = 1 << 16, 1 << 20
"""Bytes."""


def plain_blocks(file: IO[bytes], layout: Layout) -> Generator[bytes, None, None]:
    """Blocks of whole records that all readers of delimited text cut alike.

    Ends at the first block of which that is not certain; `file` is then just behind the last one.
    """
    if not file.seekable() or not layout.delimiter.isascii():
        return
    at, rest, size = file.tell(), b"", FIRST_BLOCK
    while True:
        read = file.read(size)
        data = rest + (read or b"\n" * bool(rest))
        cut = _plain_until(data, layout)
        if not cut:
            break
        yield data[:cut]
        at, rest, size = at + cut, data[cut:], BLOCK
        if not read:
            return
    file.seek(at)


def _plain_until(data: bytes, layout: Layout) -> int:
    """Where the last whole record of `data` ends; 0 where its records are not plain.

    They are where a quote only opens a field, ends it or is doubled in it, every line ends in LF or
    CR LF, and no record is longer than the csv module allows a field to be.
    """
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == ord("\n"))
    quotes = np.flatnonzero(codes == ord('"')) if layout.quoted else ends[:0]
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    if not len(ends) or np.diff(ends, prepend=-1).max() > csv.field_size_limit():
        return 0
    cut = int(ends[-1]) + 1
    if b"\0" in data or data.count(b"\r", 0, cut) != data.count(b"\r\n", 0, cut):
        return 0
    quotes = quotes[: np.searchsorted(quotes, cut)]
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening == 0, ord("\n"), codes[opening - 1])
    begins = np.isin(before, [ord("\n"), ord(layout.delimiter)])
    finishes = np.isin(codes[closing + 1], [*b"\r\n", ord(layout.delimiter)])
    doubled = closing[:-1] + 1 == opening[1:]
    begins[1:] |= doubled
    finishes[:-1] |= doubled
    return cut if begins.all() and finishes.all() else 0


def columns_in_lines(file: IO[bytes], name: str) -> str | None:
    """What to say of a .txt file, read line by line, that every line has columns; None otherwise.

    UsageError where its first line names them.
    """
    sample = file.read(SAMPLE)
    whole = sample if len(sample) < SAMPLE else sample[: sample.rfind(b"\n") + 1]
    text = whole.decode("utf-8-sig", UNDECODABLE)
    lines = [line for line in text.split("\n")[:_RECORDS] if line.strip()]
    first, rest = (lines[0] if lines else ""), lines[1:]
    for sign, what in SEPARATORS.items():
        named = [field.strip().lower() for field in first.split(sign)]
        known = {*named} & {*CAPTION_COLUMNS}
        if len(named) > 1 and known and all(re.fullmatch(r"[\w ]{1,30}", each) for each in named):
            if rest and all(line.count(sign) >= len(named) - 1 for line in rest):
                raise UsageError(
                    f"the first line of {name} ({first[:80]!r}) names columns",
                    "to know what is a caption: a .txt file has one a line",
                    f"Say --column {min(known)}, or give the file without that line",
                )
        counts = {line.count(sign) for line in lines}
        if sign == "\t" and len(lines) > 1 and len(counts) == 1 and 0 not in counts:
            columns = 1 + counts.pop()
            return (
                f"every line has {columns} columns separated by {what}, and is one text: "
                f"--column {columns} reads the last of them"
            )
    return None


@contextmanager
def decoded(
    file: IO[bytes], newline: str | None, encoding: str = "utf-8-sig"
) -> Generator[io.TextIOWrapper, None, None]:
    """`file` as text; EOFError where it ended before the size that its system gives."""
    with io.TextIOWrapper(file, encoding, UNDECODABLE, newline) as text:
        yield text
        size = getattr(file, "size", None)
        if isinstance(size, int) and file.tell() < size:
            raise EOFError(f"it ended after {file.tell():,} of {size:,} bytes")


def malformed(name: str, line: int, reason: str) -> BlissError:
    """The BlissError for a line that is not as its format needs it."""
    kind = text_suffix(name).removeprefix(".")
    return BlissError(
        f"line {line} of {name} cannot be read ({reason})",
        f"well-formed {kind}",
        "Correct that line"
        + ", or quote its field if it holds the separator" * (kind in ("csv", "tsv")),
    )


def _reader(lines: Any, delimiter: str, quoted: bool) -> Any:
    if quoted:
        return csv.reader(lines, delimiter=delimiter, strict=True)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _sample_records(text: str, delimiter: str, quoted: bool, cut: bool) -> list[list[str]] | None:
    """The first records as this separator cuts them; None where it cannot be the separator.

    It is one where there are two columns or more, no record has more than the first, and most have
    as many.
    """
    records: list[list[str]] = []
    try:
        for fields in _reader(io.StringIO(text, newline=""), delimiter, quoted):
            if fields:
                records.append(fields)
            if len(records) == _RECORDS:
                break
    except csv.Error:
        if not records:
            return None
    else:
        if cut and 1 < len(records) < _RECORDS:
            records.pop()
    sizes = [len(record) for record in records]
    if not sizes or sizes[0] < 2 or max(sizes) > sizes[0]:
        return None
    return records if 2 * sizes.count(sizes[0]) > len(sizes) else None


def _delimiter(
    name: str, text: str, found: dict[str, list[list[str]]], options: CorpusOptions
) -> str:
    usual = USUAL[text_suffix(name)]
    if options.delimiter is not None:
        if options.delimiter not in found:
            found[options.delimiter] = _one_column(text, options.delimiter, usual != "\t")
        return options.delimiter
    fitting = list(found)
    if len(fitting) > 1:
        known = [
            each
            for each in fitting
            if {options.column, *_HEADER_WORDS}
            & {field.strip().lower() for field in found[each][0]}
        ]
        fitting = known if len(known) == 1 else fitting
        fitting = ["\t"] if "\t" in fitting else fitting
    if len(fitting) == 1:
        return fitting[0]
    lines = [line for line in text.split("\n")[:_RECORDS] if line.strip()]
    unclear = fitting or [
        each
        for each in SEPARATORS
        if each != usual and lines and all(each in line for line in lines)
    ]
    if unclear:
        listed = " or ".join(SEPARATORS[each] for each in unclear)
        raise UsageError(
            f"the lines of {name} could be separated by {listed}"
            + ("" if fitting else ", but have unequal numbers of fields"),
            "one separator that cuts every line into the same columns",
            "Say which with --delimiter, or quote the fields that hold it",
        )
    found[usual] = _one_column(text, usual, text_suffix(name) != ".txt")
    return usual


def _one_column(text: str, delimiter: str, quoted: bool) -> list[list[str]]:
    rows = _reader(io.StringIO(text, newline=""), delimiter, quoted)
    records: list[list[str]] = []
    try:
        records += itertools.islice((fields for fields in rows if fields), _RECORDS)
    except csv.Error:
        pass
    return records


def _has_header(
    name: str, first: Sequence[str], rest: Sequence[Sequence[str]], options: CorpusOptions
) -> bool:
    """Whether the first record names the columns; UsageError where that cannot be told."""
    if options.header is not None:
        return options.header == "yes"
    named = [field.strip() for field in first]
    wanted = (options.column or "").split(",")
    if options.column is not None and not all(each.isdecimal() for each in wanted):
        return True  # by name, so there has to be one
    if text_suffix(name) == ".txt":
        return False
    if not named or _HEADER_WORDS & {field.lower() for field in named}:
        return True
    if len(set(named)) < len(named) or any(_is_data(field) for field in named):
        return False
    columns = [[row[at] for row in rest if at < len(row)] for at in range(len(named))]
    if any(map(_like, named, columns)):
        return False
    if any(map(_unlike, named, columns)):
        return True
    raise UsageError(
        f"the first line of {name} ({', '.join(map(repr, named))[:80]}) may be a header or data",
        "to know which",
        "Say --header yes or --header no; a .txt file without --column has one caption a line",
    )


def _is_data(field: str) -> bool:
    """Whether a field is surely no name of a column: empty, a number, a file, a sentence."""
    return not field or _is_number_or_file(field) or len(field.split()) > 3


def _unlike(field: str, values: Sequence[str]) -> bool:
    """Whether most values under a field of one word are files, numbers or phrases."""
    filled = [value.strip() for value in values if value.strip()]
    unlike = sum(_is_number_or_file(value) or len(value.split()) > 2 for value in filled)
    return len(field.split()) == 1 and 2 * unlike > len(filled)


def _like(field: str, values: Sequence[str]) -> bool:
    """Whether a field with digits has the form of the values below it, such as n001 over n002."""
    form = _form(field)
    return "0" in form and 2 * sum(_form(value) == form for value in values) > len(values)


def _form(value: str) -> str:
    """A text with 0 for runs of digits and a for runs of letters."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", value.strip()))


def _column(
    name: str, given: str | None, names: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """The chosen column by name; a number counts from 1 where no column has it for a name."""
    if given is not None and given not in names:
        numbered = [
            names[int(each) - 1]
            if each not in names and each.isdecimal() and 1 <= int(each) <= len(names)
            else each
            for each in given.split(",")
        ]
        given = ",".join(numbered)
    holds_text = [
        (each, not rows or _holds_text([row[at] for row in rows if at < len(row)]))
        for at, each in enumerate(names)
    ]
    return choose_column(name, given, holds_text)


def _holds_text(values: Sequence[str]) -> bool:
    """Whether most filled values are neither numbers nor files; true where none is filled."""
    filled = [value.strip() for value in values if value.strip()]
    return not filled or 2 * sum(map(_is_number_or_file, filled)) < len(filled)


def _is_number_or_file(value: str) -> bool:
    return _NUMBER.fullmatch(value) is not None or _FILE_OR_ADDRESS.fullmatch(value) is not None
