"""bliss+: four kinds of evidence that make different mistakes, as one score.

- b, BLISS with moderated variances: how far x lies from its nearest class, in that class's terms;
- n, the log-odds of the external texts against the labels, each text weighted by how seldom it
  beats the label of a normal image (`text_weights`): which side wins the competition;
- m, the Mahalanobis distance to the nearest class mean: what the images say without any text;
- g, the mean label cosine minus the largest: how undecided the labels are.

Each is standardised on reference images left out of their own class. With z of them all,

    score = w_b·b + w_n·n + w_m·m + far·max(0, z(g + m) − 1)

The first three tell near anomalies; the weights w are learnt by leaving out whole reference classes
(`combination.learnt_weights`). An image that is far off is unlike every class and every label at
once: the last term is for it, and is 0 for nearly every normal image. docs/bliss-plus.md tells how
it was chosen and what failed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ....indexer.vectors import exact_search
from ...bliss import Retrieved, gather_texts
from ...leave_one_out import NOTHING_LEFT_OUT, LeftOut
from ...moments import fit_moments
from ...reference import Reference, Sample
from ...reference_file import images_to_keep, sample_of
from ...statistics import check_counts, variance_prior
from ..contract import (
    Fitted,
    Fitting,
    Need,
    Query,
    Score,
    between,
    positive,
    retrieved_texts,
    whole,
)
from ..text_terms import TextSum, TextTerm, WithTerms
from .combination import Scale, beyond, learnt_weights, scale_of, standardised
from .evidence import Evidence, Normal, Pairs, evidence, pairs_of, sample_evidence
from .pooled_distance import fit_pooled
from .text_weights import fit_tail, fit_text_weights

PRIOR_TEXTS = 1000
"""Texts, evenly spaced in the corpus, that a class's mean variance is taken over."""

FAR_START = 1.0
"""Deviations beyond which the far evidence counts."""

Scorer = Callable[..., np.ndarray]
"""Images [n, d], their retrieved texts and who is left out of which class, to float64 [n]; where
nobody is left out the log-sums over texts [n] may be given, if they are known already."""


@dataclass(frozen=True)
class _Calibration:
    """The scales and weights of the evidence, from the sample, for one k."""

    near: tuple[Scale, Scale, Scale]
    """Of b, n and m."""
    margin: Scale
    far: Scale
    """Of z(g) + z(m)."""
    weights: np.ndarray
    """float64 [3], of b, n and m; without spread n alone counts."""


def fit_bliss_plus(
    reference: Reference, texts: np.ndarray, parameters: Mapping[str, float]
) -> Scorer:
    """A scorer from the reference and all external texts [M, d].

    An image left out of its class is left out of the class's moments, of the pooled covariance and
    of the text weights; scales and learnt weights are the same for all images. Where a class has
    one image, or none has two that differ, a warning says what that costs. Raises as BLISS, the
    text weights and the parameters do.
    """
    return _scorer(_fit_normal(reference, texts, parameters), texts, parameters)


def _scorer(normal: Normal, texts: np.ndarray, parameters: Mapping[str, float]) -> Scorer:
    far = between(parameters, "far", 0, np.inf)

    @cache
    def calibration(k: int) -> _Calibration:
        sample = normal.sample
        retrieved = gather_texts(exact_search(sample.images, texts, k), texts)
        everyone = np.arange(len(sample.labels))
        pairs = Pairs(LeftOut(everyone, sample.labels), np.ones(len(everyone), bool))
        return _calibrate(normal, retrieved, pairs)

    def scores(
        images: np.ndarray,
        retrieved: Retrieved,
        left_out: LeftOut,
        against: np.ndarray | None = None,
    ) -> np.ndarray:
        found = calibration(retrieved.rows.shape[1])
        pairs = pairs_of(normal.sample, images, left_out)
        pieces = evidence(normal, images, retrieved, pairs, against)
        near = _near(pieces, found)
        return near @ found.weights + far * beyond(
            standardised(_far(pieces, found.near[2], found.margin), found.far), FAR_START
        )

    return scores


