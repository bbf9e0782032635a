"""Terms over all external texts, for every score that asks for them in one pass.

What costs is the product of n images with M texts. A fitted score therefore says which sums of
e^{cosine/τ} it needs (`TextSum`) and what it makes of them (`TextTerm`); `with_terms` makes the
product once for the terms of several scores, a block at a time, and a score alone makes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...indexer.blas import share_among_threads
from ...indexer.candidates import Candidates, no_candidates
from ...indexer.nearest import SPARE, array_vectors, check_k, exact_hits
from ..retrieved import gather_texts
from ..slices import slices
from .contract import Fitted, Query
from .text_sums import IMAGES_AT_ONCE, TextSum, log_sums, plan_sums


@dataclass(frozen=True, eq=False)
class TextTerm:
    """One number an image, made of sums over texts. A score may be one: it can be called."""

    texts: np.ndarray
    """float32 [M, d]."""
    sums: tuple[TextSum, ...]
    reduce: Callable[..., np.ndarray]
    """From images [b, d] and each sum [g, b] to [b], float64."""

    def __call__(self, query: Query) -> np.ndarray:
        """float64 [n], looked up where `with_terms` has been there, otherwise worked out."""
        found = query.terms.get(self)
        return text_terms([self], query.images)[0] if found is None else found


@dataclass(frozen=True, eq=False)
class WithTerms:
    """A fitted score that needs terms among other things; it calls them itself."""

    score: Fitted
    terms: tuple[TextTerm, ...]

    def __call__(self, query: Query) -> np.ndarray:
        return self.score(query)


def with_terms(query: Query, fitted: Iterable[Fitted]) -> Query:
    """`query` with the terms of all the `fitted` scores, one pass for each array of texts."""
    sharing: dict[int, list[TextTerm]] = {}
    for score in fitted:
        for term in terms_of(score):
            sharing.setdefault(id(term.texts), []).append(term)
    found = dict(query.terms)
    for terms in sharing.values():
        found.update(zip(terms, text_terms(terms, query.images), strict=True))
    return replace(query, terms=found)


def search_with_terms(
    images: np.ndarray, texts: np.ndarray, k: int, fitted: Iterable[Fitted]
) -> Query:
    """The query of unit rows `images` [n, d] with their k nearest texts, and the terms of all the
    `fitted` scores: one product serves both. Every term must be over these `texts` [M, d].

    Raises UsageError saying both numbers when k is not between 1 and M.
    """
    check_k(k, len(texts))
    terms = [term for score in fitted for term in terms_of(score)]
    wanted = min(k + SPARE, len(texts))
    candidates = no_candidates(len(images), wanted, np.dtype(np.float64))
    values = _in_blocks(terms, texts, images, candidates)
    vectors = array_vectors(texts)
    hits = exact_hits(images, vectors, k, candidates)
    return Query(images, gather_texts(hits, vectors.fetch), dict(zip(terms, values, strict=True)))


def terms_of(fitted: Fitted) -> tuple[TextTerm, ...]:
    """The terms over all texts that a fitted score asks for."""
    if isinstance(fitted, TextTerm):
        return (fitted,)
    return fitted.terms if isinstance(fitted, WithTerms) else ()


def text_terms(terms: Sequence[TextTerm], images: np.ndarray) -> list[np.ndarray]:
    """Each term, float64 [n], of unit rows `images` [n, d]; all terms have the same texts."""
    return _in_blocks(terms, terms[0].texts, images, None)


def _in_blocks(
    terms: Sequence[TextTerm], texts: np.ndarray, images: np.ndarray, nearest: Candidates | None
) -> list[np.ndarray]:
    """Each term, float64 [n]; candidates for the nearest of all texts are kept if asked for."""
    wanted = [[asked.content for asked in term.sums] for term in terms]
    needed = {asked.content: asked for term in terms for asked in term.sums}
    plan = plan_sums(texts, list(needed.values()), every=nearest is not None)
    made = [np.empty(len(images)) for _ in terms]

    def work(blocks: Iterator[slice]) -> None:
        for rows in blocks:
            part = None
            if nearest is not None:
                part = Candidates(nearest.values[rows], nearest.rows[rows])
            found = dict(zip(needed, log_sums(images[rows], plan, part), strict=True))
            for term, sums, out in zip(terms, wanted, made, strict=True):
                out[rows] = term.reduce(images[rows], *(found[content] for content in sums))

    count = -(-len(images) // IMAGES_AT_ONCE)
    share_among_threads(work, slices(len(images), IMAGES_AT_ONCE), count)
    return made
