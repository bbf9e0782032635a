"""Which column of a table holds the captions, and its values as Python objects."""

from __future__ import annotations

from collections.abc import Container, Sequence

import pyarrow as pa

from ..errors import UsageError
from .sources import UNDECODABLE

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
        return candidates[0]
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
