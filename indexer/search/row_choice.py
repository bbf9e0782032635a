"""Choosing captions of an index: by pattern, by source, by similarity to a text.

Patterns are matched by RE2, through Arrow: in time linear in the length of the caption, which
excludes back references and look-around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import UsageError
from ...tables import file_batches
from ..vectors.layout import metadata_file
from ..vectors.unit_rows import blocks_of
from .index import FolderIndex

CAPTIONS_AT_ONCE = 65_536


@dataclass(frozen=True)
class CaptionFilter:
    """Conditions on captions; those that are not None must all hold."""

    caption: str | None = None
    """A pattern found somewhere in the caption; RE2's syntax, `(?i)` to ignore case."""
    contains: str | None = None
    """A text found somewhere in it, whatever its case."""
    source: str | None = None
    """The source it is from."""
    like: str | None = None
    """A text whose cosine with it is above `above`."""
    above: float | None = None

    def __post_init__(self) -> None:
        if (self.like is None) != (self.above is None):
            given, left = ("like", "above") if self.above is None else ("above", "like")
            raise UsageError(f"--{given} was given without --{left}", "both", f"Add --{left}")
        if self.above is not None and not -1 <= self.above < 1:
            raise UsageError(
                f"a cosine above {self.above:g} was asked for", "-1 or more, below 1",
                "Correct --above",
            )  # fmt: skip
        if not self.facts():
            raise UsageError(
                "nothing says which captions are meant",
                "--caption, --contains, --source or --like, or several, which must all hold",
                "Add one",
            )
        for name in ("caption", "contains"):
            if getattr(self, name) is not None:
                _check_pattern(name, getattr(self, name))

    def facts(self) -> dict[str, Any]:
        """The conditions that are not None."""
        return {name: value for name, value in vars(self).items() if value is not None}


def matching_rows(
    index: FolderIndex, where: CaptionFilter, embed: Callable[[str], np.ndarray] | None = None
) -> np.ndarray:
    """int64 [u], ascending, the stored rows of the live captions that meet all conditions.

    `embed` returns the unit row [d] of a text and is called only for `like`. Raises UsageError for
    a source the index does not have.
    """
    chosen = np.ones(index.stored_count, bool)
    if index.live is not None:
        chosen[:] = False
        chosen[index.live] = True
    if where.source is not None:
        chosen &= _of_source(index, where.source)
    if where.caption is not None or where.contains is not None:
        for first, captions in _captions(index):
            here = chosen[first : first + len(captions)]
            here &= _matches(captions, where)
    if where.like is not None and where.above is not None:
        assert embed is not None
        query = embed(where.like)
        for first, block in blocks_of(index.stored):
            cosine = np.einsum("md,d->m", block, query, dtype=np.float64)
            chosen[first : first + len(block)] &= cosine > where.above
    return np.flatnonzero(chosen)


def _of_source(index: FolderIndex, name: str) -> np.ndarray:
    """bool [stored rows], those of one source."""
    names = [source.name for source in index.opened.manifest.sources]
    if name not in names:
        raise UsageError(
            f"{index.folder} has no source '{name}'", f"one of {', '.join(names)}", "Name it so"
        )
    found = np.zeros(index.stored_count, bool)
    ends = [*index.first_rows[1:], index.stored_count]
    for origin, first, end in zip(index.origins, index.first_rows, ends, strict=True):
        if origin.source == name:
            found[first:end] = True
    return found


def _captions(index: FolderIndex) -> Iterator[tuple[int, pa.Array]]:
    """(first stored row, captions) in row order, from the metadata, as Arrow arrays."""
    first = 0
    for number, rows in enumerate(index.opened.manifest.parts):
        if rows:
            name = metadata_file(number)
            index.opened.check(name)
            for batch in file_batches(index.folder / name, CAPTIONS_AT_ONCE, ["caption"]):
                yield first, batch.column(0)
                first += len(batch)


def _matches(captions: pa.Array, where: CaptionFilter) -> np.ndarray:
    found = np.ones(len(captions), bool)
    if where.caption is not None:
        found &= pc.match_substring_regex(captions, where.caption).to_numpy(zero_copy_only=False)
    if where.contains is not None:
        matched = pc.match_substring(captions, where.contains, ignore_case=True)
        found &= matched.to_numpy(zero_copy_only=False)
    return found


def _check_pattern(name: str, text: str) -> None:
    """Refuse invalid patterns, and an empty text, which every caption would match."""
    if not text:
        raise UsageError(f"--{name} is empty", "something to look for", "Leave it out")
    try:
        if name == "caption":
            pc.match_substring_regex(pa.array([""]), text)
        text.encode()
    except (pa.ArrowInvalid, UnicodeEncodeError) as error:
        reason = str(error).removeprefix("Invalid regular expression: ")
        raise UsageError(
            f"--{name} {text!r} is no pattern ({reason})",
            "a regular expression in RE2's syntax, without look-around and back references",
            "Correct it, or look for a plain text with --contains",
        ) from error
