"""Searchers: the k nearest of an index's stored rows, exactly or through a FAISS structure.

Similarities are those of the stored vectors in every case, pair by pair in float64. A structure
proposes rows; which ones it finds is approximate. Rows added since it was made are searched
exactly, and so is a query for which it finds fewer than k rows however widely it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Protocol

import numpy as np

from ..vectors.nearest import (
    CANDIDATE_BYTES,
    SPARE,
    Hits,
    exact_order,
    exact_search,
    merge_hits,
)
from ..vectors.rows import SelectedRows
from ..vectors.unit_rows import Rows

WIDENING = 4
MOST_BREADTH = 4096
"""A graph searched wider than this is slower than a scan."""


class Searcher(Protocol):
    """A search of `rows`."""

    rows: Rows

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """The k nearest of the rows `live` int64 [m], ascending, or of all (None).

        `queries` float32 [n, d] are unit rows; hits are numbered as in `rows`.
        """


class ExactSearcher:
    """Exact search by a scan on the CPU."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """See `Searcher`; errors as of `exact_search`."""
        if live is None:
            return exact_search(queries, self.rows, k)
        hits = exact_search(queries, SelectedRows(self.rows, live), k)
        return Hits(hits.similarity, live[hits.rows])


class Structure(Protocol):
    """What proposes rows."""

    rows: int
    """It covers the stored rows below this one."""
    parameters: Mapping[str, int]
    lists: int
    """The most probes there can be; 0 where it has no lists."""
    most: int
    """The most rows it can propose at once."""
    selects: bool
    """Whether it leaves rows out while it looks; else they are dropped from what it proposes."""

    def propose(
        self,
        queries: np.ndarray,
        wanted: int,
        parameters: Mapping[str, int],
        selected: np.ndarray | None,
    ) -> np.ndarray:
        """int64 [n, wanted], the rows that look nearest to each query, -1 for none.

        `selected` is a little-endian bitmap of the rows that may be proposed (None: all).
        """


class StructureSearcher:
    """Search through a structure.

    `exact` searches all stored rows, `newer` those that the structure does not cover. `load` gives
    the structure, for the first query.
    """

    def __init__(self, load: Callable[[], Structure], exact: Searcher, newer: Searcher) -> None:
        self.load, self.exact, self.newer = load, exact, newer
        self.rows = exact.rows

    @cached_property
    def structure(self) -> Structure:
        """The structure; errors as of `load`."""
        return self.load()

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        queries = np.ascontiguousarray(queries, np.float32)
        rows = self.structure.rows
        old, new = live, None
        covered, beyond = rows, len(self.newer.rows)
        if live is not None:
            cut = int(np.searchsorted(live, rows))
            old, new = live[:cut], live[cut:] - rows
            covered, beyond = len(old), len(new)
        found = []
        if covered:
            found.append(self._covered(queries, min(k, covered), old))
        if beyond:
            hits = self.newer.search(queries, min(k, beyond), new)
            found.append(Hits(hits.similarity, hits.rows + rows))
        return merge_hits(found, k)

    def _covered(self, queries: np.ndarray, k: int, live: np.ndarray | None) -> Hits:
        """The k nearest of the rows that the structure covers and that are `live`."""
        structure = self.structure
        count = structure.rows if live is None else len(live)
        wanted = min(max(k + SPARE, structure.parameters["candidates"] * k), count, structure.most)
        if k > structure.most or count <= wanted:
            return self._scan(queries, k, live)
        selected = None if live is None else _bitmap(structure.rows, live)
        hits = Hits(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
        waiting = [(np.arange(len(queries)), dict(structure.parameters), wanted)]
        while waiting:
            batch, parameters, most = waiting.pop()
            step = max(1, CANDIDATE_BYTES // (24 * most))
            if len(batch) > step:  # too many at once; each smaller batch uses the same settings
                starts = range(0, len(batch), step)
                waiting += [(batch[first : first + step], parameters, most) for first in starts]
                continue
            rows = structure.propose(queries[batch], most, parameters, selected)
            enough = (rows >= 0).sum(axis=1) >= k
            done, lacking = batch[enough], batch[~enough]
            if done.size:
                similarity, rows = exact_order(queries[done], self.rows, rows[enough])
                hits.similarity[done], hits.rows[done] = similarity[:, :k], rows[:, :k]
            if not lacking.size:
                continue
            wider, more = _wider(structure, parameters, most)
            if (wider, more) != (parameters, most):
                waiting.append((lacking, wider, more))
                continue
            rest = self._scan(queries[lacking], k, live)
            hits.similarity[lacking], hits.rows[lacking] = rest.similarity, rest.rows
        return hits

    def _scan(self, queries: np.ndarray, k: int, live: np.ndarray | None) -> Hits:
        """Exact search of the rows that the structure covers."""
        if live is None and self.structure.rows < len(self.rows):
            live = np.arange(self.structure.rows)
        return self.exact.search(queries, k, live)


def _wider(
    structure: Structure, parameters: Mapping[str, int], wanted: int
) -> tuple[dict[str, int], int]:
    """Parameters and number of proposals that find more; unchanged where nothing can grow."""
    wider = dict(parameters)
    for name, most in (("nprobe", structure.lists), ("efSearch", MOST_BREADTH)):
        if name in wider:
            wider[name] = max(wider[name], min(most, WIDENING * wider[name]))
    if structure.selects:  # then rows are lacking because the search did not reach them
        return wider, wanted
    return wider, min(WIDENING * wanted, structure.most)


def _bitmap(rows: int, live: np.ndarray) -> np.ndarray:
    """uint8 bits, least significant first, one a row: set for the rows of `live`."""
    shown = np.zeros(rows, bool)
    shown[live] = True
    return np.packbits(shown, bitorder="little")
