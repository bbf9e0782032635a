"""A caption index as its users see it: M captions with vectors and origins, numbered 0..M - 1.

An `Engine` searches one somewhere else.

`index.py` opens and joins the indexes that are on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ...arguments import checked_arrays
from ...errors import BlissError
from ..encode.encoder import Encoder
from ..vectors.nearest import Hits, check_k
from ..vectors.unit_rows import Rows, slices

CAPTIONS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Origin:
    """Where a caption is from."""

    index: str
    """The folder or address of its index."""
    source: str
    licence: str | None


class CaptionIndex(Protocol):
    """M captions that can be searched."""

    @property
    def folder(self) -> Path:
        """Its folder; of several joined ones the first."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its folder says of it; of joined ones what all say together."""

    @property
    def vectors(self) -> Rows:
        """M unit rows."""

    @property
    def live(self) -> np.ndarray | None:
        """int64 [M], ascending, the stored row of each caption; None where all rows are live."""

    @property
    def stored_count(self) -> int:
        """How many rows are stored, live or not."""

    @property
    def origins(self) -> Sequence[Origin]:
        """The sources that have rows, in the order of their rows."""

    def nearest(self, queries: np.ndarray, k: int) -> Hits:
        """The hits of `search`, which checks what it is given before it calls this."""

    def captions_of(self, rows: np.ndarray) -> list[str]:
        """The captions of rows int64 [u]; BlissError where a file is missing or has changed."""

    def origins_of(self, rows: np.ndarray) -> list[Origin]:
        """Where each of rows int64 [u] is from."""

    def without(self, hidden: np.ndarray) -> CaptionIndex:
        """The same index without rows `hidden` int64 [u]; the others are renumbered."""

    @property
    def count(self) -> int:
        """M."""

    @property
    def model(self) -> Mapping[str, Any]:
        """The facts of the model its vectors come from."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Searches and computes somewhere: an audit has one."""

    def spread(
        self, index: CaptionIndex, exact: bool = False
    ) -> AbstractContextManager[CaptionIndex]:
        """The same index with the same hits, searched by the engine for as long as the block.

        If `exact`, with the hits of an exact search, whatever its kind is.
        """

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the built-in `map` gives, in the order of `items`; other processes call `task`.

        Both are copied there: files are to be at the same path.
        """


@checked_arrays(vectors=("queries",))
def search_index(index: CaptionIndex, queries: np.ndarray, k: int) -> Hits:
    """The k captions nearest to each unit row of `queries` [n, d].

    Similarities are exact relative to the stored vectors, upcast to float32 and renormalised; so
    are the rows, unless the index has an approximate kind of search. Raises UsageError when k is
    not between 1 and M, BlissError for queries of another dimension.
    """
    if queries.shape[1] != index.model["dimension"]:
        raise BlissError(
            f"queries of {queries.shape[1]} dimensions were given",
            f"{index.model['dimension']} dimensions, as {index.folder} has",
            "Embed both with the same model",
        )
    check_k(k, index.count)
    return index.nearest(queries, k)


search = search_index
"""The public name, `blissaudit.search`; inside, the package `indexer.search` has taken it."""


def find_captions(index: CaptionIndex, wanted: Mapping[str, str]) -> dict[str, int]:
    """For each key of `wanted`, the first row whose caption equals its text, where there is one.

    Texts are compared in lower case, with underscores and hyphens as spaces.
    """
    keys: dict[str, list[str]] = {}
    for key, text in wanted.items():
        keys.setdefault(plain(text), []).append(key)
    found: dict[str, int] = {}
    for row, caption in enumerate(iter_captions(index)):
        for key in keys.get(plain(caption), ()):
            found.setdefault(key, row)
        if len(found) == len(wanted):
            break
    return found


def text_vector(text: str, index: CaptionIndex, encoder: Encoder | None) -> np.ndarray | None:
    """float32 [d], the vector of a text: from the model, else from the index if it has the text."""
    if encoder is not None:
        return encoder.encode_texts([text])[0]
    found = find_captions(index, {text: text})
    return index.vectors[np.array([found[text]])][0] if found else None


def iter_captions(index: CaptionIndex) -> Iterator[str]:
    """Every caption in row order; CAPTIONS_AT_ONCE are read at a time."""
    for some in slices(index.count, CAPTIONS_AT_ONCE):
        yield from index.captions_of(np.arange(some.start, some.stop))


def plain(text: str) -> str:
    """Lower case, with underscores and hyphens as spaces."""
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())


def origin_names(index: CaptionIndex, rows: np.ndarray) -> list[str]:
    """A name for the origin of each of rows int64 [u].

    The source; where there are several indexes with the name of the index before it, or the whole
    folder where two have the same name.
    """
    folders = sorted({origin.index for origin in index.origins})
    names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = folders
    prefixes = dict(zip(folders, [f"{name}: " for name in names], strict=True))
    if len(folders) == 1:
        prefixes = {folders[0]: ""}
    return [prefixes[origin.index] + origin.source for origin in index.origins_of(rows)]
