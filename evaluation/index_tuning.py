"""Choose the kind of search of an index, measured with image queries against exact search.

Queries are images, which are distributed unlike texts; so recall is measured with images, and with
held-out texts only for comparison. Settings are chosen on one
half of the image queries, and what is reported and must hold is the recall on the other half.

Choosing is a fixed sequence of tests (Angelopoulos et al., Learn then Test, arXiv 2110.01052): the
settings that no other beats on the first half are tested from the slowest to the fastest, beginning
with exact search. Each must have a lower confidence bound of its held-out recall at the target or
above; the first that has not ends the sequence, and the last that had is chosen. So the chance that
a setting below its target is chosen stays at 5 %, however many are tried. A setting counts as
faster than exact search if it is 10 % faster: timings are no more precise than that.

Each query has a recall between 0 and 1; queries are independent, their hits are not. The bound is
Chernoff's and Hoeffding's in its Kullback-Leibler form (Hoeffding, JASA 1963): for n independent
values in [0, 1] with mean m, the true mean is below

    inf {p <= m : n·KL(m, p) <= log(1/δ)},  KL(m, p) = m log(m/p) + (1 - m) log((1 - m)/(1 - p))

with probability at most δ. It holds for every n and every such distribution, where a bootstrap of
few queries with full recall would call the recall certain. Memory is the kernel's count (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..indexer import Hits
from ..scorer import rank_correlation, top_in_common

Find = Callable[[np.ndarray, int], Hits]
"""Unit queries [n, d] and k to the hits, in rows of the index; their similarities are exact."""

Rescore = Callable[[Hits], np.ndarray]
"""The hits of all image queries to their BLISS scores, float64 [n]."""

EXACT = "exact"
TOP = 20
"""How many of the most anomalous images are compared."""
WORTH = 1.1
"""How many times as fast as exact search a setting must be to justify its structure."""
LEAST_SECONDS = 0.2
"""Timed searches are repeated for at least this long."""


@dataclass(frozen=True)
class Queries:
    """The queries that every setting answers."""

    images: np.ndarray
    """float32 [n, d], unit rows."""
    first_half: np.ndarray
    """bool [n], the images that settings are chosen on; the others are held out."""
    texts: np.ndarray
    """float32 [m, d], some of the index's own rows."""
    own: np.ndarray
    """int64 [m], which rows: each is left out of its own answer."""
    k: int


@dataclass(frozen=True)
class Candidate:
    """One setting, ready to search with."""

    kind: str
    parameters: Mapping[str, Any]
    find: Find
    stored_bytes: int
    """What its structure takes on disk; 0 for exact search, which has none."""
    build_seconds: float


@dataclass(frozen=True)
class Truth:
    """What exact search answers to the same queries."""

    images: Hits
    texts: Hits
    scores: np.ndarray
    """float64 [n]."""


@dataclass(frozen=True)
class Measured:
    """What one setting reached."""

    kind: str
    parameters: Mapping[str, Any]
    recall_first: float
    """Image queries of the first half, mean."""
    recall: float
    """Image queries held out, mean."""
    recall_bound: float
    """Its lower confidence bound."""
    text_recall: float
    """Text queries, mean; NaN without any."""
    score_max: float
    """Largest |Δ| of an image's BLISS score against exact search."""
    score_mean: float
    rank_correlation: float
    top_in_common: int
    """How many of the TOP most anomalous images are still among them."""
    stored_bytes: int
    peak_bytes: int | None
    """Memory that searching took on top of what was in use; None where it is not known."""
    queries_per_second: float
    build_seconds: float
    dominated: bool = False
    """Whether another setting is as good on both halves together and faster, or the reverse."""


def exact_truth(find: Find, queries: Queries, rescore: Rescore) -> Truth:
    """What the other settings are compared with."""
    images = find(queries.images, queries.k)
    return Truth(images, text_hits(find, queries), rescore(images))


def measure(candidate: Candidate, queries: Queries, truth: Truth, rescore: Rescore) -> Measured:
    """Measure one setting against the truth."""
    hits, peak_bytes = with_peak(lambda: candidate.find(queries.images, queries.k))
    recall = recall_of(hits.similarity, truth.images.similarity)
    held_out = recall[~queries.first_half]
    texts = np.full(1, np.nan)
    if len(queries.texts):
        found = text_hits(candidate.find, queries)
        texts = recall_of(found.similarity, truth.texts.similarity)
    scores = rescore(hits)
    change = np.abs(scores - truth.scores)
    return Measured(
        candidate.kind,
        dict(candidate.parameters),
        float(recall[queries.first_half].mean()),
        float(held_out.mean()),
        lower_bound(float(held_out.mean()), len(held_out)),
        float(texts.mean()),
        float(change.max()),
        float(change.mean()),
        rank_correlation(truth.scores, scores),
        top_in_common(truth.scores, scores, min(TOP, len(scores))),
        candidate.stored_bytes,
        peak_bytes,
        len(queries.images) / _seconds(lambda: candidate.find(queries.images, queries.k)),
        candidate.build_seconds,
    )


