"""The interface of text corpora: sources, options, batches, and the choice of a caption column.

Every reader of texts builds on this module, which imports none of them.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from ..arguments import checked_fields
from ..errors import UsageError

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

UNDECODABLE = "surrogateescape"
"""How readers decode UTF-8: `make_batch` counts and replaces what this leaves of other bytes."""

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""What may separate the columns of delimited text."""
HEADERS = ("yes", "no")

_ESCAPED = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TextBatch:
    """Some texts in corpus order: `texts` [b], and `rows` int64 [b], their source rows from 0.

    A row is the line of a text, dictionary or JSON-lines file, the annotation of a COCO file,
    the record of a CSV file (below its header, where it has one), the row of a parquet file or
    dataset split.
    """

    texts: list[str]
    rows: np.ndarray
    undecodable: int = 0
    """Texts with bytes that are not UTF-8, each of which is U+FFFD in `texts`."""


class TextSource(Protocol):
    """A corpus that can be read from the start as often as needed."""

    @property
    def spec(self) -> str:
        """What was opened, without the folders that lead to it."""

    @property
    def default_prompt(self) -> str:
        """The template its texts are made for: `{}`, or the paper's for lists of names."""

    @property
    def keeps_spaces(self) -> bool:
        """Whether spaces around and inside its texts are part of them, whatever the rules say."""

    @property
    def licence(self) -> str | None:
        """The terms its texts may be used under, as its preset or card words them, if known."""

    @property
    def preset(self) -> str | None:
        """The name of the preset it was opened by, if it was."""

    def facts(self) -> dict[str, JSON]:
        """What a manifest records: kind, spec, column, config, split, revision, fingerprint.

        The fingerprint is of the content, so it is the same on every machine.
        """

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Every text in order, at most `size` at a time, with bounded memory.

        Raises BlissError, naming file and line where there is one, for data it cannot read.
        """


@checked_fields
@dataclass(frozen=True)
class CorpusOptions:
    """Which part of a corpus to read; None leaves the choice to the source."""

    column: str | None = None
    """One column, or several with commas between them, whose texts are read row by row."""
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    split_cells: str | None = None
    """What parts the texts within a cell, such as a comma; the parts are names."""
    delimiter: str | None = None
    """What separates the columns of a csv, tsv or txt file, where not found from its lines."""
    header: str | None = None
    """"yes" or "no": whether the first line names the columns, where not found from its lines."""

    def __post_init__(self) -> None:
        for name, choices in (("header", HEADERS), ("delimiter", tuple(SEPARATORS))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UsageError(
                    f"{name} {value!r} was given",
                    f"one of {', '.join(map(repr, choices))}",
                    f"Leave --{name} out to have it found",
                )
        if self.split_cells == "":
            raise UsageError("cells cannot be split at nothing", "a separator", "Give , or ;")


NO_OPTIONS = CorpusOptions()


def batch_values(values: Iterable[tuple[int, object]], size: int) -> Iterator[TextBatch]:
    """Group (row, value) pairs into batches of `size` texts, the last one shorter.

    A list gives each of its items with the same row. A value or item that is no string, and an
    empty list, give an empty text, so that it is counted among the dropped ones.
    """
    if size < 1:
        raise UsageError(f"a batch size of {size}", "at least 1", "Ask for larger batches")
    texts: list[str] = []
    rows: list[int] = []
    for row, value in values:
        for item in value if isinstance(value, list) and value else (value,):
            texts.append(item if isinstance(item, str) else "")
            rows.append(row)
            if len(texts) == size:
                yield make_batch(texts, np.asarray(rows, dtype=np.int64))
                texts, rows = [], []
    if texts:
        yield make_batch(texts, np.asarray(rows, dtype=np.int64))


def notices_of(source: object) -> tuple[str, ...]:
    """What was decided on opening a corpus or a collection that its user should know."""
    found: tuple[str, ...] = getattr(source, "notices", ())
    return found


def split_values(
    values: Iterable[tuple[int, object]], separator: str | None
) -> Iterator[tuple[int, object]]:
    """The values with each text split at the separator and stripped; as they are without one."""
    if separator is None:
        yield from values
        return
    for row, value in values:
        items = value if isinstance(value, list) else [value]
        texts = (item for item in items if isinstance(item, str))
        yield row, [part.strip() for text in texts for part in text.split(separator)]


def make_batch(texts: list[str], rows: np.ndarray) -> TextBatch:
    """A batch of texts decoded with UNDECODABLE: other bytes become U+FFFD, and are counted.

    So do halves of surrogate pairs, which JSON can hold.
    """
    lost = [
        number
        for number, text in enumerate(texts)
        if not text.isascii() and _ESCAPED.search(text) is not None
    ]
    for number in lost:
        texts[number] = _ESCAPED.sub("\ufffd", texts[number])
    return TextBatch(texts, rows, len(lost))


CAPTION_COLUMNS = ("caption", "text", "sentence")


def split_columns(column: str, there: Container[str]) -> tuple[str, ...]:
    """The columns that `column` names: itself where it is `there`, or its parts at commas."""
    return (column,) if column in there else tuple(column.split(","))


def choose_column(where: str, given: str | None, columns: Sequence[tuple[str, bool]]) -> str:
    """The column to read, from (name, holds text) pairs.

    `given`, which may be several with commas between them, or else the only one called caption,
    text or sentence, or else the only one with text. UsageError that lists the columns where
    `given` is absent or ambiguous, or none fits.
    """
    names = [name for name, _ in columns]
    if given is not None and given not in names and "," in given:
        for each in given.split(","):
            choose_column(where, each, columns)
        return given
    listed = ", ".join(repr(name) for name in names) or "none"
    texts = [name for name, holds_text in columns if holds_text]
    named = [name for name in texts if name.lower() in CAPTION_COLUMNS]
    if given is None:
        candidates = named or texts
        problem = "no column was given and no single one looks like the captions"
    else:
        candidates = [name for name in names if name == given]
        problem = f"there is {'more than one' if candidates else 'no'} column {given!r}"
    if len(candidates) == 1:
        if names.count(candidates[0]) == 1:
            return candidates[0]
        problem = f"there is more than one column {candidates[0]!r}"
    raise UsageError(
        f"in {where} {problem}",
        f"one of its columns ({listed})",
        "Name the column; a csv or tsv file needs a header as its first line, and without one can "
        "be given as .txt, where the whole line is the caption",
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings, or lists of strings."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def choose_arrow_column(where: str, given: str | None, schema: pa.Schema) -> str:
    """`choose_column` for an Arrow schema; UsageError too where `given` holds no text."""
    column = choose_column(where, given, [(field.name, is_text(field.type)) for field in schema])
    for each in split_columns(column, schema.names):
        kind = schema.field(each).type
        if not is_text(kind):
            raise UsageError(
                f"column {each!r} of {where} holds {kind}",
                "a column of strings or of lists of strings",
                "Name another column",
            )
    return column


def arrow_values(array: pa.Array | pa.ChunkedArray) -> list[object]:
    """A text column as Python values; bytes that are not UTF-8 stay as UNDECODABLE leaves them."""
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        kind = array.type
        binary = pa.binary() if not hasattr(kind, "value_type") else pa.list_(pa.binary())
        return [_decoded(value) for value in array.cast(binary).to_pylist()]


def _decoded(value: object) -> object:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", UNDECODABLE) if isinstance(value, bytes) else value
