"""Text files, on this machine or at an address, as one corpus: opening, fingerprint, texts."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..artefacts import digest, sha256_of
from ..errors import BlissError
from .addresses import base_name, is_gzip, is_remote, open_file, text_suffix
from .change_marks import check_unchanged, marks_of
from .delimited import Layout, find_layout
from .prompts import CAPTION_PROMPT, PAPER_PROMPT
from .sources import (
    JSON,
    NO_OPTIONS,
    CorpusOptions,
    TextBatch,
    batch_values,
    split_values,
)
from .text_records import (
    COLUMN_CHOICES,
    COLUMN_SUFFIXES,
    DELIMITED,
    SUFFIXES,
    Values,
    check_text_encoding,
    read_delimited,
    unreadable,
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

    @property
    def notices(self) -> tuple[str, ...]:
        """How its lines are cut, where that is not taken for granted."""
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
    column, layout = options.column, None
    cut = (options.column, options.delimiter, options.header) != (None, None, None)
    try:
        if suffix != ".parquet":
            with open_text(first) as file:
                check_text_encoding(file, first)
        with open_text(first) as file:
            if suffix in DELIMITED or (suffix == ".txt" and cut):
                layout = find_layout(file, first, options)
                column = layout.column
            elif suffix in COLUMN_SUFFIXES:
                column = COLUMN_CHOICES[suffix](file, first, column)
    except BlissError:
        raise
    except Exception as error:
        raise unreadable(first, error) from error
    prompt = CAPTION_PROMPT if options.split_cells is None else PAPER_PROMPT
    return TextFile(spec, tuple(addresses), column, marks, layout, options.split_cells, prompt)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn a system error into a BlissError that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(str(path), error) from error
