"""Text corpora: what a source of texts offers, how it picks its column, and how it is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from ..errors import UsageError

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

ACCEPTED_SPECS = (
    "imagenet-1k, paper-dictionary[:PATH], paper-dictionary-raw[:PATH], hf:owner/name, a "
    "dataset folder, or a .txt, .csv, .tsv, .jsonl, .parquet or COCO .json file"
)

CAPTION_COLUMNS = ("caption", "text", "sentence")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class TextBatch:
    """Some texts in corpus order: `texts` [b], and `rows` int64 [b], their source rows from 0.

    A row is the line of a text, dictionary or JSON-lines file, the annotation of a COCO file,
    the record below the header of a CSV file, the row of a parquet file or dataset split.
    """

    texts: list[str]
    rows: np.ndarray


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

    def facts(self) -> dict[str, JSON]:
        """What a manifest records: kind, spec, column, config, split, revision, fingerprint.

        The fingerprint is of the content, so it is the same on every machine.
        """

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Every text in order, at most `size` at a time, with bounded memory.

        Raises BlissError, naming file and line where there is one, for data it cannot read.
        """


@dataclass(frozen=True)
class CorpusOptions:
    """Which part of a corpus to read; None leaves the choice to the source."""

    column: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None


NO_OPTIONS = CorpusOptions()


def open_corpus(spec: str, options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """Open the corpus that `spec` names; see ACCEPTED_SPECS for the forms it may take.

    UsageError where nothing fits `spec`, the column, config or split is not there, or an option
    does not apply; BlissError where the data cannot be read or reached.
    """
    from . import builtin, hub, text_files

    scheme, _, rest = spec.partition(":")
    if spec == "imagenet-1k":
        refuse_options(spec, options, accepted=())
        return builtin.open_imagenet()
    if spec in builtin.PUBLISHED_DICTIONARIES:
        refuse_options(spec, options, accepted=())
        return builtin.open_published_dictionary(spec)
    if scheme in builtin.PUBLISHED_DICTIONARIES and rest:
        refuse_options(spec, options, accepted=())
        return builtin.open_dictionary(scheme, Path(rest).expanduser())
    if scheme == "hf" and _HUB_NAME.fullmatch(rest):
        return hub.open_hub_dataset(rest, options)
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        refuse_options(spec, options, accepted=("column", "config", "split"))
        return hub.open_dataset_folder(path, options)
    if path.is_file() and path.suffix.lower() in text_files.SUFFIXES:
        accepted = ("column",) if path.suffix.lower() in text_files.COLUMN_SUFFIXES else ()
        refuse_options(spec, options, accepted)
        return text_files.open_text_file(path, options.column)
    raise UsageError(
        f"{spec!r} is not a text corpus" + _reason(path, scheme, rest),
        ACCEPTED_SPECS,
        "Check the spelling and the path",
    )


def refuse_options(spec: str, options: CorpusOptions, accepted: Sequence[str]) -> None:
    """UsageError naming every option that is set although `spec` has no use for it."""
    unused = [
        name for name, value in vars(options).items() if value is not None and name not in accepted
    ]
    if unused:
        raise UsageError(
            f"{' and '.join(unused)} given for {spec!r}",
            f"only {' or '.join(accepted)} there" if accepted else "no such option there",
            f"Leave out {' and '.join(unused)}",
        )


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
                yield TextBatch(texts, np.asarray(rows, dtype=np.int64))
                texts, rows = [], []
    if texts:
        yield TextBatch(texts, np.asarray(rows, dtype=np.int64))


def choose_column(where: str, given: str | None, columns: Sequence[tuple[str, bool]]) -> str:
    """The column to read, from (name, holds text) pairs.

    `given`, or else the only one called caption, text or sentence, or else the only one with
    text. UsageError that lists the columns where `given` is absent or ambiguous, or none fits.
    """
    names = [name for name, _ in columns]
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
    kind = schema.field(column).type
    if not is_text(kind):
        raise UsageError(
            f"column {column!r} of {where} holds {kind}",
            "a column of strings or of lists of strings",
            "Name another column",
        )
    return column


def arrow_values(array: pa.Array | pa.ChunkedArray) -> list[object]:
    """A text column as Python values; bytes that are not UTF-8 become replacement characters."""
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        kind = array.type
        binary = pa.binary() if not hasattr(kind, "value_type") else pa.list_(pa.binary())
        return [_decoded(value) for value in array.cast(binary).to_pylist()]


def _decoded(value: object) -> object:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _reason(path: Path, scheme: str, rest: str) -> str:
    if path.is_file():
        return f": files ending in {path.suffix!r} are not read"
    if scheme == "hf":
        return ": a dataset repository is named hf:owner/name"
    if scheme in ("paper-dictionary", "paper-dictionary-raw") and not rest:
        return ": the dictionary's path is missing"
    return ": there is no such file or folder"
