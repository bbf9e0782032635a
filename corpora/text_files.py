"""Text files, on this machine or at an address, as one corpus: opening, fingerprint, texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..artefacts import digest, sha256_of
from ..errors import BlissError
from .addresses import base_name, is_remote, open_file, suffix_of
from .change_marks import check_unchanged, marks_of
from .prompts import CAPTION_PROMPT
from .sources import JSON, TextBatch, batch_values
from .text_records import COLUMN_SUFFIXES, SUFFIXES, Values, check_text_encoding, unreadable


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
    default_prompt: str = CAPTION_PROMPT
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

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
        return {
            "kind": "text-file",
            "spec": self.spec,
            "column": self.column,
            "config": None,
            "split": None,
            "revision": None,
            "fingerprint": fingerprint,
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The texts in order, `size` at a time; files are closed when the iterator is.

        BlissError, at the end, where a file was changed since it was opened.
        """
        with closing(self._values()) as values:
            yield from batch_values(values, size)

    def _values(self) -> Values:
        first = 0
        for address in self.addresses:
            done = 0
            read = SUFFIXES[suffix_of(address)]
            with closing(file_values(address, read, self.column)) as values:
                for row, value in values:
                    yield first + row, value
                    done = row + 1
            first += done
        check_unchanged(self.addresses, self.marks)


def file_values(
    address: str, read: Callable[[IO[bytes], str, Any], Values], column: str | None
) -> Values:
    """(row in the file, value) of one file; whatever fails names the file and the row."""
    done = 0
    try:
        with open_file(address) as file, closing(read(file, address, column)) as values:
            for row, value in values:
                yield row, value
                done = row + 1
    except BlissError:
        raise
    except Exception as error:
        raise unreadable(address, error, f" beyond row {done}") from error


def open_text_file(path: str | Path, column: str | None) -> TextFile:
    """Open one file by its suffix, one of SUFFIXES; see `open_text_files`."""
    address = os.fspath(path)
    return open_text_files(base_name(address), [address], column)


def open_text_files(spec: str, addresses: Sequence[str], column: str | None) -> TextFile:
    """Open files of one suffix as one corpus, to be called `spec`.

    `column` None takes the obvious one. UsageError where the column is not in the first file or
    none is obvious; BlissError where its first part cannot be read, or a file is not there.
    """
    first = addresses[0]
    suffix = suffix_of(first)
    marks = marks_of(addresses)
    try:
        if suffix != ".parquet":
            with open_file(first) as file:
                check_text_encoding(file, first)
        if suffix in COLUMN_SUFFIXES:
            with open_file(first) as file:
                column = COLUMN_SUFFIXES[suffix](file, first, column)
    except BlissError:
        raise
    except Exception as error:
        raise unreadable(first, error) from error
    return TextFile(spec, tuple(addresses), column, marks)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn a system error into a BlissError that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(str(path), error) from error
