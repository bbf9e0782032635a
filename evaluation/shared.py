"""What scores have in common in an evaluation is worked out once: sums over all the texts."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..scorer.scores.contract import Fitted, Query
from ..scorer.scores.text_terms import terms_of, with_terms
from .draws import Draw
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


def measured(way: Callable[[], Made]) -> tuple[Made, Cost]:
    """What `way` makes and what it costs, in one run: tracing hardly slows work on arrays."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        start = time.perf_counter()
        made = way()
        seconds = time.perf_counter() - start
        return made, Cost(seconds, max(0, tracemalloc.get_traced_memory()[1] - before))
    finally:
        if not already:
            tracemalloc.stop()


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean of the seconds and the largest of the bytes."""
    whole = sum(costs, Cost())
    return replace(whole, seconds=whole.seconds / len(costs))


def share_terms(
    world: World,
    draws: Sequence[Draw],
    queries: Sequence[Query],
    fitted: Mapping[str, Sequence[Fitted]],
) -> tuple[list[Query], dict[str, Cost]]:
    """Each draw's query with the terms over texts that its scores ask for, from one pass.

    `fitted` has for each score one of each draw. The cost of the pass goes in equal parts to the
    scores that asked, for one draw. Terms are worked out for the test images of all draws, which
    mostly share them.
    """
    asking = {name: made for name, made in fitted.items() if any(map(terms_of, made))}
    if not asking:
        return list(queries), {}
    tested = np.unique(np.concatenate([draw.test for draw in draws]))
    every = [one for made in asking.values() for one in made]
    whole, cost = measured(lambda: with_terms(Query(world.images[tested]), every))
    found = []
    for number, (draw, query) in enumerate(zip(draws, queries, strict=True)):
        rows = np.searchsorted(tested, draw.test)
        own = [term for made in asking.values() for term in terms_of(made[number])]
        found.append(replace(query, terms={term: whole.terms[term][rows] for term in own}))
    each = Cost(cost.seconds / len(asking) / len(draws), cost.peak_bytes)
    return found, dict.fromkeys(asking, each)