def text_hits(find: Find, queries: Queries) -> Hits:
    """The k texts nearest to each text query, itself left out; k is less where M - 1 is."""
    found = find(queries.texts, queries.k + 1)
    return without_own(found, queries.own)


def without_own(found: Hits, own: np.ndarray) -> Hits:
    """Hits [m, k] of hits [m, k + 1], without row `own` [m], or without the last where it is not
    among them."""
    out = found.rows == own[:, None]
    out[~out.any(axis=1), -1] = True
    shape = len(own), found.rows.shape[1] - 1
    return Hits(found.similarity[~out].reshape(shape), found.rows[~out].reshape(shape))


def with_dominated(every: Sequence[Measured]) -> list[Measured]:
    """The same with `dominated` set, by recall over all image queries and by speed."""
    found = []
    for one in every:
        beaten = any(
            _recall(other) >= _recall(one)
            and other.queries_per_second >= one.queries_per_second
            and (_recall(other), other.queries_per_second) != (_recall(one), one.queries_per_second)
            for other in every
        )
        found.append(replace(one, dominated=beaten))
    return found


def choose(every: Sequence[Measured], target: float) -> Measured:
    """The fastest setting that the walk of tests reaches; see the module. Exact is among them."""
    chosen = next(one for one in every if one.kind == EXACT)
    faster = [
        one
        for one in every
        if one.queries_per_second >= WORTH * chosen.queries_per_second
        and one.recall_first >= target
    ]
    front = [
        one
        for one in faster
        if not any(
            other.recall_first >= one.recall_first
            and other.queries_per_second > one.queries_per_second
            for other in faster
        )
    ]
    for one in sorted(front, key=lambda one: one.queries_per_second):
        if one.recall_bound < target:
            break
        chosen = one
    return chosen


def halves(count: int, seed: int) -> np.ndarray:
    """bool [n], a random half of n, the larger one held out."""
    first = np.zeros(count, bool)
    first[np.random.default_rng(seed).permutation(count)[: count // 2]] = True
    return first


def setting_text(kind: str, parameters: Mapping[str, Any]) -> str:
    """A setting as a reader knows it: IVF64,SQ8 nprobe=4."""
    return " ".join([kind, *(f"{name}={value}" for name, value in parameters.items())])


def facts_of(one: Measured) -> dict[str, Any]:
    """A setting's numbers as JSON values."""
    values = vars(one) | {"parameters": dict(one.parameters), "confidence": CONFIDENCE}
    return {n: None if isinstance(v, float) and np.isnan(v) else v for n, v in values.items()}


def _recall(one: Measured) -> float:
    return one.recall_first + one.recall


def _seconds(search: Callable[[], Hits]) -> float:
    """The least seconds of a search that was made before, of as many as LEAST_SECONDS holds."""
    best, spent = np.inf, 0.0
    while spent < LEAST_SECONDS:
        start = time.perf_counter()
        search()
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
    return best


CONFIDENCE = 0.95
HALVINGS = 100


def lower_bound(mean: float, count: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower confidence bound of a mean recall over `count` queries; 0 for none.

    >>> round(lower_bound(1.0, 299), 3)
    0.99
    """
    if not count:
        return 0.0
    allowed = -math.log(1 - confidence) / count
    low, high = 0.0, mean
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if divergence(mean, middle) <= allowed:
            high = middle
        else:
            low = middle
    return high


def divergence(mean: float, other: float) -> float:
    """KL(mean, other) in nats, of two chances."""
    total = 0.0
    for p, q in ((mean, other), (1 - mean, 1 - other)):
        if p > 0:
            total += p * math.log(p / q) if q > 0 else math.inf
    return total


def least_queries(target: float, confidence: float = CONFIDENCE) -> int:
    """How many queries, all of recall 1, put the bound at `target` or above.

    >>> least_queries(0.99)
    299
    """
    return math.ceil(math.log(1 - confidence) / math.log(target)) if target < 1 else 0


def recall_of(similarity: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 [n], the share of each query's k hits that are among its true k nearest.

    Both are similarities [n, k], computed alike; the truth's are in descending order. A hit counts
    where it is as similar as the k-th true one, so of equal texts any will do.
    """
    return (similarity >= truth[:, -1:]).mean(axis=1)


Made = TypeVar("Made")


def with_peak(work: Callable[[], Made]) -> tuple[Made, int | None]:
    """The result of `work`, and the bytes of resident memory it needed on top of what was in use.

    Freed memory is returned and the kernel's high-water mark of this process reset before. None
    where the kernel does not support it.
    """
    before: int | None = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    made = work()
    if before is None:
        return made, None
    try:
        return made, max(0, _status("VmHWM") - before)
    except (OSError, ValueError):
        return made, None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name}")
