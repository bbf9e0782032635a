"""Search through a structure that is not exact, made exact where it can be.

The structure proposes rows; their similarities are those of the stored vectors, pair by pair in
float64, as in exact search. Rows that it does not cover are searched exactly. A query for which it
finds fewer than k rows is searched more widely, and in the end exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..vectors.nearest import CANDIDATE_BYTES, SPARE, Hits, Vectors, exact_order
from ..vectors.rows import exact_search, merge_hits

WIDENING = 4
MOST_BREADTH = 4096
"""A graph searched wider than this is slower than a scan."""

Propose = Callable[
    [np.ndarray, int, Mapping[str, int], "np.ndarray | None"], tuple[np.ndarray, np.ndarray]
]
"""Queries float32 [n, d], how many rows to propose, search parameters, and a little-endian bitmap
of the rows that may be (None: all) -> rough products and int64 rows [n, wanted], -1 for none."""
Exact = Callable[[Vectors, np.ndarray, int, "np.ndarray | None"], Hits]
"""Vectors, queries, k and the rows kept -> exact hits, as `exact_search` gives them."""


@dataclass(frozen=True)
class Structure:
    """What proposes rows, and how it is to be asked."""

    rows: int
    """It covers the stored rows below this one."""
    parameters: Mapping[str, int]
    lists: int
    """The most probes there can be; 0 where it has no lists."""
    most: int
    """The most rows it can propose at once."""
    selects: bool
    """Whether it leaves rows out while it looks; else they are dropped from what it proposes."""
    propose: Propose
    held: Any
    """FAISS's own object."""
    exact: Exact = exact_search
    """How what it cannot answer is searched."""


def search_with(
    structure: Structure,
    vectors: Vectors,
    newer: Vectors,
    queries: np.ndarray,
    k: int,
    kept: np.ndarray | None,
) -> Hits:
    """The k nearest stored rows of unit `queries` [n, d] that the structure and a scan find.

    `vectors` are all stored rows, `newer` those from row `structure.rows` on; `kept` names,
    ascending, the stored rows that may be found.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    old, new = kept, None
    covered, beyond = structure.rows, newer.count
    if kept is not None:
        cut = int(np.searchsorted(kept, structure.rows))
        old, new = kept[:cut], kept[cut:] - structure.rows
        covered, beyond = len(old), len(new)
    found = []
    if covered:
        found.append(_covered(structure, vectors, queries, min(k, covered), old))
    if beyond:
        hits = structure.exact(newer, queries, min(k, beyond), new)
        found.append(Hits(hits.similarity, hits.rows + structure.rows))
    return merge_hits(found, k)


def _covered(
    structure: Structure, vectors: Vectors, queries: np.ndarray, k: int, kept: np.ndarray | None
) -> Hits:
    """The k nearest rows among those that the structure covers and `kept` names."""
    count = structure.rows if kept is None else len(kept)
    wanted = min(max(k + SPARE, structure.parameters["candidates"] * k), count, structure.most)
    if k > structure.most or count <= wanted:
        return structure.exact(vectors, queries, k, _every(structure, vectors, kept))
    selected = None if kept is None else _bitmap(structure.rows, kept)
    hits = Hits(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
    waiting = [(np.arange(len(queries)), dict(structure.parameters), wanted)]
    while waiting:
        asked, parameters, most = waiting.pop()
        step = max(1, CANDIDATE_BYTES // (24 * most))
        if len(asked) > step:  # in batches, and still the same is asked of every query
            cut = range(0, len(asked), step)
            waiting += [(asked[first : first + step], parameters, most) for first in cut]
            continue
        _, rows = structure.propose(queries[asked], most, parameters, selected)
        enough = (rows >= 0).sum(axis=1) >= k
        some, lacking = asked[enough], asked[~enough]
        if some.size:
            similarity, rows = exact_order(queries[some], vectors, rows[enough])
            hits.similarity[some], hits.rows[some] = similarity[:, :k], rows[:, :k]
        if not lacking.size:
            continue
        wider, more = _wider(structure, parameters, most)
        if (wider, more) != (parameters, most):
            waiting.append((lacking, wider, more))
            continue
        rest = structure.exact(vectors, queries[lacking], k, _every(structure, vectors, kept))
        hits.similarity[lacking], hits.rows[lacking] = rest.similarity, rest.rows
    return hits


def _every(structure: Structure, vectors: Vectors, kept: np.ndarray | None) -> np.ndarray | None:
    """The rows to scan in the structure's stead: none but those that it covers."""
    if kept is None and structure.rows < vectors.count:
        return np.arange(structure.rows)
    return kept


def _wider(
    structure: Structure, parameters: Mapping[str, int], wanted: int
) -> tuple[dict[str, int], int]:
    """Parameters and number of proposals that find more; the same where nothing can grow."""
    wider = dict(parameters)
    for name, most in (("nprobe", structure.lists), ("efSearch", MOST_BREADTH)):
        if name in wider:
            wider[name] = max(wider[name], min(most, WIDENING * wider[name]))
    if structure.selects:  # then rows are lacking since they were not looked at
        return wider, wanted
    return wider, min(WIDENING * wanted, structure.most)


def _bitmap(rows: int, kept: np.ndarray) -> np.ndarray:
    """uint8 bits, least significant first, one a row: set for the rows of `kept`."""
    shown = np.zeros(rows, bool)
    shown[kept] = True
    return np.packbits(shown, bitorder="little")