def _fit_normal(reference: Reference, texts: np.ndarray, parameters: Mapping[str, float]) -> Normal:
    tau, weight = positive(parameters, "tau"), between(parameters, "weight", 0, np.inf)
    strength, most = positive(parameters, "rivals"), whole(parameters, "full", 0)
    check_counts(reference.moments, needed=1)
    counts = reference.moments.counts
    sample = sample_of(reference)
    spaced = np.linspace(0, len(texts) - 1, min(PRIOR_TEXTS, len(texts))).astype(int)
    prior = variance_prior(reference.moments, texts[spaced], positive(parameters, "prior"))
    several = counts[sample.labels] > 1
    in_company = Sample(sample.images[several], sample.labels[several])
    pooled = fit_pooled(reference.moments, in_company)
    spread = None if prior is None or pooled is None else (prior, pooled)
    if not _enough(in_company, len(counts)):
        spread = None
    _warn(reference, spread is not None)
    if spread is not None:
        sample = in_company
    references = sample.images, sample.labels
    weighted = fit_text_weights(texts, reference.prompt_vectors, references, strength, tau)
    tail = fit_tail(weighted) if len(texts) > most else None
    return Normal(reference, sample, weighted, tail, spread, weight)


def _enough(sample: Sample, classes: int) -> bool:
    """Whether images that can be left out of their class can speak for all `classes`."""
    return len(sample.labels) >= 3 and 2 * len(np.unique(sample.labels)) >= classes


def _warn(reference: Reference, spread: bool) -> None:
    alone = [
        name for name, n in zip(reference.classes, reference.moments.counts, strict=True) if n == 1
    ]
    if not spread:
        warnings.warn(
            "bliss+: too few classes have two reference images that differ; only labels and "
            "captions are compared",
            stacklevel=4,
        )
    elif alone:
        some = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
        warnings.warn(
            f"bliss+: one reference image is all there is of {some}; the spread of the other "
            "classes is taken",
            stacklevel=4,
        )


def _calibrate(normal: Normal, retrieved: Retrieved, pairs: Pairs) -> _Calibration:
    pieces, *anomalies = sample_evidence(normal, retrieved, pairs)
    near = scale_of(pieces.bliss), scale_of(pieces.odds), scale_of(pieces.distance)
    margin = scale_of(pieces.margin)
    far = scale_of(_far(pieces, near[2], margin))
    found = _Calibration(near, margin, far, np.ones(3))
    if normal.spread is None or len(normal.reference.classes) == 1:
        return found
    anomalous = np.concatenate([_near(each, found) for each in anomalies])
    return replace(found, weights=learnt_weights(_near(pieces, found), anomalous))


def _near(pieces: Evidence, found: _Calibration) -> np.ndarray:
    """float64 [n, 3], b, n and m standardised."""
    raw = pieces.bliss, pieces.odds, pieces.distance
    return np.column_stack([standardised(*pair) for pair in zip(raw, found.near, strict=True)])


def _far(pieces: Evidence, distance: Scale, margin: Scale) -> np.ndarray:
    return standardised(pieces.distance, distance) + standardised(pieces.margin, margin)


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """From reference images; UsageError for a query without retrieved texts."""
    normals = fitting.normals
    moments = fit_moments(normals.classes, normals.images, normals.labels)
    kept = images_to_keep(moments, normals.images, normals.labels)
    reference = Reference(moments, normals.prompts, sample=kept)
    normal = _fit_normal(reference, fitting.texts, parameters)
    scorer = _scorer(normal, fitting.texts, parameters)
    terms: tuple[TextTerm, ...] = ()
    if normal.tail is None:
        every = np.arange(len(fitting.texts))[None]
        asked = TextSum(every, normal.texts.tau, normal.texts.weights)
        terms = (TextTerm(fitting.texts, (asked,), lambda images, found: found[0]),)

    def scores(query: Query) -> np.ndarray:
        retrieved = retrieved_texts(query, "bliss+")
        against = terms[0](query) if terms else None
        return scorer(query.images, retrieved, NOTHING_LEFT_OUT, against)

    return WithTerms(scores, terms)


BLISS_PLUS = Score(
    name="bliss+",
    formula="w_b·z(BLISS, moderated) + w_n·z(log Σ_j w_j e^{r_j/τ} − log Σ_i e^{s_i/τ}) "
    "+ w_m·z(m) + far·max(0, z(z(g) + z(m)) − 1), m the Mahalanobis distance to the nearest class "
    "mean, g = mean_i s_i − max_i s_i",
    source="this project; its parts: BLISS arXiv 2407.17083, NegLabel arXiv 2403.20078, "
    "Mahalanobis arXiv 1807.03888, MCM arXiv 2211.13445",
    fit=_fit,
    defaults={
        "weight": 0.5,
        "tau": 0.01,
        "rivals": 10.0,
        "prior": 10.0,
        "far": 2.0,
        "full": 200_000,
    },
    needs=frozenset({Need.MOMENTS, Need.TEXTS, Need.RETRIEVED}),
)
