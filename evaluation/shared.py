"""What the scores of an evaluation have in common is made once: the search, sums over texts."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..indexer.nearest import Vectors, nearest_texts
from ..scorer.retrieved import Retrieved, gather_texts
from ..scorer.scores.contract import Fitted, Query
from ..scorer.scores.text_terms import search_with_terms, terms_of
from .world import World

Made = TypeVar("Made")


@dataclass(frozen=True)
class Cost:
    """Seconds and the most bytes that arrays took at once (what FAISS takes is not counted)."""

    seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.seconds + other.seconds, max(self.peak_bytes, other.peak_bytes))


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace what arrays take while this lasts: once for a whole evaluation, since switching on and
    off while a thread is about to end can crash Python 3.11."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        yield
    finally:
        if not already:
            tracemalloc.stop()


def measured(way: Callable[[], Made]) -> tuple[Made, Cost]:
    """What `way` makes and what it costs, in one run: tracing hardly slows work on arrays."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    start = time.perf_counter()
    made = way()
    seconds = time.perf_counter() - start
    return made, Cost(seconds, max(0, tracemalloc.get_traced_memory()[1] - before))


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean of the seconds and the largest of the bytes."""
    whole = sum(costs, Cost())
    return replace(whole, seconds=whole.seconds / len(costs))


def shared_queries(
    world: World,
    asked: Sequence[np.ndarray],
    texts: Vectors,
    k: int,
    fitted: Mapping[str, Sequence[Fitted]],
) -> tuple[list[Query], dict[str, Cost]]:
    """A query for each int64 array of world rows in `asked`, from one pass over images and texts.

    The pass finds the k nearest texts and works out what the `fitted` scores (of each name one a
    draw) ask of all texts. Its cost goes in equal parts to the scores that asked, for one draw:
    the search comes with it. Where none asked, FAISS searches.
    """
    rows = np.unique(np.concatenate(asked))
    images = world.images[rows]
    asking = {name: made for name, made in fitted.items() if any(map(terms_of, made))}
    costs: dict[str, Cost] = {}
    if asking:
        every = [one for made in asking.values() for one in made]
        corpus = next(term for one in every for term in terms_of(one)).texts
        whole, cost = measured(lambda: search_with_terms(images, corpus, k, every))
        cost = replace(cost, seconds=cost.seconds / sum(map(len, asking.values())))
        costs = dict.fromkeys(asking, cost)
    elif texts.count:
        whole = Query(images, gather_texts(nearest_texts(images, texts, k), texts.fetch))
    else:
        whole = Query(images)
    return [_cut(whole, np.searchsorted(rows, some)) for some in asked], costs


def _cut(whole: Query, rows: np.ndarray) -> Query:
    """What asking about some of the images alone would have given."""
    terms = {term: values[rows] for term, values in whole.terms.items()}
    retrieved = whole.retrieved
    if retrieved is not None:
        distinct, position = np.unique(retrieved.position[rows], return_inverse=True)
        retrieved = Retrieved(
            retrieved.similarity[rows],
            retrieved.rows[rows],
            position.reshape(retrieved.rows[rows].shape).astype(np.int32),
            retrieved.vectors[distinct],
        )
    return Query(whole.images[rows], retrieved, terms)
