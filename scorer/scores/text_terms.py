"""Sums over all external texts, in one pass for every score that needs some.

The expensive part is the product of n images with M texts. A fitted score therefore declares which
sums of e^{cosine/τ} over which groups of texts it needs (`TextSum`) and what it makes of them
(`TextTerm`); `search_with_terms` makes the product once for the terms of several scores, a block at
a time, and a score on its own makes its own.

With many texts the product and the exponentials are float32, the sums over blocks float64. The
mean of the texts is subtracted before and added to the logarithm after, so that a cosine is off by
about 5e-8, and the sum of e^{cosine/τ} by 5e-8/τ of itself or less. At a low τ, where that would
show, and with few texts, where it costs nothing, everything is float64. Exponents are relative to
each image's largest cosine; where a group lies so far below it that its sum nears underflow, it is
computed again on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...indexer.vectors import (
    SPARE,
    Candidates,
    Hits,
    check_k,
    exact_hits,
    share_among_threads,
    slices,
)
from ..bliss import gather_texts
from .contract import Fitted, Query


@dataclass(frozen=True, eq=False)
class TextTerm:
    """One number an image, made of sums over texts; callable, so that a fitted score may be one."""

    texts: np.ndarray
    """float32 [M, d]."""
    sums: tuple[TextSum, ...]
    reduce: Callable[..., np.ndarray]
    """From images [b, d] and each sum [g, b] to [b], float64."""

    def __call__(self, query: Query) -> np.ndarray:
        """float64 [n], looked up if `search_with_terms` has computed it, else computed."""
        found = query.terms.get(self)
        return text_terms([self], query.images)[0] if found is None else found


@dataclass(frozen=True, eq=False)
class WithTerms:
    """A fitted score that calls terms among other things."""

    score: Fitted
    terms: tuple[TextTerm, ...]

    def __call__(self, query: Query) -> np.ndarray:
        return self.score(query)


def search_with_terms(
    images: np.ndarray, texts: np.ndarray, k: int, fitted: Iterable[Fitted]
) -> Query:
    """The query of unit rows `images` [n, d] with their k nearest texts, and the terms of all the
    `fitted` scores: one product serves both. Every term must be over these `texts` [M, d].

    Raises UsageError saying both numbers when k is not between 1 and M.
    """
    terms = [term for score in fitted for term in terms_of(score)]
    hits, values = TextPass(terms, texts).search(images, k)
    return Query(images, gather_texts(hits, texts), dict(zip(terms, values, strict=True)))


def terms_of(fitted: Fitted) -> tuple[TextTerm, ...]:
    """The terms over all texts that a fitted score asks for."""
    if isinstance(fitted, TextTerm):
        return (fitted,)
    return fitted.terms if isinstance(fitted, WithTerms) else ()


def text_terms(terms: Sequence[TextTerm], images: np.ndarray) -> list[np.ndarray]:
    """Each term, float64 [n], of unit rows `images` [n, d]; all terms have the same texts."""
    return TextPass(terms, terms[0].texts, every=False)(images)


class TextPass:
    """One product of images with `texts` [M, d] for all `terms`, each of which is over them."""

    def __init__(self, terms: Sequence[TextTerm], texts: np.ndarray, every: bool = True) -> None:
        """`every` text is taken, as a search needs it, or only those of some term."""
        self.terms, self._texts = terms, texts
        self._wanted = [[asked.content for asked in term.sums] for term in terms]
        self._needed = {asked.content: asked for term in terms for asked in term.sums}
        self._work = plan_sums(texts, list(self._needed.values()), every)

    def __call__(self, images: np.ndarray, nearest: Candidates | None = None) -> list[np.ndarray]:
        """Each term, float64 [n], of unit rows `images` [n, d]; `nearest` is filled if given."""
        made = [np.empty(len(images)) for _ in self.terms]

        def work(blocks: Iterator[slice]) -> None:
            for rows in blocks:
                sums = log_sums(images[rows], self._work, rows.start, nearest)
                found = dict(zip(self._needed, sums, strict=True))
                for term, asked, out in zip(self.terms, self._wanted, made, strict=True):
                    out[rows] = term.reduce(images[rows], *(found[content] for content in asked))

        count = -(-len(images) // IMAGES_AT_ONCE)
        share_among_threads(work, slices(len(images), IMAGES_AT_ONCE), count)
        return made

    def search(self, images: np.ndarray, k: int) -> tuple[Hits, list[np.ndarray]]:
        """The k nearest texts, which are those of `exact_search`, and each term.

        Raises UsageError saying both numbers when k is not between 1 and M.
        """
        check_k(k, len(self._texts))
        wanted = min(k + SPARE, len(self._texts))
        nearest = Candidates(len(images), wanted)
        values = self(images, nearest)
        lowest = nearest.lowest + images.astype(np.float64) @ self._work.mean
        return exact_hits(images, self._texts, k, nearest.rows, lowest), values


IMAGES_AT_ONCE, TEXTS_AT_ONCE = 1024, 512
"""Together they bound a block of cosines, 2 MB, so that it stays in cache."""

FEW_TEXTS = 4096
LOW_TAU = 0.005

MAXIMUM = 0.0
"""The τ at which τ·log Σ e^{cosine/τ} is the largest cosine."""


@dataclass(frozen=True, eq=False)
class TextSum:
    """log Σ e^{cosine/τ} over each of g groups of texts; at τ = MAXIMUM the largest cosine."""

    groups: np.ndarray
    """int64 [g, s], rows of the external texts."""
    tau: float
    weights: np.ndarray | None = None
    """float64 [M], what each text counts; None: all count 1."""

    @property
    def content(self) -> tuple[float, tuple[int, ...], bytes, bytes]:
        """Equal for equal sums, whichever scores ask for them."""
        weights = b"" if self.weights is None else self.weights.tobytes()
        return self.tau, self.groups.shape, self.groups.tobytes(), weights


@dataclass(frozen=True)
class Work:
    """The texts that any sum takes, and what each takes from each block of them."""

    texts: np.ndarray
    """float32 [M, d], all of them."""
    mean: np.ndarray
    """float64 [d], of the v texts taken."""
    vectors: np.ndarray
    """[v, d], the texts taken less their mean, in the type of all arithmetic on blocks."""
    sums: Sequence[TextSum]
    group_of: Sequence[np.ndarray]
    """For each sum int64 [v], the group a text taken is in, -1 for none."""
    weights: Sequence[np.ndarray]
    """For each sum [v], what each text taken counts."""

    @cached_property
    def taus(self) -> list[float]:
        """Each τ once; the powers of the last take the place of the cosines, but for MAXIMUM."""
        return sorted({asked.tau for asked in self.sums})


def plan_sums(texts: np.ndarray, sums: Sequence[TextSum], every: bool) -> Work:
    """`every` text is taken, or only those of some sum."""
    used = np.full(len(texts), every)
    for asked in sums:
        used[asked.groups] = True
    exactly = used.sum() <= FEW_TEXTS or any(0 < asked.tau < LOW_TAU for asked in sums)
    rows = np.flatnonzero(used)
    mean = np.zeros(texts.shape[1])
    for block in slices(len(rows), TEXTS_AT_ONCE):
        mean += texts[rows[block]].astype(np.float64).sum(axis=0) / len(rows)
    vectors = np.empty((len(rows), texts.shape[1]), np.float64 if exactly else np.float32)
    for block in slices(len(rows), TEXTS_AT_ONCE):
        vectors[block] = texts[rows[block]].astype(np.float64) - mean
    group_of, weights = [], []
    for asked in sums:
        every_one = np.ones(len(texts)) if asked.weights is None else asked.weights
        weights.append(every_one[rows].astype(vectors.dtype))
        group = np.full(len(texts), -1)
        group[asked.groups] = np.arange(len(asked.groups))[:, None]
        group_of.append(group[rows])
    return Work(texts, mean, vectors, sums, group_of, weights)


def log_sums(
    images: np.ndarray, work: Work, first: int, nearest: Candidates | None
) -> list[np.ndarray]:
    """Each sum, float64 [g, b], of a few images [b, d], the queries of `nearest` from `first` on.

    Products less those with the mean text are added to `nearest`.
    """
    dtype = work.vectors.dtype
    images = np.ascontiguousarray(images)
    some = images.astype(dtype)
    top = np.full(len(images), -np.inf, dtype)
    totals = [_nothing(asked, len(images)) for asked in work.sums]
    taus = [tau for tau in work.taus if tau != MAXIMUM]
    for block in slices(len(work.vectors), TEXTS_AT_ONCE):
        cosines = some @ work.vectors[block].T
        if nearest is not None:
            nearest.add(cosines, first, block.start)
        largest = cosines.max(axis=1)
        before, top = top, np.maximum(top, largest)
        powers = {}
        for tau in taus:
            room = cosines if taus == work.taus and tau == taus[-1] else np.empty_like(cosines)
            powers[tau] = _powers(cosines, top[:, None], tau, room)
        for asked, group_of, weights, total in zip(
            work.sums, work.group_of, work.weights, totals, strict=True
        ):
            members = np.flatnonzero(group_of[block] >= 0)
            every = len(members) == cosines.shape[1]
            if asked.tau == MAXIMUM:
                part = largest if every else cosines[:, members].max(axis=1, initial=-np.inf)
                np.maximum(total, part, out=total)
                continue
            indicator = np.zeros((len(total), cosines.shape[1]), dtype)
            indicator[group_of[block][members], members] = weights[block][members]
            total *= np.exp((before - top).astype(np.float64) / asked.tau)
            if len(total) == 1 or every:
                total += indicator @ powers[asked.tau].T
            else:
                total += indicator[:, members] @ powers[asked.tau][:, members].T
    common = images.astype(np.float64) @ work.mean
    for asked, total in zip(work.sums, totals, strict=True):
        if asked.tau == MAXIMUM:
            total += common
        else:
            _take_logarithm(total, asked, common + top, images, work)
    return totals


def _nothing(asked: TextSum, images: int) -> np.ndarray:
    return np.full((len(asked.groups), images), -np.inf if asked.tau == MAXIMUM else 0.0)


def _powers(cosines: np.ndarray, top: np.ndarray, tau: float, room: np.ndarray) -> np.ndarray:
    """e^{(cosine - top)/τ}, in the type of the cosines, written to `room`."""
    np.subtract(cosines, top, out=room)
    room *= cosines.dtype.type(1 / tau)
    return np.exp(room, out=room)


def _take_logarithm(
    totals: np.ndarray, asked: TextSum, top: np.ndarray, images: np.ndarray, work: Work
) -> None:
    """From sums relative to e^{top/τ} to their logarithms, in place; near the end of the number
    range a sum is made again on its own."""
    safe = np.finfo(work.vectors.dtype).tiny * 1e10
    lost = totals < safe
    np.log(totals, out=totals, where=~lost)
    totals += top / asked.tau
    for group in np.flatnonzero(lost.any(axis=1)):
        here = lost[group]
        totals[group, here] = _alone(images[here], asked, asked.groups[group], work.texts)


def _alone(images: np.ndarray, asked: TextSum, rows: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float64 [b], the sum over some rows, each image's exponents from its largest there."""
    found = np.empty(len(images))
    weights = np.ones(len(rows)) if asked.weights is None else asked.weights[rows]
    at_once = IMAGES_AT_ONCE * TEXTS_AT_ONCE // max(len(rows), images.shape[1])
    with np.errstate(divide="ignore"):
        for few in slices(len(images), at_once):
            logits = images[few].astype(np.float64) @ texts[rows].T.astype(np.float64)
            logits = logits / asked.tau + np.log(weights)
            top = np.maximum(logits.max(axis=1), -1e300)
            found[few] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return found
